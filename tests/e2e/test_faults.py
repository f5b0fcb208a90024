"""Poison, a Redis that goes away, marked data: the whole system as processes."""

import asyncio
import json
from pathlib import Path

import pytest

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_devstack import Stack
from system import System, running

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]


async def _ends(system: System) -> list[JournalEntry]:
    records = await system.records(topics.JOURNAL.name)
    entries = [JournalEntry.model_validate_json(r.value) for r in records if r.value]
    return [entry for entry in entries if entry.phase == "end"]


async def test_one_undecodable_record_in_a_thousand_is_dead_and_the_others_are_done(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path) as system:
        poison = b'{"entity_type": "CDokumente", "entity_id": '
        for batch in range(10):
            records = []
            for number in range(100):
                document = f"doc{batch * 100 + number:04}"
                if document == "doc0500":
                    key = document.encode()
                    records.append(Outgoing("vmh.document.update", key, poison))
                    continue
                event = EntityChanged(entity_type="CDokumente", entity_id=document, action="update")
                records.append(
                    codec.encode(
                        topics.DOCUMENT_UPDATE,
                        event,
                        event_id=new_event_id(),
                        source="test",
                        now=SystemClock().now(),
                    )
                )
            await system.log.append(records)

        async def all_ended() -> bool:
            return len(await _ends(system)) >= 999 and bool(await system.dead_letters())

        await system.until(all_ended, seconds=120, every=0.5)
        ends = await _ends(system)
        assert sorted(e.entity_id for e in ends) == sorted(
            f"doc{n:04}" for n in range(1000) if n != 500
        )
        assert {entry.outcome for entry in ends} == {"skipped"}

        (letter,) = await system.dead_letters()
        assert letter.error == "Undecodable"
        assert letter.raw_bytes == poison
        assert letter.origin.startswith("vmh.document.update:")
        assert "expected EntityChanged" in letter.reason


async def test_redis_stopped_in_the_middle_costs_one_warning_and_nothing_else(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path) as system:
        collection, knowledge = await system.collection("Akte")
        documents = []
        for number in range(30):
            made = await system.edit(
                action="create", name=f"Brief {number}.pdf", content=f"Brief {number}".encode()
            )
            await system.edit(action="link", id=made["id"], knowledge=knowledge)
            documents.append(str(made["id"]))
        await system.webhook("create", *documents[:15])
        await stack.redis.stop()
        try:
            await system.webhook("create", *documents[15:])

            async def all_attached() -> bool:
                state = await system.state("xai")
                return len(state["collections"][0]["documents"]) == 30

            await system.until(all_attached)

            async def all_ended() -> bool:
                return {e.entity_id for e in await _ends(system)} >= set(documents)

            await system.until(all_ended)
            # before Redis is back: whoever asks it then says so at once
            async with system.session.get(f"{system.worker.url}/metrics") as answer:
                page = await answer.text()
        finally:
            await stack.redis.start()

        assert (await system.state("xai"))["collections"][0]["id"] == collection
        assert await system.dead_letters() == []
        warnings = [line for line in system.worker.lines() if line["level"] == "warning"]
        about = [line for line in warnings if "Redis does not answer" in line["event"]]
        assert len(about) == 1
        counted = [
            float(line.rpartition(" ")[2])
            for line in page.splitlines()
            if line.startswith("bitbylaw_lock_store_down_total{")
        ]
        assert sum(counted) > 0
        assert "bitbylaw_redis_up 0.0" in page


MARK = "Zwiebelfisch"
"""Stands for a client's name; no output but the CRM, xAI and personal topics may hold it."""


async def test_no_personal_data_and_no_secret_leaves_by_log_metric_header_or_topic(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path) as system:
        _, knowledge = await system.collection("Akte")
        secrets = [
            system.simulators[name]
            for name in ("espocrm_api_key", "xai_api_key", "xai_management_key")
        ] + ["a key that only tests use"]

        # given documents that name a client everywhere a person could write it
        ids: list[str] = []
        for number in range(4):
            made = await system.edit(
                action="create",
                name=f"Klage {MARK} {number}.pdf",
                content=f"{MARK} gegen Unbekannt {number}".encode(),
                values={"description": f"Mandant {MARK}"},
            )
            await system.edit(action="link", id=made["id"], knowledge=knowledge)
            ids.append(str(made["id"]))

        # when they are synced, changed, refused, moved and deleted, and posts are torn
        await _post(system, [{"id": i, "name": f"Klage {MARK}.pdf"} for i in ids])
        await _post(system, {"name": MARK})
        await _post_raw(system, b'[{"id": "' + MARK.encode() + b'"')
        await _fault(
            system,
            {
                "match": {"operation": "upload"},
                "kind": "status",
                "times": 1,
                "params": {"status": 500, "message": f"{MARK} broke"},
            },
        )
        await system.edit(action="replace_file", id=ids[0], content=f"{MARK} neu".encode())
        await system.webhook("update", ids[0])
        await _fault(
            system,
            {
                "match": {"operation": "attach"},
                "kind": "status",
                "times": 1,
                "params": {"status": 400, "message": f"no {MARK}"},
            },
        )
        await system.edit(action="create", name=f"{MARK}.exe", content=b"MZ")
        await system.edit(action="delete", id=ids[1])
        await system.webhook("delete", ids[1])
        poison = f'{{"entity": "{MARK}'.encode()
        await system.log.append([Outgoing("vmh.document.update", b"poison", poison)])

        async def settled() -> bool:
            ended = {entry.entity_id for entry in await _ends(system)}
            return ended >= set(ids) and bool(await system.dead_letters())

        await system.until(settled)
        await asyncio.sleep(1)

        # then the mark is where it belongs
        found = (await system.state("xai"))["files"]
        assert any(MARK in file["filename"] for file in found)

        # and nowhere else
        pages = []
        for service in (system.ingest, system.worker):
            pages.append(service.log.read_text())
            for path in ("metrics", "_console/functions", "readyz"):
                async with system.session.get(f"{service.url}/{path}") as answer:
                    pages.append(await answer.text())
        for topic in topics.catalogue():
            for record in await system.records(topic.name):
                pages.append(json.dumps(dict(record.headers)))
                if not topic.personal and record.value != poison:
                    pages.append((record.value or b"").decode(errors="replace"))
                    pages.append((record.key or b"").decode(errors="replace"))
        assert len(pages) > 30
        for page in pages:
            assert MARK not in page
            for secret in secrets:
                assert secret not in page


async def _post(system: System, body: object) -> None:
    await _post_raw(system, json.dumps(body).encode())


async def _post_raw(system: System, body: bytes) -> None:
    url = f"{system.ingest.url}/vmh/webhook/document/create"
    async with system.session.post(url, data=body) as answer:
        assert answer.status == 200, await answer.text()
        assert MARK not in await answer.text()


async def _fault(system: System, fault: dict[str, object]) -> None:
    url = f"{system.simulators['xai']}/_sim/faults"
    async with system.session.post(url, params={"add": "1"}, json=[fault]) as answer:
        assert answer.status == 200, await answer.text()
