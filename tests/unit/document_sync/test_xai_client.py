"""The xAI client against a server that behaves as xAI does, quirks included."""

import email.parser
import email.policy
import unicodedata
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bitbylaw_common.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_document_sync.xai import Xai, XaiFile, safe_filename
from scripted_transport import Answer, Lost, ScriptedTransport, Seen, always, in_turn, of

NOON = datetime(2026, 3, 8, 12, tzinfo=UTC)
FILE = "file_55a709d4-8edc-4f83-84d9-9f04fe49f832"
COLLECTION = "collection_dbc087b1-6c99-493d-86c6-b401fee34a9d"


class Clock:
    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError(f"the client waits {seconds} s by itself")


def client(transport: ScriptedTransport) -> Xai:
    return Xai(
        transport,
        files_url="https://files.test",
        management_url="https://management.test/v1/",
        api_key="xai-api",
        management_key="xai-token-management",
        clock=Clock(),
    )


def file_object(**changes: Any) -> dict[str, Any]:
    return {
        "id": FILE,
        "object": "file",
        "bytes": 15,
        "created_at": int(NOON.timestamp()),
        "filename": "Klage.pdf",
        "purpose": "",
    } | changes


def document(**changes: Any) -> dict[str, Any]:
    return {
        "file_metadata": {
            "file_id": FILE,
            "name": "Klage.pdf",
            "size_bytes": "213817",
            "content_type": "application/pdf",
            "created_at": "2026-03-08T12:00:00.130060Z",
            "hash": "AB" * 32,
        },
        "fields": {"espo_id": "1"},
        "status": "DOCUMENT_STATUS_PROCESSED",
        "error_message": None,
    } | changes


