"""Dead letters: what a service gave up on, grouped by cause, one by one, and asked for again."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, places
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.pipeline import new_run_id
from bitbylaw_common.runtime.ports import Log, Record

EXAMPLES = 5
"""Records that a group names."""

GOOD_ENDS = ("done", "skipped")
"""Outcomes after which an earlier death of the same record is of the past."""

_VARYING = (
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(\.\d+)?([+-]\d\d:\d\d|Z)?"), "(a time)"),
    (re.compile(r"attempt \d+ was the last"), "the last attempt"),
)


class Letter(BaseModel):
    """One dead letter, without the bytes.

    Attributes:
        place: where it lies: `topic:partition:offset`.
        origin: where the record lay that died.
        event_topic, event: what it is run with again; None where it could not be read.
        raw_bytes: how long the unreadable record was; None where it could be read.
    """

    model_config = ConfigDict(frozen=True)

    place: str
    service: str
    step: str
    entity: str
    entity_id: str
    error: str
    reason: str
    attempts: int
    first_seen: datetime
    died: datetime
    origin: str
    event_id: str
    run_id: str
    trace_id: str
    code_version: str
    event_topic: str = ""
    event: Any = None
    raw_bytes: int | None = None


class LetterGroup(BaseModel):
    """Letters that died of the same cause.

    Attributes:
        reason: the words they share, varying instants left out.
        examples: some of the records, the last dead first; their places where they have no id.
    """

    model_config = ConfigDict(frozen=True)

    error: str
    reason: str
    step: str
    count: int
    first: datetime
    last: datetime
    examples: tuple[str, ...]


class LetterList(BaseModel):
    """The dead letters of a service, the largest group first.

    Attributes:
        resolved: letters left out because their record was brought in line since.
        unreadable: letters that this version cannot read.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    count: int
    groups: tuple[LetterGroup, ...]
    resolved: int | None = None
    unreadable: int = 0


class Redrive(BaseModel):
    """A dead letter's event asked for again.

    Attributes:
        written: the request is stored; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    letter: str
    function_id: str
    entity: str
    entity_id: str
    written: bool


async def letters(log: Reads, service: str, *, open_only: bool = False) -> LetterList:
    """Return the dead letters of `service`, grouped by cause.

    Args:
        open_only: leave out letters whose record had a good run since. Reads the journal's
            partitions that the letters lie in, which takes longer.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    found, unreadable = await _read(log, service)
    resolved: int | None = None
    if open_only:
        still = await _open(log, found)
        resolved, found = len(found) - len(still), still
    return LetterList(
        service=service,
        count=len(found),
        groups=grouped([letter for _, letter in found]),
        resolved=resolved,
        unreadable=unreadable,
    )


async def letter(log: Reads, service: str, which: str) -> tuple[Letter, bytes | None]:
    """Return one dead letter, and the unreadable record's bytes where there are such.

    Args:
        which: the record's id, its origin or the letter's place (`topic:partition:offset`), its
            event id or run id. Of several the last dead is meant.

    Raises:
        CommandError: no letter of this service fits.
        LogUnavailableError: Kafka cannot be read.
    """
    _, dead, place = await _one(log, service, which)
    return _letter(dead, place), dead.raw_bytes


async def redrive(log: Log, clock: Clock, service: str, which: str, *, write: bool) -> Redrive:
    """Ask the service to run a dead letter's event again, at once; harmless when repeated.

    The letter stays; a good run resolves it.

    Args:
        which: see `letter`.
        write: False only says what would be asked for.

    Raises:
        CommandError: no letter of this service fits, or its record could not be read.
        LogUnavailableError: Kafka did not acknowledge; it may be asked for or not.
    """
    record, dead, place = await _one(log, service, which)
    if dead.carried is None:
        raise CommandError(
            Exit.REFUSED,
            f"{place} was unreadable, so there is nothing to run it with; look at its bytes with "
            f"`bbl dlq show {service} {place} --raw FILE --personal`",
        )
    function_id = f"steps::{dead.step}::trigger::0"
    if write:
        asked = RunRequested(
            function_id=function_id,
            run_id=new_run_id(),
            subject=dead.entity_id,
            requested=json.loads(dead.carried.value),
        )
        topic = topics.requests(service)
        trace = tracing.child_of(record.headers.get("traceparent"))
        await log.append(
            [
                codec.encode(
                    topic,
                    asked,
                    event_id=codec.new_event_id(),
                    source="bbl",
                    now=clock.now(),
                    traceparent=trace.header,
                    headers={codec.ORIGIN: dead.origin},
                )
            ]
        )
    return Redrive(
        service=service,
        letter=place,
        function_id=function_id,
        entity=dead.entity,
        entity_id=dead.entity_id,
        written=write,
    )


