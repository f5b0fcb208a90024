"""Dead letters: what a service gave up on, grouped by cause, one by one, and asked for again.

A redrive sends the request first and records it after: what died in between is asked for and not
recorded. So the request's run id is made from the letter, and the next redrive looks for it among
the requests before it asks: it then only records. Nothing is lost, and nothing asked for twice
unless two operators do it at the same time; then both requests carry the one run id.
"""

import json
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.crons import declared_functions
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, instant, place, places
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.dead_letters import DeadLetter, Redriven, read
from bitbylaw_common.runtime.ports import Log, Outgoing
from bitbylaw_common.runtime.ticks import ENTITY

EXAMPLES = 5
"""Records that a group names."""

TOGETHER = 100
"""Requests that are sent before their letters are marked; a crash in between is found out."""

GOOD_ENDS = ("done", "skipped")
"""Outcomes after which an earlier death of the same record is of the past."""

State = Literal["open", "redriven", "resolved", "unreadable"]

_RUN_IDS = uuid.UUID("5a0f6c1e-8f1d-5a43-8a0e-6d0f4f6a7b21")
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
        redriven, redriven_by: when its event was asked for again, and by whom.
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
    redriven: datetime | None = None
    redriven_by: str = ""


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


class Issue(LetterGroup):
    """One cause of death, and how far it is put right.

    Attributes:
        number: names it for `--issue`: causes count from the one that killed first.
        open: letters nobody asked for again and no good run resolved.
        redriven: letters asked for again whose record had no good run since.
        resolved: letters whose record had a good run since.
        unreadable: letters without an event to ask for again: of records that could not be read,
            and of crons, which come again by themselves.
        command: what helps; empty where nothing is left to do.
    """

    number: int
    open: int
    redriven: int
    resolved: int
    unreadable: int
    command: str

    @property
    def settled(self) -> bool:
        """Whether every record was brought in line since."""
        return self.resolved == self.count


class IssueList(BaseModel):
    """The causes of a service's dead letters, the one that killed first at the beginning.

    Attributes:
        unreadable: letters that this version cannot read.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    issues: tuple[Issue, ...]
    unreadable: int = 0


class Redrive(BaseModel):
    """A dead letter's event asked for again.

    Attributes:
        run_id: names the request.
        found: an earlier redrive had sent the request and died before it could record it; this
            one only recorded it.
        written: the request is stored; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    letter: str
    function_id: str
    entity: str
    entity_id: str
    run_id: str = ""
    found: bool = False
    written: bool


