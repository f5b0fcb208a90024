"""Replays: a range of a topic's records asked for again, from the service that works on them.

The records are read beside everybody: no group is joined, no offset moves, no other service sees
anything. Each becomes a request to the one service, in the order in which the broker stored them,
under the header `bbl-replay`. The requests themselves are the record of the replay: they carry its
number of records and the place each came from, so that every process can tell how far it got.
"""

import asyncio
import difflib
import json
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.crons import declared_functions
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, home_of, instant, names, place, places
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError, LogUnavailableError
from bitbylaw_common.events import ReplayCancelled, RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.ports import Log, Outgoing, Record
from bitbylaw_common.topics import CONSUMERS, PARTITIONS

RATE = 50.0
"""Requests a second, unless told otherwise: a worker has room left for what comes meanwhile."""

AT_MOST = 200_000
"""Records that one replay may have: they are held in memory, to be sent in the order of all."""

NAMED = 10
"""Unreadable records that are named; the others are counted."""

CHECK_SECONDS = 5.0
"""How often the sender looks whether somebody cancelled the replay."""

PROGRESS_SECONDS = 2.0
QUIET = timedelta(seconds=60)
"""A replay that has sent nothing for so long, though it has more, was stopped."""

_SLICE_SECONDS = 0.2
_BEFORE = re.compile(r"(\d+) ?(s|min|h|d)")
_UNITS = {"s": "seconds", "min": "minutes", "h": "hours", "d": "days"}
_BEGINNING = datetime.min.replace(tzinfo=UTC)

State = Literal["sending", "stopped", "working", "done", "cancelled"]


class Replay(BaseModel):
    """What a replay sends, and how far it came.

    Attributes:
        replay_id: empty in a plan.
        function_id: the trigger that takes the topic, of `step` in `service`.
        count: records to send.
        first, last: when the broker stored the first and the last of them.
        unreadable: records in the range that are not sent, because they do not fit the topic;
            `unreadable_places` names the first of them.
        rate: requests a second.
        sent: requests acknowledged.
        stopped: why it ended early; empty when it did not.
        reached: where the last record that was sent lies, `topic:partition:offset`.
        resume: `--since` of a replay that goes on where this one ended.
        written: it was sent, as far as `sent` says; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    replay_id: str = ""
    topic: str
    service: str
    step: str
    function_id: str
    key: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    count: int
    first: datetime | None = None
    last: datetime | None = None
    unreadable: int = 0
    unreadable_places: tuple[str, ...] = ()
    rate: float
    sent: int = 0
    stopped: str = ""
    reached: str = ""
    resume: datetime | None = None
    written: bool


class ReplayStand(BaseModel):
    """How far a replay is, as its requests and the journal tell.

    Attributes:
        count: records that it was to send.
        sent: requests that are stored.
        done: of these, how many a run answered, however it ended.
        outcomes: of these, by how their last attempt ended: `done`, `retry`, ...
        began, last_sent: when the broker stored its first and its last request.
        reached: where the record of the last request lies.
        cancelled, cancelled_by: since when nothing more of it runs, and by whom.
    """

    model_config = ConfigDict(frozen=True)

    replay_id: str
    service: str
    topic: str
    step: str
    by: str
    state: State
    count: int
    sent: int
    done: int
    outcomes: Mapping[str, int]
    began: datetime | None
    last_sent: datetime | None
    reached: str
    cancelled: datetime | None = None
    cancelled_by: str = ""


class ReplayList(BaseModel):
    """The replays that the requests' retention still knows, the last begun first."""

    model_config = ConfigDict(frozen=True)

    replays: tuple[ReplayStand, ...]


class Cancellation(BaseModel):
    """A replay called off.

    Attributes:
        skipped: how many of its requests no run has answered yet.
        written: it stands; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    replay_id: str
    service: str
    skipped: int
    by: str
    written: bool


@dataclass(frozen=True, slots=True)
class Source:
    """A record to ask for again."""

    stored: datetime
    place: str
    subject: str
    event: Mapping[str, Any]
    traceparent: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a range holds, in the order in which the broker stored it."""

    sources: tuple[Source, ...]
    unreadable: int = 0
    unreadable_places: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Range:
    """Which records are meant: of one topic, stored from `since` to before `until`, of one key."""

    topic: str
    since: datetime | None = None
    until: datetime | None = None
    key: str | None = None


