"""The EspoCRM client against a server that behaves as EspoCRM does."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from bitbylaw_common.clients.espocrm import Duplicate, EspoCRM, bracketed
from bitbylaw_common.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from scripted_transport import Answer, Lost, ScriptedTransport, Seen, always, in_turn, of

DOCUMENT = "69a68b9cd4c01ad4c"


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 8, 10, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def client(transport: ScriptedTransport, clock: Clock | None = None) -> EspoCRM:
    return EspoCRM(
        transport,
        base_url="https://crm.test/api/v1/",
        api_key="key-of-the-crm",
        clock=clock or Clock(),
    )


async def test_a_record_comes_back_as_the_crm_says_it() -> None:
    transport = always(of({"id": DOCUMENT, "name": "Klage.pdf"}))

    entity = await client(transport).get_entity("CDokumente", DOCUMENT)

    assert entity == {"id": DOCUMENT, "name": "Klage.pdf"}
    (seen,) = transport.seen
    assert (seen.method, seen.path) == ("GET", f"/api/v1/CDokumente/{DOCUMENT}")
    assert seen.headers["x-api-key"] == "key-of-the-crm"
    assert seen.request.idempotent
    assert transport.open == 0


VALIDATION = {
    "messageTranslation": {
        "label": "validationFailure",
        "scope": None,
        "data": {"field": "iban", "type": "required"},
    }
}


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (Answer(401), Unauthorized, "the key is not accepted"),
        (
            Answer(
                403,
                headers={
                    "X-Status-Reason": "Max failed login attempts exceeded for IP address 10.9.8.7."
                },
            ),
            Unauthorized,
            "too many failed logins from this address",
        ),
        (Answer(403, headers={"X-Status-Reason": "No access."}), Invalid, "No access."),
        (Answer(404), NotFound, ""),
        (
            Answer(404, headers={"x-status-reason": "Controller 'CDokumente' does not exist"}),
            NotFound,
            "Controller … does not exist",
        ),
        (Answer(409, headers={"X-Status-Reason": "modified"}), Conflict, "modified"),
        (Answer(409), Invalid, ""),
        (of(VALIDATION, 409), Invalid, "field iban (required)"),
        (
            of(VALIDATION, 400, X_Status_Reason="validationFailure"),
            Invalid,
            "field iban (required)",
        ),
        (
            Answer(400, headers={"X-Status-Reason": "Bad file contents."}),
            Invalid,
            "Bad file contents.",
        ),
        (of({"messageTranslation": {"data": {"field": "a b"}}}, 400), Invalid, ""),
        (Answer(400, b"\xff{"), Invalid, ""),
        (Answer(405), Invalid, ""),
        (Answer(413), Invalid, ""),
        (Answer(408), Transient, ""),
        (Answer(500), Transient, ""),
        (Answer(502, b"<html>Bad Gateway</html>"), Transient, ""),
        (Answer(503), Transient, ""),
        (Answer(504, b"half an err", torn=True), Transient, ""),
        (Answer(302, headers={"Location": "/login"}), Transient, None),
        (Answer(200, b"<html>Anmelden</html>"), Transient, None),
        (Answer(200, b""), Transient, None),
        (Answer(200, b"[1]"), Transient, None),
        (Answer(200, b'{"id": "6', torn=True), Transient, None),
        (Lost(arrived=True), Transient, None),
    ],
)
async def test_each_answer_is_the_error_of_the_table(
    answer: Answer | Lost, kind: type[OutsideError], detail: str | None
) -> None:
    transport = always(answer)

    with pytest.raises(OutsideError) as raised:
        await client(transport).get_entity("CDokumente", DOCUMENT)

    assert type(raised.value) is kind
    assert not raised.value.ambiguous
    if isinstance(answer, Answer):
        assert raised.value.status == answer.status
    if detail is not None:
        assert raised.value.detail == detail
    assert len(transport.seen) == 1


@pytest.mark.parametrize(
    ("patience", "expected"),
    [
        ("7", timedelta(seconds=7)),
        ("1.5", timedelta(seconds=1.5)),
        ("Sun, 08 Mar 2026 10:00:30 GMT", timedelta(seconds=30)),
        ("Sun, 08 Mar 2026 09:00:00 GMT", timedelta()),
        ("99999999", timedelta(days=1)),
        ("soon", None),
        ("-3", None),
        ("", None),
    ],
)
async def test_a_gateway_s_wish_for_patience_is_kept(
    patience: str, expected: timedelta | None
) -> None:
    transport = always(Answer(429, headers={"Retry-After": patience}))
    with pytest.raises(RateLimited) as raised:
        await client(transport).get_entity("CDokumente", DOCUMENT)
    assert raised.value.retry_after == expected


@pytest.mark.parametrize(
    "reason",
    [
        "Can't relate 'Mandant Müller' with “Akte 17/24”.",
        "Duplicate value DE89370400440532013000 in iban",
        "max@mueller.example is not allowed",
        "Müller is not allowed",
        "Record 'Müller GmbH is not allowed",
        'Record "Klage Müller.pdf" is not allowed',
        "Record „Klage Müller.pdf“ is not allowed",
    ],
)
async def test_no_value_of_a_record_gets_into_an_error(reason: str) -> None:
    transport = always(Answer(403, headers={"X-Status-Reason": reason}))
    with pytest.raises(Invalid) as raised:
        await client(transport).get_entity("CDokumente", DOCUMENT)
    for value in ("Müller", "Akte", "DE8", "mueller"):
        assert value not in str(raised.value)
    assert raised.value.detail


@pytest.mark.parametrize(
    "entity_id", ["", ".", "..", "../User", "a/b", "a?b", "a b", "ä", "x" * 200]
)
async def test_what_is_no_id_never_gets_into_a_path(entity_id: str) -> None:
    transport = always(of({}))
    with pytest.raises(Invalid):
        await client(transport).get_entity("CDokumente", entity_id)
    assert transport.seen == []


# ---- writes


async def test_an_update_with_a_version_is_conditional_and_may_be_repeated() -> None:
    transport = always(of({"id": DOCUMENT, "versionNumber": 8}))

    entity = await client(transport).update_entity(
        "CDokumente", DOCUMENT, {"fileStatus": "geändert"}, version=7
    )

    assert entity["versionNumber"] == 8
    (seen,) = transport.seen
    assert seen.method == "PUT"
    assert seen.headers["X-Version-Number"] == "7"
    assert seen.json == {"fileStatus": "geändert"}
    assert seen.request.idempotent


async def test_an_update_without_a_version_is_not_repeated_and_its_loss_is_ambiguous() -> None:
    transport = always(Lost(arrived=True))
    with pytest.raises(Transient) as raised:
        await client(transport).update_entity("CDokumente", DOCUMENT, {"xaiId": "f"})
    assert raised.value.ambiguous
    assert "X-Version-Number" not in transport.seen[0].headers


async def test_espo_26_a_stale_version_is_a_conflict_to_plan_again() -> None:
    body = {"values": {"fileStatus": "neu"}, "versionNumber": 9}
    for answer in (of(body, 409, X_Status_Reason="modified"), of(body, 409)):
        with pytest.raises(Conflict) as raised:
            await client(always(answer)).update_entity("CDokumente", DOCUMENT, {}, version=7)
        assert raised.value.reason == "modified"


async def test_espo_28_a_duplicate_names_the_records_to_adopt() -> None:
    rows = [{"id": "a1", "name": "Müller"}, {"id": "a2"}, {"name": "no id"}, 3]
    for answer in (of(rows, 409, X_Status_Reason="duplicate"), of(rows, 409)):
        with pytest.raises(Duplicate) as raised:
            await client(always(answer)).create_entity("CBankverbindungen", {"iban": "DE1"})
        assert raised.value.reason == "duplicate"
        assert raised.value.ids == ("a1", "a2")
        assert "Müller" not in str(raised.value)


async def test_a_create_skips_the_duplicate_check_only_when_told() -> None:
    transport = always(of({"id": "new"}))
    espocrm = client(transport)

    assert (await espocrm.create_entity("Task", {"name": "x"}))["id"] == "new"
    await espocrm.create_entity("Task", {"name": "x"}, skip_duplicate_check=True)

    plain, skipping = transport.seen
    assert "X-Skip-Duplicate-Check" not in plain.headers
    assert skipping.headers["X-Skip-Duplicate-Check"] == "true"
    assert not plain.request.idempotent


@pytest.mark.parametrize(
    "answer", [Lost(arrived=True), Answer(500), Answer(504), Answer(200, b"<html>"), Answer(302)]
)
async def test_a_create_that_may_have_happened_says_so(answer: Answer | Lost) -> None:
    with pytest.raises(Transient) as raised:
        await client(always(answer)).create_entity("Task", {"name": "x"})
    assert raised.value.ambiguous


async def test_a_create_that_never_arrived_says_so() -> None:
    with pytest.raises(Transient) as raised:
        await client(always(Lost(arrived=False))).create_entity("Task", {"name": "x"})
    assert not raised.value.ambiguous


async def test_espo_33_links_are_set_and_cut_with_ids_in_the_body() -> None:
    transport = always(Answer(200, b"true"))
    espocrm = client(transport)

    await espocrm.link("CDokumente", DOCUMENT, "cAIKnowledges", ["k1", "k2"])
    await espocrm.unlink("CDokumente", DOCUMENT, "cAIKnowledges", "k1")

    linking, cutting = transport.seen
    assert (linking.method, linking.json) == ("POST", {"ids": ["k1", "k2"]})
    assert (cutting.method, cutting.json) == ("DELETE", {"id": "k1"})
    assert linking.path == cutting.path == f"/api/v1/CDokumente/{DOCUMENT}/cAIKnowledges"
    assert linking.request.idempotent
    assert cutting.request.idempotent


# ---- lists


def test_a_query_is_written_as_php_reads_it() -> None:
    query = {
        "where": [
            {"type": "equals", "attribute": "fileStatus", "value": "neu"},
            {"type": "or", "value": [{"type": "isNull", "attribute": "xaiId"}]},
            {"type": "in", "attribute": "id", "value": ["a", "b"]},
            {"type": "after", "value": "2026-03-08", "dateTime": True},
        ],
        "select": None,
        "maxSize": 50,
    }
    assert bracketed(query) == (
        ("where[0][type]", "equals"),
        ("where[0][attribute]", "fileStatus"),
        ("where[0][value]", "neu"),
        ("where[1][type]", "or"),
        ("where[1][value][0][type]", "isNull"),
        ("where[1][value][0][attribute]", "xaiId"),
        ("where[2][type]", "in"),
        ("where[2][attribute]", "id"),
        ("where[2][value][0]", "a"),
        ("where[2][value][1]", "b"),
        ("where[3][type]", "after"),
        ("where[3][value]", "2026-03-08"),
        ("where[3][dateTime]", "1"),
        ("maxSize", "50"),
    )


async def test_a_page_holds_its_rows_and_the_total() -> None:
    transport = always(of({"total": 7, "list": [{"id": "a"}, {"id": "b"}]}))

    page = await client(transport).list_entities(
        "CDokumente",
        where=[{"type": "equals", "attribute": "fileStatus", "value": "neu"}],
        select="id,name",
        order_by="modifiedAt",
        order="desc",
        max_size=2,
    )

    assert page.total == 7
    assert [row["id"] for row in page.rows] == ["a", "b"]
    (seen,) = transport.seen
    assert seen.params == {
        "where[0][type]": "equals",
        "where[0][attribute]": "fileStatus",
        "where[0][value]": "neu",
        "select": "id,name",
        "orderBy": "modifiedAt",
        "order": "desc",
        "offset": "0",
        "maxSize": "2",
    }
    assert "X-No-Total" not in seen.headers


async def test_espo_24_more_than_a_page_is_refused_before_it_is_sent() -> None:
    transport = always(of({"total": 0, "list": []}))
    with pytest.raises(ValueError, match="200"):
        await client(transport).list_entities("CDokumente", max_size=201)
    with pytest.raises(ValueError, match="order"):
        await client(transport).list_entities("CDokumente", order_by="id", order="up")
    assert transport.seen == []


@pytest.mark.parametrize(
    "body", [{}, {"list": 1, "total": 1}, {"list": [1], "total": 1}, {"list": []}]
)
async def test_what_is_no_list_of_records_is_not_taken_for_an_empty_one(body: Any) -> None:
    with pytest.raises(Transient):
        await client(always(of(body))).list_entities("CDokumente")


class Table:
    """Rows in the order asked for, given out in pages, with or without a total."""

    def __init__(self, count: int, *, counts: bool = False) -> None:
        self.rows = [{"id": f"r{number:04}"} for number in range(count)]
        self.counts = counts
        self.before_page: Callable[[int], None] = lambda number: None
        self.pages = 0

    def __call__(self, seen: Seen) -> Answer:
        self.before_page(self.pages)
        self.pages += 1
        offset, size = int(seen.params["offset"]), int(seen.params["maxSize"])
        found = self.rows[offset : offset + size]
        more = offset + size < len(self.rows)
        total = len(self.rows) if self.counts else (-1 if more else -2)
        assert self.counts or seen.headers["X-No-Total"] == "true"
        return of({"total": total, "list": found})


@pytest.mark.parametrize("counts", [False, True])
@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 399, 400, 450])
async def test_espo_25_all_rows_come_once_whatever_their_number(count: int, counts: bool) -> None:
    table = Table(count, counts=counts)
    transport = ScriptedTransport(table)

    found = [row["id"] async for row in client(transport).list_all("CDokumente", select=["name"])]

    assert found == [row["id"] for row in table.rows]
    assert transport.seen[0].params["select"] == "id,name"
    assert table.pages <= max(1, -(-count // 199) + 1)


async def test_a_row_deleted_between_two_pages_hides_no_other() -> None:
    table = Table(450)
    expected = {row["id"] for row in table.rows}

    def delete_an_early_row(page: int) -> None:
        if page == 1:
            table.rows.pop(3)

    table.before_page = delete_an_early_row
    found = [row["id"] async for row in client(ScriptedTransport(table)).list_all("CDokumente")]

    assert set(found) == expected
    assert len(found) == len(set(found))


async def test_rows_that_never_stand_still_are_not_called_complete() -> None:
    table = Table(450)

    def delete_the_first_row(page: int) -> None:
        table.rows.pop(0)

    table.before_page = delete_the_first_row
    with pytest.raises(Transient):
        _ = [row async for row in client(ScriptedTransport(table)).list_all("CDokumente")]
    assert table.pages < 20


async def test_a_server_that_always_promises_more_is_left_in_the_end() -> None:
    transport = always(of({"total": -1, "list": [{"id": "a"}]}))
    with pytest.raises(Transient):
        _ = [row async for row in client(transport).list_all("CDokumente")]
    assert len(transport.seen) == 1


async def test_all_linked_records_are_read_behind_their_link() -> None:
    table = Table(250)
    transport = ScriptedTransport(table)
    espocrm = client(transport)

    found = [r["id"] async for r in espocrm.list_all_linked("CAIKnowledge", "k1", "dokumentes")]

    assert found == [row["id"] for row in table.rows]
    assert {seen.path for seen in transport.seen} == {"/api/v1/CAIKnowledge/k1/dokumentes"}


async def test_one_page_of_linked_records_can_be_asked_for() -> None:
    transport = always(of({"total": 1, "list": [{"id": "k1"}]}))
    page = await client(transport).list_linked("CDokumente", DOCUMENT, "cAIKnowledges")
    assert (page.total, page.rows) == (1, ({"id": "k1"},))


# ---- attachments


async def test_a_download_tells_size_type_and_name_and_streams_the_bytes() -> None:
    headers = {
        "content-length": "6",
        "Content-Type": "Application/PDF; charset=binary",
        "Content-Disposition": "attachment; filename=\"Klage.pdf\"; filename*=UTF-8''Kl%C3%A4ger.pdf",
    }
    transport = always(Answer(200, b"%PDF-1", headers))

    async with client(transport).download_attachment("att1") as file:
        chunks = [chunk async for chunk in file.chunks()]

    assert (file.size, file.content_type) == (6, "application/pdf")
    assert file.name in {"Kläger.pdf", "Klage.pdf"}
    assert b"".join(chunks) == b"%PDF-1"
    assert len(chunks) > 1
    assert transport.seen[0].path == "/api/v1/Attachment/file/att1"
    assert transport.open == 0


async def test_a_download_without_headers_is_still_one() -> None:
    async with client(always(Answer(200, b"abc"))).download_attachment("att1") as file:
        assert b"".join([chunk async for chunk in file.chunks()]) == b"abc"
    assert (file.size, file.content_type, file.name) == (None, "application/octet-stream", "")


async def test_a_compressed_download_announces_no_size() -> None:
    headers = {"Content-Length": "20", "Content-Encoding": "gzip"}
    async with client(always(Answer(200, b"abc", headers))).download_attachment("att1") as file:
        assert b"".join([chunk async for chunk in file.chunks()]) == b"abc"
    assert file.size is None


@pytest.mark.parametrize("announced", ["5", "7"])
async def test_xai_29_a_download_of_another_length_is_torn(announced: str) -> None:
    answer = Answer(200, b"%PDF-1", {"Content-Length": announced})
    async with client(always(answer)).download_attachment("att1") as file:
        with pytest.raises(Transient):
            _ = [chunk async for chunk in file.chunks()]


async def test_an_attachment_that_is_gone_is_not_found() -> None:
    transport = always(Answer(404))
    with pytest.raises(NotFound):
        await client(transport).attachment("att1")
    with pytest.raises(NotFound):
        async with client(transport).download_attachment("att1"):
            pytest.fail("the block is not entered")


# ---- the CRM itself


async def test_metadata_is_read_once_for_all_who_ask_and_again_when_it_is_old() -> None:
    transport = ScriptedTransport(lambda seen: of({"fields": [seen.params["key"]]}))
    clock = Clock()
    espocrm = client(transport, clock)

    both = await asyncio.gather(*(espocrm.metadata("entityDefs.CDokumente") for _ in range(5)))
    assert all(value == {"fields": ["entityDefs.CDokumente"]} for value in both)
    assert len(transport.seen) == 1

    clock.seconds = 299
    await espocrm.metadata("entityDefs.CDokumente")
    assert len(transport.seen) == 1

    clock.seconds = 300
    await espocrm.metadata("entityDefs.CDokumente")
    await espocrm.metadata("scopes")
    assert len(transport.seen) == 3


async def test_a_failed_reading_of_metadata_is_not_remembered() -> None:
    transport = in_turn([Answer(500), Answer(200, b"<html>"), of({"ok": True})])
    espocrm = client(transport)
    for _ in range(2):
        with pytest.raises(Transient):
            await espocrm.metadata("scopes")
    assert await espocrm.metadata("scopes") == {"ok": True}


@pytest.mark.parametrize("body", [b"null", b""])
async def test_metadata_that_does_not_exist_is_none(body: bytes) -> None:
    assert await client(always(Answer(200, body))).metadata("entityDefs.CNothing") is None


async def test_espo_30_a_refused_key_is_asked_about_once() -> None:
    transport = always(Answer(401))
    with pytest.raises(Unauthorized) as raised:
        await client(transport).app_user()
    assert len(transport.seen) == 1
    assert "key-of-the-crm" not in str(raised.value)


async def test_the_owner_of_the_key_can_be_asked() -> None:
    transport = always(of({"user": {"id": "u1"}}))
    assert (await client(transport).app_user())["user"] == {"id": "u1"}
    assert transport.seen[0].path == "/api/v1/App/user"
