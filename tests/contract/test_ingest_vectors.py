"""ingest over plain HTTP with fixed signatures: the bytes and headers of an EspoCRM 9."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest

from bitbylaw_common import metrics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.runtime import App
from bitbylaw_common.runtime.hosts.http_host import HttpHost, Route
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_ingest.deps import Deps, open_deps
from bitbylaw_ingest.steps.vmh_webhook_api_step import STEPS
from contract.test_ingest_http import Quiet, Shelf

WEBHOOK_ID = "65f0c1d2e3a4b5c6d"
SECRET, NEXT_SECRET = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"

A = b'[{"id":"69a68b9cd4c01ad4c","name":"Klage.pdf","dateiStatus":"Neu"}]'
A_SIGNED = (
    "NjVmMGMxZDJlM2E0YjVjNmQ6OWU2YWRjYWNkODZiNWMyNjk1ZDBiZjI5MDRkZGU0ZmJhZWIxODlm"
    "ZGFhMDNmNjEzMmE1ZTlmOWU2OTRhNjM5MA=="
)
A_LEGACY = "NjVmMGMxZDJlM2E0YjVjNmQ6nmrcrNhrXCaV0L8pBN3k+66xif2qA/YTKl6fnmlKY5A="
B = rb'[{"id":"1","dateiStatus":"Ge\u00e4ndert","url":"https:\/\/a\/b"}]'
B_SIGNED = (
    "NjVmMGMxZDJlM2E0YjVjNmQ6NjVhMWVkM2M5NDFkZmFkMWJmZTU4YjY2YjkxNDA3YWQ5Yjk4ZWE1"
    "YTcxMWJlNTUxZGE5ZmNiOGM3NzZiNTBjMg=="
)
B_LEGACY = "NjVmMGMxZDJlM2E0YjVjNmQ6ZaHtPJQd+tG/5YtmuRQHrZuY6lpxG+VR2p/LjHdrUMI="
COLON = b'[{"id":"t12"}]'
COLON_LEGACY = "NjVmMGMxZDJlM2E0YjVjNmQ6iT911w3XKyfFPgY3dfZ2Qxg6dH08b5difUn30VeuK/I="
"""Its proof holds the byte of a colon."""


@dataclass
class Edge:
    """ingest with these secrets behind a real HTTP server, and what it stored."""

    url: str
    session: aiohttp.ClientSession
    log: Shelf = field(default_factory=Shelf)

    @property
    def kept(self) -> list[Outgoing]:
        return self.log.kept

    async def post(self, body: bytes, **headers: str) -> int:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        url = f"{self.url}/vmh/webhook/document/update"
        async with self.session.post(url, data=body, headers=named) as answer:
            await answer.read()
            return answer.status


@asynccontextmanager
async def edge(*secrets: str, accepts_unsigned: bool = False) -> AsyncIterator[Edge]:
    log = Shelf()
    deps = Deps({WEBHOOK_ID: secrets} if secrets else {}, accepts_unsigned=accepts_unsigned)
    app = App("ingest", STEPS, open_deps)
    routes = [
        Route(step.name, trigger, http_run(app, step, deps, log, SystemClock()))
        for step in app.steps
        for trigger in step.http_triggers
    ]
    async with (
        HttpHost(routes, Quiet(), host="127.0.0.1", port=0) as host,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=15)) as session,
    ):
        yield Edge(host.url, session, log)


async def test_espo_01_a_body_with_its_signature_is_stored() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(A, Signature=A_SIGNED) == 200
        assert await ingest.post(B, Signature=B_SIGNED) == 200
        assert [record.key for record in ingest.kept] == [b"69a68b9cd4c01ad4c", b"1"]


async def test_espo_02_a_body_with_the_older_signature_alone_is_stored() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(A, X_Signature=A_LEGACY) == 200
        assert await ingest.post(B, X_Signature=B_LEGACY) == 200
        assert len(ingest.kept) == 2


async def test_espo_03_a_body_with_another_body_s_signature_is_refused() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(A, Signature=B_SIGNED) == 401
        assert await ingest.post(A, X_Signature=B_LEGACY) == 401
        assert ingest.kept == []


async def test_espo_04_the_same_json_in_other_bytes_is_refused() -> None:
    async with edge(SECRET) as ingest:
        again = json.dumps(json.loads(B), ensure_ascii=False, separators=(",", ":")).encode()
        assert json.loads(again) == json.loads(B)
        assert await ingest.post(again, Signature=B_SIGNED) == 401
        assert ingest.kept == []


async def test_espo_05_a_webhook_that_has_no_secret_here_is_refused_and_counted() -> None:
    proof = base64.b64decode(A_SIGNED).partition(b":")[2]
    foreign = base64.b64encode(b"65f0c1d2e3a4b5fff:" + proof).decode()
    refused = metrics.value("bitbylaw_webhook_signature_failures_total", reason="unknown_webhook")
    async with edge(SECRET) as ingest:
        assert await ingest.post(A, Signature=foreign) == 401
        assert ingest.kept == []
    counted = metrics.value("bitbylaw_webhook_signature_failures_total", reason="unknown_webhook")
    assert counted == refused + 1


async def test_espo_06_a_proof_with_a_colon_in_it_is_believed() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(COLON, X_Signature=COLON_LEGACY) == 200
        assert len(ingest.kept) == 1


async def test_espo_07_the_newer_signature_decides_where_both_are_there() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(A, Signature=B_SIGNED, X_Signature=A_LEGACY) == 401
        assert ingest.kept == []
        assert await ingest.post(A, Signature=A_SIGNED, X_Signature=B_LEGACY) == 200


async def test_espo_08_without_a_signature_it_depends_on_whether_there_are_secrets() -> None:
    async with edge(SECRET) as ingest:
        assert await ingest.post(A) == 401
        assert ingest.kept == []
    async with edge(accepts_unsigned=True) as ingest:
        assert await ingest.post(A) == 200
        assert len(ingest.kept) == 1


@pytest.mark.parametrize("secrets", [(SECRET, NEXT_SECRET), (NEXT_SECRET, SECRET)])
async def test_espo_09_while_a_secret_is_exchanged_either_is_believed(
    secrets: tuple[str, str],
) -> None:
    async with edge(*secrets) as ingest:
        assert await ingest.post(A, Signature=A_SIGNED) == 200
        assert await ingest.post(A, Signature=B_SIGNED) == 401
    async with edge(NEXT_SECRET) as ingest:
        assert await ingest.post(A, Signature=A_SIGNED) == 401


async def test_espo_11_a_single_object_is_one_event() -> None:
    async with edge(accepts_unsigned=True) as ingest:
        assert await ingest.post(b'{"id":"69a68b9cd4c01ad4c","name":"Klage.pdf"}') == 200
        assert [record.key for record in ingest.kept] == [b"69a68b9cd4c01ad4c"]


async def test_espo_12_an_empty_array_is_received_and_stores_nothing() -> None:
    async with edge(accepts_unsigned=True) as ingest:
        assert await ingest.post(b"[]") == 200
        assert ingest.kept == []


async def test_espo_15_a_log_that_does_not_answer_is_503_within_five_seconds() -> None:
    async with edge(SECRET) as ingest:
        ingest.log.away = True
        async with asyncio.timeout(5):
            assert await ingest.post(A, Signature=A_SIGNED) == 503
        ingest.log.away = False
        assert await ingest.post(A, Signature=A_SIGNED) == 200
        assert len(ingest.kept) == 1
