"""Crashes, locks, repetitions and order: the scenarios that only real processes decide."""

import asyncio
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from typer.testing import CliRunner

from bitbylaw_cli.main import build
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_devstack import Stack
from system import BIN, Service, System, running

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

QUICK = {"XAI_SETTLE_SECONDS": "4"}
V1, V2, V3 = (b"Klage Version %d\n" % number for number in (1, 2, 3))


class Akte:
    """One case: its collection at xAI, its knowledge base, and its documents."""

    def __init__(self, system: System, collection: str, knowledge: str) -> None:
        self.system = system
        self.collection = collection
        self.knowledge = knowledge

    @classmethod
    async def opened(cls, system: System) -> "Akte":
        return cls(system, *await system.collection("Akte"))

    async def document(self, content: bytes, name: str = "Klage.pdf") -> str:
        """Make a document in the case; nobody is told."""
        made = await self.system.edit(action="create", name=name, content=content)
        await self.system.edit(action="link", id=made["id"], knowledge=self.knowledge)
        return str(made["id"])

    async def contents(self) -> list[str]:
        """Return the SHA-256 of what the collection holds."""
        state = await self.system.state("xai")
        held = {file["id"]: file["sha256"] for file in state["files"]}
        (found,) = (c for c in state["collections"] if c["id"] == self.collection)
        return sorted(held[entry["file_id"]] for entry in found["documents"])

    async def wanted(self, *documents: str) -> list[str]:
        """Return the SHA-256 of what EspoCRM holds for these documents."""
        state = await self.system.state("espocrm")
        rows = state["tables"]["CDokumente"]
        return sorted(state["files"][rows[one]["values"]["dokumentId"]] for one in documents)

    async def agrees(self, *documents: str) -> bool:
        """Whether the collection holds these documents and nothing else, and EspoCRM knows."""
        rows = (await self.system.state("espocrm"))["tables"]["CDokumente"]
        noted = all(rows[one]["values"]["fileStatus"] == "synced" for one in documents)
        return noted and await self.contents() == await self.wanted(*documents)


async def uploads(system: System) -> Counter[str]:
    """Return how often each content was uploaded, as xAI saw it."""
    calls = await system.effects("xai")
    return Counter(call["content"] for call in calls if call["effect"] == "upload")


async def looks(system: System) -> int:
    """Return how often a single file, or its place in a collection, was asked for."""
    calls = await system.calls("xai")
    return sum(call["operation"] in ("get_file", "get_document") for call in calls)


async def fault(system: System, side: str, kind: str, operation: str, **params: Any) -> None:
    """Plan one fault."""
    entry = {"match": {"operation": operation}, "kind": kind, "params": params}
    url = f"{system.simulators[side]}/_sim/faults"
    async with system.session.post(url, params={"add": "1"}, json=[entry]) as answer:
        assert answer.status == 200, await answer.text()


async def register(system: System) -> None:
    """Have EspoCRM tell ingest of documents, through its own API."""
    headers = {"X-Api-Key": system.simulators["espocrm_api_key"]}
    for action in ("create", "update", "delete"):
        url = f"{system.ingest.url}/vmh/webhook/document/{action}"
        async with system.session.post(
            f"{system.simulators['espocrm_api']}/Webhook",
            json={"event": f"CDokumente.{action}", "url": url},
            headers=headers,
        ) as answer:
            assert answer.status == 200, await answer.text()


async def deliver(system: System) -> list[tuple[str, int]]:
    """Let EspoCRM post what is due; return event and answer of each post."""
    url = f"{system.simulators['espocrm']}/_sim/deliver"
    async with system.session.post(url, json={}) as answer:
        assert answer.status == 200, await answer.text()
        done = (await answer.json())["delivered"]
    return [(str(entry["event"]).removeprefix("CDokumente."), entry["status"]) for entry in done]


async def ten_minutes_later(system: System) -> None:
    """Move EspoCRM's clock to where it repeats what failed; its own job does so at once."""
    url = f"{system.simulators['espocrm']}/_sim/clock"
    async with system.session.post(url, json={"advance": 601}) as answer:
        assert answer.status == 200, await answer.text()


async def told(system: System, action: str, document: str) -> int:
    """Return how many events of an action there are about a document."""
    records = await system.records(f"vmh.document.{action}", document)
    return sum(record.key == document.encode() for record in records)


async def ended(system: System, document: str, runs: int) -> bool:
    """Whether at least so many runs of a document ended."""
    return sum(entry.phase == "end" for entry in await system.journal(document)) >= runs


async def quiet(system: System, seconds: float = 1.5) -> None:
    """Return once neither side was asked anything for a while."""
    last, since = (0, 0), time.monotonic()
    async with asyncio.timeout(60):
        while time.monotonic() - since < seconds:
            now = (len(await system.calls("espocrm")), len(await system.calls("xai")))
            if now != last:
                last, since = now, time.monotonic()
            await asyncio.sleep(0.2)


