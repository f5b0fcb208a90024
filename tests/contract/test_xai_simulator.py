"""The xAI simulator over plain HTTP: what a client of the real one would see."""

import asyncio
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.http import SimServer
from bitbylaw_simulators.xai import Xai

V1 = b"Klage Version 1\n"
V1_BLAKE3 = "751df9dd02ba27c7c13a3553b181ca72312ea02c5fc0f8e5c350ed3cd3a09cea"
V2 = b"Klage Version 2\n"
V2_BLAKE3 = "675ee4c9f09a0b2c1794717a37b183d4689682e59245eb40afe299e3dd61345d"


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Caller:
    """Speaks plain HTTP to one simulator with one key per face."""

    xai: Xai
    url: str
    session: aiohttp.ClientSession

    async def __call__(
        self, method: str, path: str, *, key: str | None = None, **more: Any
    ) -> Answer:
        management = path.startswith("/v1/collections")
        own = self.xai.management_key if management else self.xai.api_key
        headers: dict[str, str] = more.pop("headers", {})
        if key != "":
            headers["Authorization"] = f"Bearer {key or own}"
        async with self.session.request(
            method, self.url + path, headers=headers, **more
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def upload(self, content: bytes, name: str = "Klage.pdf", **more: Any) -> Answer:
        form = aiohttp.FormData(quote_fields=False)
        form.add_field("purpose", "assistants")
        form.add_field("file", io.BytesIO(content), filename=name, content_type="application/pdf")
        return await self("POST", "/v1/files", data=form, **more)

    async def file(self, content: bytes, name: str = "Klage.pdf") -> str:
        return str((await self.upload(content, name)).json()["id"])

    async def fault(self, kind: str, **more: Any) -> None:
        match = {name: more.pop(name) for name in ("method", "path", "operation") if name in more}
        plan: dict[str, Any] = {
            name: more.pop(name) for name in ("after", "times", "seed") if name in more
        }
        fault: dict[str, Any] = {"match": match, "kind": kind, "params": more, **plan}
        answer = await self("POST", "/_sim/faults?add=1", json=[fault])
        assert answer.status == 200, answer.body


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    xai = Xai(SimClock())
    async with SimServer(xai) as server, aiohttp.ClientSession() as session:
        yield Caller(xai, server.url, session)


async def test_an_uploaded_file_is_told_as_the_files_api_tells_it(call: Caller) -> None:
    answer = await call.upload(V1, "Räumungsklage.pdf")

    told = answer.json()
    assert answer.status == 200
    assert told["id"].startswith("file_")
    assert (told["object"], told["bytes"], told["filename"]) == ("file", 16, "Räumungsklage.pdf")
    assert isinstance(told["created_at"], int)
    assert (await call("GET", f"/v1/files/{told['id']}")).json() == told
    assert (await call("GET", f"/v1/files/{told['id']}/content")).body == V1


async def test_a_deleted_file_is_gone_and_deleting_it_again_is_404(call: Caller) -> None:
    file_id = await call.file(V1)

    first = await call("DELETE", f"/v1/files/{file_id}")

    assert first.json() == {"id": file_id, "deleted": True, "object": "file"}
    assert (await call("DELETE", f"/v1/files/{file_id}")).status == 404
    assert (await call("GET", f"/v1/files/{file_id}")).status == 404
    assert (await call("GET", "/v1/files")).json()["data"] == []


async def test_files_are_listed_newest_first_in_pages_that_neither_skip_nor_repeat(
    call: Caller,
) -> None:
    ids = [await call.file(b"%d" % number) for number in range(5)]
    first = (await call("GET", "/v1/files?limit=2&order=desc&sort_by=created_at")).json()

    # a file that comes between two pages moves nothing
    await call.file(b"late")
    path = f"/v1/files?limit=2&order=desc&pagination_token={first['pagination_token']}"
    second = (await call("GET", path)).json()
    path = f"/v1/files?limit=2&order=desc&pagination_token={second['pagination_token']}"
    third = (await call("GET", path)).json()

    seen = [entry["id"] for page in (first, second, third) for entry in page["data"]]
    assert seen == ids[::-1]
    assert third["pagination_token"] is None


async def test_the_keys_of_the_two_faces_are_not_interchangeable(call: Caller) -> None:
    assert (await call("GET", "/v1/files", key=call.xai.management_key)).status == 400
    assert (await call("GET", "/v1/collections", key=call.xai.api_key)).status == 401
    assert (await call("GET", "/v1/files", key="")).status == 401
    assert (await call("GET", "/v1/collections", key="")).status == 401
    assert "Incorrect API key" in (await call("GET", "/v1/files", key="x")).json()["error"]


async def test_an_attached_file_shows_as_a_document_with_its_blake3_hash(call: Caller) -> None:
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)

    attached = await call("POST", f"/v1/collections/{collection}/documents/{file_id}", json={})
    document = (await call("GET", f"/v1/collections/{collection}/documents/{file_id}")).json()

    assert (attached.status, attached.json()) == (200, {})
    assert document["file_metadata"]["hash"] == V1_BLAKE3
    assert document["file_metadata"]["size_bytes"] == "16"
    assert document["file_metadata"]["created_at"].endswith("Z")
    assert document["status"] == "DOCUMENT_STATUS_PROCESSING"
    assert call.xai.contents("akte-1") == [V1]


