"""The simulators without sockets: a whole exchange, samples, quirks, restart, the command."""

import asyncio
import base64
import hashlib
import hmac
import json
import re
import signal
import socket
import sys
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

import bitbylaw_simulators
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import Delivery, EspoCRM, EspoQuirks
from bitbylaw_simulators.faults import KINDS
from bitbylaw_simulators.quirks import switched, table
from bitbylaw_simulators.samples import pdf, sample_world
from bitbylaw_simulators.serve import Kept, main
from bitbylaw_simulators.wire import ConnectionReset, Made, SimRequest, SimResponse, TornAnswer
from bitbylaw_simulators.xai import Xai, XaiQuirks

README = Path(bitbylaw_simulators.__file__).parents[2] / "README.md"


def espo_request(crm: EspoCRM, method: str, path: str, body: Any = None) -> SimRequest:
    raw = b"" if body is None else json.dumps(body).encode()
    return SimRequest(
        method, f"/api/v1{path}", headers={"x-api-key": str(crm.api_user.api_key)}, body=raw
    )


def xai_request(xai: Xai, method: str, path: str, body: bytes = b"", kind: str = "") -> SimRequest:
    key = xai.management_key if path.startswith("/v1/collections") else xai.api_key
    headers = {"authorization": f"Bearer {key}", "content-type": kind}
    return SimRequest(method, path, headers=headers, body=body)


async def uploaded(xai: Xai, content: bytes, name: str = "Klage.pdf") -> SimResponse:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n--b--\r\n'
        % (name.encode(), content)
    )
    return await xai.handle(
        xai_request(xai, "POST", "/v1/files", body, "multipart/form-data; boundary=b")
    )


async def test_a_document_goes_from_one_to_the_other_without_a_socket() -> None:
    clock = SimClock()
    crm, xai = EspoCRM(clock), Xai(clock)
    akte = xai.add_collection("akte-1")
    klage = crm.add_document("Klage.pdf", b"v1", collections=[akte])

    record = (await crm.handle(espo_request(crm, "GET", f"/CDokumente/{klage}"))).json()
    path = f"/Attachment/file/{record['dokumentId']}"
    content = (await crm.handle(espo_request(crm, "GET", path))).read()
    file_id = (await uploaded(xai, content)).json()["id"]
    path = f"/v1/collections/{akte}/documents/{file_id}"
    assert (await xai.handle(xai_request(xai, "POST", path, b"{}"))).status == 200
    body = {"xaiId": file_id, "xaiCollections": [akte], "fileStatus": "synced"}
    await crm.handle(espo_request(crm, "PUT", f"/CDokumente/{klage}", body))

    assert xai.contents("akte-1") == [b"v1"]
    assert xai.file_ids(akte) == [file_id]
    assert crm.document(klage)["xaiCollections"] == [akte]
    assert [effect.name for effect in xai.effects()] == ["upload", "attach"]
    assert [effect.name for effect in crm.effects()] == ["update"]


async def test_faults_reach_callers_without_sockets_as_exceptions() -> None:
    xai = Xai()
    xai.faults.plan("reset_after", operation="upload")
    xai.faults.plan("torn", operation="file_content", share=0.5)

    with pytest.raises(ConnectionReset):
        await uploaded(xai, b"12345678")
    [file] = xai.files()
    with pytest.raises(TornAnswer) as torn:
        await xai.handle(xai_request(xai, "GET", f"/v1/files/{file.id}/content"))

    assert (torn.value.answer.read(), torn.value.sent) == (b"12345678", 4)


async def test_predecessor_s_values_prevail_over_the_hooks() -> None:
    crm = EspoCRM()
    klage = crm.add_document("Klage.pdf", b"v1", fileStatus="synced", xaiId="file_1", md5sum="0")

    record = crm.document(klage)

    assert (record["fileStatus"], record["xaiId"], record["md5sum"]) == ("synced", "file_1", "0")