async def killed_at(system: System, effect: str, since: int) -> None:
    """Kill the worker as soon as a simulator has logged the effect."""
    side = "espocrm" if effect == "update" else "xai"
    async with asyncio.timeout(60):
        while not any(c["effect"] == effect for c in await system.calls(side, since, wait=2)):
            pass
    await system.worker.kill()


async def test_espo_15_what_kafka_could_not_take_is_sent_again_and_stored_once(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        await register(system)
        klage = await akte.document(V1)
        await stack.kafka.kill()
        try:
            began = time.monotonic()
            assert ("create", 503) in await deliver(system)
            assert time.monotonic() - began < 5 * 3, "one post for each kind, five seconds each"
        finally:
            await stack.kafka.start()

        async def answers_again() -> bool:
            url = f"{system.ingest.url}/vmh/webhook/beteiligte/update"
            async with system.session.post(url, json=[{"id": "again"}]) as answer:
                return answer.status == 200

        await system.until(answers_again)
        await ten_minutes_later(system)
        await system.until(lambda: akte.agrees(klage))
        await quiet(system)
        assert set((await uploads(system)).values()) == {1}
        assert await system.dead_letters() == []


async def test_espo_16_19_20_and_21_repetitions_and_disorder_end_in_what_the_record_is(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        await register(system)

        async def more(events: int, action: str, document: str) -> bool:
            return await told(system, action, document) > events

        # given a batch that arrives twice, and whose answer is lost besides
        first, second = await akte.document(V1), await akte.document(V2)
        await fault(system, "espocrm", "duplicate_delivery", "deliver")
        await fault(system, "espocrm", "lost_receipt", "deliver")
        assert 408 in dict(await deliver(system)).values()
        await system.until(lambda: akte.agrees(first, second))
        events = await told(system, "create", first)
        assert events == 2
        await ten_minutes_later(system)
        await system.until(lambda: more(events, "create", first))
        await quiet(system)
        assert set((await uploads(system)).values()) == {1}
        assert await akte.agrees(first, second)

        # when an older update is sent again after a newer one
        await system.edit(action="replace_file", id=first, content=b"Klage Version 4\n")
        await fault(system, "espocrm", "lost_receipt", "deliver")
        assert ("update", 408) in await deliver(system)
        await system.edit(action="replace_file", id=first, content=V3)
        await deliver(system)
        await system.until(lambda: akte.agrees(first, second))
        events = await told(system, "update", first)
        await ten_minutes_later(system)
        await system.until(lambda: more(events, "update", first))
        await quiet(system)
        assert await akte.agrees(first, second)

        # and an update is sent again after the delete that overtook it
        await system.edit(action="replace_file", id=second, content=b"Klage Version 5\n")
        await fault(system, "espocrm", "lost_receipt", "deliver")
        assert ("update", 408) in await deliver(system)
        await system.edit(action="delete", id=second)
        assert ("delete", 200) in await deliver(system)
        await system.until(lambda: akte.agrees(first))
        events = await told(system, "update", second)
        await ten_minutes_later(system)
        await system.until(lambda: more(events, "update", second))
        await quiet(system)
        assert await akte.agrees(first)
        assert set((await uploads(system)).values()) == {1}
        assert await system.dead_letters() == []


async def test_xai_04_13_and_30_many_words_of_one_document_end_in_its_last_state(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        klage = await akte.document(V1)
        for _ in range(5):
            await system.webhook("create", klage)
        await system.until(lambda: akte.agrees(klage))

        # when it changes while its upload is under way
        last = len(await system.calls("xai"))
        await fault(system, "xai", "latency", "upload", seconds=2, when="after")
        await system.edit(action="replace_file", id=klage, content=V2)
        await system.webhook("update", klage)
        while not any(c["effect"] == "upload" for c in await system.calls("xai", last, wait=2)):
            pass
        await system.edit(action="replace_file", id=klage, content=V3)
        await system.webhook("update", klage)
        await system.until(lambda: akte.agrees(klage))
        assert sorted((await uploads(system)).values()) == [1, 1, 1]

        # and a late word comes after its delete
        await system.edit(action="delete", id=klage)
        await system.webhook("delete", klage)
        await system.until(akte.agrees)
        await quiet(system)  # its run goes on: the file itself goes after the membership
        runs = sum(entry.phase == "end" for entry in await system.journal(klage))
        effects = len(await system.effects("xai"))
        await system.webhook("update", klage)
        await system.until(lambda: ended(system, klage, runs + 1))
        await quiet(system)
        assert len(await system.effects("xai")) == effects
        assert await akte.agrees()
        assert await system.dead_letters() == []


async def test_xai_14_15_and_16_killed_after_each_effect_every_document_is_there_once(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        documents: list[str] = []

        # killed between upload and attach, between attach and write-back, and after the write-back
        for side, operation in (("xai", "upload"), ("xai", "attach"), ("espocrm", "update")):
            documents.append(await akte.document(f"Klage {operation}".encode()))
            since = len(await system.calls(side))
            await fault(system, side, "latency", operation, seconds=3, when="after")
            await system.webhook("create", documents[-1])
            await killed_at(system, operation, since)
            await system.worker.start()
            await system.until(lambda: akte.agrees(*documents))

        # and an upload whose answer never comes
        documents.append(await akte.document(b"Klage ohne Antwort"))
        await fault(system, "xai", "reset_after", "upload")
        await system.webhook("create", documents[-1])
        await system.until(lambda: akte.agrees(*documents))
        assert sorted((await uploads(system)).values()) == [1, 1, 1, 1]
        assert len((await system.state("xai"))["files"]) == 4
        assert await system.dead_letters() == []


async def test_xai_31_two_replicas_upload_each_document_once(stack: Stack, tmp_path: Path) -> None:
    # a run that is cancelled in its upload finds the file again, and tells of no upload
    drained = {"BBL_DRAIN_SECONDS": "30"}
    async with running(stack, tmp_path, env=QUICK | drained) as system:
        akte = await Akte.opened(system)
        second = Service(
            [str(BIN / "bitbylaw-document-sync")],
            system.env("document-sync-1"),
            system.folder,
            "document-sync-1",
        )
        documents = [await akte.document(b"Klage %d\n" % number) for number in range(40)]
        await system.webhook("create", *documents)
        try:
            await second.start()  # its coming moves partitions in the middle of the work
            await system.webhook("update", *documents)
            await second.ready(system.session)
            await system.webhook("create", *documents)
            await system.until(lambda: akte.agrees(*documents))
            await quiet(system)
            # and the work is shared
            for document in documents:
                content = b"neu " + document.encode()
                await system.edit(action="replace_file", id=document, content=content)
            await system.webhook("update", *documents)
            await system.until(lambda: akte.agrees(*documents))
            shares = [
                sum(line["event"] == "uploaded" for line in service.lines())
                for service in (system.worker, second)
            ]
        finally:
            await second.kill()
        assert all(shares)
        assert sum(shares) == 80
        assert list((await uploads(system)).values()) == [1] * 80
        assert await system.dead_letters() == []


async def test_xai_32_a_lock_whose_holder_died_runs_out_and_the_event_is_not_lost(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        locked, free = await akte.document(V1), await akte.document(V2)
        redis = Redis.from_url(stack.redis.url)
        try:
            # given a script that died while it held the lock of one document; the group may go on
            # counting on a member of an earlier test until its session of 30 s is over
            name = f"sync_lock:document:{locked}"
            await redis.set(name, "a script by hand", px=600_000)
            await system.webhook("create", locked, free)
            await system.until(lambda: akte.agrees(free), seconds=90)
            await system.until(lambda: ended(system, locked, 1), seconds=90)
            assert await redis.get(name) == b"a script by hand"
            assert not await akte.agrees(locked, free)
            # when its time is over
            await redis.pexpire(name, 1_000)
            await system.until(lambda: akte.agrees(locked, free), seconds=90)
        finally:
            await redis.aclose()
        outcomes = [entry.outcome for entry in await system.journal(locked)]
        assert "wait" in outcomes
        assert "retry" not in outcomes
        assert await system.dead_letters() == []


async def test_xai_43_a_replay_of_everything_reads_only(stack: Stack, tmp_path: Path) -> None:
    async with running(stack, tmp_path, env=QUICK) as system:
        akte = await Akte.opened(system)
        began = SystemClock().now().isoformat(timespec="seconds")
        documents = [await akte.document(b"Klage %d\n" % number) for number in range(100)]
        for start in range(0, len(documents), 50):
            await system.webhook("create", *documents[start : start + 50])
        await system.until(lambda: akte.agrees(*documents))
        await quiet(system)
        effects = [len(await system.effects(side)) for side in ("espocrm", "xai")]
        reads = await looks(system)

        env = {"KAFKA_BOOTSTRAP_SERVERS": stack.kafka.bootstrap_servers}
        words = ["replay", topics.DOCUMENT_CREATE.name, "--since", began, "--yes", "--json"]
        typed = await asyncio.to_thread(CliRunner().invoke, build(), words, env=env)
        assert typed.exit_code == 0, typed.output

        async def looked_again() -> bool:
            return await looks(system) - reads >= 2 * len(documents)

        await system.until(looked_again)
        await quiet(system)
        assert [len(await system.effects(side)) for side in ("espocrm", "xai")] == effects
        assert await looks(system) - reads == 2 * len(documents)
        assert await system.dead_letters() == []