Progress = Callable[[Replay], None]


async def plan(
    log: Reads, wanted: Range, *, service: str | None = None, rate: float = RATE
) -> tuple[Replay, Selection]:
    """Return what a replay would send, and the records.

    Args:
        service: which one is to work on them; needed where several take the topic.

    Raises:
        CommandError: there is no such topic, no step takes it, several services do, or the range
            holds more than `AT_MOST` records.
        LogUnavailableError: Kafka cannot be read.
    """
    taker = taker_of(await declared_functions(log), wanted.topic, service)
    selection = await _select(log, wanted)
    sources = selection.sources
    planned = Replay(
        topic=wanted.topic,
        service=taker.service,
        step=taker.name,
        function_id=taker.function_id,
        key=wanted.key,
        since=wanted.since,
        until=wanted.until,
        count=len(sources),
        first=sources[0].stored if sources else None,
        last=sources[-1].stored if sources else None,
        unreadable=selection.unreadable,
        unreadable_places=selection.unreadable_places,
        rate=rate,
        written=False,
    )
    return planned, selection


async def send(
    log: Log,
    clock: Clock,
    planned: Replay,
    selection: Selection,
    *,
    stopping: asyncio.Event,
    progress: Progress,
    by: str = "operator",
) -> Replay:
    """Send what was planned and return how far that came.

    A request is counted once it is acknowledged, and those of one key are sent one after the
    other, so their order holds whatever fails.

    Args:
        stopping: when set, it ends between two requests.
        progress: told every `PROGRESS_SECONDS`.
        by: who asks, as a name an operator understands.
    """
    replay = planned.model_copy(update={"replay_id": uuid.uuid4().hex[:10], "written": True})
    sources, sent, why = selection.sources, 0, ""
    began = told = checked = clock.monotonic()
    while sent < len(sources) and not why:
        batch = _batch(sources, sent, replay.rate)
        try:
            await log.append([_request(replay, sources, n, clock, by) for n in batch])
        except LogUnavailableError as down:
            why = f"Kafka did not acknowledge ({down}); the last requests may be stored or not"
            break
        sent += len(batch)
        replay = _at(replay, sources, sent)
        if clock.monotonic() - told >= PROGRESS_SECONDS:
            told = clock.monotonic()
            progress(replay)
        if clock.monotonic() - checked >= CHECK_SECONDS:
            checked = clock.monotonic()
            if await _cancelled_by(log, replay.replay_id) is not None:
                why = "it was cancelled"
        turn = began + sent / replay.rate
        while not stopping.is_set() and (left := turn - clock.monotonic()) > 0:
            await clock.sleep(min(left, _SLICE_SECONDS))
        if stopping.is_set() and sent < len(sources):
            why = why or "it was interrupted"
    replay = _at(replay, sources, sent).model_copy(update={"stopped": why})
    progress(replay)
    return replay


