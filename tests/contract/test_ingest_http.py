"""ingest behind a real HTTP server: what EspoCRM gets for each kind of post."""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import aiohttp
import pytest

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import App
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.hosts.http_host import HttpHost, Route
from bitbylaw_common.runtime.http_run import http_run
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_ingest.deps import Deps, open_deps
from bitbylaw_ingest.steps.vmh_webhook_api_step import STEPS

MIB = 1024 * 1024
WEBHOOK_ID = "65f0c1d2e3a4b5c6d"
SECRET = "0123456789abcdef0123456789abcdef"
DOCUMENT_CREATE = "/vmh/webhook/document/create"


class Shelf:
    """A log that keeps what it acknowledged; it can be away."""

    def __init__(self) -> None:
        self.kept: list[Outgoing] = []
        self.away = False

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        if self.away:
            raise LogUnavailableError("the broker is away")
        first = len(self.kept)
        self.kept.extend(records)
        return [Position(record.topic, 0, first + n) for n, record in enumerate(records)]

    async def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        for offset, record in enumerate(self.kept):
            if offset >= starts.get((record.topic, 0), len(self.kept)):
                yield Record(record.topic, 0, offset, record.key, record.value, record.headers)

    async def on(self, topic: topics.Topic[Any]) -> list[Any]:
        return [codec.decode(topic, record)[0] async for record in self.read({(topic.name, 0): 0})]


class Quiet:
    """A control port with nothing to tell."""

    def healthy(self) -> Sequence[str]:
        return ()

    def ready(self) -> Sequence[str]:
        return ()

    def functions(self) -> Sequence[FunctionInfo]:
        return ()

    async def trigger(self, function_id: str) -> str:
        raise AssertionError(function_id)


class Crm:
    """Posts as EspoCRM does."""

    def __init__(self, session: aiohttp.ClientSession, url: str, log: Shelf) -> None:
        self.session = session
        self.url = url
        self.log = log

    async def post(
        self,
        body: bytes,
        *,
        route: str = DOCUMENT_CREATE,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
        legacy: bool = False,
    ) -> tuple[int, Any]:
        if headers is None:
            headers = {"X-Signature": x_signature(body)} if legacy else {"Signature": signed(body)}
        async with self.session.post(
            self.url + route,
            data=io.BytesIO(body),
            headers={"Content-Type": content_type, **headers},
        ) as answer:
            return answer.status, await answer.json()


def signed(body: bytes, webhook_id: str = WEBHOOK_ID) -> str:
    proof = hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()
    return base64.b64encode(f"{webhook_id}:{proof}".encode()).decode()


def x_signature(body: bytes) -> str:
    proof = hmac.new(SECRET.encode(), body, hashlib.sha256).digest()
    return base64.b64encode(WEBHOOK_ID.encode() + b":" + proof).decode()


@pytest.fixture
async def crm() -> AsyncIterator[Crm]:
    log = Shelf()
    deps = Deps({WEBHOOK_ID: (SECRET,)}, accepts_unsigned=False)
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
        yield Crm(session, host.url, log)


async def test_espo_01_a_signed_post_is_stored_and_answered_with_the_predecessor_s_keys(
    crm: Crm,
) -> None:
    status, answer = await crm.post(b'[{"id":"a","name":"Klage.pdf"},{"id":"b"}]')
    assert status == 200
    event_ids = answer.pop("event_ids")
    assert answer == {
        "status": "received",
        "action": "create",
        "new_ids_count": 2,
        "total_ids_in_batch": 2,
    }
    first, second = crm.log.kept
    assert [first.headers["ce_id"], second.headers["ce_id"]] == event_ids
    assert (first.topic, first.key) == ("vmh.document.create", b"a")
    assert len(first.headers["bbl-dup"]) == 64
    assert b"Klage" not in (first.value or b"")
    assert [event.changed for event in await crm.log.on(topics.DOCUMENT_CREATE)] == [("name",), ()]


async def test_espo_02_the_older_header_is_believed(crm: Crm) -> None:
    status, _ = await crm.post(b'[{"id":"t12"}]', legacy=True)
    assert status == 200
    assert len(crm.log.kept) == 1


@pytest.mark.parametrize(
    "headers",
    [
        {"Signature": signed(b"[]")},
        {"Signature": signed(b'[{"id":"1"}]', webhook_id="foreign")},
        {"Signature": signed(b"[]"), "X-Signature": x_signature(b'[{"id":"1"}]')},
        {"Signature": "no base64"},
        {},
    ],
)
async def test_espo_03_05_07_08_what_the_crm_did_not_sign_is_refused(
    crm: Crm, headers: dict[str, str]
) -> None:
    status, answer = await crm.post(b'[{"id":"1"}]', headers=headers)
    assert status == 401
    assert answer["error"] == "signature refused"
    assert crm.log.kept == []


async def test_espo_04_bytes_written_again_do_not_fit_their_signature(crm: Crm) -> None:
    sent = rb'[{"id":"1","dateiStatus":"Ge\u00e4ndert"}]'
    again = json.dumps(json.loads(sent), ensure_ascii=False).encode()
    assert (await crm.post(again, headers={"Signature": signed(sent)}))[0] == 401
    assert (await crm.post(sent))[0] == 200


