"""The EspoCRM simulator over plain HTTP: what a client of the real one would see."""

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.espocrm.state import API_KEY
from bitbylaw_simulators.http import SimServer
from bitbylaw_simulators.pump import Pump

V1, V2 = b"Klage Version 1\n", b"Klage Version 2\n"
V1_MD5, V2_MD5 = "1c4ac5390b02be4eba118ff1d1221a2e", "cac53ae0afdd5639e6b6fbdfb26202a2"
V1_SHA256 = "cadb1b21a4af7653e6e06bcdeb609426343dd37a36584ddd8043f67b991f2e93"


@dataclass
class Answer:
    status: int
    headers: Any
    body: bytes

    @property
    def reason(self) -> str | None:
        reason = self.headers.get("X-Status-Reason")
        return None if reason is None else str(reason)

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Caller:
    """Speaks plain HTTP to the simulator, as the API user unless told otherwise."""

    crm: EspoCRM
    url: str
    session: aiohttp.ClientSession
    key: str = API_KEY

    async def __call__(self, method: str, path: str, **more: Any) -> Answer:
        given: dict[str, str | None] = more.pop("headers", {})
        wanted: dict[str, str | None] = {"X-Api-Key": self.key, **given}
        headers = {name: text for name, text in wanted.items() if text is not None}
        base = "" if path.startswith("/_sim") else "/api/v1"
        async with self.session.request(
            method, f"{self.url}{base}{path}", headers=headers, **more
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def fault(self, kind: str, **more: Any) -> None:
        match = {name: more.pop(name) for name in ("method", "path", "operation") if name in more}
        plan: dict[str, Any] = {
            name: more.pop(name) for name in ("after", "times", "seed") if name in more
        }
        fault: dict[str, Any] = {"match": match, "kind": kind, "params": more, **plan}
        answer = await self("POST", "/_sim/faults?add=1", json=[fault])
        assert answer.status == 200, answer.body

    async def names(self, **query: str) -> list[str]:
        answer = await self("GET", "/CDokumente", params=query)
        assert answer.status == 200, answer.reason
        return [record["name"] for record in answer.json()["list"]]


@pytest.fixture
async def call() -> AsyncIterator[Caller]:
    crm = EspoCRM(SimClock())
    async with SimServer(crm) as server, aiohttp.ClientSession() as session:
        yield Caller(crm, server.url, session)


# records


async def test_a_document_is_read_with_file_hashes_and_status(call: Caller) -> None:
    klage = call.crm.add_document("Räumungsklage.pdf", V1, collections=["akte-1"])

    answer = await call("GET", f"/CDokumente/{klage}")

    record = answer.json()
    assert answer.headers["X-App-Timestamp"].isdigit()
    assert len(klage) == 17
    assert (record["id"], record["name"], record["deleted"]) == (klage, "Räumungsklage.pdf", False)
    assert (record["md5sum"], record["sha256"]) == (V1_MD5, V1_SHA256)
    assert (record["fileStatus"], record["xaiId"]) == ("neu", None)
    assert record["dokumentName"] == "Räumungsklage.pdf"
    assert record["createdAt"] == "2026-03-09 08:00:00"
    assert b"R\\u00e4umungsklage" in answer.body


async def test_put_and_patch_change_only_what_is_given(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)

    for method, status in (("PUT", "synced"), ("PATCH", "neu")):
        answer = await call(method, f"/CDokumente/{klage}", json={"fileStatus": status})
        assert answer.status == 200
        assert (answer.json()["fileStatus"], answer.json()["md5sum"]) == (status, V1_MD5)


async def test_what_the_crm_owns_is_ignored_on_input(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    body = {"id": "x", "createdAt": "1999-01-01 00:00:00", "deleted": True, "nonsense": 1}

    record = (await call("PUT", f"/CDokumente/{klage}", json=body)).json()

    assert (record["id"], record["createdAt"]) == (klage, "2026-03-09 08:00:00")
    assert (record["deleted"], "nonsense" in record) == (False, False)


async def test_a_write_is_stamped_with_its_user_and_logged_with_what_changed(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    await call("POST", "/_sim/clock", json={"advance": 60})

    record = (await call("PUT", f"/CDokumente/{klage}", json={"xaiId": "file_1"})).json()

    assert (record["modifiedAt"], record["modifiedByName"]) == ("2026-03-09 08:01:00", "bitbylaw")
    [effect] = call.crm.effects()
    assert (effect.name, effect.target) == ("update", f"CDokumente/{klage}")
    assert set(effect.changed) == {"xaiId", "modifiedAt", "modifiedById", "modifiedByName"}


async def test_a_deleted_document_is_404_with_an_empty_body(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    call.crm.delete(klage)

    answer = await call("GET", f"/CDokumente/{klage}")

    assert (answer.status, answer.body) == (404, b"")
    assert (await call("PUT", f"/CDokumente/{klage}", json={"xaiId": "x"})).status == 404
    assert await call.names() == []


async def test_a_created_record_answers_200_and_deleting_it_answers_true(call: Caller) -> None:
    made = await call("POST", "/CAIKnowledge", json={"name": "Akte", "datenbankId": "c1"})
    gone = await call("DELETE", f"/CAIKnowledge/{made.json()['id']}")

    assert (made.status, made.json()["aktivierungsstatus"]) == (200, "new")
    assert (gone.status, gone.json()) == (200, True)


@pytest.mark.parametrize("path", ["/CNothing", "/CNothing/1", "/CDokumente/1/nothing", "/A/b/c/d"])
async def test_what_does_not_exist_is_404(call: Caller, path: str) -> None:
    answer = await call("GET", path)

    assert (answer.status, answer.body) == (404, b"")


async def test_espo_29_a_missing_required_field_is_400_and_named(call: Caller) -> None:
    answer = await call("POST", "/CBankverbindungen", json={"kontoinhaber": "Erfunden"})

    assert (answer.status, answer.reason) == (400, "validationFailure")
    data = answer.json()["messageTranslation"]["data"]
    assert data == {"field": "iban", "type": "required"}


async def test_a_wrong_iban_checksum_is_400(call: Caller) -> None:
    answer = await call("POST", "/CBankverbindungen", json={"iban": "DE00500105175407324931"})

    assert (answer.status, answer.reason) == (400, "invalidIbanChecksum")


async def test_espo_28_a_known_iban_is_409_with_the_record_unless_skipped(call: Caller) -> None:
    body = {"iban": "DE89370400440532013000", "kontoinhaber": "Erfunden"}
    first = (await call("POST", "/CBankverbindungen", json=body)).json()

    again = await call("POST", "/CBankverbindungen", json=body)
    headers = {"X-Skip-Duplicate-Check": "true"}
    forced = await call("POST", "/CBankverbindungen", json=body, headers=headers)

    assert (again.status, again.reason) == (409, "duplicate")
    assert [record["id"] for record in again.json()] == [first["id"]]
    assert forced.status == 200


async def test_espo_26_a_stale_version_is_409_with_the_current_values(call: Caller) -> None:
    await call("POST", "/_sim/quirks", json={"optimistic_locking": ["CDokumente"]})
    klage = call.crm.add_document("Klage.pdf", V1)
    assert (await call("GET", f"/CDokumente/{klage}")).json()["versionNumber"] == 1
    call.crm.edit(klage, description="von Hand")

    stale = {"X-Version-Number": "1"}
    body = {"description": "anders", "xaiId": None}
    answer = await call("PUT", f"/CDokumente/{klage}", json=body, headers=stale)

    assert (answer.status, answer.reason) == (409, "modified")
    assert answer.json() == {"values": {"description": "von Hand"}, "versionNumber": 2}
    assert call.crm.document(klage)["description"] == "von Hand"


async def test_espo_27_a_stale_version_that_changes_nothing_is_200(call: Caller) -> None:
    await call("POST", "/_sim/quirks", json={"optimistic_locking": ["CDokumente"]})
    klage = call.crm.add_document("Klage.pdf", V1)
    call.crm.edit(klage, description="von Hand")

    body = {"description": "von Hand"}
    headers = {"X-Version-Number": "1"}

    assert (await call("PUT", f"/CDokumente/{klage}", json=body, headers=headers)).status == 200


async def test_without_the_option_a_version_header_means_nothing(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    call.crm.edit(klage, description="von Hand")

    headers = {"X-Version-Number": "1"}
    answer = await call("PUT", f"/CDokumente/{klage}", json={"description": "x"}, headers=headers)

    assert (answer.status, "versionNumber" in answer.json()) == (200, False)


# lists


async def test_a_list_is_filtered_by_brackets_and_by_search_params_alike(call: Caller) -> None:
    call.crm.add_document("A.pdf", V1)
    call.crm.add_document("B.pdf", V2, fileStatus="synced", xaiId="file_1")
    where = [{"type": "equals", "attribute": "fileStatus", "value": "neu"}]
    brackets = {
        "where[0][type]": "or",
        "where[0][value][0][type]": "equals",
        "where[0][value][0][attribute]": "xaiId",
        "where[0][value][0][value]": "file_1",
        "where[0][value][1][type]": "in",
        "where[0][value][1][attribute]": "name",
        "where[0][value][1][value][]": "A.pdf",
    }

    assert await call.names(searchParams=json.dumps({"where": where})) == ["A.pdf"]
    assert sorted(await call.names(**brackets)) == ["A.pdf", "B.pdf"]


async def test_an_unknown_attribute_in_where_is_400(call: Caller) -> None:
    call.crm.add_document("A.pdf", V1)
    where = [{"type": "equals", "attribute": "nothing", "value": "1"}]

    answer = await call("GET", "/CDokumente", params={"searchParams": json.dumps({"where": where})})

    assert (answer.status, answer.body) == (400, b"")


async def test_a_list_is_ordered_and_cut_and_tells_the_total(call: Caller) -> None:
    for name in ("B", "C", "A"):
        call.crm.add_document(f"{name}.pdf", V1)
    query = {"orderBy": "name", "order": "asc", "offset": "1", "maxSize": "1", "select": "name"}

    page = (await call("GET", "/CDokumente", params=query)).json()

    assert (page["total"], [record["name"] for record in page["list"]]) == (3, ["B.pdf"])
    assert set(page["list"][0]) == {"id", "name"}


async def test_espo_24_a_page_over_200_is_403_with_the_reason(call: Caller) -> None:
    answer = await call("GET", "/CDokumente?maxSize=201")

    assert (answer.status, answer.body) == (403, b"")
    assert answer.reason == "Max size should not exceed 200. Use offset and limit."


async def test_espo_25_without_a_total_only_more_or_no_more_is_told(call: Caller) -> None:
    for number in range(3):
        call.crm.add_document(f"{number}.pdf", V1)
    headers = {"X-No-Total": "true"}

    totals = [
        (await call("GET", f"/CDokumente?maxSize=2&offset={at}", headers=headers)).json()["total"]
        for at in (0, 2)
    ]

    assert totals == [-1, -2]


async def test_250_records_come_in_pages_of_200_once_each(call: Caller) -> None:
    for number in range(250):
        call.crm.add_knowledge(f"Akte {number:03}", f"c{number}")

    seen = [
        record["id"]
        for at in (0, 200)
        for record in (
            await call("GET", f"/CAIKnowledge?orderBy=name&order=asc&offset={at}")
        ).json()["list"]
    ]

    assert len(seen) == len(set(seen)) == 250


# links


async def test_the_linked_knowledge_bases_carry_their_collection(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1, collections=["akte-1", "akte-2"])

    page = (await call("GET", f"/CDokumente/{klage}/cAIKnowledges")).json()

    assert page["total"] == 2
    found = [(record["datenbankId"], record["aktivierungsstatus"]) for record in page["list"]]
    assert sorted(found) == [("akte-1", "active"), ("akte-2", "active")]


async def test_espo_33_linking_twice_and_unlinking_twice_is_true_each_time(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    akte = call.crm.add_knowledge("Akte", "akte-1")
    path = f"/CDokumente/{klage}/cAIKnowledges"

    linked = [(await call("POST", path, json={"id": akte})).json() for _ in range(2)]
    assert call.crm.knowledge_of(klage) == [akte]
    gone = [(await call("DELETE", path, json={"id": akte})).json() for _ in range(2)]

    assert (linked, gone) == ([True, True], [True, True])
    assert call.crm.knowledge_of(klage) == []
    assert [effect.name for effect in call.crm.effects()] == ["link", "unlink"]


async def test_a_link_that_is_no_list_is_403(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)

    assert (await call("POST", f"/CDokumente/{klage}/assignedUser", json={"id": "1"})).status == 403


async def test_linking_marks_the_junction_row_and_the_knowledge_base(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    akte = call.crm.add_knowledge("Akte", "akte-1", syncStatus="synced")

    call.crm.link(klage, akte, silent=True)
    assert call.crm.junction(klage, akte)["syncstatus"] == "new"
    assert call.crm.record("CAIKnowledge", akte)["syncStatus"] == "unclean"
    call.crm.replace_file(klage, V2)

    assert call.crm.junction(klage, akte)["syncstatus"] == "unclean"
    page = (await call("GET", f"/CAIKnowledge/{akte}/dokumentes")).json()
    assert [record["id"] for record in page["list"]] == [klage]
    assert "syncstatus" not in page["list"][0]


async def test_junction_rows_are_entities_only_when_switched(call: Caller) -> None:
    call.crm.add_document("Klage.pdf", V1, collections=["akte-1"])
    assert (await call("GET", "/CAIKnowledgeCDokumente")).status == 404

    await call("POST", "/_sim/quirks", json={"junction_api": True})
    [row] = (await call("GET", "/CAIKnowledgeCDokumente")).json()["list"]
    body = {"aiDocumentId": "file_1", "syncstatus": "synced"}
    answer = await call("PUT", f"/CAIKnowledgeCDokumente/{row['id']}", json=body)

    assert answer.json()["aiDocumentId"] == "file_1"


# files


async def test_a_file_is_downloaded_with_its_name_and_length(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    attachment = call.crm.document(klage)["dokumentId"]

    answer = await call("GET", f"/Attachment/file/{attachment}")
    told = (await call("GET", f"/Attachment/{attachment}")).json()

    assert (answer.body, answer.headers["Content-Length"]) == (V1, "16")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="Klage.pdf"'
    assert (told["size"], told["type"], told["name"]) == (16, "application/pdf", "Klage.pdf")
    assert (told["relatedType"], told["relatedId"], told["field"]) == (
        "CDokumente",
        klage,
        "dokument",
    )


@pytest.mark.parametrize(
    ("generation", "field", "new", "changed"),
    [
        ("seed", "fileStatus", "neu", "geändert"),
        ("march", "dateiStatus", "Neu", "Geändert"),
        ("later", "fileStatus", "new", "changed"),
    ],
)
async def test_a_replaced_file_is_a_new_attachment_with_new_hashes_and_status(
    call: Caller, generation: str, field: str, new: str, changed: str
) -> None:
    await call("POST", "/_sim/quirks", json={"generation": generation})
    klage = call.crm.add_document("Klage.pdf", V1)
    before = (await call("GET", f"/CDokumente/{klage}")).json()

    call.crm.replace_file(klage, V2)
    after = (await call("GET", f"/CDokumente/{klage}")).json()

    assert (before[field], after[field]) == (new, changed)
    assert before["dokumentId"] != after["dokumentId"]
    assert (before["md5sum"], after["md5sum"]) == (V1_MD5, V2_MD5)
    assert after["blake3hash"].startswith("675ee4c9")
    assert (await call("GET", f"/Attachment/file/{before['dokumentId']}")).body == V1


async def test_a_preview_is_uploaded_and_then_set(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    file = "data:image/webp;base64," + base64.b64encode(b"picture").decode()
    body = {
        "name": "preview.webp",
        "type": "image/webp",
        "role": "Attachment",
        "relatedType": "CDokumente",
        "field": "preview",
        "file": file,
    }

    made = (await call("POST", "/Attachment", json=body)).json()
    record = (await call("PUT", f"/CDokumente/{klage}", json={"previewId": made["id"]})).json()

    assert (record["previewId"], record["previewName"]) == (made["id"], "preview.webp")
    assert (await call("GET", f"/Attachment/file/{made['id']}")).body == b"picture"
    assert record["fileStatus"] == "neu"


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"field": None}, "No `field` and `parentType`."), ({"file": "abc"}, "Bad file contents.")],
)
async def test_an_incomplete_upload_is_400_with_the_reason(
    call: Caller, change: dict[str, Any], reason: str
) -> None:
    body = {"name": "a", "relatedType": "CDokumente", "field": "preview", "file": "data:,YQ=="}

    answer = await call("POST", "/Attachment", json={**body, **change})

    assert (answer.status, answer.reason) == (400, reason)


async def test_a_file_in_chunks_is_whole_when_the_size_is_reached(call: Caller) -> None:
    body = {
        "name": "a.txt",
        "relatedType": "CDokumente",
        "field": "dokument",
        "isBeingUploaded": True,
        "size": 6,
    }
    made = (await call("POST", "/Attachment", json=body)).json()

    async def chunk(part: bytes) -> int:
        data = b"data:text/plain;base64," + base64.b64encode(part)
        return (await call("POST", f"/Attachment/chunk/{made['id']}", data=data)).status

    assert await chunk(b"abc") == 200
    assert (await call("GET", f"/Attachment/file/{made['id']}")).status == 404
    assert await chunk(b"defg") == 500
    assert await chunk(b"def") == 200
    assert (await call("GET", f"/Attachment/file/{made['id']}")).body == b"abcdef"


# who may come in


async def test_a_wrong_key_is_401_and_locks_the_address_out_after_ten(call: Caller) -> None:
    wrong = {"X-Api-Key": "wrong"}

    denied = [(await call("GET", "/App/user", headers=wrong)).status for _ in range(11)]
    banned = await call("GET", "/App/user")
    await call("POST", "/_sim/clock", json={"advance": 61})
    lifted = await call("GET", "/App/user")

    assert denied == [401] * 11
    assert (banned.status, banned.body) == (403, b"")
    assert str(banned.reason).startswith("Max failed login attempts exceeded for IP address")
    assert (lifted.status, lifted.json()["user"]["type"]) == (200, "api")


@pytest.mark.parametrize("form", ["hex", "raw"])
async def test_an_hmac_signature_of_method_and_path_opens_the_api(call: Caller, form: str) -> None:
    secret, path = b"0123456789abcdef0123456789abcdef", "/CDokumente/69a68b9cd4c01ad4c"
    mac = hmac.new(secret, f"GET {path}".encode(), hashlib.sha256)
    proof = mac.hexdigest().encode() if form == "hex" else mac.digest()
    signed = base64.b64encode(API_KEY.encode() + b":" + proof).decode()
    if form == "hex":
        assert signed == (
            "N2YzYzlhNWQxZThiNGM2ZmEwZDJlOWI3YzRhMWY4ZTY6M2VjMTVmY2VkMjc0ODM2MmZjZWM5ZGFmNzk0NTc3"
            "YjkxMWM4NzM0MjUwNDViNWU4NTBhYmMzOWYwZjJlMzNhZg=="
        )
    headers = {"X-Api-Key": None, "X-Hmac-Authorization": signed}

    # 404 for the record, so the caller was let in
    assert (await call("GET", path, headers=headers)).status == 404
    assert (await call("GET", "/CDokumente/other", headers=headers)).status == 401


async def test_metadata_is_given_in_parts(call: Caller) -> None:
    fields = (await call("GET", "/Metadata?key=entityDefs.CDokumente.fields")).json()
    options = (
        await call("GET", "/Metadata?key=entityDefs.CDokumente.fields.fileStatus.options")
    ).json()

    assert fields["dokument"]["type"] == "file"
    assert options[:3] == ["neu", "geändert", "synced"]
    assert (await call("GET", "/Metadata?key=entityDefs.CNothing")).json() is None


async def test_a_notification_and_a_task_are_kept(call: Caller) -> None:
    note = {"type": "Message", "userId": "1", "message": "Bitte prüfen", "data": {"entityId": "x"}}
    task = {"name": "Konto ändern", "parentType": "CBeteiligte", "parentId": "p1"}

    made = (await call("POST", "/Notification", json=note)).json()
    todo = (await call("POST", "/Task", json=task)).json()

    assert (made["data"], made["userName"]) == ({"entityId": "x"}, "admin")
    assert (todo["status"], todo["parentId"]) == ("Not Started", "p1")


# faults


async def test_a_lost_write_answer_leaves_the_change(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    # twice, because this client repeats a lost PUT once by itself
    await call.fault("reset_after", operation="update", times=2)

    with pytest.raises(aiohttp.ClientError):
        await call("PUT", f"/CDokumente/{klage}", json={"xaiId": "file_1"})

    assert call.crm.document(klage)["xaiId"] == "file_1"


async def test_a_change_may_become_visible_only_later(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    await call.fault("delayed_visibility", operation="update", seconds=5)
    await call("PUT", f"/CDokumente/{klage}", json={"xaiId": "file_1"})

    early = (await call("GET", f"/CDokumente/{klage}")).json()["xaiId"]
    await call("POST", "/_sim/clock", json={"advance": 5})
    late = (await call("GET", f"/CDokumente/{klage}")).json()["xaiId"]

    assert (early, late) == (None, "file_1")


async def test_a_planned_error_has_its_reason_in_the_header_and_no_body(call: Caller) -> None:
    await call.fault("status", status=500, operation="list", message="Database error")

    answer = await call("GET", "/CDokumente")

    assert (answer.status, answer.reason, answer.body) == (500, "Database error", b"")


async def test_espo_31_sixty_megabytes_are_downloaded_whole_or_torn_as_planned(
    tmp_path: Any, call: Caller
) -> None:
    from bitbylaw_simulators.contents import Contents

    crm = EspoCRM(SimClock(), contents=Contents(tmp_path))
    content = bytes(range(256)) * 4096 * 60
    attachment = crm.add_attachment("Anlagen.pdf", content)
    async with SimServer(crm) as server:
        url = f"{server.url}/api/v1/Attachment/file/{attachment}"
        found, size = hashlib.sha256(), 0
        async with call.session.get(url, headers={"X-Api-Key": API_KEY}) as response:
            async for chunk in response.content.iter_chunked(1 << 20):
                found.update(chunk)
                size += len(chunk)
        crm.faults.plan("torn", operation="download", bytes=1_000_000)
        async with call.session.get(url, headers={"X-Api-Key": API_KEY}) as response:
            assert response.headers["Content-Length"] == str(len(content))
            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    assert (size, found.hexdigest()) == (len(content), hashlib.sha256(content).hexdigest())


# edits through the control face


async def test_a_person_s_edits_come_in_through_the_control_face(call: Caller) -> None:
    async def edit(**body: Any) -> Any:
        answer = await call("POST", "/_sim/edit", json=body)
        assert answer.status == 200, answer.body
        return answer.json()

    base64_v2 = base64.b64encode(V2).decode()
    made = await edit(action="create", name="Klage.pdf", text="v1", collections=["akte-1"])
    klage = made["id"]
    await edit(action="update", id=klage, values={"name": "Klage 2.pdf"})
    await edit(action="replace_file", id=klage, content_base64=base64_v2)
    linked = await edit(action="link", id=klage, knowledge="akte-2")
    await edit(action="relate_silently", id=klage, knowledge="akte-3")
    await edit(action="unlink", id=klage, knowledge="akte-1")

    record = call.crm.document(klage)
    assert (record["name"], record["md5sum"]) == ("Klage 2.pdf", V2_MD5)
    assert record["modifiedByName"] == "Anna Schäfer"
    assert len(linked["knowledge"]) == 2
    named = [call.crm.record("CAIKnowledge", k)["name"] for k in call.crm.knowledge_of(klage)]
    assert named == ["akte-2", "akte-3"]
    await edit(action="delete", id=klage)
    assert (await call("GET", f"/CDokumente/{klage}")).status == 404


async def test_a_file_is_replaced_by_plain_bytes_too(call: Caller) -> None:
    klage = call.crm.add_document("Klage.pdf", V1)
    query = {"action": "replace_file", "id": klage, "name": "Neu.pdf"}
    headers = {"Content-Type": "application/octet-stream"}

    await call("POST", "/_sim/edit", params=query, data=V2, headers=headers)

    assert call.crm.document(klage)["dokumentName"] == "Neu.pdf"
    assert call.crm.document(klage)["md5sum"] == V2_MD5


async def test_an_unknown_edit_says_what_there_is(call: Caller) -> None:
    answer = await call("POST", "/_sim/edit", json={"action": "explode"})

    assert answer.status == 400
    assert "replace_file" in answer.json()["error"]
    gone = await call("POST", "/_sim/edit", json={"action": "delete", "id": "nobody"})
    assert gone.status == 404


# webhooks over HTTP


@dataclass
class Receiver:
    """A web server that keeps what is posted to it and answers as told."""

    url: str = ""
    status: int = 200
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def handle(self, request: web.Request) -> web.Response:
        async with self.arrived:
            self.posts.append((dict(request.headers), await request.read()))
            self.arrived.notify_all()
        return web.Response(status=self.status)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    found = Receiver()
    app = web.Application()
    app.router.add_post("/{tail:.*}", found.handle)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield found
    await runner.cleanup()


async def test_a_change_is_posted_signed_over_its_raw_bytes(
    call: Caller, receiver: Receiver
) -> None:
    Pump(call.crm, call.session)
    url = f"{receiver.url}/vmh/webhook/document/update"
    body = {"event": "CDokumente.update", "url": url}
    webhook = (await call("POST", "/Webhook", json=body)).json()
    klage = call.crm.add_document("Klage.pdf", V1)
    call.crm.edit(klage, name="Räumung/1.pdf")
    call.crm.edit(klage, name="Räumung/2.pdf")

    told = (await call("POST", "/_sim/deliver", json={})).json()["delivered"]

    [(headers, posted)] = receiver.posts
    assert told[0] | {"webhook_id": ""} == {
        "webhook_id": "",
        "event": "CDokumente.update",
        "objects": 2,
        "attempt": 1,
        "status": 200,
    }
    first, second = json.loads(posted)
    assert list(first) == ["name", "modifiedById", "modifiedByName", "id"]
    assert list(second) == ["name", "id"]
    assert posted.endswith(b',{"name":"R\\u00e4umung\\/2.pdf","id":"%s"}]' % klage.encode())
    proof = hmac.new(webhook["secretKey"].encode(), posted, hashlib.sha256).hexdigest()
    signed = base64.b64encode(f"{webhook['id']}:{proof}".encode()).decode()
    assert headers["Signature"] == signed
    assert headers["Content-Type"] == "application/json"


async def test_espo_15_a_503_is_sent_again_ten_minutes_later(
    call: Caller, receiver: Receiver
) -> None:
    Pump(call.crm, call.session)
    call.crm.add_webhook("CDokumente.create", receiver.url)
    call.crm.add_document("Klage.pdf", V1)
    receiver.status = 503
    await call("POST", "/_sim/deliver", json={})
    receiver.status = 200

    await call("POST", "/_sim/deliver", json={"passes": 5})
    assert len(receiver.posts) == 1
    await call("POST", "/_sim/clock", json={"advance": 600})
    await call("POST", "/_sim/deliver", json={})

    assert [body for _, body in receiver.posts] == [receiver.posts[0][1]] * 2
    assert not call.crm.webhooks.items


async def test_espo_16_an_answer_that_never_arrives_counts_as_408(
    call: Caller, receiver: Receiver
) -> None:
    Pump(call.crm, call.session)
    call.crm.add_webhook("CDokumente.create", receiver.url)
    call.crm.add_document("Klage.pdf", V1)
    await call.fault("lost_receipt", operation="deliver")

    told = (await call("POST", "/_sim/deliver", json={})).json()["delivered"]

    assert (told[0]["status"], len(receiver.posts)) == (408, 1)
    [item] = call.crm.webhooks.items.values()
    assert (item.status, item.attempts) == ("Pending", 1)


async def test_espo_18_a_410_removes_the_webhook(call: Caller, receiver: Receiver) -> None:
    Pump(call.crm, call.session)
    call.crm.add_webhook("CDokumente.create", receiver.url)
    call.crm.add_document("Klage.pdf", V1)
    receiver.status = 410

    await call("POST", "/_sim/deliver", json={})

    assert (await call("GET", "/Webhook")).json()["list"] == []


async def test_a_refused_connection_is_0_and_kept_by_9_3(call: Caller) -> None:
    Pump(call.crm, call.session)
    call.crm.add_webhook("CDokumente.create", "http://127.0.0.1:9/nobody")
    call.crm.add_document("Klage.pdf", V1)

    told = (await call("POST", "/_sim/deliver", json={})).json()["delivered"]

    assert told[0]["status"] == 0
    assert [item.status for item in call.crm.webhooks.items.values()] == ["Pending"]


async def test_the_pump_delivers_by_itself_and_catches_up_when_time_jumps(
    call: Caller, receiver: Receiver
) -> None:
    # given 45 changes, more than two passes expand
    call.crm.add_webhook("CDokumente.create", receiver.url)
    for number in range(45):
        call.crm.add_document(f"{number}.pdf", V1)
    pump = asyncio.create_task(Pump(call.crm, call.session).run())
    await asyncio.sleep(0)

    # when six minutes pass at once
    await call("POST", "/_sim/clock", json={"advance": 360})
    async with asyncio.timeout(5), receiver.arrived:
        await receiver.arrived.wait_for(lambda: len(receiver.posts) == 3)
    pump.cancel()

    # then three passes brought them in portions of 20
    assert [len(json.loads(body)) for _, body in receiver.posts] == [20, 20, 5]


async def test_an_internal_address_is_refused_unless_allowed(call: Caller) -> None:
    await call("POST", "/_sim/quirks", json={"webhook_address_check": True})
    body = {"event": "CDokumente.create", "url": "http://ingest:8080/x"}

    refused = await call("POST", "/Webhook", json=body)
    allowed = {"webhook_allowed_addresses": ["ingest:8080"]}
    await call("POST", "/_sim/quirks", json=allowed)
    made = await call("POST", "/Webhook", json=body)

    assert (refused.status, made.status) == (403, 200)


async def test_a_webhook_belongs_to_its_maker_and_keeps_event_and_secret(call: Caller) -> None:
    body = {
        "event": "CDokumente.fieldUpdate.dokument",
        "url": "http://x.example/y",
        "skipOwn": True,
    }

    made = (await call("POST", "/Webhook", json=body)).json()
    change = {"event": "CDokumente.create", "secretKey": "0" * 32, "isActive": False}
    after = (await call("PUT", f"/Webhook/{made['id']}", json=change)).json()

    assert (made["entityType"], made["type"], made["field"]) == (
        "CDokumente",
        "fieldUpdate",
        "dokument",
    )
    assert (made["userId"], made["skipOwn"], len(made["secretKey"])) == (
        call.crm.api_user.id,
        True,
        32,
    )
    assert (after["event"], after["secretKey"]) == (made["event"], made["secretKey"])
    assert after["isActive"] is False


@pytest.mark.parametrize("event", ["Attachment.create", "CDokumente.explode", "CNothing.update"])
async def test_an_event_that_does_not_exist_cannot_be_registered(call: Caller, event: str) -> None:
    answer = await call("POST", "/Webhook", json={"event": event, "url": "http://x.example"})

    assert (answer.status, answer.reason) == (400, "validationFailure")


async def test_an_api_user_registers_at_most_50_webhooks(call: Caller) -> None:
    body = {"event": "CDokumente.update", "url": "http://x.example/y"}

    answers = [(await call("POST", "/Webhook", json=body)).status for _ in range(51)]

    assert answers == [200] * 50 + [403]


@pytest.mark.parametrize("entity", ["Webhook", "Notification"])
async def test_an_api_user_sees_nobody_else_s_webhooks_and_notifications(
    call: Caller, entity: str
) -> None:
    if entity == "Webhook":
        theirs = call.crm.add_webhook("CDokumente.update", "https://elsewhere.example/hook")
    else:
        theirs = call.crm.create("Notification", {"type": "Message", "message": "neu"})
    listed = (await call("GET", f"/{entity}")).json()
    assert listed == {"total": 0, "list": []}
    for method in ("GET", "PUT", "DELETE"):
        body: dict[str, Any] = {"json": {}} if method == "PUT" else {}
        assert (await call(method, f"/{entity}/{theirs}", **body)).status == 403
    assert len(call.crm.records(entity)) == 1
