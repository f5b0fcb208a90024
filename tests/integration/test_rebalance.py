"""Members come and go while records flow: nothing is lost, no key runs twice at once, order holds."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from bitbylaw_common.clock import SystemClock
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.locks import NoLocks
from bitbylaw_common.outcomes import Done, Outcome
from bitbylaw_common.runtime import Context
from bitbylaw_common.runtime.desk import WorkerOptions
from bitbylaw_common.runtime.hosts.kafka_host import KafkaHost
from harness import TOPICS, encoded
from toy import ORDERED, Ledger, ThingChanged, toy

pytestmark = [pytest.mark.kafka, pytest.mark.timeout(180)]
KEYS, EVENTS = 40, 600


class Members:
    """Members of one group, all in this process, all noting in one ledger."""

    def __init__(self, bootstrap: str, log: KafkaLog, ledger: Ledger) -> None:
        self._connect = {"bootstrap_servers": bootstrap}
        self._log = log
        self._ledger = ledger
        self._running: list[tuple[asyncio.Event, asyncio.Task[None]]] = []

    def join(self) -> None:
        """Add a member."""
        host = KafkaHost(
            toy(self._ledger),
            self._ledger,
            connect=self._connect,
            log=self._log,
            clock=SystemClock(),
            locks=NoLocks(),
            options=WorkerOptions(),
            instance=None,
            drain_seconds=5,
        )
        stopping = asyncio.Event()
        self._running.append((stopping, asyncio.create_task(host.run(stopping))))

    async def leave(self) -> None:
        """Stop the oldest member in order."""
        stopping, task = self._running.pop(0)
        stopping.set()
        await asyncio.wait_for(task, 60)

    async def close(self) -> None:
        """Stop all."""
        while self._running:
            await self.leave()


@asynccontextmanager
async def members(bootstrap: str, ledger: Ledger) -> AsyncIterator[tuple[Members, KafkaLog]]:
    connect = {"bootstrap_servers": bootstrap}
    async with admin(connect) as kafka:
        await kafka.apply(TOPICS)
    async with KafkaLog(connect, service="toy") as log:
        group = Members(bootstrap, log, ledger)
        try:
            yield group, log
        finally:
            await group.close()


async def test_members_that_come_and_go_lose_nothing_and_keep_each_key_in_order(
    kafka_bootstrap: str,
) -> None:
    mark = uuid.uuid4().hex[:8]
    ledger = Ledger(mark=mark)

    async def slow(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        await asyncio.sleep(0.01 + event.number % 7 / 200)
        return Done("looked")

    ledger.answer = slow
    async with members(kafka_bootstrap, ledger) as (group, log):
        group.join()
        for number in range(EVENTS):
            thing = f"k{number % KEYS}-{mark}"
            event = ThingChanged(thing=thing, number=number)
            await log.append([encoded(ORDERED, event, SystemClock().now())])
            if number in (100, 250):
                group.join()
            if number == 400:
                await group.leave()
        async with asyncio.timeout(120):
            while len(set(ledger.ended)) < EVENTS:  # noqa: ASYNC110 - the ledger is polled
                await asyncio.sleep(0.1)

    assert ledger.overlaps == 0
    for key in range(KEYS):
        numbers = ledger.numbers(f"k{key}-{mark}")
        first_seen = list(dict.fromkeys(numbers))
        assert first_seen == list(range(key, EVENTS, KEYS))
    repeats = len(ledger.ended) - EVENTS
    assert repeats == 0, f"{repeats} runs were repeated although every member left in order"
