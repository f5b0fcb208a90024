"""`control.commands`: what stands there, followed for the gates and brakes of a process, and written.

The topic is the state: the last record of a key holds, a tombstone withdraws it, and whoever
starts reads it to the end before anything runs.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_common import metrics, topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError, LogUnavailableError
from bitbylaw_common.events import (
    BrakeReleased,
    BrakeTripped,
    Command,
    ReplayCancelled,
    StepHalted,
    StepPaused,
)
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.ports import Outgoing, Position, Record
from bitbylaw_common.topics import PARTITIONS

FOLLOW_PAUSE_SECONDS = 1.0
LONGEST_PAUSE_SECONDS = 5.0

_KINDS: dict[str, type[Command]] = {
    "paused": StepPaused,
    "halted": StepHalted,
    "replay_cancelled": ReplayCancelled,
    "braked": BrakeTripped,
    "brake_released": BrakeReleased,
}
_WITHDRAWN = "bitbylaw.command.withdrawn"


class CommandLog(Protocol):
    """What writing and reading commands takes of a log."""

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """See `Log.append`."""
        ...

    def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """See `Log.read`."""
        ...


class Follows(Protocol):
    """What following takes of a log; `KafkaLog` has it."""

    def follow(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """See `KafkaLog.follow`."""
        ...


class Obeys(Protocol):
    """What obeys commands, and has some to write itself: gates and brakes."""

    def learn(self, key: str, command: Command | None) -> None:
        """Take over what stands under a key now; None for nothing."""
        ...

    def loaded(self) -> None:
        """Note that everything that stood was learnt."""
        ...

    def unpublished(self) -> Sequence[Command]:
        """Return what must still be written."""
        ...

    def published(self, command: Command) -> None:
        """Note that Kafka acknowledged what had to be written."""
        ...

    def listen(self, changed: Callable[[], None]) -> None:
        """Have `changed` called when there may be something to write."""
        ...


def encoded(command: Command, clock: Clock, *, source: str) -> Outgoing:
    """Return the record that makes `command` stand.

    Args:
        source: the service, or the tool, that says so.
    """
    return codec.encode(
        topics.COMMANDS,
        command,
        event_id=new_event_id(),
        source=source,
        now=clock.now(),
    )


def withdrawn(key: str, clock: Clock, *, source: str) -> Outgoing:
    """Return the tombstone that ends what stands under `key`; its headers tell who and when."""
    headers = {
        "ce_specversion": "1.0",
        "ce_id": new_event_id(),
        "ce_type": _WITHDRAWN,
        "ce_source": f"/bitbylaw/{source}",
        "ce_subject": key,
        "ce_time": clock.now().isoformat(),
    }
    return Outgoing(topics.COMMANDS.name, key.encode(), None, headers)


class _Kind(BaseModel):
    model_config = ConfigDict(frozen=True)

    kind: str


def parse(record: Record) -> Command | None:
    """Return the command of a record; None for a tombstone, and for a kind unknown to this version.

    Raises:
        DecodeError: it is neither, its key is another command's, or it lies in a partition where
            its key does not belong. The text carries no content.
    """
    key = _key(record)
    if record.value is None:
        return None
    try:
        model = _KINDS.get(_Kind.model_validate_json(record.value).kind)
        if model is None:
            return None
        command = model.model_validate_json(record.value)
    except ValidationError as unfit:
        first = unfit.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "value"
        raise DecodeError(f"{record.topic}: {place}: {first['type']}") from None
    if command.key != key:
        raise DecodeError(f"{record.topic}: the key does not name what the {command.kind} is about")
    return command


def _key(record: Record) -> str:
    if record.key is None:
        raise DecodeError(f"{record.topic}: a record without a key commands nothing")
    if codec.partition_of(record.key) != record.partition:
        raise DecodeError(f"{record.topic}: it lies in a partition where its key does not belong")
    try:
        return record.key.decode()
    except UnicodeDecodeError:
        raise DecodeError(f"{record.topic}: the key is no text") from None


class Image:
    """What stands under each key (pure). Older records change nothing, in whatever order they come.

    So what this process wrote can be taken over as soon as it is acknowledged, before the follower
    comes by.
    """

    def __init__(self) -> None:
        self._held: dict[str, tuple[int, Command | None]] = {}

    def take(self, key: str, offset: int, command: Command | None) -> bool:
        """Note what a record says; return whether it is not older than what is known."""
        if key in self._held and offset < self._held[key][0]:
            return False
        self._held[key] = (offset, command)
        return True

    def get(self, key: str) -> Command | None:
        """Return what stands under a key."""
        found = self._held.get(key)
        return None if found is None else found[1]

    def commands(self) -> list[Command]:
        """Return everything that stands, by key."""
        return [held for _, (_, held) in sorted(self._held.items()) if held is not None]

    def offsets(self) -> dict[str, int]:
        """Return the offset that each key was last heard of at."""
        return {key: offset for key, (offset, _) in self._held.items()}

    def forget(self, key: str) -> None:
        """Drop a key that is not in the topic any more."""
        self._held.pop(key, None)


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands in the topic.

    Attributes:
        commands: by key.
        unknown: how many are of a kind that this version does not know.
        unreadable: how many keys' last record cannot be read.
    """

    commands: tuple[Command, ...] = ()
    unknown: int = 0
    unreadable: int = 0


