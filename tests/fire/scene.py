"""One toy app under fire: its topics, its processes, its outside ledger, and what Kafka kept."""

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import aiohttp

from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.hosting import topics_of as topics_of_app
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.topics import Topic
from bitbylaw_devstack import Stack, last_lines
from fire.commits import GroupNotes, notes_of
from fire.ledger import History, Ledger
from fire.repeats import Repeats, judged
from fire.service import Setup, ThingChanged, Topics, fire, topics_of
from system import Service

SESSION_SECONDS = 6.0
"""The shortest that a service takes."""

ONE_BY_ONE = frozenset({"Fire Order", "Fire Addition"})
LOOK_SECONDS = 0.1
METRIC_SECONDS = 30.0
"""A process measures itself in every round of its loop; see `Scene.metric`."""

STOP_SECONDS = 60.0
BATCH = 500


class Member(Service):
    """One process of the toy service; every end it meets is on the ledger."""

    def __init__(
        self, setup: Setup, env: dict[str, str], folder: Path, name: str, ledger: Ledger
    ) -> None:
        command = [sys.executable, "-m", "fire.service", setup.model_dump_json()]
        super().__init__(command, env, folder, name)
        self.setup = setup
        self._ledger = ledger

    async def kill(self) -> None:
        """SIGKILL; return when it is gone, with its open runs closed in the ledger."""
        pid = self.pid
        await super().kill()
        self._ledger.note("dead", pid=pid)

    async def stop(self, limit_seconds: float = STOP_SECONDS) -> int:
        """SIGTERM; return its exit code, 137 when it had to be killed."""
        pid = self.pid
        code = await super().stop(limit_seconds)
        self._ledger.note("dead", pid=pid)
        return code

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Return once it is ready for traffic; one that ends instead says why."""
        try:
            await super().ready(session)
        except aiohttp.ClientError:
            raise AssertionError(f"{self.name} ended:\n{last_lines(self.log)}") from None

    async def freeze(self) -> None:
        """SIGSTOP; return when it stands still, with what it was in on the ledger."""
        os.kill(self.pid, signal.SIGSTOP)
        async with asyncio.timeout(30):
            while not self._stands_still():  # noqa: ASYNC110 - the kernel tells only who asks
                await asyncio.sleep(0.001)
        self._ledger.note("frozen", pid=self.pid)

    def _stands_still(self) -> bool:
        threads = Path(f"/proc/{self.pid}/task").glob("*/stat")
        states = [thread.read_text().rpartition(")")[2].split()[0] for thread in threads]
        return set(states) == {"T"}

    def go_on(self) -> None:
        """SIGCONT, also for one that froze itself."""
        self._ledger.note("continued", pid=self.pid)
        os.kill(self.pid, signal.SIGCONT)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self.pid, number)

    async def ended(self, limit_seconds: float) -> int:
        """Return the exit code of a process that ends by itself.

        Raises:
            TimeoutError: it did not within the limit.
        """
        pid = self.pid
        async with asyncio.timeout(limit_seconds):
            while self.running:  # noqa: ASYNC110 - the guard tells only who asks
                await asyncio.sleep(LOOK_SECONDS)
        self._ledger.note("dead", pid=pid)
        assert self._process is not None
        assert self._process.exit_code is not None
        return self._process.exit_code

    def said(self, event: str) -> list[dict[str, Any]]:
        """Return its log lines of this event."""
        return [line for line in self.lines() if line["event"] == event]


class Scene:
    """The toy app, its processes and everything that can be known about them from outside.

    Args:
        stack: a Kafka and a Redis that may be stopped and started.
        setup: how each process is.
        session_seconds: after this the group counts a silent member as gone; None as shipped.
    """

    def __init__(
        self, stack: Stack, setup: Setup, *, session_seconds: float | None = SESSION_SECONDS
    ) -> None:
        self.stack = stack
        self.setup = setup
        self.topics: Topics = topics_of(setup.name)
        self.connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
        self.log = KafkaLog(self.connect, service="fire-test", acknowledge_seconds=120)
        self.session_seconds = session_seconds
        self.history = History(one_by_one=ONE_BY_ONE)
        self.ledger = Ledger(setup.ledger)
        self.members: list[Member] = []
        self.published: dict[tuple[str, str], dict[int, Position]] = defaultdict(dict)
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20))
        self.outages: list[tuple[float, float]] = []
        self._asked: dict[tuple[str, str], float] = {}
        self._clock = SystemClock()

    async def open(self) -> None:
        """Create the topics and connect."""
        next_release = fire(self.setup.model_copy(update={"release": 2}))
        wanted = topics_of_app(next_release)
        async with asyncio.timeout(60), admin(self.connect) as kafka:
            await kafka.apply(wanted)
        await self.log.__aenter__()

    async def close(self) -> None:
        """End every process and let go of everything."""
        for member in self.members:
            if member.running:
                await member.kill()
        await self.session.close()
        await self.log.__aexit__(None, None, None)
        self.ledger.close()

    # Processes --------------------------------------------------------------------------------

    def member(self, instance: str | None = None, *, release: int = 1) -> Member:
        """Return a process that is not started yet.

        Args:
            instance: static membership under this name.
        """
        setup = self.setup.model_copy(update={"release": release})
        env = {
            "PYTHONPATH": os.pathsep.join(sys.path),
            "KAFKA_BOOTSTRAP_SERVERS": self.stack.kafka.bootstrap_servers,
            "REDIS_URL": self.stack.redis.url,
            "HTTP_PORT": "0",
            "BBL_DRAIN_SECONDS": "5",
        }
        if self.session_seconds is not None:
            env["BBL_SESSION_SECONDS"] = str(self.session_seconds)
        if instance is not None:
            env["BBL_INSTANCE"] = instance
        name = f"{setup.name}-{len(self.members)}"
        member = Member(setup, env, self.setup.folder, name, self.ledger)
        self.members.append(member)
        return member

    async def start(self, *members: Member) -> None:
        """Start processes and return when each has its place in the group."""
        await asyncio.gather(*(member.start() for member in members))
        await asyncio.gather(*(member.ready(self.session) for member in members))

    async def healthy(self, member: Member) -> list[str]:
        """Return why `/healthz` wants the process restarted; nothing while it is well."""
        async with self.session.get(f"{member.url}/healthz") as answer:
            body = await answer.json()
            return [] if answer.status == 200 else list(body["reasons"])

    async def metric(
        self,
        member: Member,
        name: str,
        fits: Callable[[float], bool],
        limit_seconds: float = METRIC_SECONDS,
    ) -> None:
        """Return once the sum of all series of a metric fits.

        A process measures itself beside its work, so what is true shows a little later.

        Raises:
            AssertionError: it did not within the limit; the text says where it stands.
        """
        found: float | None = None
        try:
            async with asyncio.timeout(limit_seconds):
                while found is None or not fits(found):
                    if found is not None:
                        await asyncio.sleep(LOOK_SECONDS)
                    found = await self._sum(member, name)
        except TimeoutError:
            raise AssertionError(f"{name} of {member.name} is {found}") from None

    async def _sum(self, member: Member, name: str) -> float:
        async with self.session.get(f"{member.url}/metrics") as answer:
            lines = (await answer.text()).splitlines()
        found = [line for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rpartition(" ")[2]) for line in found)

    # Records ----------------------------------------------------------------------------------

    async def publish(
        self, topic: Topic[ThingChanged], events: Sequence[ThingChanged]
    ) -> list[Position]:
        """Append the events in their order; each is acknowledged when this returns."""
        found: list[Position] = []
        asked = self._clock.now().timestamp()
        for first in range(0, len(events), BATCH):
            batch = events[first : first + BATCH]
            found += await self.log.append([self._encoded(topic, event) for event in batch])
        step = self._step(topic)
        for event, position in zip(events, found, strict=True):
            self.published[step, event.thing][event.number] = position
            self._asked[step, event.thing] = asked
        return found

    def _encoded(self, topic: Topic[ThingChanged], event: ThingChanged) -> Outgoing:
        return codec.encode(
            topic, event, event_id=new_event_id(), source="test", now=self._clock.now()
        )

    def _step(self, topic: Topic[ThingChanged]) -> str:
        names = {
            self.topics.ordered.name: "Fire Order",
            self.topics.changed.name: "Fire Sync",
            self.topics.added.name: "Fire Addition",
        }
        return names[topic.name]

    # What there is to see ---------------------------------------------------------------------

    def look(self) -> History:
        """Return the history up to now."""
        self.history.read(self.setup.ledger)
        return self.history

    async def until(
        self,
        condition: Callable[[History], bool],
        limit_seconds: float,
        what: str,
        *,
        alive: Iterable[Member] = (),
    ) -> None:
        """Return once the ledger shows `condition`.

        Args:
            alive: processes that must not end meanwhile.

        Raises:
            AssertionError: it did not within the limit; the text says how far it came.
        """
        try:
            async with asyncio.timeout(limit_seconds):
                while not condition(self.look()):
                    for member in alive:
                        assert member.running, (
                            f"{member.name} ended by itself:\n{last_lines(member.log)}"
                        )
                    await asyncio.sleep(LOOK_SECONDS)
        except TimeoutError:
            raise AssertionError(
                f"not within {limit_seconds:g} s: {what}; {self.history.finished} of "
                f"{self.count} records finished, {len(self.history.unfinished)} keys pending, "
                f"{len(self.history.open_runs())} runs open"
            ) from None

    @property
    def count(self) -> int:
        """How many published records count each."""
        return sum(
            len(numbers) for (step, _), numbers in self.published.items() if step in ONE_BY_ONE
        )

    def settled(self, history: History) -> bool:
        """Whether every record had the run it was promised; see `lost`."""
        return history.finished >= self.count and not history.unfinished and not self.lost()

    def lost(self) -> list[str]:
        """Return what was not done.

        Where each record counts: those without a run that ended well. Where one run answers for
        all that waits: keys without a run that began after their last record and ended well, and
        keys whose last run failed.
        """
        history, found = self.history, []
        for (step, key), numbers in self.published.items():
            if step in ONE_BY_ONE:
                done = history.well.get((step, key), ())
                missing = [number for number in numbers if number not in done]
            elif history.last_well.get((step, key), 0.0) < self._asked[step, key]:
                missing = [max(numbers)]
            else:
                missing = []
            found += [f"{step} {key} {number} at {numbers[number]}" for number in missing]
        return found + [f"{place}: {word}" for place, word in history.unfinished.items()]

    async def read(self, topic: Topic[Any]) -> list[Record]:
        """Return everything on a topic."""
        starts = {(topic.name, number): 0 for number in range(topic.partitions)}
        return [record async for record in self.log.read(starts)]

    async def journalled(self) -> dict[str, float]:
        """Return, by run id, when the runs' ends were stored, in unix seconds.

        An end whose acknowledgement was lost is stored twice; what counts is the last.
        """
        found: dict[str, float] = {}
        for record in await self.read(topics.JOURNAL):
            if record.value is None or record.time is None:
                continue
            entry = JournalEntry.model_validate_json(record.value)
            if entry.service == self.setup.name and entry.phase == "end":
                found[entry.run_id] = record.time.timestamp()
        return found

    def now(self) -> float:
        """Return the clock of the machine, which is the broker's too, in seconds."""
        return self._clock.now().timestamp()

    async def waiting(self) -> list[ScheduleEntry]:
        """Return what lies in the schedule topic, ticks apart."""
        latest: dict[bytes | None, bytes | None] = {}
        for record in await self.read(topics.schedule(self.setup.name)):
            latest[record.key] = record.value
        entries = [ScheduleEntry.from_bytes(value) for value in latest.values() if value]
        return [entry for entry in entries if entry.kind != "tick"]

    async def dead_letters(self) -> list[dict[str, Any]]:
        """Return the dead letters."""
        letters = await self.read(topics.dlq(self.setup.name))
        return [json.loads(record.value) for record in letters if record.value]

    async def gathered(self, members: int) -> bool:
        """Whether the group has so many members, and each its partitions."""
        async with admin(self.connect) as kafka:
            group = await kafka.group(self.setup.name)
        return group.state == "Stable" and len(group.members) == members

    async def notes(self) -> GroupNotes:
        """Return what the broker noted about the group."""
        return await notes_of(self.connect, self.setup.name)

    async def repeats(self) -> Repeats:
        """Judge every run that did again what an earlier one did, of records that never wait."""
        stored, notes = await self.journalled(), await self.notes()
        assert stored, "the journal is empty: nothing could be judged"
        assert notes.commits, "the broker kept no commit: nothing could be judged"
        return judged(self.history, self.published, stored, notes, self.outages)


MakeScene = Callable[..., Awaitable[Scene]]
"""What opens a scene: an app of its own name; takes `session_seconds` and what `Setup` takes."""