async def stands(log: Reads, now: datetime) -> ReplayList:
    """Return the replays that the requests tell of, and how far each is.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    found = await _requested(log)
    called_off = await _called_off(log)
    answered = await _answered(log, found.values())
    replays = [
        _stand(replay, called_off.get(replay_id), answered, now)
        for replay_id, replay in found.items()
    ]
    return ReplayList(
        replays=tuple(
            sorted(replays, key=lambda one: (one.began or _BEGINNING, one.replay_id), reverse=True)
        )
    )


async def cancel(
    log: Log, clock: Clock, replay_id: str, *, write: bool, by: str = "operator"
) -> Cancellation:
    """Call a replay off: what it asked for and no run has begun yet is skipped by the worker.

    Args:
        write: False only says what would be called off.

    Raises:
        CommandError: no replay has this id, it is cancelled already, or nothing of it is left.
        LogUnavailableError: Kafka did not acknowledge; it is called off or not.
    """
    known = (await stands(log, clock.now())).replays
    found = next((one for one in known if one.replay_id == replay_id), None)
    if found is None:
        near = difflib.get_close_matches(
            replay_id, [one.replay_id for one in known], n=1, cutoff=0.0
        )
        nearest = f"the nearest is {near[0]!r}" if near else "there is none"
        raise CommandError(
            Exit.USAGE, f"no replay is called {replay_id!r}; {nearest} (see: bbl replay list)"
        )
    if found.cancelled is not None:
        raise CommandError(
            Exit.REFUSED,
            f"replay {replay_id} was cancelled already, {instant(found.cancelled)} by "
            f"{found.cancelled_by}",
        )
    if found.state == "done":
        raise CommandError(
            Exit.REFUSED, f"replay {replay_id} is done: runs answered all {found.sent} requests"
        )
    if write:
        command = ReplayCancelled(replay_id=replay_id, since=clock.now(), by=by)
        await log.append([commands.encoded(command, clock, source="bbl")])
    return Cancellation(
        replay_id=replay_id,
        service=found.service,
        skipped=found.sent - found.done,
        by=by,
        written=write,
    )


# -- pure -------------------------------------------------------------------------------------------


def moment(text: str | None, now: datetime, *, option: str) -> datetime | None:
    """Return the instant that an option names, UTC (pure).

    Args:
        text: ISO 8601, in UTC where no zone is given, as instants are shown; or how long ago, as
            `30min`, `2h`, `3d`.
        option: the option's name, for the refusal.

    Raises:
        CommandError: it is neither.
    """
    if text is None:
        return None
    before = _BEFORE.fullmatch(text.strip())
    try:
        if before is not None:
            return now - timedelta(**{_UNITS[before[2]]: int(before[1])})
        found = datetime.fromisoformat(text.strip())
    except (ValueError, OverflowError):
        raise CommandError(
            Exit.USAGE,
            f"{option} {text!r} is no instant: write 2026-03-02T09:00, 2026-03-02T10:00+01:00, "
            "or how long ago, as 30min, 2h, 3d",
        ) from None
    return (found if found.tzinfo else found.replace(tzinfo=UTC)).astimezone(UTC)


def taker_of(functions: Iterable[FunctionInfo], topic: str, service: str | None) -> FunctionInfo:
    """Return the function that works on a topic's records (pure).

    Raises:
        CommandError: no topic is called so, no step takes it, or several services do.
    """
    takers = [
        info
        for info in functions
        if info.trigger.type == "queue" and info.trigger.config.get("topic") == topic
    ]
    fitting = [info for info in takers if service in (None, info.service)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        several = ", ".join(info.service for info in fitting)
        raise CommandError(
            Exit.USAGE, f"several services take {topic}: name one of {several} with --service"
        )
    if takers:
        raise CommandError(Exit.USAGE, f"{service} does not take {topic}; {takers[0].service} does")
    try:
        topics.by_name(topic)
    except KeyError as unknown:
        raise CommandError(Exit.USAGE, unknown.args[0]) from None
    raise CommandError(
        Exit.USAGE, f"no step of a service that ran here takes {topic} (see: bbl functions)"
    )


def selected(records: Iterable[Record], wanted: Range) -> Selection:
    """Return what of these records is meant, in the order in which the broker stored it (pure).

    Args:
        records: each partition's in its order.

    Raises:
        CommandError: more than `AT_MOST`.
    """
    found: list[tuple[datetime, int, int, Source]] = []
    unreadable: list[str] = []
    reached: dict[int, datetime] = {}
    for record in records:
        stored = record.time or _BEGINNING
        if not _in_range(record, stored, wanted):
            continue
        # the broker's clock may have gone back; within a partition the offset is the order
        stored_after = max(stored, reached.get(record.partition, stored))
        reached[record.partition] = stored_after
        source = _source(record, stored)
        if source is None:
            unreadable.append(place(record))
        else:
            found.append((stored_after, record.partition, record.offset, source))
        if len(found) > AT_MOST:
            raise CommandError(
                Exit.REFUSED,
                f"the range holds more than {AT_MOST} records: narrow it with --since, --until or "
                "--key, and replay one part after the other",
            )
    found.sort(key=lambda one: one[:3])
    return Selection(
        tuple(source for *_, source in found), len(unreadable), tuple(unreadable[:NAMED])
    )


def _in_range(record: Record, stored: datetime, wanted: Range) -> bool:
    if wanted.since is not None and stored < wanted.since:
        return False
    if wanted.until is not None and stored >= wanted.until:
        return False
    return wanted.key is None or names(record, wanted.key)


def _source(record: Record, stored: datetime) -> Source | None:
    """Return what to ask for; None where the record does not fit its topic, or lies elsewhere."""
    try:
        event, envelope = codec.decode(topics.by_name(record.topic), record)
    except (DecodeError, KeyError):
        return None
    if codec.partition_of(event.key.encode()) != record.partition:
        return None
    body = json.loads(record.value or b"{}")
    return Source(stored, place(record), event.key, body, envelope.traceparent)


def _batch(sources: Sequence[Source], start: int, rate: float) -> list[int]:
    """Return the next few to send together: a tenth of a second's, no key twice."""
    most = max(1, int(rate / 10))
    keys: set[str] = set()
    batch: list[int] = []
    for number in range(start, min(start + most, len(sources))):
        if sources[number].subject in keys:
            break
        keys.add(sources[number].subject)
        batch.append(number)
    return batch


