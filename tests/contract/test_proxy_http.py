"""The Advoware proxy over real sockets before the simulated Advoware: what its callers get."""

import asyncio
import base64
import gc
import hashlib
import json
import random
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from bitbylaw_advoware_proxy.relay import Relay
from bitbylaw_advoware_proxy.steps.advoware_openapi_api_step import text
from bitbylaw_common import metrics
from bitbylaw_simulators.wire import Made
from contract.proxied import Answer, Office, office

PORTAL, READER = "portal-key-0123456789", "reader-key-0123456789"
CALLERS = json.dumps(
    [
        {"name": "portal", "keys": [PORTAL], "scopes": [{"endpoints": ["**"]}]},
        {
            "name": "reader",
            "keys": ["sha256:" + hashlib.sha256(READER.encode()).hexdigest()],
            "scopes": [{"endpoints": ["employees", "Beteiligte/*"], "methods": ["GET"]}],
            "per_minute": 3,
        },
    ]
)


@pytest.fixture
async def run() -> AsyncIterator[Office]:
    async with office() as running:
        yield running


def sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


def told(answer: Answer) -> dict[str, Any]:
    """Return what `Sim/echo` says that arrived."""
    assert answer.status == 200, answer.body
    return dict(answer.json["result"])


# -- answers --------------------------------------------------------------------------------------


async def test_the_command_of_the_guide_lists_the_employees(run: Office) -> None:
    answer = await run.ask("GET", "endpoint=employees")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert [row["kuerzel"] for row in answer.json["result"]] == ["SB", "AI", "RO", "XT"]


@pytest.mark.parametrize("query", ["", "limit=10", "endpoint="])
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
async def test_a_missing_endpoint_is_told_in_the_predecessor_s_words(
    run: Office, method: str, query: str
) -> None:
    answer = await run.ask(method, query)
    assert answer.status == 400
    assert answer.json == {"error": "Endpoint required as query param"}
    assert run.arrived() == []


async def test_an_endpoint_that_is_refused_costs_no_token(run: Office) -> None:
    for query in ("endpoint=..%2FToken", "endpoint=http:%2F%2Fevil.example", "endpoint=a%0D%0Ab"):
        answer = await run.ask("GET", query)
        assert (answer.status, answer.json["error"]) == (400, "Endpoint refused")
        assert "evil" not in answer.json["details"]
    assert list(run.sim.requests) == []


async def test_api_paths_are_taken_as_they_are_and_others_get_the_prefix(run: Office) -> None:
    await run.ask("GET", "endpoint=api/v1/Mitarbeiter")
    await run.ask("GET", "path=employees&limit=2")
    assert [call["target"] for call in run.arrived()] == [
        "/relay/api/v1/Mitarbeiter",
        "/relay/api/v1/advonet/employees?limit=2",
    ]


@pytest.mark.parametrize(
    ("query", "body"),
    [
        ("endpoint=Sim/bytes/0&type=application/json", b'{"result": null}'),
        ("endpoint=Sim/status/204", b'{"result": null}'),
        ("endpoint=Sim/bytes/0&type=application/json&chunked=1", b'{"result": null}'),
    ],
)
async def test_an_empty_answer_is_a_result_of_null(run: Office, query: str, body: bytes) -> None:
    answer = await run.ask("GET", query)
    assert (answer.status, answer.body) == (200, body)


async def test_a_result_keeps_every_byte_of_advoware_s_json(run: Office) -> None:
    given = '\ufeff \n{"z": 1.50, "a": "\\u00fc", "ü": [1e3, null],\n "z": 2}\n'.encode()
    for headers in ({}, {"Content-Type": "application/json; charset=utf-8"}):
        answer = await run.ask(
            "POST",
            "endpoint=Sim/mirror",
            data=given,
            headers={"Content-Type": "application/json", **headers},
        )
        assert answer.body == b'{"result": ' + given.removeprefix(b"\xef\xbb\xbf \n") + b"}"


async def test_a_long_json_is_streamed_inside_its_result(run: Office) -> None:
    rows = json.dumps([{"n": n, "text": "ä" * 50} for n in range(20_000)]).encode()
    answer = await run.ask(
        "POST", "endpoint=Sim/mirror", data=rows, headers={"Content-Type": "text/json"}
    )
    assert len(rows) > 1024 * 1024
    assert answer.body == b'{"result": ' + rows + b"}"
    assert answer.headers["Transfer-Encoding"] == "chunked"


