"""The Advoware simulator over plain HTTP: what a client of the real one would see."""

import asyncio
import base64
import hashlib
import hmac
import io
import itertools
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from bitbylaw_simulators.advoware import Advoware, AdvowareQuirks, Firm
from bitbylaw_simulators.advoware.samples import SampleFirm, sample_firm
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer
from bitbylaw_simulators.quirks import described, shown

API = "/api/v1/advonet"
NOW = "2026-03-09T08:00:00.0000000Z"
"""The time of a virtual clock as a token request tells it."""


PAGE = Path(__file__).parents[2] / "docs" / "simulators" / "advoware.md"

SHOWN: dict[str, str] = {}
"""The test that shows a quirk, by the quirk's name."""


def shows(*quirks: str) -> Callable[[Callable[..., Awaitable[None]]], Callable[..., Any]]:
    """Note that a test shows these quirks; it must switch each of them over."""

    def noted(test: Callable[..., Awaitable[None]]) -> Callable[..., Any]:
        SHOWN.update(dict.fromkeys(quirks, test.__name__))

        @wraps(test)
        async def run(call: "Caller", **more: Any) -> None:
            await test(call, **more)
            assert set(quirks) <= call.switched, f"{test.__name__} does not switch all it shows"

        return run

    return noted


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
    switched: set[str] = field(default_factory=set)

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
        self.switched |= set(quirks)

    async def advance(self, seconds: float) -> None:
        await self("POST", "/_sim/clock", json={"advance": seconds})

    async def edit(self, action: str, resource: str, **more: Any) -> dict[str, Any]:
        body = {"action": action, "resource": resource, **more}
        answer = await self("POST", "/_sim/edit", json=body)
        assert answer.status == 200, answer.body
        return dict(answer.json())

    async def fault(self, kind: str, **more: Any) -> None:
        match = {name: more.pop(name) for name in ("method", "path", "operation") if name in more}
        plan: dict[str, Any] = {
            name: more.pop(name) for name in ("after", "times", "seed") if name in more
        }
        fault: dict[str, Any] = {"match": match, "kind": kind, "params": more, **plan}
        answer = await self("POST", "/_sim/faults?add=1", json=[fault])
        assert answer.status == 200, answer.body

    @property
    def mueller(self) -> str:
        """The path of one party."""
        return f"{API}/Beteiligte/{self.firm.beteiligte['Müller']}"

    async def put(self, path: str, row: dict[str, Any], **changed: Any) -> Answer:
        """Put a row that was read, with some fields changed; `...` leaves one out."""
        body = {name: value for name, value in (row | changed).items() if value is not ...}
        return await self("PUT", path, json=body)

    async def termin(self, text: str) -> dict[str, Any]:
        """Read one Termin by its sample text."""
        answer = await self("GET", f"{API}/Termine?frnr={self.firm.termine[text]}")
        assert answer.status == 200, answer.body
        [row] = answer.json()
        return dict(row)

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


@pytest.mark.parametrize("name", sorted(signed(Advoware())))
async def test_a_token_request_lacks_no_field_and_has_no_text_for_a_number(
    call: Caller, name: str
) -> None:
    body = signed(call.sim, Nonce="nonce-2")
    lacking = {key: value for key, value in body.items() if key != name}
    other = body | {name: 2 if isinstance(body[name], str) else str(body[name])}
    path = "/security/api/v1/Token"

    answers = [await call("POST", path, json=entry, token="") for entry in (lacking, other)]

    assert [answer.status for answer in answers] == [400, 400]
    assert all(name in answer.text for answer in answers)
    assert (await call("POST", path, json=body, token="")).status == 200


async def test_the_signature_of_the_known_vector_is_accepted_and_no_other() -> None:
    firm = Firm(app_id="app-123", api_key=base64.b64encode(b"test-secret-key").decode())
    sim = Advoware(SimClock(start=datetime(2026, 8, 30, tzinfo=UTC)), firm=firm)
    vector = (
        "o7rz9KmoXZs550HfzO6ffiG17XwiPmlBHlksUYKZ3jcfolELow51Fw5KlrQqCK5y41aIValDjrh1iQ2GZ2WtqQ=="
    )
    body = signed(sim, Nonce="nonce-abc", RequestTimeStamp="2026-08-30T00:00:00.000Z")
    assert body["HMAC512Signature"] == vector

    async with SimServer(sim) as server, aiohttp.ClientSession() as session:
        call = Caller(sim, SampleFirm({}, {}, ()), server.url, session)
        path = "/security/api/v1/Token"
        forged = [
            body | {"HMAC512Signature": vector[:-4] + "aQ=="},
            body | {"HMAC512Signature": "not base64"},
            body | {"Nonce": "another"},
            body | {"AppID": "app-124"},
        ]
        refused = [await call("POST", path, json=entry) for entry in forged]
        accepted = await call("POST", path, json=body)

    assert [(answer.status, "signature" in answer.text) for answer in refused] == [(400, True)] * 4
    assert accepted.status == 200


@pytest.mark.parametrize(
    ("stamp", "status"),
    [
        ("2026-03-09T08:00:00.1234567Z", 200),
        ("2026-03-09T08:00:00.123Z", 200),
        ("2026-03-09T08:00:00Z", 200),
        ("2026-03-09T08:00:00+0000", 200),
        ("2026-03-09T08:00:00+00:00", 200),
        ("2026-03-09T09:00:00+01:00", 400),
        ("2026-03-09T08:00:00", 400),
        ("2026-03-09 08:00:00Z", 400),
        ("2026-13-09T08:00:00Z", 400),
    ],
)
async def test_a_time_stamp_is_iso_in_utc(call: Caller, stamp: str, status: int) -> None:
    assert (await call.log_in(RequestTimeStamp=stamp)).status == status


@shows("timestamp_tolerance_seconds")
async def test_a_time_stamp_may_be_off_by_so_much(call: Caller) -> None:
    late = "2026-03-09T07:55:00Z"
    assert (await call.log_in(RequestTimeStamp=late)).status == 200

    await call.switch(timestamp_tolerance_seconds=299)

    assert (await call.log_in(RequestTimeStamp=late)).status == 400
    assert (await call.log_in(RequestTimeStamp="2026-03-09T08:05:00Z")).status == 400


@shows("clock_skew_seconds")
async def test_a_skewed_clock_refuses_the_true_time_and_tells_its_own(call: Caller) -> None:
    await call.switch(clock_skew_seconds=3600)

    refused = await call.log_in()
    accepted = await call.log_in(RequestTimeStamp="2026-03-09T09:00:00Z")
    await call.edit("update", "Beteiligte", number=104860, values={"titel": "Dr."})

    assert "time of the server" in refused.text
    assert refused.headers["Date"] == "Mon, 09 Mar 2026 09:00:00 GMT"
    assert accepted.json()["expiration_utc"] == "2026-03-09T10:00:00.000Z"
    read = await call("GET", call.mueller)
    assert read.json()[0]["geaendertAm"] == "2026-03-09T10:00:00"
    assert read.headers["Date"] == "Mon, 09 Mar 2026 09:00:00 GMT"


@shows("nonce_reuse")
async def test_a_nonce_is_good_for_one_request(call: Caller) -> None:
    first = await call.log_in(Nonce="once")
    again = await call.log_in(Nonce="once")
    await call.switch(nonce_reuse="accepted")

    assert (first.status, again.status) == (200, 400)
    assert "nonce" in again.text
    assert (await call.log_in(Nonce="once")).status == 200


@shows("licence")
@pytest.mark.parametrize("licence", ["product", "user"])
async def test_what_is_not_licensed_is_nicht_freigeschaltet(call: Caller, licence: str) -> None:
    await call.switch(licence=licence)

    answer = await call.log_in()

    assert (answer.status, "nicht freigeschaltet" in answer.text) == (400, True)


@pytest.mark.parametrize(("name", "value"), [("Product", 1), ("Role", 1)])
async def test_another_product_or_role_is_nicht_freigeschaltet(
    call: Caller, name: str, value: int
) -> None:
    assert "nicht freigeschaltet" in (await call.log_in(**{name: value})).text