def _request(
    replay: Replay, sources: Sequence[Source], number: int, clock: Clock, by: str
) -> Outgoing:
    source = sources[number]
    asked = RunRequested(
        function_id=replay.function_id,
        run_id=uuid.uuid4().hex,
        subject=source.subject,
        requested=dict(source.event),
        by=by,
        topic=replay.topic,
        origin=source.place,
        number=number + 1,
        of=len(sources),
    )
    return codec.encode(
        topics.requests(replay.service),
        asked,
        event_id=new_event_id(),
        source="bbl",
        now=clock.now(),
        traceparent=tracing.child_of(source.traceparent).header,
        headers={codec.REPLAY: replay.replay_id, codec.ORIGIN: source.place},
    )


def _at(replay: Replay, sources: Sequence[Source], sent: int) -> Replay:
    return replay.model_copy(
        update={
            "sent": sent,
            "reached": sources[sent - 1].place if sent else "",
            "resume": sources[sent].stored if sent < len(sources) else None,
        }
    )


# -- how far it is ------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Requested:
    """The requests of one replay."""

    replay_id: str
    service: str
    asked: list[tuple[Record, RunRequested]] = field(default_factory=list)


_Runs = Mapping[tuple[str, str, str], Sequence[JournalEntry]]
"""What the journal says, by service, step and the record's id."""


def _stand(
    replay: _Requested, off: ReplayCancelled | None, runs: _Runs, now: datetime
) -> ReplayStand:
    replay.asked.sort(key=lambda one: one[1].number)
    times = [record.time for record, _ in replay.asked if record.time is not None]
    last = replay.asked[-1][1]
    outcomes: Counter[str] = Counter()
    for record, asked in replay.asked:
        outcome = _answer(record, asked, replay.service, runs)
        if outcome is not None:
            outcomes[outcome] += 1
    sent = len({asked.number for _, asked in replay.asked})
    done = outcomes.total()
    last_sent = max(times, default=None)
    quiet = last_sent is None or now - last_sent > QUIET
    state: State = "cancelled"
    if off is None:
        all_done = done >= len(replay.asked)
        state = "done" if all_done else "working"
        if sent < last.of:
            state = "stopped" if quiet else "sending"
    return ReplayStand(
        replay_id=replay.replay_id,
        service=replay.service,
        topic=last.topic,
        step=_step_of(last),
        by=last.by,
        state=state,
        count=last.of,
        sent=sent,
        done=done,
        outcomes=dict(sorted(outcomes.items())),
        began=min(times, default=None),
        last_sent=last_sent,
        reached=last.origin,
        cancelled=None if off is None else off.since,
        cancelled_by="" if off is None else off.by,
    )