async def test_a_document_reaches_processed_as_time_passes(call: Caller) -> None:
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})

    stages = []
    for _ in range(5):
        stages.append((await call("GET", path)).json()["status"].removeprefix("DOCUMENT_STATUS_"))
        await call("POST", "/_sim/clock", json={"advance": 0.5})

    assert stages == ["PROCESSING", "CHUNKED", "EMBEDDING", "WRITING", "PROCESSED"]


async def test_detaching_keeps_the_file_and_a_second_detach_is_404(call: Caller) -> None:
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})

    assert (await call("DELETE", path)).json() == {}
    assert (await call("DELETE", path)).status == 404
    assert (await call("GET", path)).status == 404
    assert (await call("GET", f"/v1/files/{file_id}")).status == 200


@pytest.mark.parametrize(("manner", "status"), [("200", 200), ("409", 409)])
async def test_a_double_attach_answers_as_switched_and_holds_the_file_once(
    call: Caller, manner: str, status: int
) -> None:
    await call("POST", "/_sim/quirks", json={"double_attach": manner})
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})

    assert (await call("POST", path, json={})).status == status
    assert call.xai.contents(collection) == [V1]
    assert len(call.xai.effects("attach")) == 1


async def test_attaching_what_is_not_there_is_404(call: Caller) -> None:
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)

    assert (await call("POST", f"/v1/collections/{collection}/documents/file_0")).status == 404
    assert (await call("POST", f"/v1/collections/none/documents/{file_id}")).status == 404


@pytest.mark.parametrize(("manner", "left"), [("vanish", 0), ("stay", 1)])
async def test_deleting_an_attached_file_does_to_its_documents_what_is_switched(
    call: Caller, manner: str, left: int
) -> None:
    await call("POST", "/_sim/quirks", json={"delete_attached": manner})
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    await call("POST", f"/v1/collections/{collection}/documents/{file_id}", json={})

    await call("DELETE", f"/v1/files/{file_id}")

    listed = (await call("GET", f"/v1/collections/{collection}/documents")).json()["documents"]
    assert len(listed) == left


async def test_250_documents_are_listed_once_each_in_pages_of_100(call: Caller) -> None:
    collection = call.xai.add_collection("akte-1")
    for number in range(250):
        call.xai.attach(collection, call.xai.add_file(f"{number}.txt", b"%d" % number))

    seen: list[str] = []
    token: str | None = ""
    for _ in range(3):
        path = f"/v1/collections/{collection}/documents?limit=100&pagination_token={token}"
        page = (await call("GET", path)).json()
        seen += [entry["file_metadata"]["file_id"] for entry in page["documents"]]
        token = page["pagination_token"]

    assert token is None
    assert sorted(seen) == sorted(call.xai.file_ids(collection))
    assert (await call("GET", f"/v1/collections/{collection}/documents?limit=101")).status == 400


async def test_a_lost_upload_answer_leaves_the_file_there(call: Caller) -> None:
    await call.fault("reset_after", operation="upload")

    with pytest.raises(aiohttp.ClientError):
        await call.upload(V1)

    assert [file.filename for file in call.xai.files()] == ["Klage.pdf"]
    [upload] = [entry for entry in call.xai.requests if entry.operation == "upload"]
    assert (upload.effect, upload.status, upload.fault) == ("upload", None, "reset_after")