@shows("login_text")
async def test_a_wrong_name_and_a_wrong_password_are_told_in_one_of_two_sentences(
    call: Caller,
) -> None:
    wrong: list[dict[str, str]] = [{"Password": "falsch"}, {"User": "ZZ"}]
    first = [(await call.log_in(**entry)).text for entry in wrong]
    await call.switch(login_text="user")
    second = [(await call.log_in(**entry)).text for entry in wrong]

    assert first == ["Falscher Name oder falsches Kennwort."] * 2
    assert second == ["Benutzer / Kennwort ungültig."] * 2


async def test_another_firm_or_database_is_nicht_registriert(call: Caller) -> None:
    for wrong in ({"Kanzlei": "sim 4711"}, {"Database": "andere"}):
        assert "ist nicht registriert" in (await call.log_in(**wrong)).text


@shows("connector")
@pytest.mark.parametrize(
    ("state", "words"),
    [("offline", "ist nicht angemeldet"), ("unregistered", "ist nicht registriert")],
)
async def test_a_firm_whose_connector_is_away_has_neither_tokens_nor_data(
    call: Caller, state: str, words: str
) -> None:
    await call.switch(connector=state)
    away = [await call.log_in(), await call("GET", call.mueller)]
    await call.switch(connector="online")

    assert [(answer.status, words in answer.text) for answer in away] == [(400, True), (503, True)]
    assert (await call("GET", call.mueller)).status == 200


@shows("offline_status")
@pytest.mark.parametrize("status", ["503", "500", "502", "200"])
async def test_the_relay_tells_in_a_sentence_that_the_firm_is_away(
    call: Caller, status: str
) -> None:
    await call.switch(connector="offline", offline_status=status)

    answer = await call("GET", f"{API}/Termine")

    assert (answer.status, "ist nicht angemeldet" in answer.text) == (int(status), True)


@shows("gateway_status")
@pytest.mark.parametrize("status", ["400", "401", "403", "500", "503"])
async def test_the_gateway_refuses_with_the_switched_status(call: Caller, status: str) -> None:
    await call.switch(gateway_status=status)

    assert (await call.log_in(Password="falsch")).status == int(status)


@shows("gateway_errors")
async def test_the_gateway_refuses_in_text_or_json(call: Caller) -> None:
    text = await call.log_in(Password="falsch")
    await call.switch(gateway_errors="json")
    told = await call.log_in(Password="falsch")

    assert text.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert told.json() == {"message": text.text}


@shows("token_expiry")
@pytest.mark.parametrize(
    ("manner", "keys"),
    [
        ("expiration_utc", {"expiration_utc"}),
        ("expires_in", {"expires_in"}),
        ("both", {"expiration_utc", "expires_in"}),
        ("none", set()),
    ],
)
async def test_a_token_tells_its_end_as_switched(call: Caller, manner: str, keys: set[str]) -> None:
    await call.switch(token_expiry=manner)

    told = (await call.log_in()).json()

    assert set(told) == {"access_token"} | keys
    assert told.get("expires_in", 3600) == 3600
    assert told.get("expiration_utc", "2026-03-09T09:00:00.000Z") == "2026-03-09T09:00:00.000Z"


@shows("token_seconds")
async def test_a_token_is_good_until_its_end_and_then_401(call: Caller) -> None:
    await call.switch(token_seconds=60)
    token = (await call.log_in()).json()["access_token"]

    await call.advance(59)
    before = await call("GET", call.mueller, token=token)
    await call.advance(1)
    after = await call("GET", call.mueller, token=token)

    assert (before.status, after.status) == (200, 401)
    assert after.headers["WWW-Authenticate"] == "Bearer"


@shows("single_token")
async def test_a_new_token_may_end_the_same_user_s_others(call: Caller) -> None:
    other = (await call.log_in(User="AI", Password="anderes-kennwort")).json()["access_token"]
    second = (await call.log_in()).json()["access_token"]
    assert (await call("GET", call.mueller)).status == 200
    await call.switch(single_token=True)

    third = (await call.log_in()).json()["access_token"]

    tokens = (call.token, second, third, other)
    statuses = [(await call("GET", call.mueller, token=token)).status for token in tokens]
    assert statuses == [401, 401, 200, 200]


async def test_revoked_tokens_are_401_until_a_new_one_is_asked_for(call: Caller) -> None:
    other = (await call.log_in(User="AI", Password="anderes-kennwort")).json()["access_token"]

    one = (await call("POST", "/_sim/revoke", json={"user": "SB"})).json()
    statuses = [(await call("GET", call.mueller, token=t)).status for t in (call.token, other)]
    all_others = (await call("POST", "/_sim/revoke")).json()

    assert (one, statuses, all_others) == ({"revoked": 1}, [401, 200], {"revoked": 1})
    fresh = (await call.log_in()).json()["access_token"]
    assert (await call("GET", call.mueller, token=fresh)).status == 200


@pytest.mark.parametrize("header", ["", "Bearer", "Bearer ", "Bearer x", "Basic {}", "{}"])
async def test_no_call_gets_in_without_a_token_of_the_gateway(call: Caller, header: str) -> None:
    headers = {"Authorization": header.format(call.token)} if header else {}

    for path in (call.mueller, f"{API}/Termine", f"{API}/Sim/echo", f"{API}/none"):
        assert (await call("GET", path, token="", headers=headers)).status == 401


async def test_no_secret_is_in_state_or_log(call: Caller) -> None:
    await call("GET", call.mueller)
    await call("POST", "/relay/api/v1/Token", json=signed(call.sim), token="")
    told = (await call("GET", "/_sim/state")).text + (await call("GET", "/_sim/requests")).text

    for secret in (call.token, call.sim.firm.passwords["SB"], call.sim.firm.api_key):
        assert secret not in told
    assert all(c.sent is None or c.sent["body_base64"] in {"", None} for c in call.sim.requests)
    assert hashlib.sha256(call.token.encode()).hexdigest() in told


@shows("trailing_slashes")
async def test_the_configurator_s_addresses_end_in_a_slash_or_not(call: Caller) -> None:
    path = "/AdvonetConfigurator/api/Url?Kanzlei=sim%2B4711"
    with_slash = (await call("GET", path, token="")).json()
    await call.switch(trailing_slashes=False)
    without = (await call("GET", path, token="")).json()

    assert with_slash["relayUrl"] == f"{call.url}/relay/"
    assert with_slash["securityGateway"] == f"{call.url}/security/"
    assert [with_slash[name].rstrip("/") for name in ("relayUrl", "securityGateway")] == [
        without[name] for name in ("relayUrl", "securityGateway")
    ]


@shows("connector_url")
async def test_where_a_connector_is_named_only_it_answers(call: Caller) -> None:
    await call.switch(connector_url=True)
    told = (await call("GET", "/AdvonetConfigurator/api/Url?Kanzlei=sim%2B4711")).json()

    statuses = [
        (await call("GET", f"{base}{call.mueller}")).status for base in ("/relay", "", "/connector")
    ]

    assert told["connectorUrl"] == f"{call.url}/connector/"
    assert statuses == [503, 503, 200]


@shows("unknown_firm")
async def test_an_unknown_firm_is_404_or_has_no_addresses(call: Caller) -> None:
    # an unencoded plus is a space, and so another firm
    path = "/AdvonetConfigurator/api/Url?Kanzlei=sim+4711"
    missing = await call("GET", path, token="")
    await call.switch(unknown_firm="nulls")
    nulls = await call("GET", path, token="")

    assert missing.status == 404
    assert nulls.json() == {"relayUrl": None, "connectorUrl": None, "securityGateway": None}


# every resource


@shows("path_prefix")
async def test_resources_lie_under_the_switched_prefix(call: Caller) -> None:
    async def statuses() -> list[int]:
        paths = (call.mueller, call.mueller.replace("/advonet", ""), f"/relay{call.mueller}")
        return [(await call("GET", path)).status for path in paths]

    both = await statuses()
    await call.switch(path_prefix="advonet")
    advonet = await statuses()
    await call.switch(path_prefix="plain")

    assert (both, advonet, await statuses()) == ([200] * 3, [200, 404, 200], [404, 200, 404])


