"""Pausing, halting and resuming over a real Kafka: the command, and processes that follow it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from typer.testing import CliRunner, Result

from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_cli.pausing import Change, StandList
from bitbylaw_common import metrics, topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.commands import Commands
from bitbylaw_common.runtime.control import functions_of
from bitbylaw_common.runtime.gates import Gates
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_devstack import Stack
from bitbylaw_document_sync.app import app as document_sync

pytestmark = pytest.mark.kafka

SERVICE = document_sync.name
STEP = next(step.name for step in document_sync.steps if step.queue_triggers)
WITHIN_SECONDS = 60
_CLOCK = SystemClock()


class System:
    """A Kafka with the topics and functions that a service would have left there."""

    def __init__(self, bootstrap_servers: str) -> None:
        self.connect = {"bootstrap_servers": bootstrap_servers}

    def bbl(self, *words: str) -> Result:
        """Type `bbl words...`."""
        return CliRunner().invoke(
            build(), words, env={"KAFKA_BOOTSTRAP_SERVERS": self.connect["bootstrap_servers"]}
        )

    async def change(self, *words: str, ends: Exit = Exit.OK) -> Change:
        """Type it beside what runs here, and return what it did."""
        answer = await asyncio.to_thread(self.bbl, *words, "--json")
        assert answer.exit_code == ends, answer.stderr
        return Change.model_validate_json(answer.stdout)

    async def paused(self) -> StandList:
        """Return what `bbl paused` lists."""
        answer = await asyncio.to_thread(self.bbl, "paused", "--json")
        assert answer.exit_code == Exit.OK, answer.stderr
        return StandList.model_validate_json(answer.stdout)

    @asynccontextmanager
    async def process(self, version: str = "1.0") -> AsyncIterator[Gates]:
        """Run what a process of the service would: gates, the follower and the writer."""
        gates = Gates(SERVICE, [STEP], clock=_CLOCK, code_version=version, instance=f"w-{version}")
        async with KafkaLog(self.connect, service="test") as log:
            commands = Commands(log, _CLOCK, [gates], source=SERVICE)
            tasks = [
                asyncio.create_task(commands.follow(log)),
                asyncio.create_task(commands.publish()),
            ]
            try:
                await asyncio.wait_for(commands.loaded.wait(), WITHIN_SECONDS)
                yield gates
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


def _fail(gates: Gates, count: int = 5) -> None:
    for number in range(count):
        gates.ended(STEP, f"k{number}", "bug")


@pytest.fixture(scope="module")
def system(stack: Stack) -> System:
    """Give a Kafka on which the service declared its functions."""
    system = System(stack.kafka.bootstrap_servers)
    asyncio.run(_declare(system))
    return system


async def _declare(system: System) -> None:
    async with admin(system.connect) as kafka:
        await kafka.apply([topics.COMMANDS, topics.FUNCTIONS])
    async with KafkaLog(system.connect, service="test") as log:
        await log.append(
            [
                codec.encode(
                    topics.FUNCTIONS,
                    info,
                    event_id=new_event_id(),
                    source=SERVICE,
                    now=_CLOCK.now(),
                )
                for info in functions_of(document_sync, owner="test")
            ]
        )


@pytest.fixture(autouse=True)
def clean(system: System) -> None:
    """Begin with nothing paused or halted."""
    assert system.bbl("resume", SERVICE, "--yes").exit_code == Exit.OK


async def test_a_pause_reaches_what_runs_and_what_starts_later(system: System) -> None:
    async with system.process() as running:
        assert running.room(STEP) != 0
        await system.change("pause", SERVICE, STEP, "--reason", "audit", "--yes")
        await _until(lambda: running.room(STEP) == 0)

        async with system.process("2.0") as later:
            assert later.room(STEP) == 0
            await system.change("resume", SERVICE, STEP, "--yes")
            await _until(lambda: 0 not in (running.room(STEP), later.room(STEP)))


async def test_a_halt_holds_its_version_until_the_command_ends_it(system: System) -> None:
    async with AsyncExitStack() as running:
        one = await running.enter_async_context(system.process())
        other = await running.enter_async_context(system.process())
        _fail(one)
        _fail(other)
        await _until(lambda: not (one.unpublished() or other.unpublished()))
        async with system.process("2.0") as new:
            assert new.room(STEP) == 1

        [halted] = (await system.paused()).entries
        assert (halted.kind, halted.step, halted.code_version) == ("halted", STEP, "1.0")
    async with system.process() as again:
        assert again.room(STEP) == 0

        change = await system.change("resume", SERVICE, STEP, "--yes")
        assert [end.kind for end in change.ends] == ["halted"]
        await _until(lambda: again.room(STEP) == 1)
        again.ended(STEP, "k", "done")
        assert again.room(STEP) == 2


async def test_garbage_in_the_topic_is_counted_and_stops_nobody(system: System) -> None:
    labels = {"service": SERVICE, "source": "control"}
    async with system.process() as gates, KafkaLog(system.connect, service="test") as log:
        before = metrics.value("bitbylaw_undecodable_records_total", **labels)
        key = f"{SERVICE}|garbage".encode()
        await log.append([Outgoing(topics.COMMANDS.name, key, b"\xff\x00")])
        await system.change("pause", SERVICE, "--reason", "audit", "--yes")
        await _until(lambda: gates.room(STEP) == 0)
        # it lies in another partition than the pause, so it may be read later
        await _until(
            lambda: metrics.value("bitbylaw_undecodable_records_total", **labels) == before + 1
        )
        assert (await system.paused()).unreadable == 1
        await log.append([Outgoing(topics.COMMANDS.name, key, None)])
        await system.change("resume", SERVICE, "--yes")
        await _until(lambda: gates.room(STEP) != 0)


def test_an_unknown_step_is_refused_with_the_nearest(system: System) -> None:
    answer = system.bbl("pause", SERVICE, STEP.lower(), "--reason", "audit", "--yes")

    assert answer.exit_code == Exit.USAGE
    assert f"the nearest is {STEP!r}" in answer.stderr
