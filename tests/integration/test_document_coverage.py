"""Coverage over a real Kafka: ticks, bases of other members' partitions, a watermark that stays."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import datetime

import pytest

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.runtime import App, cron
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.hosts.kafka_host import KafkaHost
from bitbylaw_devstack import Stack
from bitbylaw_document_sync.app import app, deps_over
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.coverage import CoverageState
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_document_sync.steps.document_coverage_cron_step import NAME, document_coverage
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.xai import Xai
from world import ESPOCRM, XAI, SimTransport

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]
UNTIL_SECONDS = 90
DOCUMENTS = 8
FUNCTION = document_coverage.function_id()


class Fleet:
    """Both sides in this process, and members of document-sync whose coverage ticks every second.

    No webhook is ever posted.
    """

    def __init__(self, stack: Stack, log: KafkaLog) -> None:
        time = SimClock.real()
        self.crm, self.xai = EspoCRM(time), Xai(time)
        self.log = log
        self._connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
        self._transport = SimTransport({ESPOCRM: self.crm, XAI: self.xai})
        self._running: dict[str, tuple[KafkaHost[Deps], asyncio.Task[None], asyncio.Event]] = {}
        often = replace(document_coverage, triggers=(cron("* * * * * *"),))
        steps = [often if step.name == NAME else step for step in app.steps]
        self._app: App[Deps] = replace(app, steps=steps)

    def deps(self) -> Deps:
        env = {
            "ESPOCRM_API_BASE_URL": f"{ESPOCRM}/api/v1",
            "ESPOCRM_API_KEY": self.crm.api_user.api_key or "",
            "XAI_API_KEY": self.xai.api_key,
            "XAI_MANAGEMENT_KEY": self.xai.management_key,
            "XAI_FILES_URL": XAI,
            "XAI_MANAGEMENT_URL": XAI,
            "BBL_DIGEST_KEY": "only-the-tests-use-this-key",
        }
        return deps_over(self._transport, DocumentSyncSettings.from_env(env), SystemClock())

    def join(self, name: str) -> None:
        host = KafkaHost(
            self._app,
            self.deps(),
            connect=self._connect,
            log=self.log,
            clock=SystemClock(),
            locks=NoLocks(),
            options=WorkerOptions(instance=name),
            instance=name,
            drain_seconds=5,
        )
        stopping = asyncio.Event()
        task = asyncio.create_task(host.run(stopping))
        self._running[name] = (host, task, stopping)

    async def leave(self, name: str) -> None:
        _, task, stopping = self._running.pop(name)
        stopping.set()
        await asyncio.wait_for(task, 60)

    def owner(self) -> str | None:
        """Return the member that the cron's partition belongs to."""
        for name, (host, _, _) in self._running.items():
            if any(entry.entity_id == FUNCTION for entry in host.worker.schedule.entries()):
                return name
        return None

    def shared_out(self) -> bool:
        """Return whether each member owns its share: who joins alone first takes everything."""
        shares = [host.worker.partitions for host, _, _ in self._running.values()]
        return all(shares) and sorted(n for share in shares for n in share) == list(range(12))

    async def until(self, what: Callable[[], bool]) -> None:
        async with asyncio.timeout(UNTIL_SECONDS):
            while not what():
                for _, task, _ in self._running.values():
                    assert not task.done(), task
                await asyncio.sleep(0.1)

    async def ticked(self, times: int = 2) -> CoverageState:
        """Return what coverage left behind, once so many ticks began after now."""
        since, seen = SystemClock().now(), set[datetime | None]()
        async with asyncio.timeout(UNTIL_SECONDS):
            while True:
                state = await self.state()
                if state is not None and (state.complete_until or since) > since:
                    seen.add(state.complete_until)
                    if len(seen) >= times:
                        return state
                await asyncio.sleep(0.2)

    async def state(self) -> CoverageState | None:
        key, value = f"cron:{FUNCTION}".encode(), None
        places = {(topics.base("document-sync").name, number): 0 for number in range(12)}
        async for record in self.log.read(places):
            value = record.value if record.key == key else value
        return None if value is None else CoverageState.from_bytes(value)

    async def runs(self) -> list[JournalEntry]:
        places = {(topics.JOURNAL.name, number): 0 for number in range(12)}
        found = [r.value async for r in self.log.read(places) if r.value is not None]
        return [JournalEntry.model_validate_json(value) for value in found]

    async def checks(self) -> int:
        places = {(topics.DOCUMENT_SYNC_CHECK.name, number): 0 for number in range(12)}
        return len([record async for record in self.log.read(places)])

    async def close(self) -> None:
        for name in list(self._running):
            await self.leave(name)


@asynccontextmanager
async def fleet(stack: Stack) -> AsyncIterator[Fleet]:
    connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
    async with admin(connect) as kafka:
        await kafka.apply(topics.catalogue())
    async with KafkaLog(connect, service="document-sync") as log:
        members = Fleet(stack, log)
        try:
            yield members
        finally:
            await members.close()


async def test_what_no_webhook_told_arrives_over_kafka_whoever_owns_the_record_and_the_cron(
    stack: Stack,
) -> None:
    async with fleet(stack) as members:
        # given two members, and documents whose keys lie all over the partitions
        members.join("document-sync-0")
        members.join("document-sync-1")
        await members.until(members.shared_out)
        crm, xai = members.crm, members.xai
        akte = xai.add_collection("akte-1")
        crm.add_knowledge("Akte 1", akte)
        documents = [
            crm.add_document(f"Klage {n}.pdf", b"v%d" % n, collections=[akte])
            for n in range(DOCUMENTS)
        ]

        # then a tick finds them, and both members bring theirs in line
        await members.until(
            lambda: {crm.document(d)["fileStatus"] for d in documents} == {"synced"}
        )
        before = await members.ticked()
        assert before.gaps == ()
        runs = [run for run in await members.runs() if run.entity == "document"]
        assert {run.worker for run in runs} == {"document-sync-0", "document-sync-1"}

        # and nobody is told again of what is in line
        told, effects = await members.checks(), len(crm.effects()) + len(xai.effects())
        await members.ticked()
        assert await members.checks() == told
        assert len(crm.effects()) + len(xai.effects()) == effects

        # when the cron's owner goes, the other goes on from its watermark
        owner = members.owner()
        assert owner is not None
        await members.leave(owner)
        crm.delete(documents[0])
        crm.unlink(documents[1], akte, silent=True)
        await members.until(lambda: len(xai.contents(akte)) == DOCUMENTS - 2)
        after = await members.ticked()
        assert after.complete_since == before.complete_since
        assert after.gaps == ()