@shows("logical_names")
async def test_logical_names_may_be_resources_or_not(call: Caller) -> None:
    body = {"datum": "2026-02-10", "uhrzeitVon": "09:00:00", "text": "Meeting"}
    made = (await call("POST", f"{API}/appointments", json=body)).json()
    path = f"{API}/appointments/{made['frNr']}"
    [row] = (await call("GET", path)).json()
    changed = await call.put(path, row, text="Treffen")
    deleted = await call("DELETE", path)
    await call.switch(logical_names=False)

    assert (row["text"], changed.json()["text"], deleted.status) == ("Meeting", "Treffen", 200)
    assert (await call("GET", f"{API}/employees")).status == 404
    assert (await call("GET", f"{API}/appointments")).status == 404
    assert (await call("GET", f"{API}/Mitarbeiter")).status == 200


@shows("relay_seconds")
async def test_the_way_to_the_firm_s_server_may_be_slow(call: Caller) -> None:
    await call.switch(relay_seconds=60)
    slow = asyncio.create_task(call("GET", call.mueller))
    token = await call.log_in()
    early, _ = await asyncio.wait([slow], timeout=0.3)

    assert (token.status, early) == (200, set())
    async with asyncio.timeout(5):
        while not slow.done():
            await call.advance(60)
    assert (await slow).status == 200


@shows("error_shape")
async def test_errors_are_json_or_text(call: Caller) -> None:
    told = await call("GET", f"{API}/Beteiligte/1")
    await call.switch(error_shape="text")
    text = await call("GET", f"{API}/Beteiligte/1")

    assert told.json() == {"message": text.text}
    assert (text.status, text.headers["Content-Type"]) == (404, "text/plain; charset=utf-8")


@shows("unknown_id")
@pytest.mark.parametrize(
    ("manner", "status", "body"),
    [("404", 404, None), ("500", 500, None), ("empty", 200, [])],
)
async def test_what_is_not_there_is_told_as_switched(
    call: Caller, manner: str, status: int, body: Any
) -> None:
    await call.switch(unknown_id=manner)

    for path in (f"{API}/Beteiligte/1", f"{API}/Termine?frnr=1", f"{API}/Beteiligte/x"):
        answer = await call("GET", path)
        assert answer.status == status
        assert body is None or answer.json() == body


@shows("key_case")
async def test_keys_are_camel_or_pascal_case_and_writes_take_both(call: Caller) -> None:
    camel = await call.party()
    await call.switch(key_case="pascal")
    pascal = await call.party()

    answer = await call.put(call.mueller, pascal, Titel="Dr.")

    assert (camel["betNr"], pascal["BetNr"]) == (104860, 104860)
    assert pascal["Kommunikation"][0]["Tlf"] == camel["kommunikation"][0]["tlf"]
    assert (answer.status, answer.json()["Titel"]) == (200, "Dr.")
    assert call.sim.record("Beteiligte", 104860)["vorname"] == "Jörg"


@shows("null_keys")
async def test_keys_without_a_value_are_null_or_left_out(call: Caller) -> None:
    there = await call.party()
    await call.switch(null_keys=False)
    out = await call.party()

    assert there["titel"] is None
    assert set(there) - set(out) == {name for name, value in there.items() if value is None}


@shows("single_record")
async def test_one_record_is_a_list_of_one_or_itself(call: Caller) -> None:
    frnr = call.firm.termine["Arzt"]
    paths = (call.mueller, f"{API}/Termine?frnr={frnr}")
    listed = [(await call("GET", path)).json() for path in paths]
    await call.switch(single_record="object")
    itself = [(await call("GET", path)).json() for path in paths]

    assert listed == [[row] for row in itself]
    assert (itself[0]["betNr"], itself[1]["frNr"]) == (104860, frnr)


@shows("empty_list")
@pytest.mark.parametrize(
    ("manner", "status", "body"),
    [("array", 200, b"[]"), ("null", 200, b"null"), ("404", 404, None)],
)
async def test_an_empty_list_is_answered_as_switched(
    call: Caller, manner: str, status: int, body: bytes | None
) -> None:
    await call.switch(empty_list=manner)

    answer = await call("GET", f"{API}/Termine?from=1990-01-01&to=1990-01-31")

    assert answer.status == status
    assert body in {None, answer.body}


@shows("list_envelope")
async def test_a_list_may_lie_in_an_envelope(call: Caller) -> None:
    plain = (await call("GET", f"{API}/employees?limit=2&offset=1")).json()
    await call.switch(list_envelope="data")
    told = (await call("GET", f"{API}/employees?limit=2&offset=1")).json()

    assert [row["kuerzel"] for row in plain] == ["AI", "RO"]
    assert told == {"data": plain, "total": 4}


@shows("list_cap")
async def test_a_list_may_be_cut_without_a_word(call: Caller) -> None:
    whole = (await call("GET", f"{API}/Beteiligte")).json()
    await call.switch(list_cap=3)

    assert len(whole) == 4
    assert (await call("GET", f"{API}/Beteiligte")).json() == whole[:3]


@shows("unknown_parameters")
async def test_an_unknown_parameter_is_ignored_or_refused(call: Caller) -> None:
    path = f"{API}/Termine?id={call.firm.termine['Arzt']}"
    ignored = await call("GET", path)
    await call.switch(unknown_parameters="400")

    assert len(ignored.json()) > 1
    assert (await call("GET", path)).status == 400
    assert (await call("GET", f"{API}/Termine?kuerzel=SB")).status == 200


@shows("filter_case")
async def test_the_filter_is_frnr_and_not_frnr_with_a_capital(call: Caller) -> None:
    number = call.firm.termine["Arzt"]
    right = (await call("GET", f"{API}/Termine?frnr={number}")).json()
    wrong = (await call("GET", f"{API}/Termine?frNr={number}")).json()
    await call.switch(filter_case="any")

    assert [row["frNr"] for row in right] == [number]
    assert len(wrong) > 1
    assert (await call("GET", f"{API}/Termine?frNr={number}")).json() == right


@shows("ignored_filters")
async def test_a_known_filter_may_have_no_effect(call: Caller) -> None:
    number = call.firm.termine["Arzt"]
    await call.switch(ignored_filters=["frnr", "kuerzel"])

    for query in (f"frnr={number}", "kuerzel=AI", "kuerzel=Allgemein"):
        listed = (await call("GET", f"{API}/Termine?{query}")).json()
        assert {row["anwalt"] for row in listed} == {"SB", "AI", "RO", "ALLE"}


async def test_a_method_that_a_resource_has_not_is_405_and_an_unknown_resource_404(
    call: Caller,
) -> None:
    patched = await call("PATCH", call.mueller, json={})

    assert (patched.status, patched.headers["Allow"]) == (405, "GET, PUT, DELETE")
    assert (await call("GET", f"{API}/Akten/1")).status == 404
    assert (await call("GET", "/elsewhere")).status == 404


@pytest.mark.parametrize("body", [b"{", b"[]", b"5", b"", b"\xff", b"[" * 100_000])
async def test_a_body_that_is_no_object_is_400(call: Caller, body: bytes) -> None:
    for method, path in (("PUT", call.mueller), ("POST", f"{API}/Termine")):
        assert (await call(method, path, data=body)).status == 400


# Beteiligte


async def test_a_created_party_comes_back_with_its_number_and_version(call: Caller) -> None:
    body = {"name": "Schröder", "vorname": "Ilse", "geburtsdatum": "1950-02-03", "betNr": 1}
    made = await call("POST", f"{API}/Beteiligte", json=body)

    row = made.json()
    [read] = (await call("GET", f"{API}/Beteiligte/{row['betNr']}")).json()
    assert (made.status, row["betNr"], row["anzeigename"]) == (200, 104864, "Schröder, Ilse")
    assert (row["geburtsdatum"], row["angelegtVon"]) == ("1950-02-03T00:00:00", "SB")
    assert read == row
    assert re.fullmatch("[A-P]{40}", row["rowId"])