async def test_a_reset_before_leaves_nothing(call: Caller) -> None:
    await call.fault("reset_before", operation="upload")

    with pytest.raises(aiohttp.ClientError):
        await call.upload(V1)

    assert call.xai.files() == []
    assert (await call.upload(V1)).status == 200


async def test_a_file_may_become_visible_only_later(call: Caller) -> None:
    await call.fault("delayed_visibility", operation="upload", seconds=30, answer="reset")

    with pytest.raises(aiohttp.ClientError):
        await call.upload(V1)

    assert (await call("GET", "/v1/files")).json()["data"] == []
    await call("POST", "/_sim/clock", json={"advance": 30})
    assert [entry["bytes"] for entry in (await call("GET", "/v1/files")).json()["data"]] == [16]


async def test_a_torn_answer_announces_more_than_it_sends(call: Caller) -> None:
    file_id = await call.file(V1)
    await call.fault("torn", operation="file_content", bytes=5)

    with pytest.raises(aiohttp.ClientPayloadError):
        await call("GET", f"/v1/files/{file_id}/content")

    assert (await call("GET", f"/v1/files/{file_id}/content")).body == V1


async def test_a_rate_limit_tells_when_to_come_again_only_if_planned(call: Caller) -> None:
    await call.fault("rate_limit", operation="list_files", retry_after=7)
    await call.fault("rate_limit", operation="list_files")

    first, second, third = [await call("GET", "/v1/files") for _ in range(3)]

    assert (first.status, first.headers["Retry-After"]) == (429, "7")
    assert (second.status, second.headers.get("Retry-After")) == (429, None)
    assert third.status == 200


@pytest.mark.parametrize(
    ("shape", "inside"),
    [
        ("code", b'"error":"away"'),
        ("error", b'"message":"away"'),
        ("html", b"<html>"),
        ("empty", b""),
    ],
)
async def test_an_error_comes_in_every_shape_that_was_seen(
    call: Caller, shape: str, inside: bytes
) -> None:
    await call.fault("status", status=503, body=shape, message="away", times=None)

    answer = await call("GET", "/v1/files")

    assert answer.status == 503
    assert inside in answer.body


async def test_a_fault_strikes_after_so_many_calls_so_many_times(call: Caller) -> None:
    await call.fault("status", status=503, operation="list_files", after=1, times=2)

    assert [(await call("GET", "/v1/files")).status for _ in range(4)] == [200, 503, 503, 200]


@pytest.mark.parametrize(
    ("kind", "params", "status"),
    [
        ("indexing_failed", {"message": "broken"}, "FAILED"),
        ("never_processed", {}, "PROCESSING"),
        ("unknown_status", {"name": "SUMMARIZING"}, "SUMMARIZING"),
        ("slow_indexing", {"seconds": 3600}, "PROCESSING"),
    ],
)
async def test_indexing_goes_wrong_as_planned(
    call: Caller, kind: str, params: dict[str, Any], status: str
) -> None:
    await call.fault(kind, operation="attach", **params)
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})
    await call("POST", "/_sim/clock", json={"advance": 60})

    document = (await call("GET", path)).json()

    assert document["status"] == f"DOCUMENT_STATUS_{status}"
    assert document["error_message"] == params.get("message")


async def test_slow_indexing_by_looks_takes_so_many_looks_per_stage(call: Caller) -> None:
    await call.fault("slow_indexing", operation="attach", polls=10)
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})

    looks = [(await call("GET", path)).json()["status"] for _ in range(41)]

    assert looks[39] == "DOCUMENT_STATUS_WRITING"
    assert looks[40] == "DOCUMENT_STATUS_PROCESSED"


@pytest.mark.parametrize(("kind", "told"), [("hash_null", None), ("hash_wrong", V1_BLAKE3[::-1])])
async def test_a_hash_may_be_missing_or_wrong(call: Caller, kind: str, told: str | None) -> None:
    await call.fault(kind, operation="upload")
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)
    path = f"/v1/collections/{collection}/documents/{file_id}"
    await call("POST", path, json={})

    assert (await call("GET", path)).json()["file_metadata"]["hash"] == told


async def test_a_file_over_the_limit_is_413_and_not_stored(call: Caller) -> None:
    await call("POST", "/_sim/quirks", json={"upload_limit_mib": 2})

    assert (await call.upload(b"x" * (2 * 1024 * 1024))).status == 200
    assert (await call.upload(b"x" * (2 * 1024 * 1024 + 1))).status == 413
    assert len(call.xai.files()) == 1