async def in_pieces(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


# ---- uploads


def parts(seen: Seen) -> list[tuple[dict[str, str], str, bytes]]:
    """Return each part of a multipart body: its disposition's parameters, type and bytes."""
    parser = email.parser.BytesParser(policy=email.policy.HTTP)
    message = parser.parsebytes(
        b"Content-Type: " + seen.headers["Content-Type"].encode() + b"\r\n\r\n" + seen.body
    )
    assert message.is_multipart()
    found = []
    for part in message.iter_parts():
        disposition = part["Content-Disposition"].params
        content = part.get_payload(decode=True)
        assert isinstance(content, bytes)
        found.append((dict(disposition), part.get_content_type(), content))
    return found


@pytest.mark.parametrize("size", [15, None])
async def test_an_upload_streams_one_file_and_returns_its_id(size: int | None) -> None:
    transport = always(of(file_object()))

    uploaded = await client(transport).upload_file(
        in_pieces(b"Klage Ver", b"", b"sion 1"),
        filename="Klage.pdf",
        mime_type="application/pdf",
        size=size,
    )

    assert uploaded == XaiFile(FILE, 15, "Klage.pdf", NOON)
    (seen,) = transport.seen
    assert (seen.method, seen.request.url) == ("POST", "https://files.test/v1/files")
    assert seen.headers["Authorization"] == "Bearer xai-api"
    assert ("Content-Length" in seen.headers) is (size is not None)
    assert not seen.request.idempotent
    assert seen.request.timeout_seconds == 120
    assert parts(seen) == [
        ({"name": "purpose"}, "text/plain", b"assistants"),
        ({"name": "file", "filename": "Klage.pdf"}, "application/pdf", b"Klage Version 1"),
    ]


async def test_bytes_at_hand_are_uploaded_as_they_are() -> None:
    transport = always(of(file_object()))
    await client(transport).upload_file(b"\r\n--x--\x00", filename="a.bin", mime_type="?\r\nX: 1")
    (_, (_, mime_type, content)) = parts(transport.seen[0])
    assert (mime_type, content) == ("application/octet-stream", b"\r\n--x--\x00")


@pytest.mark.parametrize("size", [0, 14, 16])
async def test_content_of_another_length_is_never_stored(size: int) -> None:
    transport = always(of(file_object()))
    with pytest.raises(Transient) as raised:
        await client(transport).upload_file(
            in_pieces(b"Klage Version 1"), filename="a.pdf", mime_type="application/pdf", size=size
        )
    assert not raised.value.ambiguous
    assert transport.seen == []


async def test_what_the_content_raises_comes_through() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"%PDF"
        raise NotFound("espocrm", "download_attachment", status=404)

    with pytest.raises(NotFound) as raised:
        await client(always(of(file_object()))).upload_file(
            broken(), filename="a.pdf", mime_type="application/pdf", size=10
        )
    assert raised.value.system == "espocrm"


@pytest.mark.parametrize(
    "answer",
    [
        Lost(arrived=True),
        Answer(500),
        Answer(503),
        Answer(200, b"<html>"),
        of({"ok": True}),
        Answer(200, b'{"id": ', torn=True),
    ],
)
async def test_xai_14_an_upload_that_may_have_been_stored_says_so(answer: Answer | Lost) -> None:
    with pytest.raises(Transient) as raised:
        await client(always(answer)).upload_file(b"x", filename="a.pdf", mime_type="a/b")
    assert raised.value.ambiguous


async def test_an_upload_that_never_arrived_says_so() -> None:
    with pytest.raises(Transient) as raised:
        await client(always(Lost(arrived=False))).upload_file(
            b"x", filename="a.pdf", mime_type="a/b"
        )
    assert not raised.value.ambiguous


@pytest.mark.parametrize(
    ("name", "sent"),
    [
        ("Klage.pdf", "Klage.pdf"),
        ("Kläger & Söhne - Vergleich §1 (2).PDF", "Kläger & Söhne - Vergleich §1 (2).PDF"),
        (unicodedata.normalize("NFD", "Kündigung.pdf"), "Kündigung.pdf"),
        ('Vertrag "Müller".pdf', "Vertrag 'Müller'.pdf"),
        ("Az 12/24\\b.pdf", "Az 12-24-b.pdf"),
        ("../../etc/passwd", "-..-etc-passwd"),
        ("a\r\nX-Injected: 1.pdf", "aX-Injected: 1.pdf"),
        ("a\x00b\x7fc\u202egnp.pdf", "abcgnp.pdf"),
        ("lone \ud800 surrogate.pdf", "lone  surrogate.pdf"),
        ("  Klage .pdf ", "Klage.pdf"),
        (".hidden", "hidden"),
        ("..", "document"),
        ("", "document"),
        ("\n", "document"),
        ("no extension", "no extension"),
        ("x" * 300 + ".pdf", "x" * 251 + ".pdf"),
        ("ü" * 300 + ".docx", "ü" * 125 + ".docx"),
        ("x" * 300, "x" * 255),
        ("a." + "x" * 300, "a." + "x" * 253),
    ],
)
async def test_xai_28_a_file_name_stays_readable_and_harmless(name: str, sent: str) -> None:
    assert safe_filename(name) == sent

    transport = always(of(file_object()))
    await client(transport).upload_file(b"x", filename=name, mime_type="application/pdf")
    assert f'; filename="{sent}"\r\n'.encode() in transport.seen[0].body
    assert len(parts(transport.seen[0])) == 2


@given(st.text())
@example("a" * 250 + "ü.pdf")
@example(". x")
@example("x .y")
@example("e." + "\u0301" * 9)
def test_any_name_becomes_one_that_stays_as_it_is(name: str) -> None:
    safe = safe_filename(name)
    assert safe_filename(safe) == safe
    assert 1 <= len(safe.encode()) <= 255
    assert not set(safe) & set('/\\"\r\n\0')
    assert safe == unicodedata.normalize("NFC", safe)


# ---- what files look like


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (file_object(), XaiFile(FILE, 15, "Klage.pdf", NOON)),
        (file_object(bytes="15"), XaiFile(FILE, 15, "Klage.pdf", NOON)),
        (
            {"id": FILE, "size_bytes": "15", "name": "K", "created_at": "2026-03-08T12:00:00Z"},
            XaiFile(FILE, 15, "K", NOON),
        ),
        (
            file_object(created_at="2026-03-08T13:00:00.5+01:00"),
            XaiFile(FILE, 15, "Klage.pdf", NOON + timedelta(seconds=0.5)),
        ),
        (
            file_object(created_at=NOON.timestamp() + 0.5, bytes=True),
            XaiFile(FILE, None, "Klage.pdf", NOON + timedelta(seconds=0.5)),
        ),
        (
            file_object(created_at="yesterday", bytes=-1, filename=None),
            XaiFile(FILE, None, "", None),
        ),
        (file_object(created_at=10**17), XaiFile(FILE, 15, "Klage.pdf", None)),
        ({"id": FILE}, XaiFile(FILE, None, "", None)),
    ],
)
async def test_a_file_is_read_in_every_shape_it_comes_in(
    answer: dict[str, Any], expected: XaiFile
) -> None:
    assert await client(always(of(answer))).get_file(FILE) == expected