async def test_a_party_without_a_name_and_values_that_do_not_fit_are_400(call: Caller) -> None:
    bodies: list[dict[str, Any]] = [
        {}, {"name": ""}, {"name": 5}, {"name": "x", "geburtsdatum": "gestern"},
    ]  # fmt: skip
    for body in bodies:
        assert (await call("POST", f"{API}/Beteiligte", json=body)).status == 400
    assert len(call.sim.records("Beteiligte")) == 4


async def test_parties_are_found_by_the_beginning_of_a_name(call: Caller) -> None:
    found = (await call("GET", f"{API}/Beteiligte?name=m%C3%BC&vorname=J%C3%B6rg")).json()

    assert [row["betNr"] for row in found] == [104860]
    assert (await call("GET", f"{API}/Beteiligte?name=m%C3%BC&vorname=x")).json() == []


@shows("create_status")
async def test_a_creation_is_200_or_201(call: Caller) -> None:
    first = await call("POST", f"{API}/Beteiligte", json={"name": "A"})
    await call.switch(create_status="201")

    assert first.status == 200
    assert (await call("POST", f"{API}/Beteiligte", json={"name": "B"})).status == 201
    assert (await call("POST", f"{API}/Termine", json={"datum": "2026-03-09"})).status == 201


@shows("update_answer")
async def test_an_update_is_answered_with_the_row_or_with_nothing(call: Caller) -> None:
    row = (await call.put(call.mueller, await call.party(), titel="Dr.")).json()
    await call.switch(update_answer="empty")
    empty = await call.put(call.mueller, row, titel="Prof.")

    assert row["titel"] == "Dr."
    assert (empty.status, empty.body) == (204, b"")
    assert (await call.party())["titel"] == "Prof."


@shows("full_object_put")
async def test_a_put_empties_what_it_leaves_out_unless_switched(call: Caller) -> None:
    row = await call.party()
    await call.switch(full_object_put=False)
    kept = (await call.put(call.mueller, {"rowId": row["rowId"], "titel": "Dr."})).json()
    await call.switch(full_object_put=True)
    body = {"rowId": kept["rowId"], "name": "Müller"}
    emptied = (await call("PUT", call.mueller, json=body)).json()

    assert (kept["vorname"], kept["titel"]) == ("Jörg", "Dr.")
    assert (emptied["name"], emptied["vorname"], emptied["titel"]) == ("Müller", None, None)
    assert len(emptied["kommunikation"]) == 3


@shows("row_id")
async def test_every_write_gives_another_row_id_or_only_one_that_changes(call: Caller) -> None:
    first = await call.party()
    second = (await call.put(call.mueller, first)).json()
    await call.switch(row_id="per_change")
    third = (await call.put(call.mueller, second)).json()
    fourth = (await call.put(call.mueller, third, titel="Dr.")).json()

    versions = [row["rowId"] for row in (first, second, third, fourth)]
    assert versions[1] == versions[2]
    assert len(set(versions)) == 3


@shows("party_row_id")
async def test_a_party_s_version_stays_when_a_contact_of_it_changes(call: Caller) -> None:
    before = await call.party()
    await call.advance(60)
    path = f"{call.mueller}/Kommunikationen"
    await call("POST", path, json={"tlf": "0511/1", "kommKz": 1, "bemerkung": "", "online": False})
    after = await call.party()
    await call.switch(party_row_id="changes")
    await call.put(f"{path}/{after['kommunikation'][0]['id']}", after["kommunikation"][0], tlf="1")
    changed = await call.party()

    told = [(row["rowId"], row["geaendertAm"]) for row in (before, after, changed)]
    assert len(after["kommunikation"]) == len(before["kommunikation"]) + 1
    assert told[0] == told[1]
    assert changed["rowId"] != before["rowId"]
    assert changed["geaendertAm"] == "2026-03-09T09:01:00"


@shows("row_id_required")
async def test_a_put_must_carry_the_row_id_where_switched(call: Caller) -> None:
    row = await call.party()
    refused = await call.put(call.mueller, row, rowId=...)
    await call.switch(row_id_required=[])
    accepted = await call.put(call.mueller, row, rowId=..., titel="Dr.")

    assert (refused.status, "rowId" in refused.json()["message"]) == (400, True)
    assert (accepted.status, accepted.json()["titel"]) == (200, "Dr.")


@shows("stale_row_id")
@pytest.mark.parametrize(
    ("manner", "titel"), [("409", "Prof."), ("400", "Prof."), ("500", "Prof."), ("accepted", "Dr.")]
)
async def test_a_put_with_an_old_row_id_is_answered_as_switched(
    call: Caller, manner: str, titel: str
) -> None:
    await call.switch(stale_row_id=manner)
    old = await call.party()
    await call.edit("update", "Beteiligte", number=104860, values={"titel": "Prof."}, user="RO")

    answer = await call.put(call.mueller, old, titel="Dr.")

    assert answer.status == (200 if manner == "accepted" else int(manner))
    assert (await call.party())["titel"] == titel


@shows("read_only_beteiligte", "read_only_fields")
async def test_a_put_changes_only_some_fields_of_a_party_without_a_word(call: Caller) -> None:
    number = call.firm.beteiligte["Beispielbau GmbH"]
    path = f"{API}/Beteiligte/{number}"
    [row] = (await call("GET", path)).json()
    quiet = await call.put(path, row, handelsRegisterNummer="HRB 1", zusatz="i.L.")
    await call.switch(read_only_fields="400")
    refused = await call.put(path, quiet.json(), handelsRegisterNummer="HRB 1")
    same = await call.put(path, quiet.json(), zusatz="in Liquidation")
    await call.switch(read_only_beteiligte=[])
    changed = await call.put(path, same.json(), handelsRegisterNummer="HRB 1")

    told = (quiet.json()["handelsRegisterNummer"], quiet.json()["zusatz"])
    assert (quiet.status, told) == (200, ("HRB 4711", "i.L."))
    assert (refused.status, same.status) == (400, 200)
    assert changed.json()["handelsRegisterNummer"] == "HRB 1"


@shows("delete_beteiligte")
async def test_a_party_cannot_be_deleted_unless_switched(call: Caller) -> None:
    refused = await call("DELETE", call.mueller)
    still = (await call("GET", call.mueller)).status
    await call.switch(delete_beteiligte="deletes")
    deleted = await call("DELETE", call.mueller)

    assert (refused.status, still, deleted.status) == (403, 200, 200)
    assert (await call("GET", call.mueller)).status == 404
    assert call.sim.records("Kommunikationen", betNr=104860) == []


@shows("embedded")
async def test_a_party_shows_what_is_embedded(call: Caller) -> None:
    whole = await call.party()
    await call.switch(embedded=["kommunikation"])
    less = await call.party()

    assert (len(whole["adressen"]), len(whole["bankverbindungen"])) == (1, 1)
    assert set(whole) - set(less) == {"adressen", "bankverbindungen"}


@shows("contact_fields")
async def test_a_party_shows_contact_fields_on_top_that_a_put_cannot_change(call: Caller) -> None:
    row = await call.party()
    put = (await call.put(call.mueller, row, mobil="0170/1")).json()
    await call.switch(contact_fields=False)

    assert (row["mobil"], row["telGesch"], row["emailPrivat"]) == (
        "0171/5550001",
        "0511/12345-60",
        None,
    )
    assert put["mobil"] == "0171/5550001"
    assert "mobil" not in await call.party()


@shows("stamps", "stamp_fraction")
async def test_stamps_are_german_wall_clock_or_utc_with_or_without_a_fraction(
    call: Caller,
) -> None:
    stamps = []
    for quirks in ({}, {"stamps": "utc"}, {"stamp_fraction": True}, {"stamps": "local"}):
        await call.switch(**quirks)
        stamps.append((await call.party())["geaendertAm"])

    assert stamps == [
        "2026-03-09T09:00:00", "2026-03-09T08:00:00Z",
        "2026-03-09T08:00:00.000Z", "2026-03-09T09:00:00.000",
    ]  # fmt: skip