def _answer(record: Record, asked: RunRequested, service: str, runs: _Runs) -> str | None:
    """Return how the runs that answer a request ended, the last attempt; None while none did."""
    of_record = runs.get((service, _step_of(asked), asked.subject), ())
    first = next((entry for entry in of_record if _answers(entry, record)), None)
    if first is None:
        return None
    # a next attempt has the origin of the first
    last = next(entry for entry in reversed(of_record) if entry.origin == first.origin)
    return last.outcome or "unknown"


def _answers(entry: JournalEntry, record: Record) -> bool:
    """Say whether a run answers a request for its record.

    It does when it is the request's own, or that of a later one: those of a record run in their
    order. One that came otherwise does when it answered several at once and began afterwards.
    """
    partition, _, offset = entry.origin.rpartition(":")
    if partition == f"{record.topic}:{record.partition}" and offset.isdigit():
        return int(offset) >= record.offset
    return entry.answers > 1 and record.time is not None and entry.began >= record.time


def _step_of(asked: RunRequested) -> str:
    return asked.function_id.removeprefix("steps::").rpartition("::trigger::")[0]


# -- reading ----------------------------------------------------------------------------------------


async def _select(log: Reads, wanted: Range) -> Selection:
    numbers = range(PARTITIONS) if wanted.key is None else [home_of(wanted.key)]
    records: list[Record] = []
    async for record in log.read(places([wanted.topic], numbers)):
        if _in_range(record, record.time or _BEGINNING, wanted):
            records.append(record)
        if len(records) > 2 * AT_MOST:
            break
    return selected(records, wanted)


async def _requested(log: Reads) -> dict[str, _Requested]:
    """Return the requests of every replay, by its id."""
    owners = {topics.requests(service).name: service for service in CONSUMERS}
    found: dict[str, _Requested] = {}
    async for record in log.read(places(owners)):
        replay_id = record.headers.get(codec.REPLAY)
        if not replay_id or record.value is None:
            continue
        try:
            asked = RunRequested.model_validate_json(record.value)
        except ValidationError:
            continue
        replay = found.setdefault(replay_id, _Requested(replay_id, owners[record.topic]))
        replay.asked.append((record, asked))
    return found


async def _called_off(log: Reads) -> dict[str, ReplayCancelled]:
    """Return the cancellations that stand, by replay."""
    found: dict[str, ReplayCancelled] = {}
    async for record in log.read(places([topics.COMMANDS.name])):
        try:
            command = commands.parse(record)
        except DecodeError:
            continue
        if isinstance(command, ReplayCancelled):
            found[command.replay_id] = command
    return found


async def _cancelled_by(log: Reads, replay_id: str) -> ReplayCancelled | None:
    key = f"replay|{replay_id}".encode()
    found: ReplayCancelled | None = None
    async for record in log.read(places([topics.COMMANDS.name], [codec.partition_of(key)])):
        if record.key == key:
            try:
                command = commands.parse(record)
            except DecodeError:
                continue
            found = command if isinstance(command, ReplayCancelled) else None
    return found


async def _answered(log: Reads, replays: Iterable[_Requested]) -> _Runs:
    """Return the ends of the runs of everything that was asked for, in their order."""
    wanted = {
        (replay.service, _step_of(asked), asked.subject)
        for replay in replays
        for _, asked in replay.asked
    }
    numbers = sorted({codec.partition_of(subject.encode()) for _, _, subject in wanted})
    found: defaultdict[tuple[str, str, str], list[JournalEntry]] = defaultdict(list)
    if not numbers:
        return found
    async for record in log.read(places([topics.JOURNAL.name], numbers)):
        if record.value is None:
            continue
        try:
            entry = JournalEntry.model_validate_json(record.value)
        except ValidationError:
            continue
        about = (entry.service, entry.step, entry.entity_id)
        if entry.phase == "end" and about in wanted:
            found[about].append(entry)
    return found