@pytest.mark.parametrize("more", ["", "&chunked=1", "&gzip=1"])
@pytest.mark.parametrize("size", [0, 10, 70_000, 1_000_000])
async def test_other_types_come_raw_with_their_type(run: Office, size: int, more: str) -> None:
    answer = await run.ask("GET", f"endpoint=Sim/bytes/{size}&type=application/pdf{more}")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/pdf"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="sim.bin"'
    assert "Content-Encoding" not in answer.headers
    assert answer.body == b"".join(Made(size).chunks(256 * 1024))


@pytest.mark.parametrize("status", [201, 202, 400, 403, 404, 405, 409, 422, 429])
async def test_advoware_s_status_is_passed_through(run: Office, status: int) -> None:
    answer = await run.ask("GET", f"endpoint=Sim/status/{status}")
    assert answer.status == status
    assert set(answer.json) == ({"result"} if status < 300 else {"error", "details"})


@pytest.mark.parametrize("status", [301, 302, 304, 500, 501, 503, 599])
async def test_what_is_wrong_with_advoware_is_a_502(run: Office, status: int) -> None:
    answer = await run.ask("GET", f"endpoint=Sim/status/{status}")
    assert answer.status == 502
    assert answer.json == {"error": "Bad Gateway", "details": f"Advoware answered {status}"}


async def test_an_error_carries_what_advoware_says_about_it_and_when_to_come_back(
    run: Office,
) -> None:
    unknown = await run.ask("GET", "endpoint=Beteiligte/1")
    assert (unknown.status, unknown.json) == (
        404,
        {"error": "Not Found", "details": "Der Datensatz wurde nicht gefunden."},
    )
    run.sim.faults.plan("rate_limit", retry_after=7)
    busy = await run.ask("GET", "endpoint=employees")
    assert (busy.status, busy.headers["Retry-After"]) == (429, "7")


@pytest.mark.parametrize("kind", ["reset_before", "torn"])
async def test_a_connection_that_breaks_is_a_502(run: Office, kind: str) -> None:
    run.sim.faults.plan(kind, times=None, operation="probe", share=0.5)
    answer = await run.ask("POST", "endpoint=Sim/echo", data=b"{}")
    assert (answer.status, answer.json["error"]) == (502, "Bad Gateway")


async def test_an_advoware_that_does_not_answer_in_time_is_a_504() -> None:
    async with office({"ADVOWARE_API_TIMEOUT_SECONDS": "0.3"}) as run:
        run.sim.faults.plan("latency", operation="probe", seconds=5)
        answer = await run.ask("GET", "endpoint=Sim/echo")
        assert (answer.status, answer.json["error"]) == (504, "Gateway Timeout")


async def test_a_slow_caller_is_not_taken_for_a_slow_advoware() -> None:
    async with office({"ADVOWARE_API_TIMEOUT_SECONDS": "1"}) as run:
        body = random.Random(1).randbytes(600 * 1024)

        async def slowly() -> AsyncIterator[bytes]:
            for start in range(0, len(body), 300 * 1024):
                await asyncio.sleep(1.3)
                yield body[start : start + 300 * 1024]

        answer = await run.ask("POST", "endpoint=Sim/echo", data=slowly())
        assert told(answer)["sha256"] == sha256(body)


async def test_the_predecessor_s_statuses_are_there_on_request() -> None:
    async with office({"ADVOWARE_PROXY_STATUS": "original"}) as run:
        for query in ("endpoint=Sim/status/404", "endpoint=Sim/status/503"):
            answer = await run.ask("GET", query)
            assert (answer.status, answer.json["error"]) == (500, "Internal server error")
            assert set(answer.json) == {"error", "details"}
        assert (await run.ask("POST", "endpoint=Sim/status/201")).status == 200
        assert (await run.ask("GET", "")).json == {"error": "Endpoint required as query param"}


async def test_a_stream_that_breaks_midway_does_not_look_whole(run: Office) -> None:
    run.sim.faults.plan("torn", operation="probe", bytes=500_000)
    with pytest.raises(aiohttp.ClientError):
        await run.ask("GET", "endpoint=Sim/bytes/1000000&type=application/json")
    (event,) = await run.events()
    assert (event.status, event.whole) == (200, False)
    assert not any("exception" in line for line in run.lines())