# Kommunikationen, Adressen, Bankverbindungen


@shows("komm_kz")
async def test_a_contact_s_kind_is_read_as_zero_and_answered_as_it_is_by_writes(
    call: Caller,
) -> None:
    path = f"{call.mueller}/Kommunikationen"
    body = {"tlf": "jm@example.com", "kommKz": 8, "bemerkung": "[ESPOCRM:x:8]", "online": True}
    made = (await call("POST", path, json=body)).json()
    put = (await call.put(f"{path}/{made['id']}", made, tlf="neu@example.com")).json()
    zero = (await call.party())["kommunikation"]
    await call.switch(komm_kz="some")
    some = (await call.party())["kommunikation"]
    await call.switch(komm_kz="real")
    real = (await call.party())["kommunikation"]

    assert (made["kommKz"], made["kommArt"], made["betNr"]) == (8, 1, 104860)
    assert (put["kommKz"], put["tlf"], put["online"]) == (8, "neu@example.com", True)
    assert put["rowId"] != made["rowId"]
    assert {(row["kommKz"], row["kommArt"]) for row in zero} == {(0, 0)}
    assert [row["kommKz"] for row in some] == [1, 0, 4, 0]
    assert ([row["kommKz"] for row in real], real[-1]) == ([1, 3, 4, 8], put)


@shows("read_only_kommunikation")
async def test_a_put_does_not_change_a_contact_s_kind(call: Caller) -> None:
    contact = (await call.party())["kommunikation"][0]
    path = f"{call.mueller}/Kommunikationen/{contact['id']}"
    kept = (await call.put(path, contact, kommKz=3, tlf="1")).json()
    await call.switch(read_only_kommunikation=[])
    changed = (await call.put(path, kept, kommKz=3)).json()

    assert (kept["kommKz"], kept["tlf"], changed["kommKz"]) == (1, "1", 3)


@pytest.mark.parametrize("body", [{}, {"kommKz": 0}, {"kommKz": 13}, {"kommKz": "1"}])
async def test_a_contact_without_a_kind_is_400(call: Caller, body: dict[str, Any]) -> None:
    answer = await call("POST", f"{call.mueller}/Kommunikationen", json={"tlf": "1"} | body)

    assert answer.status == 400
    assert len((await call.party())["kommunikation"]) == 3


@shows("list_kommunikationen")
async def test_contacts_come_with_the_party_and_are_not_listed_alone(call: Caller) -> None:
    path = f"{call.mueller}/Kommunikationen"
    alone = await call("GET", path)
    await call.switch(list_kommunikationen=True)

    assert alone.status == 405
    assert (await call("GET", path)).json() == (await call.party())["kommunikation"]


@shows("delete_below")
@pytest.mark.parametrize(
    ("part", "rows"), [("Kommunikationen", "kommunikation"), ("Adressen", "adressen")]
)
async def test_what_lies_below_a_party_cannot_be_deleted_unless_switched(
    call: Caller, part: str, rows: str
) -> None:
    before = (await call.party())[rows]
    path = f"{call.mueller}/{part}/{before[0]['id']}"
    refused = await call("DELETE", path)
    still = (await call.party())[rows]
    await call.switch(delete_below="deletes")
    deleted = await call("DELETE", path)

    assert (refused.status, still, deleted.status) == (403, before, 200)
    assert (await call.party())[rows] == before[1:]


async def test_a_new_address_takes_every_field_and_the_next_index(call: Caller) -> None:
    body = {
        "strasse": "Domplatz 1", "plz": "38100", "ort": "Braunschweig", "land": "D",
        "postfach": "12", "postfachPLZ": "38001", "standardAnschrift": True, "anschrift": "x",
        "bemerkung": "EspoCRM-ID: 65f0c1d2e3a4b5c01", "gueltigVon": "2026-01-01",
        "reihenfolgeIndex": 9,
    }  # fmt: skip
    made = (await call("POST", f"{call.mueller}/Adressen", json=body)).json()
    listed = (await call("GET", f"{call.mueller}/Adressen")).json()

    assert made["reihenfolgeIndex"] == 2
    assert {n: made[n] for n in body if n not in {"gueltigVon", "reihenfolgeIndex"}} == {
        n: v for n, v in body.items() if n not in {"gueltigVon", "reihenfolgeIndex"}
    }
    assert made["gueltigVon"] == "2026-01-01T00:00:00"
    assert listed[-1] == made


@shows("read_only_adressen")
async def test_a_put_changes_four_fields_of_an_address(call: Caller) -> None:
    address = (await call.party())["adressen"][0]
    path = f"{call.mueller}/Adressen/{address['id']}"
    wanted = {
        "strasse": "Neu 1", "plz": "1", "ort": "Ort", "anschrift": "Block", "land": "A",
        "bemerkung": "anders", "standardAnschrift": False, "gueltigBis": "2026-12-31",
    }  # fmt: skip
    put = (await call("PUT", path, json=wanted)).json()
    await call.switch(read_only_adressen=[])
    all_of_it = (await call("PUT", path, json=wanted)).json()

    changed = [n for n in wanted if put[n] != address[n]]
    assert changed == ["strasse", "plz", "ort", "anschrift"]
    assert (all_of_it["land"], all_of_it["gueltigBis"]) == ("A", "2026-12-31T00:00:00")


@shows("address_key")
async def test_an_address_is_named_by_its_id_or_its_index(call: Caller) -> None:
    address = (await call.party())["adressen"][0]
    paths = [f"{call.mueller}/Adressen/{address[n]}" for n in ("id", "reihenfolgeIndex")]
    by_id = [(await call.put(path, address)).status for path in paths]
    await call.switch(address_key="reihenfolgeIndex")
    by_index = [(await call.put(path, address, rowId=...)).status for path in paths]

    assert (by_id, by_index) == ([200, 404], [404, 200])


@shows("address_index")
async def test_an_address_s_index_stays_or_is_its_place(call: Caller) -> None:
    for street in ("Zwei 2", "Drei 3"):
        await call("POST", f"{call.mueller}/Adressen", json={"strasse": street})
    second = (await call.party())["adressen"][1]
    await call.edit("delete", "Adressen", number=second["id"])
    fixed = [row["reihenfolgeIndex"] for row in (await call.party())["adressen"]]
    await call.switch(address_index="position")
    places = [row["reihenfolgeIndex"] for row in (await call.party())["adressen"]]

    assert (fixed, places) == ([1, 3], [1, 2])


@shows("bank_changes")
@pytest.mark.parametrize(
    ("manner", "status"), [("405", 405), ("404", 404), ("403", 403), ("allowed", 200)]
)
async def test_a_bank_account_can_only_be_created_unless_switched(
    call: Caller, manner: str, status: int
) -> None:
    await call.switch(bank_changes=manner)
    body = {"auftraggeber": "Jörg Müller", "iban": "DE02120300000000202051"}
    made = await call("POST", f"{call.mueller}/Bankverbindungen", json=body)
    path = f"{call.mueller}/Bankverbindungen/{made.json()['id']}"

    put = await call.put(path, made.json(), bank="Andere")
    deleted = await call("DELETE", path)

    assert (made.status, put.status, deleted.status) == (200, status, status)
    left = (await call("GET", f"{call.mueller}/Bankverbindungen")).json()
    assert len(left) == (1 if manner == "allowed" else 2)


@shows("bemerkung_limit")
async def test_a_long_remark_may_be_cut_off_without_a_word(call: Caller) -> None:
    body = {"tlf": "1", "kommKz": 1, "bemerkung": "x" * 300, "online": False}
    whole = (await call("POST", f"{call.mueller}/Kommunikationen", json=body)).json()
    await call.switch(bemerkung_limit=255)
    cut = (await call("POST", f"{call.mueller}/Kommunikationen", json=body)).json()

    assert (len(whole["bemerkung"]), len(cut["bemerkung"])) == (300, 255)


# Termine