async def test_espo_10_one_bad_object_of_fifty_costs_the_others_nothing(crm: Crm) -> None:
    objects: list[dict[str, str]] = [{"id": str(number)} for number in range(50)]
    objects[3] = {"name": "x"}
    status, answer = await crm.post(json.dumps(objects).encode())
    assert status == 200
    assert (answer["new_ids_count"], len(answer["event_ids"])) == (49, 49)
    assert len(await crm.log.on(topics.DOCUMENT_CREATE)) == 49
    (entry,) = await crm.log.on(topics.QUARANTINE)
    assert answer["quarantined"] == [entry.quarantine_id]
    assert (entry.item, base64.b64decode(entry.raw)) == (3, b'{"name": "x"}')


@pytest.mark.parametrize("body", [b"", b"{", b'[{"id":NaN}]', b"\xff\xfe", b"null", b"[" * 100_000])
async def test_espo_13_an_authentic_body_that_cannot_be_read_is_kept_and_answered_200(
    crm: Crm, body: bytes
) -> None:
    status, answer = await crm.post(body)
    assert status == 200
    assert answer["total_ids_in_batch"] == 0
    (entry,) = await crm.log.on(topics.QUARANTINE)
    assert answer["quarantined"] == [entry.quarantine_id]
    assert (base64.b64decode(entry.raw), entry.item) == (body, None)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "x"])
async def test_the_content_type_does_not_matter(crm: Crm, content_type: str) -> None:
    assert (await crm.post(b'{"id":"1"}', content_type=content_type))[0] == 200
    assert len(crm.log.kept) == 1


async def test_a_post_of_almost_sixteen_mebibytes_is_stored_whole(crm: Crm) -> None:
    objects = [b'{"id":"%d","text":"' % n + b"x" * (319 * 1024) + b'"}' for n in range(50)]
    body = b"[" + b",".join(objects) + b"]"
    assert 15 * MIB < len(body) <= 16 * MIB
    status, answer = await crm.post(body)
    assert (status, answer["new_ids_count"]) == (200, 50)


async def test_sixteen_mebibytes_of_garbage_fit_into_the_quarantine(crm: Crm) -> None:
    body = b"{" * (16 * MIB)
    status, answer = await crm.post(body)
    assert (status, len(answer["quarantined"])) == (200, 1)
    (record,) = crm.log.kept
    assert len(record.value or b"") < topics.QUARANTINE.max_message_bytes
    (entry,) = await crm.log.on(topics.QUARANTINE)
    assert base64.b64decode(entry.raw) == body


async def test_espo_14_seventeen_mebibytes_are_answered_413_before_they_are_sent(crm: Crm) -> None:
    host, port = crm.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port), family=socket.AF_INET)
    try:
        writer.write(
            f"POST {DOCUMENT_CREATE} HTTP/1.1\r\nHost: {host}\r\n"
            f"Content-Length: {17 * MIB}\r\n\r\n".encode()
        )
        head = await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)
    finally:
        writer.close()
        await writer.wait_closed()
    assert head.split()[1] == b"413"
    assert crm.log.kept == []


async def test_espo_15_while_kafka_is_away_the_answer_is_503_and_the_repetition_is_stored_once(
    crm: Crm,
) -> None:
    body = b'[{"id":"1"},{"id":"2"}]'
    crm.log.away = True
    assert (await crm.post(body))[0] == 503
    assert crm.log.kept == []

    crm.log.away = False
    assert (await crm.post(body))[0] == 200
    assert [event.entity_id for event in await crm.log.on(topics.DOCUMENT_CREATE)] == ["1", "2"]


async def test_espo_16_a_repeated_post_is_published_again_under_the_same_mark(crm: Crm) -> None:
    body = b'[{"id":"1"}]'
    assert [(await crm.post(body))[0] for _ in range(2)] == [200, 200]
    first, second = crm.log.kept
    assert first.headers["bbl-dup"] == second.headers["bbl-dup"]
    assert first.headers["ce_id"] != second.headers["ce_id"]


@pytest.mark.parametrize("entity", ["beteiligte", "bankverbindungen", "document"])
@pytest.mark.parametrize("action", ["create", "update", "delete"])
async def test_all_nine_routes_answer(crm: Crm, entity: str, action: str) -> None:
    status, answer = await crm.post(b'[{"id":"1"}]', route=f"/vmh/webhook/{entity}/{action}")
    assert (status, answer["action"]) == (200, action)
    (record,) = crm.log.kept
    assert record.topic == f"vmh.{entity}.{action}"


async def test_no_answer_of_these_routes_makes_the_crm_give_a_post_up(crm: Crm) -> None:
    bodies = [b"", b"[]", b"{}", b"nonsense", b'[{"id":"1"}]', b"\x00", b'[{"id":""},3]']
    answers = [(await crm.post(body))[0] for body in bodies]
    answers += [(await crm.post(body, headers={}))[0] for body in bodies]
    crm.log.away = True
    answers += [(await crm.post(b'[{"id":"1"}]'))[0]]
    assert set(answers) == {200, 401, 503}
