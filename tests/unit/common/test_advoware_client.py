"""The Advoware client against a firm that behaves as one does."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from bitbylaw_common.circuits import Circuits, State, working_on
from bitbylaw_common.clients.advoware import REPEATABLE_BYTES, Advoware, Record, resource_path
from bitbylaw_common.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.guarded import GuardedTransport
from log_lines import captured
from scripted_transport import Answer, Lost, Seen, of
from unit.common.firm import Firm, text

ROW_ID = "FBABAAAANJFGABAAGJDOAEAPAAAAAPGFPDAFAAAA"
PARTY = {
    "betNr": 104860,
    "rowId": ROW_ID,
    "name": "Muster",
    "kommunikation": [{"id": 88002, "kommKz": 0, "tlf": "0511/12345-60"}],
}
API = "/api/v1/advonet"


def answering(answer: Answer | Lost | Callable[[Seen], Answer | Lost], **settings: Any) -> Firm:
    """Return a firm whose API answers so."""
    firm = Firm(**settings)
    firm.api = answer if callable(answer) else lambda _: answer
    return firm


async def pieces(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


# -- records --------------------------------------------------------------------------------------


def test_properties_are_read_whatever_their_case() -> None:
    record = Record({"BetNr": 1, "Kommunikation": [{"KommKz": 3}]})

    assert record["betNr"] == 1
    assert "BETNR" in record
    assert record.get("gone") is None
    assert record["kommunikation"][0]["kommkz"] == 3
    assert list(record) == ["BetNr", "Kommunikation"]
    with pytest.raises(KeyError):
        record["gone"]


def test_a_record_with_new_values_keeps_the_names_as_advoware_spells_them() -> None:
    record = Record({"BetNr": 1, "Name": "a", "Kommunikation": [{"KommKz": 3}]})

    changed = record.overlaid({"name": "b", "ort": "Hannover"}).without("betnr")

    assert changed.plain() == {"Name": "b", "Kommunikation": [{"KommKz": 3}], "ort": "Hannover"}
    assert record["name"] == "a"


@pytest.mark.parametrize(
    ("values", "row_id"),
    [({"RowId": "X"}, "X"), ({"rowId": None}, ""), ({}, ""), ({"rowId": 5}, "")],
)
def test_the_version_of_a_record_is_empty_where_it_has_none(
    values: Mapping[str, Any], row_id: str
) -> None:
    assert Record(values).row_id == row_id


def test_a_record_shows_its_names_and_no_value() -> None:
    assert repr(Record(PARTY)) == "Record(betNr, rowId, name, kommunikation)"


# -- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("employees", "api/v1/advonet/employees"),
        ("/employees", "api/v1/advonet/employees"),
        ("Beteiligte/104860/Adressen", "api/v1/advonet/Beteiligte/104860/Adressen"),
        ("api/v1/license/KuerzelForProduct/1", "api/v1/license/KuerzelForProduct/1"),
        ("API/v1/x", "API/v1/x"),
        ("api", "api/v1/advonet/api"),
        ("apis/x", "api/v1/advonet/apis/x"),
        ("Straße 1", "api/v1/advonet/Stra%C3%9Fe%201"),
        ("a%2e%2e", "api/v1/advonet/a%252e%252e"),
        ("a..b/c.", "api/v1/advonet/a..b/c."),
    ],
)
def test_a_path_is_put_below_the_prefix_or_taken_as_it_is(path: str, url: str) -> None:
    assert resource_path("api/v1/advonet/", path) == url


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//evil.test/x",
        "https://evil.test/x",
        "a//b",
        "a/",
        "..",
        "../x",
        "a/../b",
        "a/./b",
        "a\\b",
        "a?b=c",
        "a#b",
        "a\r\nHost: evil.test",
        "a\x00",
        "api/../../x",
    ],
)
async def test_a_path_that_would_leave_the_api_is_never_sent(path: str) -> None:
    firm = Firm()

    with pytest.raises(Invalid):
        async with firm.client().call("GET", path):
            pass
    assert firm.transport.seen == []


@given(
    st.text(max_size=60)
    | st.lists(st.sampled_from(["..", "/", "%2e", "a", "\\", "?", "//", "."])).map("".join)
)
def test_whatever_is_asked_for_stays_below_the_api(path: str) -> None:
    try:
        found = resource_path("api/v1/advonet/", path)
    except Invalid:
        return
    url = URL(f"https://relay.test/relay/{found}", encoded=True)
    assert url.host == "relay.test"
    assert url.raw_path.lower().startswith("/relay/api/")
    assert not {"..", "."} & {*url.path.split("/")}
    assert not url.query_string
    assert not url.fragment


# -- any call -------------------------------------------------------------------------------------


async def test_a_call_goes_as_it_is_and_its_answer_comes_back_whatever_it_says() -> None:
    firm = answering(Answer(404, b'{"message":"gone"}', {"Content-Type": "application/json"}))

    async with firm.client().call(
        "POST",
        "Termine",
        query=(("a", "1"), ("a", "ö 2")),
        headers={"Content-Type": "text/plain", "X-Trace": "7"},
        body=b"payload",
    ) as answer:
        assert (answer.status, await answer.read()) == (404, b'{"message":"gone"}')
        assert answer.headers["content-type"] == "application/json"

    (seen,) = firm.calls
    assert (seen.method, seen.path, seen.body) == ("POST", f"{API}/Termine", b"payload")
    assert seen.request.params == (("a", "1"), ("a", "ö 2"))
    assert (seen.headers["content-type"], seen.headers["x-trace"]) == ("text/plain", "7")
    assert seen.headers["authorization"].removeprefix("Bearer ") in firm.good
    assert firm.transport.open == 0


async def test_what_the_caller_says_of_the_body_is_said_once() -> None:
    firm = answering(of([]))
    theirs = {"accept": "application/pdf", "content-type": "text/plain"}
    async with firm.client().call("POST", "x", headers=theirs, body=b"a"):
        pass
    assert dict(firm.calls[0].request.headers).items() >= theirs.items()
    assert len(firm.calls[0].request.headers) == 3


async def test_a_query_that_is_encoded_already_goes_byte_for_byte() -> None:
    firm = answering(of([]))
    async with firm.client().call("GET", "employees", query="a=%c3%b6+1&b"):
        pass
    assert firm.calls[0].request.query == "a=%c3%b6+1&b"


async def test_nobody_s_token_or_connection_goes_along() -> None:
    firm = answering(of([]))
    theirs = {
        "authorization": "Bearer theirs",
        "Host": "evil.test",
        "Cookie": "a=b",
        "Connection": "close, X-Hop",
        "X-Hop": "1",
        "Transfer-Encoding": "chunked",
        "Content-Length": "99",
    }
    async with firm.client().call("GET", "employees", headers=theirs):
        pass

    (seen,) = firm.calls
    assert set(seen.request.headers) == {"Accept", "Authorization"}
    assert seen.headers["authorization"] != "Bearer theirs"


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_only_get_may_be_repeated_when_no_answer_came(method: Any) -> None:
    firm = answering(Lost(arrived=True))
    with pytest.raises(Transient) as lost:
        async with firm.client().call(method, "Termine/1"):
            pass
    assert firm.calls[0].request.idempotent == (method == "GET")
    assert lost.value.ambiguous == (method != "GET")


async def test_an_answer_is_streamed_in_pieces() -> None:
    body = b"x" * 2000
    firm = answering(Answer(200, body, {"Content-Type": "application/pdf"}))
    async with firm.client().call("GET", "file") as answer:
        assert b"".join([chunk async for chunk in answer.chunks()]) == body


async def test_an_answer_that_breaks_off_says_so() -> None:
    firm = answering(Answer(200, b"[1,2,3]" * 200, {"Content-Type": "application/json"}, torn=True))
    with pytest.raises(Transient):
        async with firm.client().call("GET", "file") as answer:
            await answer.read()


async def test_a_refusal_that_breaks_off_is_a_refusal_and_its_body_a_broken_one() -> None:
    firm = answering(Answer(404, b"not here, that is all", torn=True))
    with pytest.raises(NotFound):
        await firm.client().beteiligter(104860)
    async with firm.client().call("GET", "x") as answer:
        with pytest.raises(Transient):
            await answer.read()


async def test_a_token_is_replaced_though_its_refusal_breaks_off() -> None:
    torn = [Answer(401, b"Authorization has been", torn=True)]
    firm = answering(lambda _: torn.pop() if torn else of([]))
    await firm.client().check()
    assert firm.logins == 2


async def test_an_answer_that_is_too_large_to_read_whole_says_so() -> None:
    firm = answering(Answer(200, b"x" * 2000))
    async with firm.client().call("GET", "file") as answer:
        with pytest.raises(Transient, match="larger"):
            await answer.read(limit=1000)


# -- a token that is not accepted any more ---------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
@pytest.mark.parametrize("stream", [False, True])
async def test_a_call_with_a_revoked_token_is_sent_again_with_a_new_one(
    method: Any, stream: bool
) -> None:
    firm = answering(of({"done": True}))
    client = firm.client()
    await client.check()
    firm.good.clear()

    body = pieces(b"pay", b"load") if stream else b"payload"
    async with client.call(method, "Termine", body=body) as answer:
        assert answer.status == 200

    first, second = firm.calls[1:]
    assert first.body == second.body == b"payload"
    assert first.headers["authorization"] != second.headers["authorization"]
    assert firm.logins == 2


async def test_a_long_stream_is_sent_with_the_newest_token_of_all_processes() -> None:
    firm = answering(of({"done": True}))
    client, other = firm.client(), firm.client()
    await client.check()
    await other.check()
    firm.good.clear()
    await other.check()  # finds it revoked, and has a new one

    long = pieces(b"x" * REPEATABLE_BYTES, b"y")
    headers = {"Content-Length": str(REPEATABLE_BYTES + 1)}
    async with client.call("POST", "file", body=long, headers=headers) as answer:
        assert answer.status == 200
    assert firm.calls[-1].body == b"x" * REPEATABLE_BYTES + b"y"
    assert firm.calls[-1].headers["content-length"] == str(REPEATABLE_BYTES + 1)


async def test_a_long_stream_is_not_sent_twice_and_the_caller_may_send_it_again() -> None:
    firm = answering(of({"done": True}))
    client = firm.client()
    await client.check()
    firm.good.clear()

    with pytest.raises(Transient, match="cannot be sent again") as refused:
        async with client.call("POST", "file", body=pieces(b"x" * REPEATABLE_BYTES, b"y")):
            pass
    assert not refused.value.ambiguous
    assert len(firm.asked("call_post")) == 1

    async with client.call("POST", "file", body=pieces(b"x" * REPEATABLE_BYTES, b"y")) as answer:
        assert answer.status == 200


async def test_two_refused_tokens_are_a_refused_login() -> None:
    firm = answering(of([]))
    client = firm.client()
    await client.check()
    firm.api = lambda _: of({"message": "denied"}, 401)

    with pytest.raises(Unauthorized, match="a new token is not accepted"):
        await client.check()
    assert len(firm.asked("check")) == 3
    assert firm.logins == 2


async def test_a_token_that_ends_closes_no_circuit_and_a_refused_login_does() -> None:
    firm = answering(of([]))
    circuits = Circuits(firm.clock)
    guarded = GuardedTransport(firm.transport, circuits=circuits, clock=firm.clock)
    client = firm.client(guarded)
    circuits.declare("advoware", client.check)
    await client.check()

    firm.good.clear()
    await client.check()
    assert circuits.of("advoware").state is State.CLOSED

    firm.api = lambda _: of({}, 401)
    with pytest.raises(Unauthorized):
        await client.check()
    assert circuits.of("advoware").state is not State.CLOSED
    await circuits.close()


async def test_five_hundred_calls_with_a_revoked_token_all_succeed_by_one_login() -> None:
    firm = answering(of([]))
    clients = [firm.client() for _ in range(3)]
    for client in clients:
        await client.check()
    firm.good.clear()

    await asyncio.gather(*(clients[n % 3].check() for n in range(500)))

    assert firm.logins == 2


# -- the firm's server and the licence -------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 404, 500, 502, 503])
@pytest.mark.parametrize(
    "said", ["Die Datenbank muster ist nicht angemeldet.", "Die Kanzlei ist nicht registriert."]
)
@pytest.mark.parametrize("as_json", [False, True])
async def test_a_firm_whose_server_is_off_is_an_outage_and_never_an_empty_list(
    status: int, said: str, as_json: bool
) -> None:
    firm = answering(of({"message": said}, status) if as_json else text(status, said))
    client = firm.client()

    with pytest.raises(Transient, match="server is off"):
        await client.termine(kuerzel="SB", start=date(2026, 3, 1), end=date(2026, 4, 1))
    with pytest.raises(Transient, match="server is off"):
        async with client.call("POST", "Termine", body=b"{}"):
            pass


@pytest.mark.parametrize("status", [401, 403, 500, 503])
async def test_a_licence_that_ended_is_told_at_once(status: int) -> None:
    firm = answering(text(status, "Das Produkt 64 ist nicht freigeschaltet."))
    with pytest.raises(Unauthorized, match="not enabled"):
        await firm.client().employees()
    assert firm.logins == 1


async def test_words_of_a_record_are_no_words_about_the_licence() -> None:
    firm = answering(text(400, "Ungültig: Der Zugang ist freigeschaltet"))
    async with firm.client().call("POST", "Termine", body=b"{}") as answer:
        assert answer.status == 400

    firm.api = lambda _: of([{"frNr": 1, "text": "Zugang ist nicht freigeschaltet"}])
    found = await firm.client().termine(kuerzel="SB", start=date(2026, 3, 1), end=date(2026, 4, 1))
    assert len(found) == 1


# -- resources ------------------------------------------------------------------------------------

Doing = Callable[[Advoware], Awaitable[Any]]
DAY = date(2026, 3, 1)
VALUES = {"tlf": "ö"}

CALLS: list[tuple[Doing, str, str, Any]] = [
    (lambda a: a.beteiligter(104860), "GET", f"{API}/Beteiligte/104860", PARTY),
    (lambda a: a.beteiligte({"name": "M"}), "GET", f"{API}/Beteiligte", [PARTY]),
    (lambda a: a.create_beteiligter(VALUES), "POST", f"{API}/Beteiligte", PARTY),
    (lambda a: a.update_beteiligter(5, PARTY), "PUT", f"{API}/Beteiligte/5", PARTY),
    (
        lambda a: a.create_kommunikation(5, VALUES),
        "POST",
        f"{API}/Beteiligte/5/Kommunikationen",
        VALUES,
    ),
    (
        lambda a: a.update_kommunikation(5, 6, VALUES),
        "PUT",
        f"{API}/Beteiligte/5/Kommunikationen/6",
        VALUES,
    ),
    (lambda a: a.adressen(5), "GET", f"{API}/Beteiligte/5/Adressen", [VALUES]),
    (lambda a: a.create_adresse(5, VALUES), "POST", f"{API}/Beteiligte/5/Adressen", VALUES),
    (lambda a: a.update_adresse(5, 6, VALUES), "PUT", f"{API}/Beteiligte/5/Adressen/6", VALUES),
    (lambda a: a.bankverbindungen(5), "GET", f"{API}/Beteiligte/5/Bankverbindungen", [VALUES]),
    (
        lambda a: a.create_bankverbindung(5, VALUES),
        "POST",
        f"{API}/Beteiligte/5/Bankverbindungen",
        VALUES,
    ),
    (lambda a: a.termine(kuerzel="SB", start=DAY, end=DAY), "GET", f"{API}/Termine", [VALUES]),
    (lambda a: a.termin(7), "GET", f"{API}/Termine", {"frNr": 7}),
    (lambda a: a.create_termin(VALUES), "POST", f"{API}/Termine", {"frNr": 7}),
    (lambda a: a.update_termin(7, VALUES), "PUT", f"{API}/Termine", {"frNr": 7}),
    (lambda a: a.delete_termin(7), "DELETE", f"{API}/Termine", None),
    (lambda a: a.employees(), "GET", f"{API}/employees", [{"kuerzel": "SB"}]),
    (lambda a: a.check(), "GET", f"{API}/employees", [{"kuerzel": "SB"}]),
]


@pytest.mark.parametrize(("doing", "method", "path", "body"), CALLS)
async def test_each_call_has_its_place(doing: Doing, method: str, path: str, body: Any) -> None:
    firm = answering(of(body))

    await doing(firm.client())

    (seen,) = firm.calls
    assert (seen.method, seen.path) == (method, path)
    if method == "PUT":
        version = seen.json.get("rowId")
        assert seen.request.idempotent == (version is not None), "a version makes it repeatable"
    else:
        assert seen.request.idempotent == (method != "POST")


ERRORS: list[tuple[Answer | Lost, type[OutsideError]]] = [
    (of({}, 400), Invalid),
    (of({}, 403), Invalid),
    (of({}, 404), NotFound),
    (of({}, 405), Invalid),
    (of({}, 408), Transient),
    (of({}, 409), Conflict),
    (of({}, 412), Conflict),
    (of({}, 413), Invalid),
    (of({}, 422), Invalid),
    (of({}, 429, Retry_After="7"), RateLimited),
    (of({}, 500), Transient),
    (of({}, 503), Transient),
    (Answer(302), Transient),
    (Lost(arrived=False), Transient),
]


@pytest.mark.parametrize(("answer", "kind"), ERRORS)
@pytest.mark.parametrize("doing", [doing for doing, *_ in CALLS if doing is not CALLS[15][0]])
async def test_each_status_is_one_error(
    answer: Answer | Lost, kind: type[OutsideError], doing: Doing
) -> None:
    with pytest.raises(kind) as raised:
        await doing(answering(answer).client())
    assert type(raised.value) is kind
    if isinstance(raised.value, RateLimited):
        assert raised.value.retry_after == timedelta(seconds=7)


async def test_a_creation_is_ambiguous_wherever_it_may_have_been_carried_out() -> None:
    for answer, ambiguous in (
        (Lost(arrived=True), True),
        (Lost(arrived=False), False),
        (of({}, 500), True),
        (text(200, "<html>"), True),
        (of([]), True),
        (of({}, 400), False),
        (text(503, "Die Datenbank ist nicht angemeldet."), False),
    ):
        with pytest.raises(OutsideError) as raised:
            await answering(answer).client().create_beteiligter({"name": "Muster"})
        assert raised.value.ambiguous == ambiguous, answer


@pytest.mark.parametrize("status", [400, 409, 412, 500])
async def test_an_old_version_is_a_conflict_by_whichever_status_it_is_told(status: int) -> None:
    newer = {**PARTY, "rowId": "NEWER"}
    firm = answering(lambda seen: of({}, status) if seen.method == "PUT" else of(newer))
    with pytest.raises(Conflict) as raised:
        await firm.client().update_beteiligter(104860, PARTY)
    assert raised.value.reason == "modified"


@pytest.mark.parametrize(("status", "kind"), [(400, Invalid), (500, Transient)])
async def test_a_refusal_of_the_present_version_is_what_its_status_says(
    status: int, kind: type[OutsideError]
) -> None:
    firm = answering(lambda seen: of({}, status) if seen.method == "PUT" else of(PARTY))
    with pytest.raises(kind):
        await firm.client().update_beteiligter(104860, PARTY)

    firm.api = lambda seen: of({}, status) if seen.method == "PUT" else Lost(arrived=False)
    with pytest.raises(kind):
        await firm.client().update_beteiligter(104860, PARTY)


async def test_rows_below_a_party_are_asked_for_their_version_where_they_lie() -> None:
    row = {"id": 6, "rowId": "NEWER"}
    below = {"kommunikation": [{"id": 5}, row]}

    def api(seen: Seen) -> Answer:
        if seen.method == "PUT":
            return of({}, 400)
        return of([{"id": 5}, row] if seen.path.endswith("/Adressen") else below)

    client = answering(api).client()
    with pytest.raises(Conflict):
        await client.update_kommunikation(104860, 6, {"rowId": "OLD"})
    with pytest.raises(Conflict):
        await client.update_adresse(104860, 6, {"rowId": "OLD"})
    with pytest.raises(Invalid):
        await client.update_adresse(104860, 6, {"rowId": "NEWER"})


async def test_without_a_version_nothing_is_a_conflict() -> None:
    firm = answering(lambda seen: of({}, 400) if seen.method == "PUT" else of(PARTY))
    with pytest.raises(Invalid):
        await firm.client().update_beteiligter(104860, {"name": "Muster"})
    assert len(firm.calls) == 1


@pytest.mark.parametrize(
    "body", [PARTY, [PARTY], [{"betNr": 1}, PARTY], {"BetNr": "104860"}, [{"name": "Muster"}]]
)
async def test_a_single_record_is_found_in_whichever_form_it_comes(body: Any) -> None:
    found = await answering(of(body)).client().beteiligter(104860)
    assert found.get("betNr", 104860) in (104860, "104860")


@pytest.mark.parametrize("answer", [of([]), of(None), Answer(200), Answer(204)])
async def test_an_empty_answer_is_a_record_that_is_not_there(answer: Answer) -> None:
    with pytest.raises(NotFound):
        await answering(answer).client().termin(7)


@pytest.mark.parametrize("body", [{"frNr": 8}, [{"frNr": 8}], [{"frNr": 8}, {"frNr": 9}], [{}, {}]])
async def test_other_records_than_the_one_asked_for_are_never_taken_for_it(body: Any) -> None:
    with pytest.raises(Transient, match="another frNr"):
        await answering(of(body)).client().termin(7)


async def test_a_termin_is_asked_for_in_small_letters() -> None:
    firm = answering(of({"frNr": 7}))
    client = firm.client()
    await client.termin(7)
    await client.update_termin(7, {"frNr": 7})
    await client.delete_termin(7)
    assert [seen.params for seen in firm.calls] == [{"frnr": "7"}] * 3


async def test_termine_are_asked_for_by_employee_and_days() -> None:
    firm = answering(of([]))
    await firm.client().termine(kuerzel="SB", start=date(2026, 3, 1), end=date(2038, 1, 19))
    assert firm.calls[0].params == {"from": "2026-03-01", "to": "2038-01-19", "kuerzel": "SB"}


@pytest.mark.parametrize(
    ("body", "count"),
    [
        ([PARTY, PARTY], 2),
        (PARTY, 1),
        (None, 0),
        ([], 0),
        ({"data": [PARTY], "total": 1}, 1),
        ({"Data": None, "total": 0}, 0),
    ],
)
async def test_a_list_is_read_in_whichever_form_it_comes(body: Any, count: int) -> None:
    assert len(await answering(of(body)).client().beteiligte({})) == count


@pytest.mark.parametrize("body", [[1], "x", 7, [[PARTY]], {"data": "x"}])
async def test_what_is_no_list_is_not_taken_for_an_empty_one(body: Any) -> None:
    with pytest.raises(Transient):
        await answering(of(body)).client().adressen(5)


@pytest.mark.parametrize("body", [7, {"frNr": 7}, {"FrNr": 7}, [{"frnr": 7, "text": "x"}]])
async def test_a_new_termin_s_number_is_found_in_whichever_form_it_comes(body: Any) -> None:
    assert await answering(of(body)).client().create_termin({"text": "x"}) == 7


@pytest.mark.parametrize("body", [True, None, {}, {"frNr": None}, "7", []])
async def test_a_new_termin_without_a_number_may_be_there(body: Any) -> None:
    with pytest.raises(Transient) as raised:
        await answering(of(body)).client().create_termin({"text": "x"})
    assert raised.value.ambiguous


async def test_the_redundant_end_is_left_out_of_a_termin_that_is_written() -> None:
    firm = answering(of({"frNr": 7}))
    read = Record({"frNr": 7, "UhrzeitBisTicks": 12, "uhrzeitBis": "10:00:00"})

    await firm.client().update_termin(7, read.overlaid({"uhrzeitbis": "11:00:00"}))

    assert firm.calls[0].json == {"frNr": 7, "uhrzeitBis": "11:00:00"}


@pytest.mark.parametrize("answer", [Answer(204), of(None), Answer(200, b" ")])
async def test_an_update_may_be_answered_with_nothing(answer: Answer) -> None:
    assert await answering(answer).client().update_beteiligter(104860, PARTY) is None


async def test_a_termin_that_is_gone_is_deleted_already() -> None:
    assert await answering(of({}, 404)).client().delete_termin(7) is False
    assert await answering(Answer(204)).client().delete_termin(7) is True


async def test_what_is_written_is_unicode_and_whole() -> None:
    firm = answering(of(PARTY))
    record = (await firm.client().beteiligter(104860)).overlaid({"name": "Müller"})

    await firm.client().update_beteiligter(104860, record)

    assert firm.calls[-1].json == {**PARTY, "name": "Müller"}
    assert "Müller".encode() in firm.calls[-1].body
    assert firm.calls[-1].headers["content-type"] == "application/json"


# -- circuits -------------------------------------------------------------------------------------


async def test_a_forbidden_delete_is_no_failure_and_an_outage_is_one() -> None:
    firm = answering(of({}, 403))
    circuits = Circuits(firm.clock)
    guarded = GuardedTransport(firm.transport, circuits=circuits, clock=firm.clock)
    client = firm.client(guarded)
    circuits.declare("advoware", client.check)

    async def ten() -> None:
        for number in range(10):
            with working_on(number), pytest.raises(OutsideError):
                await client.employees()

    await ten()
    assert circuits.of("advoware").state is State.CLOSED

    firm.clock.seconds += 31
    firm.api = lambda _: text(503, "Die Datenbank ist nicht angemeldet.")
    await ten()
    assert circuits.of("advoware").state is not State.CLOSED
    await circuits.close()


async def test_an_api_that_does_not_answer_is_looked_for_anew() -> None:
    firm = answering(Lost(arrived=False))
    client = firm.client()
    for _ in range(2):
        with pytest.raises(Transient):
            await client.check()
        firm.clock.seconds += 61
    assert len(firm.asked("find_addresses")) == 2


# -- what nobody may see --------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 400, 401, 403, 404, 409, 422, 429, 500, 503])
async def test_no_error_and_no_line_repeats_what_was_sent_or_answered(status: int) -> None:
    marked = {"name": "GEHEIM-Muster", "iban": "DE02GEHEIM", "rowId": "GEHEIMROW"}
    firm = answering(
        lambda seen: Answer(status, b"GEHEIM: " + seen.body, {"Content-Type": "text/plain"})
    )
    client = firm.client()

    with captured("debug") as lines, pytest.raises(OutsideError) as raised:
        await client.update_beteiligter(104860, marked)

    shown = f"{lines} {raised.value} {raised.value.__dict__} {[s.request for s in firm.calls]}"
    assert "GEHEIM" not in shown
    assert not any(token in shown for token in firm.good)


async def test_refused_properties_are_named_without_their_values() -> None:
    errors = {"errors": {"Geburtsdatum": ["1.1.1970 is no date"], "geheim wert!": ["x"]}}
    firm = answering(of(errors, 400))
    with pytest.raises(Invalid) as raised:
        await firm.client().create_beteiligter({})
    assert raised.value.detail == "refused: Geburtsdatum"