async def test_an_expired_token_is_replaced_and_the_call_made_once_more(run: Office) -> None:
    assert (await run.ask("GET", "endpoint=Sim/echo")).status == 200
    run.sim.gateway.revoke()
    body = b"\x00\xff" * 1000
    assert told(await run.ask("PUT", "endpoint=Sim/echo", data=body))["sha256"] == sha256(body)
    assert [call["status"] for call in run.arrived()] == [200, 401, 200]


async def test_a_login_that_is_not_accepted_is_no_fault_of_the_caller() -> None:
    async with office({"ADVOWARE_PASSWORD": "falsches-kennwort"}) as run:
        answer = await run.ask("GET", "endpoint=employees")
        assert answer.status == 502
        assert "kennwort" not in json.dumps(answer.json).lower()


# -- byte for byte --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 5_000, 300_000, 3_000_000])
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_query_and_body_arrive_byte_for_byte(
    run: Office, method: str, announced: bool, size: int
) -> None:
    body = random.Random(size).randbytes(size)

    async def pieces() -> AsyncIterator[bytes]:
        for start in range(0, size, 70_001):
            yield body[start : start + 70_001]

    await run.ask(
        method,
        "b=%c3%BC+x&endpoint=Sim%2Fecho&a=%2F..%2F&&c&a=2&d=&e==%26",
        data=body if announced else pieces(),
        headers={"Content-Type": "application/x-binary"},
    )

    (call,) = run.arrived()
    assert call["method"] == method
    assert call["target"] == (
        "/relay/api/v1/advonet/Sim/echo?b=%c3%BC+x&a=%2F..%2F&&c&a=2&d=&e==%26"
    )
    assert (call["size"], call["sha256"]) == (size, sha256(body) if size else None)
    if 0 < size <= 5_000:
        assert base64.b64decode(call["body_base64"]) == body
    headers = {name.lower(): value for name, value in call["headers"]}
    if size:
        assert headers["content-type"] == "application/x-binary"
    if announced and size:
        assert headers["content-length"] == str(size)


async def test_only_what_concerns_advoware_goes_along(run: Office) -> None:
    answer = await run.ask(
        "POST",
        "endpoint=Sim/echo",
        data=b"{}",
        headers={
            "apikey": "of-the-caller-0123456789",
            "Authorization": "Bearer of-the-caller-0123456789",
            "Cookie": "session=1",
            "X-Forwarded-For": "192.0.2.1",
            "Accept-Language": "de",
            "Content-Type": "application/merge-patch+json",
        },
    )
    arrived = {name.lower(): value for name, value in told(answer)["headers"]}
    assert "of-the-caller" not in json.dumps(arrived)
    assert not {"apikey", "cookie", "x-forwarded-for"} & set(arrived)
    assert arrived["accept-language"] == "de"
    assert arrived["content-type"] == "application/merge-patch+json"


# -- keys -----------------------------------------------------------------------------------------


async def test_without_a_key_of_ours_nothing_is_asked() -> None:
    async with office({"ADVOWARE_PROXY_CALLERS": CALLERS}) as run:
        before = metrics.value("bitbylaw_proxy_refused_total", reason="key")
        for headers in (
            {},
            {"apikey": "wrong-key-0123456789"},
            {"apikey": ""},
            {"Authorization": f"Basic {PORTAL}"},
            {"apikey": "sha256:" + hashlib.sha256(PORTAL.encode()).hexdigest()},
        ):
            answer = await run.ask("GET", "endpoint=employees", headers=headers)
            assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert list(run.sim.requests) == []
        assert await run.events() == []
        assert metrics.value("bitbylaw_proxy_refused_total", reason="key") == before + 5


async def test_a_key_is_good_for_its_scopes_and_its_rate() -> None:
    async with office({"ADVOWARE_PROXY_CALLERS": CALLERS}) as run:
        reader = {"Authorization": f"Bearer {READER}"}
        assert (await run.ask("GET", "endpoint=employees", headers=reader)).status == 200
        assert (await run.ask("POST", "endpoint=employees", headers=reader)).status == 403
        other = await run.ask("GET", "endpoint=API/v1/advonet/Beteiligte/1", headers=reader)
        assert other.status == 403
        late = await run.ask("GET", "endpoint=employees", headers=reader)
        assert (late.status, late.json["error"]) == (429, "Too Many Requests")
        assert 1 <= int(late.headers["Retry-After"]) <= 20
        assert (
            await run.ask("GET", "endpoint=employees", headers={"apikey": PORTAL})
        ).status == 200
        assert [call["operation"] for call in run.arrived()] == ["list_mitarbeiter"] * 2
        assert [(e.caller, e.status, e.endpoint) for e in await run.events()] == [
            ("reader", 200, "api/v1/advonet/employees"),
            ("reader", 403, "api/v1/advonet/employees"),
            ("reader", 403, "API/v1/advonet/Beteiligte/1"),
            ("portal", 200, "api/v1/advonet/employees"),
        ]