async def test_termine_are_listed_by_window_and_employee(call: Caller) -> None:
    async def texts(query: str) -> list[str]:
        listed = (await call("GET", f"{API}/Termine?{query}")).json()
        return [row["text"] for row in listed if row["frNr"] > 0]

    assert await texts("from=2026-03-09&to=2026-03-09&kuerzel=SB") == [
        "Besprechung Müller ./. Weiß"
    ]
    assert await texts("from=2026-03-11&to=2026-03-12&kuerzel=AI") == ["Fortbildung Mietrecht"]
    assert await texts("from=2036-01-01&to=2038-01-19&kuerzel=Allgemein") == ["Wochenbesprechung"]
    assert await texts("kuerzel=RO") == ["Abwesend", "Frist ohne Uhrzeit"]
    assert (await call("GET", f"{API}/Termine?from=heute")).status == 400


async def test_a_termin_is_created_changed_and_deleted(call: Caller) -> None:
    body = {
        "datum": "2026-03-10", "uhrzeitVon": "14:00", "uhrzeitBis": "15:30:00", "anwalt": "SB",
        "text": "Ortstermin", "privat": 1,
    }  # fmt: skip
    number = (await call("POST", f"{API}/Termine", json=body)).json()["frNr"]
    path = f"{API}/Termine?frnr={number}"
    [row] = (await call("GET", path)).json()
    put = await call.put(path, row, uhrzeitBisTicks=..., uhrzeitBis="16:00:00", ort="Celle")
    deleted = await call("DELETE", path)

    assert (row["uhrzeitVon"], row["uhrzeitBis"], row["dauertermin"]) == ("14:00:00", "15:30:00", 0)
    assert (put.json()["uhrzeitBis"], put.json()["ort"], put.json()["privat"]) == (
        "16:00:00",
        "Celle",
        1,
    )
    assert put.json()["rowId"] != row["rowId"]
    assert (deleted.status, (await call("GET", path)).status) == (200, 404)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"datum": None}, {"datum": "morgen"}, {"datum": "2026-03-09", "dauertermin": 2},
        {"datum": "2026-03-09", "uhrzeitVon": "25:00"}, {"datum": "2026-03-09", "privat": True},
        {"datum": "2026-03-09T10:00:00Z"},
    ],
)  # fmt: skip
async def test_a_termin_that_cannot_be_is_400(call: Caller, body: dict[str, Any]) -> None:
    assert (await call("POST", f"{API}/Termine", json=body)).status == 400


async def test_changing_or_deleting_without_frnr_touches_nothing(call: Caller) -> None:
    row = await call.termin("Arzt")
    number = row["frNr"]

    for query in ("", f"?frNr={number}", "?frnr="):
        assert (await call.put(f"{API}/Termine{query}", row)).status in {400, 404}
        assert (await call("DELETE", f"{API}/Termine{query}")).status in {400, 404}
    assert await call.termin("Arzt") == row


@shows("frnr_key")
@pytest.mark.parametrize("key", ["frNr", "FrNr", "frnr"])
async def test_the_key_of_a_termin_is_written_as_switched(call: Caller, key: str) -> None:
    await call.switch(frnr_key=key)

    made = (await call("POST", f"{API}/Termine", json={"datum": "2026-03-09"})).json()
    [row] = (await call("GET", f"{API}/Termine?frnr={made[key]}")).json()

    assert row[key] == made[key]


@shows("created_termin")
async def test_a_created_termin_is_answered_with_key_number_or_row(call: Caller) -> None:
    answers = []
    for manner in ("key", "bare", "row"):
        await call.switch(created_termin=manner)
        body = {"datum": "2026-03-09", "text": manner}
        answers.append((await call("POST", f"{API}/Termine", json=body)).json())

    first = answers[0]["frNr"]
    assert answers[0] == {"frNr": first}
    assert answers[1] == first + 1
    assert (answers[2]["frNr"], answers[2]["text"]) == (first + 2, "row")


@shows("termin_dates", "termin_times")
async def test_days_and_times_are_written_as_switched_and_read_back_equal(call: Caller) -> None:
    told = []
    for quirks in ({}, {"termin_dates": "date"}, {"termin_times": "in_datum"}):
        await call.switch(**quirks)
        row = await call.termin("Besprechung Müller ./. Weiß")
        told.append((row["datum"], row.get("uhrzeitVon"), row["uhrzeitBis"]))
        kept = (await call.put(f"{API}/Termine?frnr={row['frNr']}", row)).json()
        assert {**kept, "rowId": ""} == {**row, "rowId": ""}

    assert told == [
        ("2026-03-09T00:00:00", "09:00:00", "09:30:00"),
        ("2026-03-09", "09:00:00", "09:30:00"),
        ("2026-03-09T09:00:00", None, "09:30:00"),
    ]


@shows("ticks_override")
async def test_the_ticks_of_the_end_beat_the_end_unless_they_are_left_out(call: Caller) -> None:
    row = await call.termin("Besprechung Müller ./. Weiß")
    path = f"{API}/Termine?frnr={row['frNr']}"
    assert row["uhrzeitBisTicks"] == 342_000_000_000

    beaten = (await call.put(path, row, uhrzeitBis="10:00:00")).json()
    without = (await call.put(path, beaten, uhrzeitBis="10:00:00", uhrzeitBisTicks=...)).json()
    await call.switch(ticks_override=False)
    harmless = (await call.put(path, without, uhrzeitBis="11:00:00")).json()

    ends = [entry["uhrzeitBis"] for entry in (beaten, without, harmless)]
    assert ends == ["09:30:00", "10:00:00", "11:00:00"]
    assert without["uhrzeitBisTicks"] == 360_000_000_000


@shows("notiz_crlf")
async def test_line_ends_of_notes_become_crlf(call: Caller) -> None:
    row = await call.termin("Besprechung Müller ./. Weiß")
    await call.switch(notiz_crlf=False)
    path = f"{API}/Termine?frnr={row['frNr']}"
    kept = (await call.put(path, row, notiz="eins\nzwei")).json()

    assert row["notiz"] == "Unterlagen mitbringen\r\nRaum 2"
    assert kept["notiz"] == "eins\nzwei"


@shows("termin_stamp")
async def test_the_stamp_of_a_change_is_the_server_s_or_the_writer_s(call: Caller) -> None:
    row = await call.termin("Arzt")
    path = f"{API}/Termine?frnr={row['frNr']}"
    given = "2026-03-01T12:00:00Z"
    own = (await call.put(path, row, zuletztGeaendertAm=given)).json()
    await call.switch(termin_stamp="client")
    written = (await call.put(path, own, zuletztGeaendertAm=given)).json()

    stamps = [entry["zuletztGeaendertAm"] for entry in (own, written)]
    assert stamps == ["2026-03-09T09:00:00", "2026-03-01T13:00:00"]


@shows("late_dates")
async def test_a_termin_beyond_32_bits_is_refused_unless_switched(call: Caller) -> None:
    body = {"datum": "2026-03-09", "datumBis": "2038-01-20", "dauertermin": 1}
    refused = await call("POST", f"{API}/Termine", json=body)
    last = await call("POST", f"{API}/Termine", json=body | {"datumBis": "2038-01-19"})
    await call.switch(late_dates="stored")

    assert (refused.status, last.status) == (400, 200)
    assert (await call("POST", f"{API}/Termine", json=body)).status == 200


@shows("derived_rows")
async def test_preparation_journeys_and_holidays_are_rows_with_negative_numbers(
    call: Caller,
) -> None:
    path = f"{API}/Termine?from=2026-03-09&to=2026-03-31"
    listed = (await call("GET", path)).json()
    special = [row for row in listed if row["frNr"] < 0]
    await call.switch(derived_rows=False)
    plain = (await call("GET", path)).json()

    told = [(r["special"], r["datum"][:10], r["uhrzeitVon"], r["uhrzeitBis"]) for r in special]
    assert told == [
        (1, "2026-03-10", "09:00:00", "09:30:00"),
        (2, "2026-03-10", "09:30:00", "10:15:00"),
        (3, "2026-03-10", "11:45:00", "12:30:00"),
        (4, "2026-03-16", "00:00:00", "23:59:00"),
    ]
    assert {row["anwalt"] for row in special} == {"SB", "AI"}
    assert plain == [row for row in listed if row["frNr"] > 0]
    assert (await call("GET", f"{API}/Termine?frnr={special[0]['frNr']}")).status == 404