async def test_a_file_that_is_gone_is_not_found() -> None:
    with pytest.raises(NotFound):
        await client(always(Answer(404))).get_file(FILE)


class Files:
    """The list of files, given out in pages of two."""

    def __init__(self, ages: list[int], *, newest_first: bool = True) -> None:
        order = sorted(ages) if newest_first else sorted(ages, reverse=True)
        self.files = [
            file_object(id=f"file_{age}", created_at=int(NOON.timestamp()) - age) for age in order
        ]
        self.pages = 0

    def __call__(self, seen: Seen) -> Answer:
        self.pages += 1
        start = int(seen.params.get("pagination_token", "0"))
        after = start + 2
        token = str(after) if after < len(self.files) else None
        return of({"data": self.files[start:after], "pagination_token": token})


async def test_files_come_newest_first_and_reading_stops_at_the_age_asked_for() -> None:
    files = Files([10, 20, 30, 40, 50, 60, 70, 80])
    transport = ScriptedTransport(files)
    xai = client(transport)

    assert [file.id async for file in xai.list_files()] == [f"file_{n}0" for n in range(1, 9)]
    assert files.pages == 4
    assert transport.seen[0].params == {"limit": "100", "sort_by": "created_at", "order": "desc"}

    files.pages = 0
    recent = [file.id async for file in xai.list_files(until=NOON - timedelta(seconds=25))]
    assert recent == ["file_10", "file_20"]
    assert files.pages == 2


async def test_a_server_that_orders_otherwise_hides_no_recent_file() -> None:
    files = Files([10, 20, 30, 40, 50], newest_first=False)
    xai = client(ScriptedTransport(files))
    recent = [file.id async for file in xai.list_files(until=NOON - timedelta(seconds=25))]
    assert sorted(recent) == ["file_10", "file_20"]


async def test_a_list_that_cannot_be_read_to_its_end_is_not_called_complete() -> None:
    for answers in (
        [of({"data": [file_object()], "has_more": True})],
        [of({"data": [], "pagination_token": "a"})] * 3,
        [of({"data": 3})],
        [of({"data": ["x"]})],
        [of({"data": [{"object": "file"}]})],
    ):
        with pytest.raises(Transient):
            _ = [file async for file in client(in_turn(answers)).list_files()]


async def test_the_older_shape_of_a_list_is_read_too() -> None:
    transport = always(of({"object": "list", "data": [file_object()], "has_more": False}))
    assert [file.id async for file in client(transport).list_files()] == [FILE]


async def test_a_file_s_bytes_are_streamed() -> None:
    transport = always(Answer(200, b"Klage Version 1\n", {"content-length": "16"}))
    async with client(transport).file_content(FILE) as content:
        assert content.size == 16
        assert b"".join([chunk async for chunk in content.chunks()]) == b"Klage Version 1\n"
    assert transport.seen[0].path == f"/v1/files/{FILE}/content"


async def test_a_deletion_is_done_also_when_the_file_was_gone() -> None:
    transport = in_turn([of({"id": FILE, "deleted": True}), Answer(404)])
    xai = client(transport)
    assert await xai.delete_file(FILE) is True
    assert await xai.delete_file(FILE) is False
    assert {seen.method for seen in transport.seen} == {"DELETE"}