PROGRAMS = json.dumps(
    [
        {"name": f"p{n}", "keys": [f"key-of-program-{n:04}"], "scopes": [{"endpoints": ["**"]}]}
        for n in range(5)
    ]
)


async def test_one_program_whose_calls_fail_shuts_nobody_out_and_five_are_an_outage() -> None:
    async with office({"ADVOWARE_PROXY_CALLERS": PROGRAMS}) as run:
        run.sim.faults.plan("reset_before", times=None, operation="probe")

        async def failing(program: int) -> Answer:
            shown = {"apikey": f"key-of-program-{program:04}"}
            return await run.ask("POST", "endpoint=Sim/echo", data=b"{}", headers=shown)

        assert {(await failing(0)).status for _ in range(20)} == {502}
        well = {"apikey": "key-of-program-0001"}
        assert (await run.ask("GET", "endpoint=employees", headers=well)).status == 200

        assert [(await failing(program)).status for program in range(1, 5)] == [502] * 4
        spared = await run.ask("GET", "endpoint=employees", headers=well)
        assert (spared.status, spared.json["error"]) == (503, "Service Unavailable")
        assert int(spared.headers["Retry-After"]) >= 1


# -- the trail ------------------------------------------------------------------------------------


async def test_each_call_leaves_an_event_without_content(run: Office) -> None:
    answer = await run.ask("PUT", "endpoint=Sim/echo&name=M%C3%BCller", data=b'{"iban": "DE02"}')
    (event,) = await run.events()
    assert event.model_dump() == {
        "request_id": answer.headers["x-request-id"],
        "method": "PUT",
        "endpoint": "api/v1/advonet/Sim/echo",
        "status": 200,
        "duration_ms": event.duration_ms,
        "caller": "anybody",
        "whole": True,
        "v": 1,
    }
    assert 0 <= event.duration_ms < 20_000
    assert (event.entity, event.key) == ("caller", "anybody")  # a caller's calls stay in order


async def test_while_kafka_is_away_calls_are_answered_and_the_loss_is_counted_and_said_once(
    run: Office,
) -> None:
    lost = metrics.value("bitbylaw_proxy_events_lost_total")
    run.log.away = True
    for _ in range(3):
        assert (await run.ask("GET", "endpoint=employees")).status == 200
    await run.deps.trail.close()
    run.log.away = False
    assert (await run.ask("GET", "endpoint=employees")).status == 200
    assert len(await run.events()) == 1
    assert metrics.value("bitbylaw_proxy_events_lost_total") == lost + 3
    warnings = [one["event"] for one in run.lines() if one["level"] == "warning"]
    assert warnings.count("calls are answered without an event about them") == 1
    (back,) = [one for one in run.lines() if one["event"] == "answered calls are on Kafka again"]
    assert back["lost"] == 3


# -- callers who go away --------------------------------------------------------------------------


async def test_a_caller_who_goes_away_while_advoware_thinks_cancels_the_call(run: Office) -> None:
    await run.ask("GET", "endpoint=employees")
    run.sim.faults.plan("latency", operation="probe", seconds=20)
    with pytest.raises(TimeoutError):
        await run.ask("GET", "endpoint=Sim/echo", timeout=aiohttp.ClientTimeout(total=1))

    _, event = await run.log.until(2)
    assert (event.status, event.whole) == (499, False)
    assert event.duration_ms < 5_000  # the call was given up long before its answer


async def test_a_caller_who_goes_away_in_the_middle_of_a_download_ends_it_at_advoware(
    run: Office,
) -> None:
    url = f"{run.url}/advoware/proxy?endpoint=Sim/bytes/16000000000"
    answer = await run.session.get(url)
    assert len(await answer.content.readexactly(1_000_000)) == 1_000_000
    answer.close()
    (event,) = await run.log.until(1)
    assert (event.status, event.whole) == (200, False)
    # and the room that it held is free again
    assert (await run.ask("GET", "endpoint=employees")).status == 200


# -- the document ---------------------------------------------------------------------------------


async def test_the_openapi_document_is_served_as_it_is_generated(run: Office) -> None:
    answer = await run.ask("GET", "", route="/advoware/openapi.json")
    assert (answer.status, answer.body) == (200, text())
    assert answer.headers["Content-Type"] == "application/json"


