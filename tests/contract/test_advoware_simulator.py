"""The Advoware simulator over plain HTTP: what a client of the real one would see."""

import base64
import hashlib
import hmac
import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from yarl import URL

from bitbylaw_simulators.advoware import Advoware
from bitbylaw_simulators.advoware.samples import SampleFirm, sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer

API = "/api/v1/advonet"
NOW = "2026-03-09T08:00:00.0000000Z"
"""The time of a virtual clock as a token request tells it."""


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def text(self) -> str:
        return self.body.decode()


def signed(sim: Advoware, **changed: Any) -> dict[str, Any]:
    """Return a token request with a right signature over what it says; None leaves a field out."""
    body: dict[str, Any] = {
        "AppID": sim.firm.app_id,
        "Kanzlei": sim.firm.kanzlei,
        "Database": sim.firm.database,
        "User": "SB",
        "Role": 2,
        "Product": 64,
        "Password": sim.firm.passwords["SB"],
        "Nonce": "nonce-1",
        "RequestTimeStamp": NOW,
    } | changed
    message = "{Product}:{AppID}:{Nonce}:{RequestTimeStamp}".format(**body)
    key = base64.b64decode(sim.firm.api_key)
    digest = hmac.new(key, message.encode(), hashlib.sha512).digest()
    body.setdefault("HMAC512Signature", base64.b64encode(digest).decode())
    return {name: value for name, value in body.items() if value is not None}


@dataclass
class Caller:
    """Speaks plain HTTP to one simulator; calls of the API carry a token that it asked for."""

    sim: Advoware
    firm: SampleFirm
    url: str
    session: aiohttp.ClientSession
    token: str = ""
    nonces: Any = field(default_factory=lambda: itertools.count(1000))

    async def __call__(self, method: str, path: str, **more: Any) -> Answer:
        headers: dict[str, str] = more.pop("headers", {})
        token = more.pop("token", self.token)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        url = URL(self.url + path, encoded=True)
        async with self.session.request(method, url, headers=headers, **more) as response:
            return Answer(response.status, response.headers, await response.read())

    async def log_in(self, **changed: Any) -> Answer:
        """Ask for a token with a fresh nonce."""
        changed.setdefault("Nonce", f"nonce-{next(self.nonces)}")
        body = signed(self.sim, **changed)
        return await self("POST", "/security/api/v1/Token", json=body, token="")

    async def switch(self, **quirks: Any) -> None:
        answer = await self("POST", "/_sim/quirks", json=quirks)
        assert answer.status == 200, answer.body

    async def advance(self, seconds: float) -> None:
        await self("POST", "/_sim/clock", json={"advance": seconds})

    async def edit(self, action: str, resource: str, **more: Any) -> dict[str, Any]:
        body = {"action": action, "resource": resource, **more}
        answer = await self("POST", "/_sim/edit", json=body)
        assert answer.status == 200, answer.body
        return dict(answer.json())

    async def fault(self, kind: str, **more: Any) -> None:
        match = {name: more.pop(name) for name in ("method", "path", "operation") if name in more}
        plan = {name: more.pop(name) for name in ("after", "times", "seed") if name in more}
        fault: dict[str, Any] = {"match": match, "kind": kind, "params": more, **plan}
        answer = await self("POST", "/_sim/faults?add=1", json=[fault])
        assert answer.status == 200, answer.body

    @property
    def mueller(self) -> str:
        """The path of one party."""
        return f"{API}/Beteiligte/{self.firm.beteiligte['Müller']}"

    async def party(self) -> dict[str, Any]:
        """Read that party."""
        answer = await self("GET", self.mueller)
        assert answer.status == 200, answer.body
        [row] = answer.json()
        return dict(row)


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    sim = Advoware(SimClock())
    firm = sample_firm(sim)
    async with SimServer(sim) as server, aiohttp.ClientSession() as session:
        caller = Caller(sim, firm, server.url, session)
        caller.token = (await caller.log_in()).json()["access_token"]
        yield caller


# the way in


async def test_the_configurator_leads_to_a_token_and_the_token_to_a_party(call: Caller) -> None:
    told = (await call("GET", "/AdvonetConfigurator/api/Url?Kanzlei=sim%2B4711", token="")).json()
    body = signed(call.sim)
    gateway = told["securityGateway"].removeprefix(call.url)
    token = (await call("POST", f"{gateway}api/v1/Token", json=body, token="")).json()

    path = f"{told['relayUrl'].removeprefix(call.url)}api/v1/advonet/Beteiligte/104860"
    [party] = (await call("GET", path, token=token["access_token"])).json()

    assert told["connectorUrl"] is None
    assert token["expiration_utc"] == "2026-03-09T09:00:00.000Z"
    assert (party["betNr"], party["name"], party["vorname"]) == (104860, "Müller", "Jörg")
    assert [row["tlf"] for row in party["kommunikation"]][:2] == ["0511/12345-60", "0171/5550001"]


async def test_the_employees_are_listed_with_their_initials(call: Caller) -> None:
    listed = (await call("GET", f"{API}/employees")).json()

    assert [row["kuerzel"] for row in listed] == ["SB", "AI", "RO", "XT"]
    assert (await call("GET", f"{API}/Mitarbeiter")).json() == listed