async def test_deliveries_may_be_carried_by_a_callback_with_planned_faults() -> None:
    crm = EspoCRM()
    crm.add_webhook("CDokumente.create", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.faults.plan("duplicate_delivery", operation="deliver")
    posted: list[Delivery] = []

    async def post(delivery: Delivery) -> int:
        posted.append(delivery)
        return 200

    done = await crm.deliver_pass(post)

    assert [json.loads(delivery.body)[0]["id"] for delivery in posted] == [klage, klage]
    assert [(entry["event"], entry["status"]) for entry in done] == [("CDokumente.create", 200)]
    assert await crm.deliver_pass(post) == []


async def test_people_s_saves_mark_a_party_and_ours_do_not() -> None:
    crm = EspoCRM()
    party = crm.create("CBeteiligte", {"firstName": "Jörg", "lastName": "Müller"})
    made = crm.record("CBeteiligte", party)
    crm.edit(party, entity="CBeteiligte", user=crm.api_user, syncStatus="clean", betnr=7)
    ours = crm.record("CBeteiligte", party)["syncStatus"]
    crm.edit(party, entity="CBeteiligte", emailAddress="jm@example.com")
    theirs = crm.record("CBeteiligte", party)

    assert (made["name"], made["syncStatus"]) == ("Jörg Müller", "pending_sync")
    assert (ours, theirs["syncStatus"]) == ("clean", "dirty")
    assert theirs["emailAddressData"][0]["primary"] is True


def test_ids_are_seventeen_characters_and_never_twice() -> None:
    crm = EspoCRM()
    ids = {crm.add_knowledge(f"{number}", None) for number in range(500)}

    assert len(ids) == 500
    assert all(re.fullmatch(r"[0-9a-f]{17}", record_id) for record_id in ids)


# samples


def test_the_sample_world_is_the_same_every_time() -> None:
    worlds = []
    for _ in range(2):
        crm, xai = EspoCRM(), Xai()
        worlds.append(sample_world(crm, xai, webhook_base="http://127.0.0.1:3111"))

    first = worlds[0]
    assert worlds[0] == worlds[1]
    assert (len(first.collections), len(first.documents), len(first.webhooks)) == (3, 8, 9)
    assert len(set(first.webhooks.values())) == 9
    urls = {hook["event"]: hook["url"] for hook in crm.records("Webhook")}
    assert urls["CDokumente.update"] == "http://127.0.0.1:3111/vmh/webhook/document/update"
    assert crm.due_deliveries() == []


def test_the_sample_documents_are_announced_when_asked() -> None:
    crm, xai = EspoCRM(), Xai()
    world = sample_world(crm, xai, webhook_base="http://x", announced=True)

    [delivery] = crm.due_deliveries()

    told = [entry["id"] for entry in json.loads(delivery.body)]
    assert told == list(world.documents.values())
    linked = {record_id: len(crm.knowledge_of(record_id)) for record_id in told}
    assert sorted(linked.values()) == [0, 0, 1, 1, 1, 1, 1, 2]


def test_a_sample_pdf_has_a_right_table_of_its_objects() -> None:
    content = pdf("eine Zeile")

    start = int(content.rpartition(b"startxref\n")[2].split(b"\n")[0])
    places = [int(entry) for entry in re.findall(rb"(\d{10}) 00000 n", content[start:])]
    assert content[start : start + 4] == b"xref"
    for number, place in enumerate(places, start=1):
        assert content[place:].startswith(b"%d 0 obj" % number)


# quirks


@pytest.mark.parametrize("quirks", [EspoQuirks(), XaiQuirks()])
def test_the_readme_lists_every_quirk_as_it_is(quirks: Any) -> None:
    assert table(quirks) in README.read_text("utf-8")


def test_the_readme_lists_every_kind_of_fault() -> None:
    text = README.read_text("utf-8")

    assert [kind for kind, about in KINDS.items() if f"| `{kind}` | {about} |" not in text] == []


@pytest.mark.parametrize(
    "values",
    [{"nothing": 1}, {"version": "8"}, {"hash_hook": "yes"}, {"list_limit": True}, {"uuid_ids": 1}],
)
def test_a_quirk_that_does_not_fit_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        switched(EspoQuirks(), values)


def test_a_quirk_with_a_list_and_one_with_a_number_are_switched() -> None:
    quirks = switched(EspoQuirks(), {"optimistic_locking": ["CDokumente"], "delivery_seconds": 1})

    assert quirks.optimistic_locking == ("CDokumente",)
    assert quirks.delivery_seconds == 1.0


# restart


def test_a_restarted_simulator_holds_what_it_held_and_gives_no_id_twice(tmp_path: Path) -> None:
    from bitbylaw_simulators.contents import Contents

    first = Xai(contents=Contents(tmp_path))
    akte = first.add_collection("akte-1")
    file_id = first.add_file("Klage.pdf", b"v1")
    first.attach(akte, file_id)
    state = json.loads(json.dumps(first.state()))

    second = Xai(contents=Contents(tmp_path))
    second.load(state)

    assert second.contents("akte-1") == [b"v1"]
    assert second.add_file("Zwei.pdf", b"v2") not in {file_id, akte}
    assert len(second.files()) == 2


def test_a_restarted_crm_holds_records_links_and_files(tmp_path: Path) -> None:
    from bitbylaw_simulators.contents import Contents

    first = EspoCRM(contents=Contents(tmp_path))
    klage = first.add_document("Klage.pdf", b"v1", collections=["akte-1"])
    state = json.loads(json.dumps(first.state()))

    second = EspoCRM(contents=Contents(tmp_path))
    second.load(state)

    assert second.document(klage) == first.document(klage)
    assert second.knowledge_of(klage) == first.knowledge_of(klage)
    second.link(klage, "akte-2")
    assert len(second.knowledge_of(klage)) == 2


# the command


async def started(*options: str) -> tuple[asyncio.subprocess.Process, dict[str, Any]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bitbylaw_simulators.serve",
        *options,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    async with asyncio.timeout(15):
        line = await process.stdout.readline()
    addresses: dict[str, Any] = json.loads(line)
    return process, addresses


async def test_the_command_says_where_it_listens_and_ends_on_a_signal(tmp_path: Path) -> None:
    options = ("--state-dir", str(tmp_path), "--webhook-base", "http://127.0.0.1:9")
    process, told = await started(*options)
    async with aiohttp.ClientSession() as session:
        body = {"action": "create", "name": "Neu.txt", "text": "neu"}
        async with session.post(f"{told['espocrm']}/_sim/edit", json=body) as response:
            made = (await response.json())["id"]
        token = {"Authorization": f"Bearer {await advoware_token(session, told)}"}
        termine = f"{told['advoware']}/api/v1/advonet/Termine"
        body = {"datum": "2030-01-01", "text": "Neu"}
        async with session.post(termine, json=body, headers=token) as response:
            number = (await response.json())["frNr"]
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert told["pid"] == process.pid
    assert len(told["webhook_secrets"]) == 9

    # started again, it holds what was there
    process, told = await started(*options)
    async with aiohttp.ClientSession(headers={"X-Api-Key": told["espocrm_api_key"]}) as session:
        async with session.get(f"{told['espocrm_api']}/CDokumente/{made}") as response:
            record = await response.json()
        url = f"{told['espocrm_api']}/Attachment/file/{record['dokumentId']}"
        async with session.get(url) as response:
            content = await response.read()
        termine = f"{told['advoware']}/api/v1/advonet/Termine?frnr={number}"
        async with session.get(termine, headers=token) as response:
            [termin] = await response.json()
    process.send_signal(signal.SIGINT)
    async with asyncio.timeout(10):
        assert await process.wait() == 0
    assert (record["name"], content) == ("Neu.txt", b"neu")
    assert termin["text"] == "Neu"


@pytest.mark.parametrize(
    "option",
    [
        "espocrm.nothing=1",
        "other.x=1",
        "xai.double_attach=500",
        "xai.page_size=x",
        "advoware.nothing=1",
        "advoware.komm_kz=one",
    ],
)
def test_the_command_refuses_a_quirk_it_does_not_know(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--quirk", option])

    assert ended.value.code == 2
    assert "bitbylaw-simulators:" in capsys.readouterr().err


async def advoware_token(session: aiohttp.ClientSession, told: dict[str, Any]) -> str:
    """Log in with what the command told, through the addresses that the configurator tells."""
    params = {"Kanzlei": told["advoware_kanzlei"]}
    async with session.get(told["advoware_configurator"], params=params) as response:
        gateway = (await response.json())["securityGateway"]
    body = token_request(
        told["advoware_api_key"],
        AppID=told["advoware_app_id"],
        Kanzlei=told["advoware_kanzlei"],
        Database=told["advoware_database"],
        User=told["advoware_user"],
        Password=told["advoware_password"],
    )
    async with session.post(f"{gateway}api/v1/Token", json=body) as response:
        return str((await response.json())["access_token"])


def token_request(api_key: str, **given: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "Role": 2,
        "Product": 64,
        "Nonce": uuid.uuid4().hex,
        "RequestTimeStamp": SimClock.real().now().isoformat(timespec="milliseconds"),
        **given,
    }
    signed = "{Product}:{AppID}:{Nonce}:{RequestTimeStamp}".format(**body)
    mac = hmac.digest(base64.b64decode(api_key), signed.encode(), "sha512")
    return {**body, "HMAC512Signature": base64.b64encode(mac).decode()}


def peak_memory(pid: int) -> int:
    """Return the most bytes that a process has had in memory so far."""
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


LARGE = 100 * 1024 * 1024


@pytest.mark.skipif(not Path("/proc").exists(), reason="reads /proc")
async def test_a_hundred_megabytes_go_through_advoware_both_ways_in_constant_memory() -> None:
    process, told = await started()
    sent, got = hashlib.sha256(), hashlib.sha256()

    async def pieces() -> AsyncIterator[bytes]:
        for piece in Made(LARGE).chunks(256 * 1024):
            sent.update(piece)
            yield piece

    base = f"{told['advoware']}/relay/api/v1/advonet/Sim"
    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": f"Bearer {await advoware_token(session, told)}"}
        before = peak_memory(process.pid)
        async with session.put(f"{base}/echo", data=pieces(), headers=headers) as response:
            arrived = await response.json()
        async with session.get(f"{base}/bytes/{LARGE}", headers=headers) as response:
            async for piece in response.content.iter_chunked(256 * 1024):
                got.update(piece)
        grown = peak_memory(process.pid) - before
    process.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        await process.wait()

    assert (arrived["size"], arrived["sha256"]) == (LARGE, sent.hexdigest())
    assert got.hexdigest() == sent.hexdigest()
    assert grown < 40 * 1024 * 1024


def test_the_command_says_which_port_is_taken(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(SystemExit) as ended:
            main(["--xai-port", str(port)])

    assert ended.value.code == 2
    assert str(port) in capsys.readouterr().err


async def test_a_killed_simulator_holds_what_was_written(tmp_path: Path) -> None:
    crm = EspoCRM()
    kept = Kept(crm, tmp_path)
    keeping = asyncio.create_task(kept.run())
    klage = crm.add_document("Klage.pdf", b"v1")
    async with asyncio.timeout(5):
        while not (tmp_path / "espocrm.json").exists():  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.01)
    keeping.cancel()

    other = EspoCRM()
    assert Kept(other, tmp_path).load()
    assert other.document(klage)["name"] == "Klage.pdf"