async def test_the_openapi_document_asks_for_a_key_where_calls_do() -> None:
    async with office({"ADVOWARE_PROXY_CALLERS": CALLERS}) as run:
        route = "/advoware/openapi.json"
        assert (await run.ask("GET", "", route=route)).status == 401
        assert (await run.ask("GET", "", route=route, headers={"apikey": READER})).status == 200


# -- nothing leaks --------------------------------------------------------------------------------

PRIVATE = "Geheimnis-von-Frau-Weiß"
ASKED = "gesuchte-mandantin-4711"
MARKED = json.dumps(
    [{"name": "portal", "keys": ["marked-key-of-the-portal"], "scopes": [{"endpoints": ["**"]}]}]
)


async def test_no_secret_token_query_or_content_is_in_a_log_metric_event_or_error() -> None:
    password = "simuliertes-kennwort"
    async with office(
        {"ADVOWARE_PROXY_CALLERS": MARKED, "ADVOWARE_API_TIMEOUT_SECONDS": "1"}
    ) as run:
        shown = {"apikey": "marked-key-of-the-portal"}
        body = json.dumps({"name": PRIVATE}, ensure_ascii=False).encode()
        answers: list[Answer] = []

        async def ask(method: str, endpoint: str, **how: Any) -> None:
            query = f"endpoint={endpoint}&suche={ASKED}"
            answers.append(await run.ask(method, query, headers=shown, **how))

        # what goes well
        await ask("POST", "Sim/echo", data=body)
        await ask("PUT", "Sim/mirror", data=body)
        token = await token_of(run)
        # and what does not, in every way
        for status in (400, 401, 403, 404, 409, 422, 500, 503):
            run.sim.faults.plan("status", status=status, operation="probe", body="empty")
            await ask("POST", "Sim/echo", data=body)
        for kind in ("reset_before", "reset_after", "torn"):
            run.sim.faults.plan(kind, operation="probe", share=0.1)
            await ask("POST", "Sim/echo", data=body)
        run.sim.faults.plan("latency", operation="probe", seconds=3)
        await ask("POST", "Sim/echo", data=body)
        run.sim.faults.plan("torn", operation="probe", bytes=200_000)
        with pytest.raises(aiohttp.ClientError):
            await ask("GET", "Sim/bytes/500000")
        await ask("POST", "..%2F..%2FToken", data=body)
        wrong = {"apikey": "marked-key-of-a-stranger"}
        answers.append(await run.ask("GET", "endpoint=employees", headers=wrong))
        run.sim.faults.plan("rate_limit", operation="probe")
        await ask("POST", "Sim/echo", data=body)
        await ask("POST", "Sim/echo", data=body)  # held back now
        events = await run.events()

        assert len(events) == len(answers)  # one for the torn, none for the stranger
        errors = b"".join(one.body for one in answers if one.status >= 400).decode()
        page, _ = metrics.render()
        outputs = {
            "errors": errors,
            "log": run.said.getvalue(),
            "metrics": page.decode(),
            "events": "".join(f"{one.key!r}{one.value!r}{one.headers}" for one in run.log.kept),
        }
        assert {one.status for one in answers} >= {
            200,
            400,
            401,
            403,
            404,
            409,
            422,
            429,
            502,
            503,
            504,
        }
        for mark in (
            PRIVATE,
            PRIVATE.encode().hex(),
            "Frau-Wei",
            ASKED,
            token,
            password,
            "marked-key-of-the-portal",
            "marked-key-of-a-stranger",
            "c2ltdWxhdGVkLWFkdm93YXJlLWFwaS1rZXk",
        ):
            assert [name for name, output in outputs.items() if mark in output] == [], mark


async def token_of(run: Office) -> str:
    """Return the token that calls carry now."""
    client: Any = run.deps.advoware
    token = (await client._tokens.current()).value
    assert len(token) > 32
    return str(token)


async def test_a_call_that_is_over_leaves_nothing_to_the_collector(run: Office) -> None:
    # What goes in a circle is freed many calls at once, and all others wait meanwhile.
    gc.collect()
    gc.disable()
    try:
        for query in ("endpoint=employees", "endpoint=Sim/status/404", "endpoint=Sim/bytes/200000"):
            await run.ask("GET", query)
        await run.events()
        left = [one for one in gc.get_objects() if isinstance(one, Relay)]
    finally:
        gc.enable()
    assert left == []