async def test_an_expiry_must_come_before_the_file(call: Caller) -> None:
    form = aiohttp.FormData()
    form.add_field("file", V1, filename="a.txt")
    form.add_field("expires_after", "3600")
    assert (await call("POST", "/v1/files", data=form)).status == 400

    form = aiohttp.FormData()
    form.add_field("expires_after", "3600")
    form.add_field("file", V1, filename="a.txt")
    made = (await call("POST", "/v1/files", data=form)).json()

    await call("POST", "/_sim/clock", json={"advance": 3600})
    assert (await call("GET", f"/v1/files/{made['id']}")).status == 404


async def test_the_one_step_upload_fails_for_cities_with_umlauts_unless_switched(
    call: Caller,
) -> None:
    collection = call.xai.add_collection("akte-1")

    async def one_step() -> Answer:
        form = aiohttp.FormData()
        form.add_field("name", "Klage.pdf")
        form.add_field("data", V1, filename="Klage.pdf")
        form.add_field("content_type", "application/pdf")
        form.add_field("fields", '{"aktenzeichen": "1/26"}')
        return await call("POST", f"/v1/collections/{collection}/documents", data=form)

    failed = await one_step()
    await call("POST", "/_sim/quirks", json={"one_step_upload_fault": False})
    made = await one_step()

    assert failed.status == 500
    assert "cf-ipcity" in failed.json()["error"]
    assert made.json()["fields"] == {"aktenzeichen": "1/26"}
    assert call.xai.contents(collection) == [V1]


async def test_a_collection_is_made_changed_counted_and_deleted(call: Caller) -> None:
    made = (await call("POST", "/v1/collections", json={"collection_name": "Akte 1"})).json()
    path = f"/v1/collections/{made['collection_id']}"
    file_id = await call.file(V1)
    await call("POST", f"{path}/documents/{file_id}", json={"fields": {"espo_id": "1"}})

    await call("PUT", path, json={"collection_name": "Akte 2"})
    found = (await call("GET", path)).json()
    deleted = await call("DELETE", path)

    assert (found["collection_name"], found["documents_count"]) == ("Akte 2", 1)
    assert (deleted.status, deleted.json()) == (200, {})
    assert (await call("GET", path)).status == 404
    assert (await call("GET", f"/v1/files/{file_id}")).status == 200


async def test_a_key_that_may_attach_but_not_manage_is_403(call: Caller) -> None:
    await call("POST", "/_sim/quirks", json={"management_may_manage": False})
    collection = call.xai.add_collection("akte-1")
    file_id = await call.file(V1)

    made = await call("POST", "/v1/collections", json={"collection_name": "x"})
    attached = await call("POST", f"/v1/collections/{collection}/documents/{file_id}", json={})

    assert (made.status, attached.status) == (403, 200)


async def test_required_and_unique_fields_are_kept(call: Caller) -> None:
    definitions = [{"key": "espo_id", "required": True, "unique": True}]
    body = {"collection_name": "x", "field_definitions": definitions}
    collection = (await call("POST", "/v1/collections", json=body)).json()["collection_id"]
    first, second = await call.file(V1), await call.file(V2)
    path = f"/v1/collections/{collection}/documents"

    assert (await call("POST", f"{path}/{first}", json={})).status == 400
    assert (await call("POST", f"{path}/{first}", json={"fields": {"espo_id": "1"}})).status == 200
    assert (await call("POST", f"{path}/{second}", json={"fields": {"espo_id": "1"}})).status == 409


async def test_documents_are_filtered_by_status_name_and_field(call: Caller) -> None:
    collection = call.xai.add_collection("x")
    call.xai.attach(collection, call.xai.add_file("Klage.pdf", V1), {"art": "klage"})
    await call("POST", "/_sim/clock", json={"advance": 10})
    call.xai.attach(collection, call.xai.add_file("Notiz.txt", V2), {"art": "notiz"})

    async def found(**query: str) -> list[str]:
        path = f"/v1/collections/{collection}/documents"
        listed = (await call("GET", path, params=query)).json()["documents"]
        return [entry["file_metadata"]["name"] for entry in listed]

    assert await found(filter="status:DOCUMENT_STATUS_PROCESSED") == ["Klage.pdf"]
    assert await found(filter="status:!DOCUMENT_STATUS_PROCESSED") == ["Notiz.txt"]
    assert await found(filter='fields.art:"notiz"') == ["Notiz.txt"]
    assert await found(name="klage") == ["Klage.pdf"]