class RedriveList(BaseModel):
    """Dead letters asked for again, in the order in which they were asked for.

    Attributes:
        redriven, resolved, unreadable: letters passed over: asked for before, in line since, or
            without an event.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    redrives: tuple[Redrive, ...]
    redriven: int = 0
    resolved: int = 0
    unreadable: int = 0
    written: bool


@dataclass(frozen=True, slots=True)
class Filed:
    """A letter where it lies, without raw bytes: a hundred of 24 MiB each are not held."""

    place: str
    partition: int
    dead: DeadLetter
    traceparent: str = ""

    @property
    def record(self) -> tuple[str, str, str]:
        """What it is about: step, entity and id."""
        return (self.dead.step, self.dead.entity, self.dead.entity_id)


@dataclass(slots=True)
class _Cabinet:
    """What a dead-letter topic holds.

    Attributes:
        redriven: by the letter's place.
        unreadable: records that this version cannot read.
    """

    letters: list[Filed] = field(default_factory=list)
    redriven: dict[str, Redriven] = field(default_factory=dict)
    unreadable: int = 0


async def letters(log: Reads, service: str, *, open_only: bool = False) -> LetterList:
    """Return the dead letters of `service`, grouped by cause.

    Args:
        open_only: leave out letters whose record had a good run since. Reads the journal's
            partitions that the letters lie in, which takes longer.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    cabinet = await _read(log, service)
    found, resolved = cabinet.letters, None
    if open_only:
        good = await _good_ends(log, found)
        still = [filed for filed in found if not _resolved(filed, good)]
        resolved, found = len(found) - len(still), still
    return LetterList(
        service=service,
        count=len(found),
        groups=grouped([filed.dead for filed in found]),
        resolved=resolved,
        unreadable=cabinet.unreadable,
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
    raw: dict[str, bytes] = {}
    cabinet = await _read(log, service, which=which, raw=raw)
    filed = _one(cabinet, service, which)
    content = raw.get(filed.place)
    return _letter(filed, cabinet.redriven.get(filed.place), content), content


async def issues(log: Reads, service: str) -> IssueList:
    """Return the causes of the dead letters of `service`, and how far each is put right.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    cabinet = await _read(log, service)
    good = await _good_ends(log, cabinet.letters)
    return IssueList(
        service=service,
        issues=tuple(issue for issue, _ in _issues(service, cabinet, good)),
        unreadable=cabinet.unreadable,
    )


async def redrive(
    log: Log, clock: Clock, service: str, which: str, *, write: bool, by: str = "operator"
) -> Redrive:
    """Ask the service to run a dead letter's event again, at once; refused the second time.

    The letter stays; a good run resolves it.

    Args:
        which: see `letter`.
        write: False only says what would be asked for.
        by: who asks, as a name an operator understands.

    Raises:
        CommandError: no letter of this service fits, its record could not be read, or it was
            asked for before.
        LogUnavailableError: Kafka did not acknowledge; it may be asked for or not, which the next
            redrive finds out.
    """
    cabinet = await _read(log, service, which=which)
    filed = _one(cabinet, service, which)
    if filed.dead.carried is None and filed.dead.entity == ENTITY:
        raise CommandError(
            Exit.REFUSED,
            f"{filed.place} is a cron's run, which comes again at its next instant; run it now "
            f"with `bbl cron trigger '{filed.dead.entity_id}' --yes`",
        )
    if filed.dead.carried is None:
        raise CommandError(
            Exit.REFUSED,
            f"{filed.place} was unreadable, so there is nothing to run it with; look at its bytes "
            f"with `bbl dlq show {service} {filed.place} --raw FILE --personal`",
        )
    before = cabinet.redriven.get(filed.place)
    if before is not None:
        raise CommandError(Exit.REFUSED, _again(service, filed, before, cabinet.letters))
    (asked,) = await _ask(log, clock, service, [filed], write=write, by=by)
    return asked


async def redrive_all(
    log: Log,
    clock: Clock,
    service: str,
    *,
    cause: str | None = None,
    write: bool,
    by: str = "operator",
) -> RedriveList:
    """Ask the service to run the events of all open letters again, in their original order, once.

    Args:
        cause: only letters of one issue: its number, or words of its error or reason.
        write, by: see `redrive`.

    Raises:
        CommandError: no issue fits, or several do; or all that is not resolved was asked for
            before.
        LogUnavailableError: as of `redrive`.
    """
    cabinet = await _read(log, service)
    good = await _good_ends(log, cabinet.letters)
    meant = cabinet.letters
    if cause is not None:
        meant = _chosen(service, _issues(service, cabinet, good), cause)
    states = {filed.place: _state(filed, cabinet, good) for filed in meant}
    found = [filed for filed in meant if states[filed.place] == "open"]
    counts = Counter(states.values())
    if not found and counts["redriven"]:
        before = max(
            (cabinet.redriven[at] for at, state in states.items() if state == "redriven"),
            key=lambda one: one.at,
        )
        raise CommandError(
            Exit.REFUSED,
            f"{counts['redriven']} letters were asked for before, the last one "
            f"{instant(before.at)} by {before.by}, and none died anew; `bbl dlq issues {service}` "
            "shows how they stand",
        )
    asked = await _ask(log, clock, service, in_order(found), write=write, by=by)
    return RedriveList(
        service=service,
        redrives=tuple(asked),
        redriven=counts["redriven"],
        resolved=counts["resolved"],
        unreadable=counts["unreadable"],
        written=write,
    )


# -- pure -------------------------------------------------------------------------------------------


def grouped(found: Iterable[DeadLetter]) -> tuple[LetterGroup, ...]:
    """Return the letters by error, cause and step, the largest group first (pure)."""
    groups = [_group(cause, members) for cause, members in _by_cause(found).items()]
    return tuple(sorted(groups, key=lambda group: (-group.count, group.error, group.reason)))


def in_order(found: Sequence[Filed]) -> list[Filed]:
    """Return the letters in the order in which to ask for them (pure).

    Those of one record in the order in which their events came: by origin within a topic, by when
    they were first seen across topics, whose positions do not compare. Records among each other by
    when they died.
    """
    by_record: defaultdict[tuple[str, str, str], list[Filed]] = defaultdict(list)
    for filed in found:
        by_record[filed.record].append(filed)
    ordered = {record: iter(_as_they_came(members)) for record, members in by_record.items()}
    by_death = sorted(found, key=lambda filed: (filed.dead.died, filed.place))
    return [next(ordered[filed.record]) for filed in by_death]


def _as_they_came(members: Sequence[Filed]) -> list[Filed]:
    seen = sorted(members, key=lambda filed: (filed.dead.first_seen, filed.dead.died, filed.place))
    by_topic: defaultdict[str, list[Filed]] = defaultdict(list)
    for filed in seen:
        by_topic[_origin(filed)[0]].append(filed)
    for same in by_topic.values():
        same.sort(key=lambda filed: _origin(filed)[1])
    # the turns of a topic stay; whose turn it is goes by the place on the topic
    turns = {topic: iter(same) for topic, same in by_topic.items()}
    return [next(turns[_origin(filed)[0]]) for filed in seen]


def _origin(filed: Filed) -> tuple[str, int]:
    partition, _, offset = filed.dead.origin.rpartition(":")
    return (partition, int(offset)) if offset.isdigit() else (filed.dead.origin, 0)


def run_id_of(filed: Filed) -> str:
    """Return the run id of the request for this letter, the same each time (pure)."""
    return uuid.uuid5(_RUN_IDS, f"{filed.place}|{filed.dead.died.isoformat()}").hex


def function_of(functions: Iterable[FunctionInfo], service: str, step: str, topic: str) -> str:
    """Return the id of the trigger that takes this topic's events (pure).

    The step's first one where the fleet does not tell: the request names the topic as well.
    """
    for info in functions:
        config = info.trigger.config
        if (info.service, info.name, config.get("topic")) == (service, step, topic):
            return info.function_id
    return f"steps::{step}::trigger::0"


def _by_cause(found: Iterable[DeadLetter]) -> dict[tuple[str, str, str], list[DeadLetter]]:
    by_cause: defaultdict[tuple[str, str, str], list[DeadLetter]] = defaultdict(list)
    for dead in found:
        by_cause[_cause(dead)].append(dead)
    return by_cause


def _cause(dead: DeadLetter) -> tuple[str, str, str]:
    reason = dead.reason
    for pattern, words in _VARYING:
        reason = pattern.sub(words, reason)
    return dead.error, reason, dead.step


def _group(cause: tuple[str, str, str], members: Iterable[DeadLetter]) -> LetterGroup:
    by_death = sorted(members, key=lambda dead: dead.died)
    error, reason, step = cause
    latest = [dead.entity_id or dead.origin for dead in reversed(by_death)]
    return LetterGroup(
        error=error,
        reason=reason,
        step=step,
        count=len(by_death),
        first=by_death[0].died,
        last=by_death[-1].died,
        examples=tuple(dict.fromkeys(latest))[:EXAMPLES],
    )


def _state(filed: Filed, cabinet: _Cabinet, good: Mapping[tuple[str, str, str], datetime]) -> State:
    if _resolved(filed, good):
        return "resolved"
    if filed.place in cabinet.redriven:
        return "redriven"
    return "unreadable" if filed.dead.carried is None else "open"


def _resolved(filed: Filed, good: Mapping[tuple[str, str, str], datetime]) -> bool:
    ended = good.get(filed.record)
    return ended is not None and ended >= filed.dead.died


def _issues(
    service: str, cabinet: _Cabinet, good: Mapping[tuple[str, str, str], datetime]
) -> list[tuple[Issue, list[Filed]]]:
    by_cause: defaultdict[tuple[str, str, str], list[Filed]] = defaultdict(list)
    for filed in cabinet.letters:
        by_cause[_cause(filed.dead)].append(filed)
    groups = [
        (_group(cause, [filed.dead for filed in members]), members)
        for cause, members in by_cause.items()
    ]
    groups.sort(key=lambda pair: (pair[0].first, pair[0].error, pair[0].reason, pair[0].step))
    found = []
    for number, (group, members) in enumerate(groups, start=1):
        states = Counter(_state(filed, cabinet, good) for filed in members)
        issue = Issue(
            **group.model_dump(),
            number=number,
            open=states["open"],
            redriven=states["redriven"],
            resolved=states["resolved"],
            unreadable=states["unreadable"],
            command=_command(service, number, members, cabinet, good),
        )
        found.append((issue, members))
    return found


def _command(
    service: str,
    number: int,
    members: Sequence[Filed],
    cabinet: _Cabinet,
    good: Mapping[tuple[str, str, str], datetime],
) -> str:
    """Return what helps next: ask again, look at the bytes, or see what came of a redrive."""
    by_state: defaultdict[State, list[Filed]] = defaultdict(list)
    for filed in members:
        by_state[_state(filed, cabinet, good)].append(filed)
    if by_state["open"]:
        return f"bbl dlq redrive {service} --issue {number} --plan"
    if by_state["unreadable"]:
        last = by_state["unreadable"][-1]
        if last.dead.entity == ENTITY:
            return f"bbl cron trigger '{last.dead.entity_id}' --plan"
        return f"bbl dlq show {service} {last.place} --raw FILE --personal"
    if by_state["redriven"]:
        dead = by_state["redriven"][-1].dead
        return f"bbl why {dead.entity} {dead.entity_id}"
    return ""


def _chosen(service: str, found: Sequence[tuple[Issue, list[Filed]]], cause: str) -> list[Filed]:
    """Return the letters of the issue that a number or words name.

    Raises:
        CommandError: none fits, or several do.
    """
    words = cause.strip().lower()
    fitting = [
        (issue, members)
        for issue, members in found
        if words == str(issue.number)
        or (not words.isdigit() and words and words in f"{issue.error}: {issue.reason}".lower())
    ]
    if len(fitting) == 1:
        return fitting[0][1]
    several = ", ".join(f"{issue.number} ({issue.error})" for issue, _ in fitting)
    raise CommandError(
        Exit.USAGE,
        f"{cause!r} fits several issues: {several}; name one by its number"
        if fitting
        else f"no issue of {service} fits {cause!r}; `bbl dlq issues {service}` lists them",
    )


def _again(service: str, filed: Filed, before: Redriven, found: Iterable[Filed]) -> str:
    """Return why a letter is not asked for a second time."""
    words = f"{filed.place} was asked for again already, {instant(before.at)} by {before.by}"
    newer = [
        other
        for other in found
        if other.record == filed.record and other.dead.died > max(before.at, filed.dead.died)
    ]
    if newer:
        last = max(newer, key=lambda other: other.dead.died)
        return f"{words}; its record died anew: `bbl dlq redrive {service} {last.place}`"
    return f"{words}; `bbl why {filed.dead.entity} {filed.dead.entity_id}` tells what came of it"


# -- reading and writing ------------------------------------------------------------------------------


async def _read(
    log: Reads, service: str, *, which: str = "", raw: dict[str, bytes] | None = None
) -> _Cabinet:
    """Return what the topic holds.

    Args:
        raw: takes the bytes of the letters that `which` names, by their places.
    """
    cabinet = _Cabinet()
    async for record in log.read(places([topics.dlq(service).name])):
        if record.value is None:
            continue
        try:
            found = read(record)
        except DecodeError:
            cabinet.unreadable += 1
            continue
        if isinstance(found, Redriven):
            cabinet.redriven.setdefault(found.letter, found)
            continue
        filed = Filed(
            place(record),
            record.partition,
            found.model_copy(update={"raw": None}),
            record.headers.get("traceparent", ""),
        )
        cabinet.letters.append(filed)
        if raw is not None and which in _names(filed) and found.raw_bytes is not None:
            raw[filed.place] = found.raw_bytes
    return cabinet


def _names(filed: Filed) -> set[str]:
    dead = filed.dead
    return {filed.place, dead.origin, dead.entity_id, dead.event_id, dead.run_id} - {""}


def _one(cabinet: _Cabinet, service: str, which: str) -> Filed:
    fitting = [filed for filed in cabinet.letters if which in _names(filed)]
    if not fitting:
        raise CommandError(
            Exit.USAGE,
            f"{topics.dlq(service).name} holds no dead letter for {which!r}; "
            f"`bbl dlq list {service}` shows what is there",
        )
    latest = max(filed.dead.died for filed in fitting)
    return [filed for filed in fitting if filed.dead.died == latest][-1]


async def _good_ends(log: Reads, found: Sequence[Filed]) -> dict[tuple[str, str, str], datetime]:
    """Return when each record of these letters last had a good run, by step, entity and id."""
    named = [filed for filed in found if filed.dead.entity_id]
    wanted = {f"{filed.dead.entity}:{filed.dead.entity_id}".encode() for filed in named}
    partitions = {filed.partition for filed in named}
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
    return good


async def _ask(
    log: Log, clock: Clock, service: str, found: Sequence[Filed], *, write: bool, by: str
) -> list[Redrive]:
    """Send the requests in this order, each batch before the record that it was sent."""
    functions = await declared_functions(log) if found else ()
    there: set[str] = set()
    if write:
        there = await _asked_before(log, service, {filed.partition for filed in found})
    asked: list[Redrive] = []
    requests: list[Outgoing] = []
    marks: list[Outgoing] = []
    for number, filed in enumerate(found, start=1):
        dead, carried, run_id = filed.dead, filed.dead.carried, run_id_of(filed)
        if carried is None:
            raise ValueError(f"{filed.place} has no event to ask for")
        request = RunRequested(
            function_id=function_of(functions, service, dead.step, carried.topic),
            run_id=run_id,
            subject=dead.entity_id,
            requested=json.loads(carried.value),
            by=by,
            topic=carried.topic,
            origin=filed.place,
            number=number if len(found) > 1 else 0,
            of=len(found) if len(found) > 1 else 0,
        )
        if write:
            if run_id not in there:
                requests.append(_request(service, request, filed, clock))
            mark = Redriven(letter=filed.place, run_id=run_id, at=clock.now(), by=by)
            marks.append(_mark(service, mark, filed, clock))
            if len(marks) == TOGETHER or number == len(found):
                await log.append(requests)
                await log.append(marks)
                requests, marks = [], []
        asked.append(
            Redrive(
                service=service,
                letter=filed.place,
                function_id=request.function_id,
                entity=dead.entity,
                entity_id=dead.entity_id,
                run_id=run_id,
                found=run_id in there,
                written=write,
            )
        )
    return asked


async def _asked_before(log: Reads, service: str, partitions: Iterable[int]) -> set[str]:
    """Return the run ids of the requests in these partitions."""
    name = topics.requests(service).name
    found: set[str] = set()
    async for record in log.read(places([name], partitions)):
        try:
            found.add(RunRequested.model_validate_json(record.value or b"").run_id)
        except ValidationError:
            continue
    return found


def _request(service: str, request: RunRequested, filed: Filed, clock: Clock) -> Outgoing:
    return codec.encode(
        topics.requests(service),
        request,
        event_id=new_event_id(),
        source="bbl",
        now=clock.now(),
        traceparent=tracing.child_of(filed.traceparent).header,
        headers={codec.ORIGIN: filed.dead.origin},
    )


def _mark(service: str, mark: Redriven, filed: Filed, clock: Clock) -> Outgoing:
    encoded = codec.encode(
        topics.dlq(service),
        mark,
        event_id=new_event_id(),
        source="bbl",
        now=clock.now(),
        headers={codec.ORIGIN: filed.dead.origin},
    )
    return replace(encoded, partition=filed.partition)


def _letter(filed: Filed, redriven: Redriven | None, raw: bytes | None) -> Letter:
    dead = filed.dead
    return Letter(
        place=filed.place,
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
        redriven=None if redriven is None else redriven.at,
        redriven_by="" if redriven is None else redriven.by,
    )