async def standing(records: AsyncIterable[Record]) -> Standing:
    """Return what stands, from all records of the topic: for tools that look once."""
    image = Image()
    unknown: set[bytes] = set()
    unreadable: set[bytes] = set()
    async for record in records:
        mark = record.key or f"{record.partition}:{record.offset}".encode()
        unknown.discard(mark)
        unreadable.discard(mark)
        try:
            command = parse(record)
        except DecodeError:
            unreadable.add(mark)
            continue
        if command is None and record.value is not None:
            unknown.add(mark)
        image.take(_key(record), record.offset, command)
    return Standing(tuple(image.commands()), len(unknown), len(unreadable))


@dataclass
class Commands:
    """Follows the topic for the gates and brakes of this process, and writes what they find.

    Attributes:
        gates: what obeys, for each service in this process that works on records.
        source: the process, as logs, metrics and headers name it.
        loaded: set once everything that stood was read; no worker may start before.
    """

    log: CommandLog
    clock: Clock
    gates: Sequence[Obeys]
    source: str
    loaded: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        """Listen to them, so that a halt or a trip is written at once."""
        self._image = Image()
        self._next: dict[tuple[str, int], int] = {}
        self._untold: set[str] = set()
        self._awake = asyncio.Event()
        self._logger = step_logger(service=self.source)
        for gates in self.gates:
            gates.listen(self._awake.set)

    async def follow(self, log: Follows) -> None:
        """Read to the end, set `loaded`, and follow, until cancelled; begins anew after an outage."""
        while True:
            try:
                await self.load()
                async for record in log.follow(dict(self._next)):
                    self.deliver(record)
            except LogUnavailableError as down:
                self._logger.warning("commands are not followed; again soon", error=str(down))
            await self.clock.sleep(FOLLOW_PAUSE_SECONDS)

    async def publish(self) -> None:
        """Write halts and trips as they come, each until acknowledged, until cancelled."""
        while True:
            await self._awake.wait()
            self._awake.clear()
            for gates in self.gates:
                for command in gates.unpublished():
                    await self._publish(gates, command)

    async def last_words(self, seconds: float) -> None:
        """Write the halts that are not acknowledged yet, for so many seconds at most.

        For a process that stops: its successor would find out again what it knew.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                for gates in self.gates:
                    for halt in gates.unpublished():
                        await self._publish(gates, halt)

    async def load(self) -> None:
        """Read from the beginning to the end as it is now, and set `loaded`; may be repeated.

        Raises:
            LogUnavailableError: the end was not reached; nothing changed for the gates.
        """
        before = self._image.offsets()
        self._next = {(topics.COMMANDS.name, number): 0 for number in range(PARTITIONS)}
        found = await self._read()
        now = self._image.offsets()
        for key in before.keys() - found:
            # compaction removes what was withdrawn long ago, tombstone and all
            if before[key] == now[key]:
                self._image.forget(key)
                self._untold.add(key)
        self._tell()
        for gates in self.gates:
            gates.loaded()
        self.loaded.set()

    def deliver(self, record: Record) -> None:
        """Take one record that came after those that were loaded."""
        self._take(record)
        self._tell()

    async def _read(self) -> set[str]:
        """Take in what comes to the end, and return the keys it was about."""
        found: set[str] = set()
        async for record in self.log.read(dict(self._next)):
            key = self._take(record)
            if key is not None:
                found.add(key)
        return found

    def _take(self, record: Record) -> str | None:
        """Note what a record says; return its key, or None where nobody can tell what it says."""
        self._next[record.topic, record.partition] = record.offset + 1
        try:
            command = parse(record)
        except DecodeError as unreadable:
            metrics.UNDECODABLE.labels(self.source, "control").inc()
            self._logger.error(
                "an unreadable command was passed over",
                origin=f"{record.topic}:{record.partition}:{record.offset}",
                reason=str(unreadable),
            )
            return None
        key = _key(record)
        self._image.take(key, record.offset, command)
        self._untold.add(key)
        return key

    def _tell(self) -> None:
        """Tell the gates what stands under every key that was heard of since."""
        untold, self._untold = self._untold, set()
        for key in untold:
            for gates in self.gates:
                gates.learn(key, self._image.get(key))

    @property
    def position(self) -> Mapping[tuple[str, int], int]:
        """Where to read on, by topic and partition."""
        return {
            (topics.COMMANDS.name, number): self._next.get((topics.COMMANDS.name, number), 0)
            for number in range(PARTITIONS)
        }

    def acknowledged(self, gates: Obeys, command: Command, stored: Position) -> None:
        """Take over what was written for `gates`; the follower need not have come by yet."""
        self._image.take(command.key, stored.offset, command)
        self._untold.add(command.key)
        self._tell()
        gates.published(command)

    async def _publish(self, gates: Obeys, command: Command) -> None:
        pause = 0.5
        # another worker of this version may have written it meanwhile
        while command in gates.unpublished():
            try:
                [stored] = await self.log.append([encoded(command, self.clock, source=self.source)])
            except LogUnavailableError as down:
                self._logger.warning(
                    "a command is not acknowledged; it holds here, and is written again",
                    command=command.key,
                    error=str(down),
                )
                await self.clock.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)
            else:
                self.acknowledged(gates, command, stored)