# ---- collections


async def test_a_file_is_attached_on_the_management_host_with_its_key() -> None:
    transport = always(of({}))
    xai = client(transport)

    assert await xai.add_to_collection(COLLECTION, FILE) is True
    assert await xai.add_to_collection(COLLECTION, FILE, {"espo_id": "1"}) is True

    plain, with_fields = transport.seen
    assert plain.request.url == (
        f"https://management.test/v1/collections/{COLLECTION}/documents/{FILE}"
    )
    assert plain.headers["Authorization"] == "Bearer xai-token-management"
    assert (plain.method, plain.json) == ("POST", {})
    assert with_fields.json == {"fields": {"espo_id": "1"}}


async def test_xai_20_a_double_attach_is_done_after_a_look() -> None:
    transport = in_turn([of({"code": "ALREADY_EXISTS"}, 409), of(document())])
    assert await client(transport).add_to_collection(COLLECTION, FILE) is False
    assert [seen.method for seen in transport.seen] == ["POST", "GET"]


async def test_a_409_that_attached_nothing_is_a_conflict() -> None:
    transport = in_turn([of({"code": "ALREADY_EXISTS", "error": "isbn taken"}, 409), Answer(404)])
    with pytest.raises(Conflict) as raised:
        await client(transport).add_to_collection(COLLECTION, FILE)
    assert raised.value.reason == "exists"


async def test_xai_18_a_collection_that_is_gone_does_not_hold_up_the_others() -> None:
    def server(seen: Seen) -> Answer:
        return Answer(404) if "/gone/" in seen.path else of({})

    transport = ScriptedTransport(server)
    assert await client(transport).add_to_collections(["a", "gone", "b"], FILE) == ("a", "b")


@pytest.mark.parametrize("answer", [Answer(401), Answer(429), Answer(503), Lost(arrived=True)])
async def test_what_concerns_all_collections_is_raised(answer: Answer | Lost) -> None:
    with pytest.raises((Unauthorized, RateLimited, Transient)):
        await client(in_turn([of({}), answer])).add_to_collections(["a", "b"], FILE)


async def test_xai_19_a_detach_is_done_also_when_it_was_not_attached() -> None:
    transport = in_turn([of({}), Answer(404)])
    xai = client(transport)
    assert await xai.remove_from_collection(COLLECTION, FILE) is True
    assert await xai.remove_from_collection(COLLECTION, FILE) is False
    assert {seen.method for seen in transport.seen} == {"DELETE"}


async def test_a_membership_is_read_with_its_digits_dates_and_hash() -> None:
    found = await client(always(of(document()))).membership(COLLECTION, FILE)
    assert found is not None
    assert (found.file_id, found.status, found.size) == (FILE, "processed", 213817)
    assert found.hash == "ab" * 32
    assert found.created_at == NOON + timedelta(microseconds=130060)
    assert found.fields == {"espo_id": "1"}
    assert found.error_message == ""
    assert await client(always(Answer(404))).membership(COLLECTION, FILE) is None


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("DOCUMENT_STATUS_PROCESSED", "processed"),
        ("DOCUMENT_STATUS_FAILED", "failed"),
        ("DOCUMENT_STATUS_PROCESSING", "processing"),
        ("DOCUMENT_STATUS_CHUNKED", "processing"),
        ("DOCUMENT_STATUS_SHINING", "processing"),
        (None, "processing"),
        (7, "processing"),
    ],
)
async def test_xai_35_an_unknown_status_counts_as_processing(status: Any, expected: str) -> None:
    answer = document(status=status, fields=None, file_metadata={"file_id": FILE})
    found = await client(always(of(answer))).membership(COLLECTION, FILE)
    assert found is not None
    assert (found.status, found.size, found.hash, found.created_at) == (expected, None, "", None)


async def test_a_failed_indexing_says_why() -> None:
    answer = document(status="DOCUMENT_STATUS_FAILED", error_message="no text")
    found = await client(always(of(answer))).membership(COLLECTION, FILE)
    assert found is not None
    assert (found.status, found.error_message) == ("failed", "no text")


