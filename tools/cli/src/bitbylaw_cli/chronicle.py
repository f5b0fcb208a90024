"""One record's story: what came in, what every run saw, decided and did, and what holds now."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, instant, place, places, relative
from bitbylaw_cli.waits import Waiting, shown
from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import ENTITIES, EntityChanged, RunRequested
from bitbylaw_common.journal import EffectFact, JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.retry import LADDER
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.topics import Topic

State = Literal[
    "in line", "received", "waiting", "running", "failing", "interrupted", "dead", "never seen"
]
MomentKind = Literal["received", "requested", "run", "interrupted", "unreadable"]

FINDINGS: tuple[State, ...] = ("failing", "interrupted", "dead")
"""States that somebody should look at."""

RUNS_AT_MOST = timedelta(minutes=3)
"""No step may run longer: a run that began earlier and has no end was interrupted."""

SOON = timedelta(minutes=1)
"""What is not looked at after so long deserves the question whether its service runs."""

_GRAVITY: dict[State, int] = {
    "dead": 0,
    "interrupted": 1,
    "failing": 2,
    "running": 3,
    "waiting": 4,
    "received": 5,
    "in line": 6,
}
_ATTEMPTS = len(LADDER) + 1
_ALIASES = {
    "dokument": "document",
    "dokumente": "document",
    "documents": "document",
    "beteiligter": "beteiligte",
    "bankverbindung": "bankverbindungen",
} | {entity_type.lower(): entity for entity_type, entity in ENTITIES.items()}
_SOURCES = {
    "webhook": "EspoCRM's webhook",
    "coverage": "the comparison of both sides",
    "operator": "an operator",
}
_ENDS = {
    "done": "done",
    "skipped": "nothing to do",
    "wait": "waits",
    "retry": "failed",
    "rejected": "given up",
    "bug": "failed by a bug",
}


class Moment(BaseModel):
    """One thing that happened.

    Attributes:
        words: one line.
        details: further lines: what a run decided, each of its effects.
        place: where the record of it lies: `topic:partition:offset`.
        milliseconds: how long a run took.
        run: the journal's entry of a run.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    kind: MomentKind
    words: str
    details: tuple[str, ...] = ()
    place: str
    event_id: str = ""
    run_id: str = ""
    milliseconds: int | None = None
    run: JournalEntry | None = None


class Story(BaseModel):
    """What is known about one record.

    Attributes:
        verdict: the state in words, and what to press where something is to be done.
        since: since when it is so; None when never seen.
        moments: in the order of time.
        planned: when it is looked at again, if it is.
        dead: the place of the dead letter that counts, `topic:partition:offset`.
        unanswered: events that no run has answered yet.
        unreadable: records about it that this version cannot read.
    """

    model_config = ConfigDict(frozen=True)

    entity: str
    entity_id: str
    state: State
    verdict: str
    since: datetime | None
    moments: tuple[Moment, ...]
    planned: tuple[Waiting, ...] = ()
    dead: str | None = None
    unanswered: int = 0
    unreadable: int = 0


@dataclass(slots=True)
class _Run:
    """One run: its end, or its last intent while there is none.

    Attributes:
        resolved_by: for an interrupted run the first later one that ended.
    """

    entry: JournalEntry
    place: str
    resolved_by: JournalEntry | None = None

    @property
    def ended(self) -> bool:
        """Whether the journal has its end."""
        return self.entry.phase == "end"


@dataclass(slots=True)
class _Facts:
    """What the topics hold about one record; runs in the order in which the journal has them."""

    received: list[tuple[Record, EntityChanged | None]] = field(default_factory=list)
    requested: list[tuple[Record, RunRequested]] = field(default_factory=list)
    runs: dict[str, _Run] = field(default_factory=dict)
    entries: dict[bytes, tuple[str, ScheduleEntry]] = field(default_factory=dict)
    letters: list[tuple[Record, DeadLetter]] = field(default_factory=list)
    unreadable: int = 0

    @property
    def ended(self) -> list[JournalEntry]:
        """The ends of all runs that have one."""
        return [run.entry for run in self.runs.values() if run.ended]


