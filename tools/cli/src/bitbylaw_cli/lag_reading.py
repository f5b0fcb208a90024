"""What Kafka tells about a service's lag: its group, its commits, the ends, and what workers say."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta

from pydantic import ValidationError

from bitbylaw_cli.connection import Environment, open_admin, open_log
from bitbylaw_cli.lag_model import Head, Snapshot, Stretch
from bitbylaw_cli.records import Reads, places, subject_of
from bitbylaw_common import topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.kafka.admin import Admin, Extent, Extents, Place, extents
from bitbylaw_common.runtime.commands import Standing, standing
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.offsets import Commit, decoded
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.runtime.status import (
    LATELY_SECONDS,
    WINDOW_SECONDS,
    Sighting,
    sightings,
)
from bitbylaw_common.settings import KafkaSettings
from bitbylaw_common.topics import PARTITIONS

LOOK_SECONDS = 20.0
"""How long one look may take altogether."""
HEAD_SECONDS = 2.0
"""How long the broker may take to hand out the records that hold the watermarks."""
_WINDOWS = (timedelta(seconds=WINDOW_SECONDS), timedelta(seconds=LATELY_SECONDS))


@dataclass(frozen=True, slots=True)
class _Told:
    """What the control topics say.

    Attributes:
        steps: by service, the topics that start its steps, and which.
    """

    steps: Mapping[str, Mapping[str, str]]
    workers: tuple[Sighting, ...]
    commands: Standing
    notes: tuple[str, ...]


class Looks:
    """Connections to look with, again and again. Never joins a group, never moves an offset."""

    def __init__(self, admin: Admin, ends: Extents, log: Reads, clock: Clock) -> None:
        self._admin = admin
        self._ends = ends
        self._log = log
        self._clock = clock

    async def at(self, services: Sequence[str]) -> list[Snapshot]:
        """Return how the services stand now.

        Raises:
            LogUnavailableError: Kafka does not answer, or not in time.
        """
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                told = await self._told()
                return [await self._snapshot(service, told) for service in services]
        except TimeoutError:
            raise LogUnavailableError(
                f"Kafka did not tell how the services stand within {LOOK_SECONDS:g} s"
            ) from None

    async def _told(self) -> _Told:
        wanted = (topics.FUNCTIONS.name, topics.WORKERS.name, topics.COMMANDS.name)
        there = await self._admin.existing(wanted)
        records: dict[str, list[Record]] = {name: [] for name in wanted}
        async for record in self._log.read(places(sorted(there))):
            records[record.topic].append(record)
        workers, unreadable = await sightings(_each(records[topics.WORKERS.name]))
        commands = await standing(_each(records[topics.COMMANDS.name]))
        notes = [
            f"the topic {name} is missing: bbl topics apply --yes"
            for name in wanted
            if name not in there
        ]
        for count, name in (
            (unreadable, topics.WORKERS.name),
            (commands.unreadable, topics.COMMANDS.name),
        ):
            if count:
                notes.append(f"{count} of the records on {name} cannot be read by this version")
        return _Told(_steps(records[topics.FUNCTIONS.name]), workers, commands, tuple(notes))

    async def _snapshot(self, service: str, told: _Told) -> Snapshot:
        group, commits = await asyncio.gather(
            self._admin.group(service), self._admin.committed(service)
        )
        steps = told.steps.get(service, {})
        subscribed = frozenset[str]().union(*(member.topics for member in group.members))
        worked_off = subscribed or (
            {topics.requests(service).name, *steps} | {topic for topic, _ in commits}
        )
        names = await self._admin.existing(worked_off)
        now = self._clock.now()
        every = [(name, number) for name in sorted(names) for number in range(PARTITIONS)]
        ends = await self._ends.of(every, [now - window for window in _WINDOWS])
        stretches = [_stretch(place, ends[place], commits.get(place), steps) for place in every]
        heads = await self._heads(stretches)
        return Snapshot(
            service=service,
            now=self._clock.now(),
            group=group,
            stretches=tuple(_headed(one, heads) for one in stretches),
            workers=tuple(seen for seen in told.workers if seen.service == service),
            commands=told.commands.commands,
            notes=told.notes,
        )

    async def _heads(self, stretches: Iterable[Stretch]) -> dict[Place, Record | None]:
        starts = {(one.topic, one.number): one.first for one in stretches if one.behind}
        return await self._ends.records(starts, seconds=HEAD_SECONDS)


def _steps(records: Iterable[Record]) -> dict[str, dict[str, str]]:
    """Return what starts what, by the declarations that stand; what cannot be read is passed over."""
    found: dict[bytes, FunctionInfo] = {}
    for record in records:
        key = record.key or b""
        found.pop(key, None)
        if record.value is None:
            continue
        try:
            found[key] = FunctionInfo.model_validate_json(record.value)
        except ValidationError:
            continue
    steps: dict[str, dict[str, str]] = {}
    for info in found.values():
        if info.trigger.type == "queue":
            steps.setdefault(info.service, {})[info.trigger.config.get("topic", "")] = info.name
    return steps


def _stretch(
    place: Place, extent: Extent, commit: Commit | None, steps: Mapping[str, str]
) -> Stretch:
    """Return the partition, nothing committed meaning from the beginning."""
    topic, number = place
    first = max(extent.first, 0 if commit is None else commit.offset)
    finished = 0
    said = None if commit is None or commit.offset != first else decoded(commit)
    if said is not None:
        told_to, unfinished = said
        finished = max(0, min(told_to, extent.end) - first - len(unfinished))
    return Stretch(
        topic=topic,
        number=number,
        step=steps.get(topic, ""),
        first=first,
        end=max(first, extent.end),
        finished=finished,
        arrived=extent.arrived[0],
        lately=extent.arrived[1],
    )


def _headed(stretch: Stretch, heads: Mapping[Place, Record | None]) -> Stretch:
    place = (stretch.topic, stretch.number)
    if place not in heads:
        return stretch
    record = heads[place]
    if record is None:  # marks of transactions: nobody waits for them
        return replace(stretch, first=stretch.end, finished=0)
    key = (record.key or b"").decode(errors="replace")
    return replace(stretch, head=Head(record.offset, record.time, subject_of(key)))


async def _each(records: Iterable[Record]) -> AsyncIterator[Record]:
    for record in records:
        yield record


@asynccontextmanager
async def open_looks(env: Environment, clock: Clock) -> AsyncIterator[Looks]:
    """Open what looking takes; a broker answered when the block begins.

    Raises:
        SettingsError: the environment does not say how to reach Kafka.
        CommandError: no broker answers.
        LogUnavailableError: it broke off.
    """
    options = KafkaSettings.from_env(env.values).client_options()
    async with open_log(env) as log, open_admin(env) as admin, extents(options) as ends:
        yield Looks(admin, ends, log, clock)