async def test_xai_44_all_documents_are_seen_once_over_all_pages() -> None:
    def server(seen: Seen) -> Answer:
        start = int(seen.params.get("pagination_token", "0"))
        size = int(seen.params["limit"])
        rows = [
            document(file_metadata={"file_id": f"file_{n}"})
            # the row before the page comes twice, as when one was added meanwhile
            for n in range(max(0, start - 1), min(start + size, 250))
        ]
        after = start + size
        return of({"documents": rows, "pagination_token": str(after) if after < 250 else None})

    transport = ScriptedTransport(server)
    found = [d.file_id async for d in client(transport).list_documents(COLLECTION)]
    assert found == [f"file_{n}" for n in range(250)]
    assert len(transport.seen) == 3


async def test_an_empty_collection_may_leave_out_its_list() -> None:
    assert [d async for d in client(always(of({}))).list_documents(COLLECTION)] == []


async def test_a_collection_tells_its_name_and_count() -> None:
    answer = {"collection_id": COLLECTION, "collection_name": "Akte 1", "documents_count": "3"}
    found = await client(always(of(answer))).get_collection(COLLECTION)
    assert (found.id, found.name, found.documents_count, found.created_at) == (
        COLLECTION,
        "Akte 1",
        3,
        None,
    )
    with pytest.raises(NotFound):
        await client(always(Answer(404))).get_collection(COLLECTION)


# ---- keys and errors


async def test_each_key_is_checked_at_its_own_host() -> None:
    transport = in_turn([of({"name": "sync", "api_key_blocked": False}), of({"collections": []})])
    await client(transport).check_keys()
    keys = [(seen.request.url, seen.headers["Authorization"]) for seen in transport.seen]
    assert keys == [
        ("https://files.test/v1/api-key", "Bearer xai-api"),
        ("https://management.test/v1/collections", "Bearer xai-token-management"),
    ]


@pytest.mark.parametrize(
    ("answers", "operation"),
    [
        ([Answer(401)], "check_api_key"),
        ([of({"api_key_blocked": True})], "check_api_key"),
        ([of({"team_blocked": True})], "check_api_key"),
        ([of({}), Answer(403)], "check_management_key"),
    ],
)
async def test_a_key_that_is_not_accepted_is_named(answers: list[Answer], operation: str) -> None:
    with pytest.raises(Unauthorized) as raised:
        await client(in_turn(answers)).check_keys()
    assert raised.value.operation == operation


KEY = {
    "code": "Client specified an invalid argument",
    "error": "Incorrect API key provided: xa***.",
}
NESTED = {"error": {"message": "Invalid file 'Klage Müller.pdf'", "type": "invalid", "code": "E7"}}
FLAT = {"code": "INVALID_ARGUMENT", "error": 'bad name "Klage Müller.pdf"'}
GRPC = {"code": 5, "message": "file Klage Müller.pdf not found", "details": []}