async def test_only_processed_documents_are_found_by_search(call: Caller) -> None:
    collection = call.xai.add_collection("x")
    file_id = call.xai.add_file("Notiz.txt", "Die Räumung ist beantragt".encode())
    call.xai.attach(collection, file_id)
    body = {"query": "Räumung", "source": {"collection_ids": [collection]}}

    before = (await call("POST", "/v1/documents/search", json=body)).json()["matches"]
    await call("POST", "/_sim/clock", json={"advance": 10})
    after = (await call("POST", "/v1/documents/search", json=body)).json()["matches"]

    assert before == []
    assert [match["file_id"] for match in after] == [file_id]
    assert "Räumung" in after[0]["chunk_content"]


async def test_patching_a_document_sets_fields_or_indexes_anew(call: Caller) -> None:
    collection = call.xai.add_collection("x")
    file_id = call.xai.add_file("Notiz.txt", V1)
    call.xai.attach(collection, file_id)
    await call("POST", "/_sim/clock", json={"advance": 10})
    path = f"/v1/collections/{collection}/documents/{file_id}"

    changed = (await call("PATCH", path, json={"fields": {"a": "b"}})).json()
    anew = (await call("PATCH", path)).json()

    assert (changed["fields"], changed["status"]) == ({"a": "b"}, "DOCUMENT_STATUS_PROCESSED")
    assert anew["status"] == "DOCUMENT_STATUS_PROCESSING"


async def test_the_log_shows_an_effect_before_the_answer_is_given(call: Caller) -> None:
    await call.fault("latency", operation="upload", seconds=3600, when="after")
    slow = asyncio.create_task(call.upload(V1))

    told = (await call("GET", "/_sim/requests?since=0&wait=5")).json()

    [entry] = told["requests"]
    assert (entry["effect"], entry["status"], entry["number"]) == ("upload", None, 1)
    assert entry["target"] == call.xai.files()[0].id
    await call("POST", "/_sim/clock", json={"advance": 3600})
    assert (await slow).status == 200


async def test_the_log_goes_on_from_a_number_and_waits_only_as_asked(call: Caller) -> None:
    await call.file(V1)
    await call("GET", "/v1/files")

    one = (await call("GET", "/_sim/requests?since=1")).json()
    none = (await call("GET", "/_sim/requests?since=2&wait=0.05")).json()

    assert [(entry["number"], entry["operation"]) for entry in one["requests"]] == [
        (2, "list_files")
    ]
    assert none == {"requests": [], "last": 2}


async def test_the_state_names_contents_by_hash_and_never_shows_them(call: Caller) -> None:
    await call.file(V2)

    answer = await call("GET", "/_sim/state")

    [content] = answer.json()["contents"]
    assert content == {
        "sha256": "48a8ab27c3f5717a64e1b8400e4a0efb84891b3a5ae343f816945930e20165a0",
        "md5": "cac53ae0afdd5639e6b6fbdfb26202a2",
        "blake3": V2_BLAKE3,
        "size": 16,
    }
    assert b"Version" not in answer.body


async def test_a_reset_forgets_everything(call: Caller) -> None:
    await call.file(V1)
    await call("POST", "/_sim/reset")

    assert (await call("GET", "/_sim/state")).json()["files"] == []
    assert (await call("GET", "/_sim/requests?since=0")).json() == {"requests": [], "last": 0}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("faults", [{"kind": "no such kind"}]),
        ("faults", [{"kind": "torn", "wen": 1}]),
        ("clock", {"advance": -1}),
        ("clock", {"hours": 1}),
        ("quirks", {"double_attach": "maybe"}),
        ("quirks", {"no_such": True}),
        ("quirks", []),
    ],
)
async def test_the_control_face_says_what_is_wrong(call: Caller, path: str, body: Any) -> None:
    answer = await call("POST", f"/_sim/{path}", json=body)

    assert answer.status == 400
    assert answer.json()["error"]


async def test_names_with_umlauts_and_quotes_come_back_as_they_were_sent(call: Caller) -> None:
    name = 'Müller "alt" Größe.pdf'
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("file", V1, filename=name)

    made = (await call("POST", "/v1/files", data=form)).json()

    assert made["filename"] == name