@shows("derived_numbers")
async def test_derived_rows_keep_their_numbers_or_get_others_in_every_list(call: Caller) -> None:
    async def numbers() -> set[int]:
        listed = (await call("GET", f"{API}/Termine")).json()
        return {row["frNr"] for row in listed if row["frNr"] < 0}

    stable = [await numbers(), await numbers()]
    await call.switch(derived_numbers="changing")
    changing = [await numbers(), await numbers()]

    assert stable[0] == stable[1]
    assert [len(entry) for entry in changing] == [4, 4]
    assert not changing[0] & changing[1]


@shows("derived_delete")
async def test_deleting_a_derived_row_does_nothing(call: Caller) -> None:
    before = (await call("GET", f"{API}/Termine")).json()
    number = next(row["frNr"] for row in before if row["frNr"] < 0)
    ignored = await call("DELETE", f"{API}/Termine?frnr={number}")
    await call.switch(derived_delete="404")
    refused = await call("DELETE", f"{API}/Termine?frnr={number}")

    assert (ignored.status, refused.status) == (200, 404)
    assert (await call("GET", f"{API}/Termine")).json() == before


@shows("delete_unknown")
async def test_deleting_an_unknown_termin_is_404_or_a_success(call: Caller) -> None:
    first = await call("DELETE", f"{API}/Termine?frnr=1")
    await call.switch(delete_unknown="200")

    assert (first.status, (await call("DELETE", f"{API}/Termine?frnr=1")).status) == (404, 200)


async def test_initials_with_a_licence_are_listed(call: Caller) -> None:
    answer = await call("GET", "/api/v1/license/KuerzelForProduct/1")

    assert answer.json() == ["SB", "AI", "RO"]


# faults


async def test_a_creation_whose_answer_is_lost_has_happened(call: Caller) -> None:
    await call.fault("reset_after", operation="create_termin")

    with pytest.raises(aiohttp.ClientError):
        await call("POST", f"{API}/Termine", json={"datum": "2026-03-09", "text": "verloren"})

    assert len(call.sim.records("Termine", text="verloren")) == 1
    [entry] = [c for c in call.sim.requests if c.operation == "create_termin"]
    assert (entry.status, entry.effect, entry.fault) == (None, "create_termin", "reset_after")


async def test_a_write_that_is_answered_with_500_has_happened(call: Caller) -> None:
    await call.fault("status", operation="update_beteiligter", status=500, when="after")
    row = await call.party()

    answer = await call.put(call.mueller, row, titel="Dr.")

    assert answer.status == 500
    assert (await call.party())["titel"] == "Dr."


async def test_a_write_that_is_refused_has_not_happened(call: Caller) -> None:
    await call.fault("status", operation="update_beteiligter", status=503, body="html")
    await call.fault("reset_before", operation="create_termin")
    row = await call.party()

    answer = await call.put(call.mueller, row, titel="Dr.")
    with pytest.raises(aiohttp.ClientError):
        await call("POST", f"{API}/Termine", json={"datum": "2026-03-09", "text": "nie"})

    assert (answer.status, answer.headers["Content-Type"]) == (503, "text/html")
    assert await call.party() == row
    assert call.sim.records("Termine", text="nie") == []


async def test_a_torn_answer_is_shorter_than_it_says(call: Caller) -> None:
    await call.fault("torn", operation="read_beteiligter", bytes=10)

    url, headers = call.url + call.mueller, {"Authorization": f"Bearer {call.token}"}
    async with call.session.get(url, headers=headers) as answer:
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()

    # even then the time is Advoware's
    assert answer.headers["Date"] == "Mon, 09 Mar 2026 08:00:00 GMT"
    assert (await call("GET", call.mueller)).status == 200


async def test_what_is_written_may_be_seen_only_later(call: Caller) -> None:
    row = await call.party()
    await call.fault("delayed_visibility", operation="update_beteiligter", seconds=30)
    await call.fault("delayed_visibility", operation="create_kommunikation", seconds=30)
    await call.put(call.mueller, row, titel="Dr.")
    await call(
        "POST", f"{call.mueller}/Kommunikationen", json={"tlf": "1", "kommKz": 1, "online": False}
    )

    early = await call.party()
    stale = await call.put(call.mueller, early, titel="Prof.")
    await call.advance(30)
    late = await call.party()

    assert early == row
    assert stale.status == 409
    assert (late["titel"], len(late["kommunikation"])) == ("Dr.", 4)


async def test_too_many_requests_tell_when_to_come_again(call: Caller) -> None:
    await call.fault("rate_limit", operation="token", retry_after=70)
    await call.fault("rate_limit", operation="list_termine")

    token, termine = await call.log_in(), await call("GET", f"{API}/Termine")

    assert (token.status, token.headers["Retry-After"]) == (429, "70")
    assert (termine.status, "Retry-After" in termine.headers) == (429, False)


async def test_chance_strikes_the_same_calls_for_the_same_seed(call: Caller) -> None:
    runs = []
    for seed in (7, 7, 8):
        await call("DELETE", "/_sim/faults")
        await call.fault("status", times=None, seed=seed, probability=0.5, path="/Beteiligte/")
        runs.append([(await call("GET", call.mueller)).status for _ in range(24)])

    assert runs[0] == runs[1] != runs[2]
    assert {200, 503} == set(runs[0])


# what arrives, and large bodies


async def test_the_log_tells_byte_for_byte_what_arrived(call: Caller) -> None:
    body = bytes(range(256))
    target = f"{API}/Sim/echo/?a=%2F&b=x+y&a=%c3%9f&leer"
    headers = {"Content-Type": "application/x-bin", "X-Fall": "Größe".encode().decode("latin-1")}
    last = (await call("GET", "/_sim/requests")).json()["last"]

    echo = await call("DELETE", target, data=body, headers=headers)
    [entry] = (await call("GET", f"/_sim/requests?since={last}")).json()["requests"]

    sent = entry["sent"]
    assert (entry["method"], sent["target"], sent["size"]) == ("DELETE", target, 256)
    assert base64.b64decode(sent["body_base64"]) == body
    assert sent["sha256"] == hashlib.sha256(body).hexdigest() == entry["digest"]
    assert sent["token"] == hashlib.sha256(call.token.encode()).hexdigest()
    assert ["Content-Type", "application/x-bin"] in sent["headers"]
    assert not [name for name, _ in sent["headers"] if name.lower() == "authorization"]
    told = echo.json()
    assert {name: sent[name] for name in told} == told


@pytest.mark.parametrize(("limit", "kept"), [("KEPT_DETAILS", 2), ("KEPT_BODIES", 2 * 1024)])
async def test_the_log_tells_the_details_of_the_last_calls_only(
    call: Caller, monkeypatch: pytest.MonkeyPatch, limit: str, kept: int
) -> None:
    monkeypatch.setattr(f"bitbylaw_simulators.advoware.state.{limit}", kept)
    for _ in range(4):
        await call("POST", f"{API}/Sim/echo", data=b"x" * 750)

    told = (await call("GET", "/_sim/requests")).json()["requests"][-4:]

    assert ["sent" in entry for entry in told] == [False, False, True, True]
    assert len({entry["digest"] for entry in told}) == 1


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
async def test_a_mirror_sends_back_what_it_got_by_any_method(call: Caller, method: str) -> None:
    small, large = b"\x00\xff\r\n", b"0123456789" * 300_000

    for body in (small, large):
        headers = {"Content-Type": "x/y"}
        answer = await call(method, f"{API}/Sim/mirror", data=io.BytesIO(body), headers=headers)
        assert (answer.status, answer.body, answer.headers["Content-Type"]) == (200, body, "x/y")