@pytest.mark.parametrize(
    ("answer", "kind", "detail"),
    [
        (of(KEY, 400), Unauthorized, "the key is not accepted"),
        (of({"error": {"message": "bad api_key"}}, 400), Unauthorized, "the key is not accepted"),
        (of(FLAT, 400), Invalid, "INVALID_ARGUMENT"),
        (of(NESTED, 400), Invalid, "E7"),
        (of({"error": {"message": "m", "type": "invalid"}}, 422), Invalid, "invalid"),
        (Answer(400, b"<html>Klage M\xc3\xbcller</html>"), Invalid, ""),
        (of(["Müller"], 400), Invalid, ""),
        (of({"code": "c\n" + "x" * 500, "error": {}}, 400), Invalid, ""),
        (of({"code": "x" * 500}, 400), Invalid, "x" * 200),
        (Answer(401), Unauthorized, ""),
        (of({"code": "PERMISSION_DENIED"}, 403), Unauthorized, "PERMISSION_DENIED"),
        (of(GRPC, 404), NotFound, "5"),
        (Answer(405), Invalid, ""),
        (of({"code": "ALREADY_EXISTS"}, 409), Conflict, "ALREADY_EXISTS"),
        (Answer(413), Invalid, ""),
        (Answer(415), Invalid, ""),
        (of({"code": "RESOURCE_EXHAUSTED"}, 429), RateLimited, "RESOURCE_EXHAUSTED"),
        (of({"code": "INTERNAL"}, 500), Transient, "INTERNAL"),
        (Answer(502, b"<html>"), Transient, "no JSON"),
        (Answer(503, b"{", torn=True), Transient, "no JSON"),
        (Answer(504), Transient, "no JSON"),
        (Answer(301, headers={"Location": "/"}), Transient, "no JSON"),
    ],
)
async def test_each_answer_is_the_error_of_the_table(
    answer: Answer, kind: type[OutsideError], detail: str
) -> None:
    transport = always(answer)
    with pytest.raises(OutsideError) as raised:
        await client(transport).get_file(FILE)
    assert type(raised.value) is kind
    assert raised.value.status == answer.status
    assert raised.value.detail == detail
    assert not raised.value.ambiguous
    assert "Müller" not in str(raised.value)
    assert len(transport.seen) == 1


@pytest.mark.parametrize(
    ("wish", "expected"), [("7", timedelta(seconds=7)), (None, None), ("soon", None)]
)
async def test_xai_21_a_rate_limit_carries_the_time_it_asks_for(
    wish: str | None, expected: timedelta | None
) -> None:
    answer = Answer(429, headers={} if wish is None else {"retry-after": wish})
    with pytest.raises(RateLimited) as raised:
        await client(always(answer)).add_to_collection(COLLECTION, FILE)
    assert raised.value.retry_after == expected


async def test_what_is_no_id_never_gets_into_a_path() -> None:
    transport = always(of({}))
    for file_id in ("", "..", "a/b", "a?b"):
        with pytest.raises(Invalid):
            await client(transport).get_file(file_id)
    assert transport.seen == []


async def test_no_key_is_shown_by_the_client() -> None:
    xai = client(always(Answer(401)))
    with pytest.raises(Unauthorized) as raised:
        await xai.get_file(FILE)
    shown = f"{raised.value!r} {raised.value} {vars(xai)}"
    assert "xai-api" not in shown
    assert "xai-token" not in shown


# -- the life of a collection ---------------------------------------------------------------------


def collection(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "collection_id": f"collection_{number}",
        "collection_name": f"Akte {number}",
        "collection_description": None,
        "created_at": "2026-03-08T12:00:00.123456Z",
        "documents_count": 0,
    } | changes


async def test_a_collection_is_made_with_name_and_description_at_the_management_host() -> None:
    transport = always(of(collection(collection_description="Zeichen")))
    made = await client(transport).create_collection("Akte Müller", "Zeichen")
    assert (made.id, made.description) == ("collection_1", "Zeichen")
    (seen,) = transport.seen
    assert (seen.method, seen.request.url) == ("POST", "https://management.test/v1/collections")
    assert seen.json == {
        "collection_name": "Akte Müller",
        "collection_description": "Zeichen",
    }


async def test_making_a_collection_is_never_repeated_and_its_fate_may_be_unknown() -> None:
    transport = always(Lost(arrived=True))
    with pytest.raises(Transient) as raised:
        await client(transport).create_collection("Akte 1", "")
    assert raised.value.ambiguous
    assert len(transport.seen) == 1


async def test_all_collections_are_seen_once_over_all_pages() -> None:
    pages = [
        of({"collections": [collection(1), collection(2)], "pagination_token": "more"}),
        of({"collections": [collection(2), collection(3)]}),
    ]
    found = client(in_turn(pages)).list_collections()
    assert [one.id async for one in found] == ["collection_1", "collection_2", "collection_3"]


async def test_deleting_a_collection_may_be_repeated() -> None:
    answers = [of({}), Answer(404)]
    xai = client(in_turn(answers))
    assert await xai.delete_collection(COLLECTION)
    assert not await xai.delete_collection(COLLECTION)