@dataclass(frozen=True, slots=True)
class _Verdict:
    state: State
    words: str
    since: datetime | None
    dead: str | None = None


def entity_of(word: str) -> str:
    """Return the firm's word for an entity, from its name in EspoCRM, or in singular or plural.

    Raises:
        CommandError: there is no such entity; the text names the nearest.
    """
    known = {entity: entity for entity in ENTITIES.values()} | _ALIASES
    found = known.get(word.lower())
    if found is None:
        near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.0)[0]
        raise CommandError(
            Exit.USAGE,
            f"no entity is called {word!r}; the nearest is {known[near]!r} "
            f"(there are: {', '.join(dict.fromkeys(ENTITIES.values()))})",
        )
    return found


async def why(log: Reads, entity: str, entity_id: str, now: datetime) -> Story:
    """Return the story of one record; reads only the partition of its id.

    Args:
        entity: the firm's word, see `entity_of`.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    number = codec.partition_of(entity_id.encode())
    names = [topic.name for topic in _events(entity)] + [topics.JOURNAL.name]
    for service in topics.CONSUMERS:
        kept = (topics.requests(service), topics.schedule(service), topics.dlq(service))
        names += [topic.name for topic in kept]
    mine = [
        record
        async for record in log.read(places(names, [number]))
        if _is_about(record, entity, entity_id)
    ]
    return tell(entity, entity_id, mine, now)


def tell(entity: str, entity_id: str, records: Iterable[Record], now: datetime) -> Story:
    """Return the story that these records tell; within a topic they are in their order (pure)."""
    facts = _Facts()
    for record in records:
        _note(facts, record, entity)
    _resolve(list(facts.runs.values()))
    unanswered = _unanswered(facts)
    verdict = _verdict(facts, unanswered, entity, entity_id, now)
    return Story(
        entity=entity,
        entity_id=entity_id,
        state=verdict.state,
        verdict=verdict.words,
        since=verdict.since,
        moments=tuple(_moments(facts)),
        planned=tuple(shown(service, entry) for service, entry in facts.entries.values()),
        dead=verdict.dead,
        unanswered=len(unanswered),
        unreadable=facts.unreadable,
    )


# -- reading ----------------------------------------------------------------------------------------


def _events(entity: str) -> list[Topic[EntityChanged]]:
    return [topic for topic in topics.catalogue() if topic.name.startswith(f"vmh.{entity}.")]


def _is_about(record: Record, entity: str, entity_id: str) -> bool:
    if record.key is None:
        return False
    key = record.key.decode(errors="replace")
    if key in (entity_id, f"{entity}:{entity_id}"):
        return True
    return key.split("|", 2)[1:] == [entity, entity_id]


def _note(facts: _Facts, record: Record, entity: str) -> None:
    """Put the record among the facts; what cannot be read is counted."""
    try:
        if record.topic.endswith(".schedule"):
            _note_entry(facts, record)
        elif record.value is None:
            facts.unreadable += 1
        elif record.topic == topics.JOURNAL.name:
            _note_run(facts, JournalEntry.model_validate_json(record.value), place(record))
        elif record.topic.endswith(".dlq"):
            facts.letters.append((record, DeadLetter.from_bytes(record.value)))
        elif record.topic.endswith(".requests"):
            asked = RunRequested.model_validate_json(record.value)
            if ENTITIES.get(str((asked.requested or {}).get("entity_type"))) == entity:
                facts.requested.append((record, asked))
        else:
            facts.received.append((record, _event_in(record)))
    except (DecodeError, ValidationError):
        facts.unreadable += 1


def _event_in(record: Record) -> EntityChanged | None:
    try:
        event, _ = codec.decode(topics.by_name(record.topic), record)
    except DecodeError:
        return None
    return event if isinstance(event, EntityChanged) else None


def _note_run(facts: _Facts, entry: JournalEntry, where: str) -> None:
    run = facts.runs.get(entry.run_id)
    if run is None:
        facts.runs[entry.run_id] = _Run(entry, where)
    elif not run.ended:
        run.entry, run.place = entry, where


def _note_entry(facts: _Facts, record: Record) -> None:
    key = record.key or b""
    if record.value is None:
        facts.entries.pop(key, None)
    else:
        service = record.topic.removesuffix(".schedule")
        entry = ScheduleEntry.from_bytes(record.value)
        if entry.kind == "dead":
            facts.entries.pop(key, None)  # given up: the letter tells of it, nothing is planned
        else:
            facts.entries[key] = (service, entry)


def _resolve(runs: Sequence[_Run]) -> None:
    """Name for each interrupted run the first later one that ended: it found out what was done."""
    next_end: dict[str, JournalEntry] = {}
    for run in reversed(runs):
        if run.ended:
            next_end[run.entry.step] = run.entry
        else:
            run.resolved_by = next_end.get(run.entry.step)


def _unanswered(facts: _Facts) -> list[Record]:
    """Return the events that no run answered which ended.

    A run answers the event it names, those before it on the same topic, and everything that was
    received before it began. What went unread to the dead letters is answered, too.
    """
    ended = facts.ended
    named = {entry.event_id for entry in ended}
    began = max((entry.began for entry in ended), default=None)
    reached: dict[str, int] = {}
    for entry in ended:
        partition, _, offset = entry.origin.rpartition(":")
        if offset.isdigit():
            reached[partition] = max(int(offset), reached.get(partition, -1))
    buried = {dead.origin for _, dead in facts.letters}
    incoming = [record for record, _ in facts.received]
    incoming += [record for record, _ in facts.requested]
    return [
        record
        for record in incoming
        if codec.envelope(record).event_id not in named
        and record.offset > reached.get(f"{record.topic}:{record.partition}", -1)
        and not (began is not None and record.time is not None and record.time <= began)
        and place(record) not in buried
    ]


# -- the verdict ------------------------------------------------------------------------------------


def _verdict(
    facts: _Facts, unanswered: Sequence[Record], entity: str, entity_id: str, now: datetime
) -> _Verdict:
    """Return what holds now; the gravest of all steps that work on the record."""
    found = [_of_entry(service, entry, now) for service, entry in facts.entries.values()]
    planned = {entry.step for _, entry in facts.entries.values()}
    for step in {run.entry.step for run in facts.runs.values()}:
        runs = [run for run in facts.runs.values() if run.entry.step == step]
        if not runs[-1].ended:
            found.append(_of_open_run(runs[-1].entry, now))
        elif step not in planned:
            ends = [run.entry for run in runs if run.ended]
            found.append(_of_ends(ends, facts, now))
    buried, pending = _of_letter(facts, now), _of_unanswered(unanswered, entity, now)
    found += [one for one in (buried, pending) if one is not None]
    if not found:
        words = (
            f"Never seen: Kafka holds no event, no run and no plan for {entity} {entity_id}. "
            "If EspoCRM has it: is the id whole, its webhook active, and does ingest answer? "
            "(`bbl doctor`)"
        )
        return _Verdict("never seen", words, None)
    gravest = min(found, key=lambda one: _GRAVITY[one.state])
    if pending is None or gravest is pending:
        return gravest
    if gravest.state == "in line":
        return pending
    newer = "1 newer event is" if len(unanswered) == 1 else f"{len(unanswered)} newer events are"
    words = f"{gravest.words} {newer} not looked at yet."
    return _Verdict(gravest.state, words, gravest.since, gravest.dead)


def _of_entry(service: str, entry: ScheduleEntry, now: datetime) -> _Verdict:
    if entry.due < now - SOON:
        when = f"Due since {_when(entry.due, now)}, not run (does {service} run? `bbl functions`),"
    else:
        when = f"Waiting until {_when(entry.due, now)}"
    reason = entry.reason.rstrip(".")
    if entry.kind == "retry" or entry.attempt:
        words = (
            f"{when} because {reason} (attempt {entry.attempt} of {_ATTEMPTS} failed, the first "
            f"{relative(entry.since, now)})."
        )
        return _Verdict("failing", words, entry.since)
    end = "" if entry.until is None else f", given up {_when(entry.until, now)}"
    return _Verdict("waiting", f"{when} because {reason} (no failure{end}).", entry.since)


def _of_open_run(entry: JournalEntry, now: datetime) -> _Verdict:
    if now - entry.began < RUNS_AT_MOST:
        words = f"Being worked on since {_when(entry.began, now)} by {entry.worker}."
        return _Verdict("running", words, entry.began)
    words = (
        f"Interrupted {_when(entry.began, now)}: the run had begun to write and did not end. It is "
        f"found out and finished when {entry.service} runs again (`bbl functions`)."
    )
    return _Verdict("interrupted", words, entry.began)


def _of_ends(ends: Sequence[JournalEntry], facts: _Facts, now: datetime) -> _Verdict:
    """Say what the last run of a step left, nothing being planned."""
    last = ends[-1]
    ended = _end(last)
    if last.due is not None:  # the schedule was read a moment before the journal
        state: State = "waiting" if last.outcome == "wait" else "failing"
        words = f"Waiting until {_when(last.due, now)} because {last.summary.rstrip('.')}."
        return _Verdict(state, words, ended)
    if last.outcome in ("rejected", "bug"):
        letter = next((r for r, dead in facts.letters if dead.run_id == last.run_id), None)
        return _dead(last.service, last.summary, ended, letter, now)
    since = last
    for entry in reversed(ends):
        if entry.outcome not in ("done", "skipped"):
            break
        since = entry
        if entry.outcome == "done":
            break
    looked = "" if since is last else f"; looked at last {_when(ended, now)}: {_ending(last)}"
    words = f"In line since {_when(_end(since), now)}: {_ending(since)}{looked}."
    return _Verdict("in line", words, _end(since))


def _of_letter(facts: _Facts, now: datetime) -> _Verdict | None:
    """Return the last death that the journal does not know and no run came after."""
    last = max((entry.began for entry in facts.ended), default=None)
    for record, dead in reversed(facts.letters):
        if dead.run_id not in facts.runs and (last is None or last < dead.died):
            return _dead(
                dead.service, dead.reason, dead.died, record, now, again=dead.carried is not None
            )
    return None


def _of_unanswered(unanswered: Sequence[Record], entity: str, now: datetime) -> _Verdict | None:
    if not unanswered:
        return None
    at = min((record.time for record in unanswered if record.time is not None), default=now)
    words = f"Received {_when(at, now)} and not looked at yet."
    if now - at > SOON:
        owners = {topic.owner for topic in _events(entity)} & set(topics.CONSUMERS)
        words += (
            f" Does {' or '.join(sorted(owners))} run? `bbl functions` tells."
            if owners
            else f" No service of this version works on {entity}."
        )
    return _Verdict("received", words, at)


def _dead(
    service: str,
    reason: str,
    died: datetime,
    letter: Record | None,
    now: datetime,
    *,
    again: bool = True,
) -> _Verdict:
    words = f"Dead since {_when(died, now)}: {reason.rstrip('.')}. Press: "
    anew = "save the record in EspoCRM once the cause is gone, which begins anew."
    if letter is None:
        return _Verdict("dead", words + anew, died)
    at = place(letter)
    verb = f"redrive {service} {at} --yes" if again else f"show {service} {at}"
    return _Verdict("dead", f"{words}`bbl dlq {verb}`, or {anew}", died, at)


def _ending(entry: JournalEntry) -> str:
    """Return what a run did and by which rule: the rule tells why nothing was uploaded."""
    return entry.summary + (f" ({entry.rule})" if entry.rule else "")


def _end(entry: JournalEntry) -> datetime:
    return entry.ended or entry.began


def _when(moment: datetime, now: datetime) -> str:
    return f"{instant(moment)} ({relative(moment, now)})"


# -- the moments ------------------------------------------------------------------------------------


def _moments(facts: _Facts) -> list[Moment]:
    """Return what happened in the order of time; a run never stands before its event."""
    marks: set[str] = set()
    incoming = [_received(record, event, marks) for record, event in facts.received]
    incoming += [_requested(record, asked) for record, asked in facts.requested]
    came = {moment.event_id: moment.at for moment in incoming}
    found = [(moment.at, 0, moment) for moment in incoming]
    for run in facts.runs.values():
        began = run.entry.began
        at = max(began, came.get(run.entry.event_id, began))
        found.append((at, 1, _ran(run) if run.ended else _broken(run)))
    for record, dead in facts.letters:
        if dead.run_id not in facts.runs:
            found.append((dead.died, 2, _buried(record, dead)))
    found.sort(key=lambda one: one[:2])
    return [moment for _, _, moment in found]


def _received(record: Record, event: EntityChanged | None, marks: set[str]) -> Moment:
    envelope = codec.envelope(record)
    if event is None:
        return _came(record, "unreadable", "received a record that cannot be read")
    words = f"{_SOURCES.get(event.source, event.source)}: {event.action}"
    if event.changed:
        words += f" of {', '.join(event.changed)}"
    if envelope.duplicate in marks:
        words += " (the same was posted before)"
    if envelope.duplicate:
        marks.add(envelope.duplicate)
    return _came(record, "received", words)


def _requested(record: Record, asked: RunRequested) -> Moment:
    return _came(record, "requested", f"{_SOURCES.get(asked.by, asked.by)} asked for a run")


def _came(record: Record, kind: MomentKind, words: str) -> Moment:
    at = record.time
    if at is None:
        raise ValueError("the broker gives every record a time")
    event_id = codec.envelope(record).event_id
    return Moment(at=at, kind=kind, words=words, place=place(record), event_id=event_id)


def _ran(run: _Run) -> Moment:
    entry = run.entry
    words = f"{entry.step}: {_ENDS.get(entry.outcome or '', entry.outcome)}"
    if entry.attempt > 1 or entry.outcome in ("retry", "bug"):
        words += f" (attempt {entry.attempt})"
    if entry.summary:
        words += f": {entry.summary}"
    details = [f"answers {entry.answers} events at once"] if entry.answers > 1 else []
    details += _told(entry)
    if entry.due is not None:
        details.append(f"to be looked at again {instant(entry.due)}")
    took = round((_end(entry) - entry.began) / timedelta(milliseconds=1))
    return _of_run(run, "run", words, details).model_copy(update={"milliseconds": took})


def _broken(run: _Run) -> Moment:
    details = _told(run.entry)
    by = run.resolved_by
    details.append(
        "not resolved yet"
        if by is None
        else f"found out by run {by.run_id} of {instant(by.began)}: {by.summary}"
    )
    words = f"{run.entry.step}: began to write, and no end is noted"
    return _of_run(run, "interrupted", words, details)


def _of_run(run: _Run, kind: MomentKind, words: str, details: Sequence[str]) -> Moment:
    return Moment(
        at=run.entry.began,
        kind=kind,
        words=words,
        details=tuple(details),
        place=run.place,
        event_id=run.entry.event_id,
        run_id=run.entry.run_id,
        run=run.entry,
    )


def _told(entry: JournalEntry) -> list[str]:
    """Return the decision and each effect, one line each."""
    told = []
    if entry.rule or entry.reason:
        told.append(f"decided {entry.rule}" + (f": {entry.reason}" if entry.reason else ""))
    for conflict in entry.conflicts:
        # Only by its id: both values are personal, and lie on their own topic.
        shown = (
            f"bbl tail {topics.CONFLICTS.name} --key {entry.entity_id} --from beginning --personal"
        )
        told.append(
            f"told both values before one was overwritten, as conflict {conflict}: `{shown}`"
        )
    return told + [_effect(effect) for effect in entry.effects]


def _effect(effect: EffectFact) -> str:
    """Return one write in words; the write-back is the one to EspoCRM."""
    who = "wrote back to EspoCRM:" if effect.system == "espocrm" else effect.system
    words = f"{who} {effect.method} {effect.target}".rstrip()
    if effect.fields:
        words += " " + ", ".join(
            f"{name}={value or '(empty)'}" for name, value in effect.fields.items()
        )
    if effect.result == "failed":
        words += " - failed"
    elif effect.result == "unknown":
        words += " - nobody knows whether it happened"
    return words


def _buried(record: Record, dead: DeadLetter) -> Moment:
    return Moment(
        at=dead.died,
        kind="unreadable",
        words=f"{dead.service} put {dead.origin} among the dead letters: {dead.reason}",
        place=place(record),
        event_id=dead.event_id,
        run_id=dead.run_id,
    )