@pytest.mark.parametrize("status", [200, 204, 302, 304, 400, 418, 503])
async def test_any_status_can_be_asked_for(call: Caller, status: int) -> None:
    path = f"{API}/Sim/status/{status}"
    answer = await call("GET", path, allow_redirects=False)

    assert answer.status == status
    assert status in {204, 304} or answer.json()["target"] == path


@pytest.mark.parametrize("query", ["", "?chunked=1", "?gzip=1", "?gzip=1&chunked=1"])
async def test_a_download_has_the_asked_length_and_always_the_same_bytes(
    call: Caller, query: str
) -> None:
    answer = await call("GET", f"{API}/Sim/bytes/3000001{query}")

    pages = [number.to_bytes(8, "big") for number in range(3_000_001 // 4096 + 1)]
    assert len(answer.body) == 3_000_001
    assert [answer.body[at : at + 8] for at in range(0, 3_000_001, 4096)] == pages
    assert ("Content-Length" in answer.headers) == ("chunked" not in query)
    assert answer.headers.get("Content-Encoding") == ("gzip" if "gzip" in query else None)
    other = await call("GET", f"{API}/Sim/bytes/3000001?seed=1")
    assert other.body != answer.body


async def test_a_torn_download_breaks_off_where_planned(call: Caller) -> None:
    await call.fault("torn", operation="probe", bytes=1_000_000)
    headers, read = {"Authorization": f"Bearer {call.token}"}, 0

    async def download() -> None:
        nonlocal read
        url = f"{call.url}{API}/Sim/bytes/2000000"
        async with call.session.get(url, headers=headers) as answer:
            async for piece in answer.content.iter_any():
                read += len(piece)

    with pytest.raises(aiohttp.ClientPayloadError):
        await download()

    assert read <= 1_000_000


@pytest.mark.parametrize("query", ["", "?chunked=1"])
async def test_a_stalled_answer_stops_for_so_long_and_then_goes_on(
    call: Caller, query: str
) -> None:
    await call.fault("stalled", operation="probe", bytes=1_000_000, seconds=60)
    got, headers = bytearray(), {"Authorization": f"Bearer {call.token}"}

    url = f"{call.url}{API}/Sim/bytes/2000000{query}"
    async with call.session.get(url, headers=headers) as answer:
        got += await answer.content.readexactly(1_000_000)
        rest = asyncio.create_task(answer.content.read())
        done, _ = await asyncio.wait([rest], timeout=0.05)
        await call.advance(60)
        got += await rest

    whole = await call("GET", f"{API}/Sim/bytes/2000000")
    assert not done
    assert got == whole.body


# the control face


async def test_an_employee_s_edits_are_seen_and_are_no_effects_of_calls(call: Caller) -> None:
    made = await call.edit("create", "Beteiligte", values={"name": "Neu"}, user="RO")
    number = made["betNr"]
    contact = await call.edit(
        "create", "Kommunikationen", betNr=number, values={"tlf": "1", "kommKz": 3}
    )
    await call.edit("update", "Beteiligte", number=number, values={"familienstand": "ledig"})
    [row] = (await call("GET", f"{API}/Beteiligte/{number}")).json()
    await call.edit("delete", "Kommunikationen", number=contact["id"])
    await call.edit("delete", "Beteiligte", number=number)

    assert (row["angelegtVon"], row["familienstand"], row["mobil"]) == ("RO", "ledig", "1")
    assert (await call("GET", f"{API}/Beteiligte/{number}")).status == 404
    assert call.sim.effects() == []


async def test_an_employee_moves_a_termin(call: Caller) -> None:
    before = await call.termin("Arzt")
    await call.edit("update", "Termine", number=before["frNr"], values={"uhrzeitVon": "17:00"})
    after = await call.termin("Arzt")

    assert (before["uhrzeitVon"], after["uhrzeitVon"]) == ("16:00:00", "17:00:00")
    assert (before["rowId"] != after["rowId"], after["privat"]) == (True, 1)


@pytest.mark.parametrize(
    "body",
    [
        {}, {"action": "x", "resource": "Termine", "number": 1}, {"action": "update"},
        {"action": "create", "resource": "Nichts"}, {"action": "create", "resource": "Beteiligte"},
        {"action": "create", "resource": "Kommunikationen", "values": {"kommKz": 1}},
        {"action": "create", "resource": "Adressen", "betNr": 1},
        {"action": "update", "resource": "Termine", "number": 1, "values": {"titel": ""}},
        {"action": "delete", "resource": "Termine", "number": 1}, {"verb": "create"},
    ],
)  # fmt: skip
async def test_an_edit_that_cannot_be_is_refused(call: Caller, body: dict[str, Any]) -> None:
    before = call.sim.state()
    answer = await call("POST", "/_sim/edit", json=body)

    assert (answer.status, bool(answer.json()["error"])) == (400, True)
    assert call.sim.state() == before


async def test_calls_that_change_something_are_effects_with_what_changed(call: Caller) -> None:
    row = await call.party()
    await call.put(call.mueller, row, titel="Dr.", kurzname="anders")
    await call.put(f"{call.mueller}/Kommunikationen/88001", row["kommunikation"][0], tlf="0511/2")

    told = (await call("GET", "/_sim/requests")).json()["requests"]

    effects = [(c["effect"], c["target"], c["changed"]) for c in told if c["effect"]]
    assert effects == [
        ("update_beteiligter", "Beteiligte/104860", ["titel"]),
        ("update_kommunikation", "Beteiligte/104860/Kommunikationen/88001", ["tlf"]),
    ]


async def test_a_reset_forgets_rows_tokens_calls_faults_and_time_and_keeps_quirks(
    call: Caller,
) -> None:
    await call.fault("status", times=None)
    await call.advance(60)
    await call.switch(komm_kz="real")
    await call("POST", "/_sim/reset")

    state = (await call("GET", "/_sim/state")).json()
    assert not any(state["tables"].values())
    assert (state["tokens"], state["now"]) == ({}, "2026-03-09T08:00:00+00:00")
    assert (await call("GET", "/_sim/requests")).json() == {"requests": [], "last": 0}
    assert (await call("GET", call.mueller)).status == 401
    assert call.sim.quirks.komm_kz == "real"


async def test_a_restarted_simulator_knows_rows_numbers_and_tokens(call: Caller) -> None:
    await call("POST", f"{API}/Termine", json={"datum": "2026-03-09", "text": "vorher"})
    versions = {row["rowId"] for row in call.sim.records("Termine")}
    second = Advoware(SimClock())
    second.load(json.loads(json.dumps(call.sim.state())))

    async with SimServer(second) as server:
        again = Caller(second, call.firm, server.url, call.session, call.token)
        rows = (await again("GET", f"{API}/Termine")).json()
        made = (await again("POST", f"{API}/Termine", json={"datum": "2026-03-09"})).json()

    assert rows == (await call("GET", f"{API}/Termine")).json()
    assert made["frNr"] == max(row["frNr"] for row in rows) + 1
    assert second.record("Termine", made["frNr"])["rowId"] not in versions


async def test_the_sample_firm_is_the_same_every_time() -> None:
    firms, states = [], []
    for _ in range(2):
        sim = Advoware(SimClock())
        firms.append(sample_firm(sim))
        states.append(sim.state())

    assert (firms[0], states[0]) == (firms[1], states[1])
    assert (len(firms[0].beteiligte), len(firms[0].termine), len(firms[0].kuerzel)) == (4, 7, 4)


# the page


def test_page_switches_and_tests_are_the_same() -> None:
    switches = described(AdvowareQuirks())
    rows = [
        f"| `{entry['name']}` | `{shown(entry['default'])}` | {entry['certainty']} "
        f"| {entry['text']} | `{SHOWN.get(entry['name'], '')}` |"
        for entry in switches
    ]
    section = PAGE.read_text("utf-8").partition("## Quirks")[2]
    told = [line for line in section.splitlines() if line.startswith("| `")]

    assert set(SHOWN) == {entry["name"] for entry in switches}
    assert told == rows