def grouped(found: Iterable[DeadLetter]) -> tuple[LetterGroup, ...]:
    """Return the letters by error, cause and step, the largest group first (pure)."""
    by_cause: defaultdict[tuple[str, str, str], list[DeadLetter]] = defaultdict(list)
    for dead in found:
        by_cause[dead.error, _cause(dead.reason), dead.step].append(dead)
    groups = []
    for (error, reason, step), members in by_cause.items():
        members.sort(key=lambda dead: dead.died)
        latest = [dead.entity_id or dead.origin for dead in reversed(members)]
        groups.append(
            LetterGroup(
                error=error,
                reason=reason,
                step=step,
                count=len(members),
                first=members[0].died,
                last=members[-1].died,
                examples=tuple(dict.fromkeys(latest))[:EXAMPLES],
            )
        )
    return tuple(sorted(groups, key=lambda group: (-group.count, group.error, group.reason)))


def _cause(reason: str) -> str:
    for pattern, words in _VARYING:
        reason = pattern.sub(words, reason)
    return reason


async def _read(log: Reads, service: str) -> tuple[list[tuple[int, DeadLetter]], int]:
    """Return the letters with their partitions, without raw bytes, and how many are unreadable."""
    found: list[tuple[int, DeadLetter]] = []
    unreadable = 0
    async for record in log.read(places([topics.dlq(service).name])):
        if record.value is None:
            continue
        try:
            dead = DeadLetter.from_bytes(record.value)
        except DecodeError:
            unreadable += 1
            continue
        # A hundred letters of 24 MiB each are not held to count them.
        found.append((record.partition, dead.model_copy(update={"raw": None})))
    return found, unreadable


async def _one(log: Reads, service: str, which: str) -> tuple[Record, DeadLetter, str]:
    last: tuple[Record, DeadLetter, str] | None = None
    topic = topics.dlq(service).name
    async for record in log.read(places([topic])):
        if record.value is None:
            continue
        try:
            dead = DeadLetter.from_bytes(record.value)
        except DecodeError:
            continue
        place = f"{topic}:{record.partition}:{record.offset}"
        called = {place, dead.origin, dead.entity_id, dead.event_id, dead.run_id}
        if which in called and (last is None or dead.died >= last[1].died):
            last = (record, dead, place)
    if last is None:
        raise CommandError(
            Exit.USAGE,
            f"{topic} holds no dead letter for {which!r}; `bbl dlq list {service}` shows what is "
            "there",
        )
    return last


async def _open(
    log: Reads, found: Sequence[tuple[int, DeadLetter]]
) -> list[tuple[int, DeadLetter]]:
    """Return the letters whose record had no good run since."""
    wanted = {f"{dead.entity}:{dead.entity_id}".encode() for _, dead in found if dead.entity_id}
    partitions = {number for number, dead in found if dead.entity_id}
    good: dict[tuple[str, str, str], datetime] = {}
    async for record in log.read(places([topics.JOURNAL.name], partitions)):
        if record.key not in wanted or record.value is None:
            continue
        try:
            entry = JournalEntry.model_validate_json(record.value)
        except ValidationError:
            continue
        if entry.phase == "end" and entry.outcome in GOOD_ENDS and entry.ended is not None:
            key = (entry.step, entry.entity, entry.entity_id)
            good[key] = max(entry.ended, good.get(key, entry.ended))
    return [
        (number, dead)
        for number, dead in found
        if (resolved := good.get((dead.step, dead.entity, dead.entity_id))) is None
        or resolved < dead.died
    ]


def _letter(dead: DeadLetter, place: str) -> Letter:
    raw = dead.raw_bytes
    return Letter(
        place=place,
        service=dead.service,
        step=dead.step,
        entity=dead.entity,
        entity_id=dead.entity_id,
        error=dead.error,
        reason=dead.reason,
        attempts=dead.attempts,
        first_seen=dead.first_seen,
        died=dead.died,
        origin=dead.origin,
        event_id=dead.event_id,
        run_id=dead.run_id,
        trace_id=dead.trace_id,
        code_version=dead.code_version,
        event_topic="" if dead.carried is None else dead.carried.topic,
        event=None if dead.carried is None else json.loads(dead.carried.value),
        raw_bytes=None if raw is None else len(raw),
    )
