"""A tripped brake over a real Kafka: every process obeys it, later ones too, until it is released."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

import pytest
from typer.testing import CliRunner, Result

from bitbylaw_cli.braking import BrakedList, Released
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import EntityChanged, RunRequested
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.commands import Commands
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.schedule import Carried, ScheduleEntry
from bitbylaw_common.sync.brake import DELETE, Brake, Budget, Extent, Held
from bitbylaw_devstack import Stack

pytestmark = pytest.mark.kafka

SERVICE = "document-sync"
WITHIN_SECONDS = 60
WHOLE = Extent()
_CLOCK = SystemClock()


class System:
    """A Kafka with the topics that the brake and its command read and write."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.connect = {"bootstrap_servers": bootstrap_servers}

    def bbl(self, *words: str) -> Result:
        """Type `bbl words...`."""
        return CliRunner().invoke(
            build(), words, env={"KAFKA_BOOTSTRAP_SERVERS": self.connect["bootstrap_servers"]}
        )

    async def shown(self, ends: Exit) -> BrakedList:
        """Return what `bbl brake show` says."""
        answer = await asyncio.to_thread(self.bbl, "brake", "show", "--json")
        assert answer.exit_code == ends, answer.stderr
        return BrakedList.model_validate_json(answer.stdout)

    @asynccontextmanager
    async def process(self) -> AsyncIterator[Brake]:
        """Run what a process of the service would: the brake, the follower and the writer."""
        brake = Brake(SERVICE, {DELETE: Budget(per_run=5, per_hour=2)}, _CLOCK)
        async with KafkaLog(self.connect, service="test") as log:
            commands = Commands(log, _CLOCK, [brake], source=SERVICE)
            tasks = [
                asyncio.create_task(commands.follow(log)),
                asyncio.create_task(commands.publish()),
            ]
            try:
                await asyncio.wait_for(commands.loaded.wait(), WITHIN_SECONDS)
                yield brake
            finally:
                for task in tasks:
                    task.cancel()
                for task in tasks:
                    with suppress(asyncio.CancelledError):
                        await task


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not condition():  # noqa: ASYNC110 - what changes it is another process' record
            await asyncio.sleep(0.02)


async def _prepare(system: System) -> None:
    event = EntityChanged(entity_type="CDokumente", entity_id="d3", action="update")
    held = Held({DELETE: 1}, timedelta(minutes=15)).wait()
    entry = ScheduleEntry(
        step="Document Sync",
        entity="document",
        entity_id="d3",
        due=_CLOCK.now() + held.after,
        kind="wait",
        since=_CLOCK.now(),
        reason=held.reason,
        carried=Carried(topic=topics.DOCUMENT_UPDATE.name, value=event.model_dump_json()),
    )
    schedule, number = topics.schedule(SERVICE), partition_of(b"d3")
    async with admin(system.connect) as kafka:
        wanted = [topics.schedule(name) for name in topics.CONSUMERS]
        await kafka.apply([topics.COMMANDS, topics.FUNCTIONS, topics.requests(SERVICE), *wanted])
    async with KafkaLog(system.connect, service="test") as log:
        await log.append(
            [Outgoing(schedule.name, entry.lane.to_bytes(), entry.to_bytes(), {}, number)]
        )


async def _requested(system: System) -> list[str]:
    starts = {(topics.requests(SERVICE).name, number): 0 for number in range(topics.PARTITIONS)}
    async with KafkaLog(system.connect, service="test") as log:
        return [
            RunRequested.model_validate_json(record.value or b"").subject
            async for record in log.read(starts)
        ]


async def test_a_trip_holds_everywhere_and_after_a_restart_until_an_operator_ends_it(
    stack: Stack,
) -> None:
    system = System(stack.kafka.bootstrap_servers)
    await _prepare(system)
    async with system.process() as one, system.process() as other:
        assert one.errand("d1", WHOLE).ask({DELETE: 2}) is None
        assert one.errand("d2", WHOLE).ask({DELETE: 1}) is not None
        await _until(lambda: other.braked() == {DELETE} and not one.unpublished())
        assert other.errand("d3", WHOLE).ask({DELETE: 1}) is not None

    async with system.process() as again:
        assert again.braked() == {DELETE}
        (shown,) = (await system.shown(Exit.FINDING)).entries
        assert (shown.effect, shown.records, shown.waiting) == (DELETE, 1, 1)
        assert shown.reason == "delete 3 times within an hour; 2 are allowed"

        words = ("brake", "release", SERVICE, "--yes", "--json")
        answer = await asyncio.to_thread(system.bbl, *words)
        assert answer.exit_code == Exit.OK, answer.stderr
        assert Released.model_validate_json(answer.stdout).asked == 1
        await _until(lambda: again.braked() == frozenset())
        assert await _requested(system) == ["d3"]
        assert again.errand("d3", WHOLE).ask({DELETE: 1}) is None
        assert not (await system.shown(Exit.OK)).held
