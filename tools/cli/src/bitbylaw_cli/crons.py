"""Crons: what is due next, whether it is on time, what each instant came to, and a run by hand."""

import difflib
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, home_of, instant, places, relative, span
from bitbylaw_cli.waits import folded
from bitbylaw_common import topics, tracing
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.ports import Log
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.runtime.ticks import ENTITY

LATE = timedelta(seconds=30)
"""A worker looks at its schedule five times a second; what is due for longer has no worker."""

RUNS_AT_MOST = timedelta(minutes=3)
"""No step may run longer: a run that began earlier and has no end was interrupted."""

GOOD_ENDS = ("done", "skipped")
NEAREST = 3

State = Literal["on time", "due", "running", "waiting", "failing", "late", "unplanned"]

FINDINGS: tuple[State, ...] = ("failing", "late", "unplanned")
"""States that somebody should look at."""


class CronStand(BaseModel):
    """How one cron stands.

    Attributes:
        next: when it is worked on next; past where that is late.
        finished: the newest instant that is over.
        outcome: how its last run ended, and when in `ended`; None while none did.
        owner: the process that answers for it.
        verdict: the state in words.
        late_seconds: for how long an instant has been waiting for its end; 0 in time.
    """

    model_config = ConfigDict(frozen=True)

    function_id: str
    name: str
    service: str
    expression: str
    owner: str
    next: datetime | None
    finished: datetime | None
    outcome: str | None
    ended: datetime | None
    state: State
    verdict: str
    late_seconds: int = 0


class CronStandList(BaseModel):
    """The crons of the fleet."""

    model_config = ConfigDict(frozen=True)

    crons: tuple[CronStand, ...]


class CronRun(BaseModel):
    """One run of a cron, with all its attempts.

    Attributes:
        instant: the one it was for; None for a run by hand.
        attempts: how often the handler was called to its end.
        outcome, summary: of the last attempt.
        reason: why this instant ran: what was missed before it, what was resumed.
        again: when it is tried again, or what comes instead; None when it is over.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    instant: datetime | None
    manual: bool
    began: datetime
    ended: datetime | None
    attempts: int
    outcome: str
    summary: str
    reason: str
    error: str
    again: datetime | None
    worker: str


class CronHistory(BaseModel):
    """A cron's runs, the last one first.

    Attributes:
        stand: how it stands now.
        more: whether there are older runs.
    """

    model_config = ConfigDict(frozen=True)

    stand: CronStand
    runs: tuple[CronRun, ...]
    more: bool = False


class Triggered(BaseModel):
    """A run by hand.

    Attributes:
        run_id: to find it in the history; empty in a plan.
        written: the request is stored; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    function_id: str
    name: str
    service: str
    run_id: str
    written: bool


async def declared_functions(log: Reads) -> tuple[FunctionInfo, ...]:
    """Return the functions that the fleet declared last, by service and id.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    found: dict[bytes, FunctionInfo] = {}
    async for record in log.read(places([topics.FUNCTIONS.name])):
        key = record.key or b""
        found.pop(key, None)
        if record.value is None:
            continue
        try:
            found[key] = FunctionInfo.model_validate_json(record.value)
        except ValidationError:
            continue
    return tuple(sorted(found.values(), key=lambda info: (info.service, info.function_id)))


async def stands(log: Reads, now: datetime) -> CronStandList:
    """Return how every cron of the fleet stands.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    crons = [info for info in await declared_functions(log) if info.trigger.type == "cron"]
    entries = await _entries(log, crons)
    runs = await _journalled(log, crons)
    return CronStandList(
        crons=tuple(
            stand(info, entries.get(info.function_id), runs.get(info.function_id, ()), now)
            for info in crons
        )
    )


async def history(log: Reads, which: str, now: datetime, *, limit: int) -> CronHistory:
    """Return the last runs of one cron.

    Args:
        which: see `chosen`.

    Raises:
        CommandError: no cron is called so.
        LogUnavailableError: Kafka cannot be read.
    """
    info = chosen(await declared_functions(log), which)
    entries = await _entries(log, [info])
    journalled = (await _journalled(log, [info])).get(info.function_id, [])
    runs = runs_of(journalled)
    return CronHistory(
        stand=stand(info, entries.get(info.function_id), journalled, now),
        runs=tuple(runs[:limit]),
        more=len(runs) > limit,
    )


async def trigger(
    log: Log, clock: Clock, which: str, *, write: bool, by: str = "operator"
) -> Triggered:
    """Ask the cron's owner for a run now, as `POST /_console/cron/trigger` does.

    Its schedule stays as it is.

    Args:
        which: see `chosen`.
        write: False only says what would be asked for.
        by: who asks, as a name an operator understands.

    Raises:
        CommandError: no cron is called so.
        LogUnavailableError: Kafka did not acknowledge; it may be asked for or not.
    """
    info = chosen(await declared_functions(log), which)
    run_id = uuid.uuid4().hex if write else ""
    if write:
        asked = RunRequested(
            function_id=info.function_id, run_id=run_id, subject=info.function_id, by=by
        )
        await log.append(
            [
                codec.encode(
                    topics.requests(info.service),
                    asked,
                    event_id=new_event_id(),
                    source="bbl",
                    now=clock.now(),
                    traceparent=tracing.new().header,
                )
            ]
        )
    return Triggered(
        function_id=info.function_id,
        name=info.name,
        service=info.service,
        run_id=run_id,
        written=write,
    )


# -- pure -------------------------------------------------------------------------------------------


def chosen(functions: Iterable[FunctionInfo], which: str) -> FunctionInfo:
    """Return the cron with this function id, or the only one of a step with this name (pure).

    Raises:
        CommandError: there is none, with the nearest ids; it is started otherwise; or the step
            has several.
    """
    known = list(functions)
    fitting = [info for info in known if which in (info.function_id, info.name)]
    crons = [info for info in fitting if info.trigger.type == "cron"]
    if len(crons) == 1:
        return crons[0]
    if crons:
        ids = ", ".join(repr(info.function_id) for info in crons)
        raise CommandError(Exit.USAGE, f"{which!r} has several crons; name one of {ids}")
    if fitting:
        kind = fitting[0].trigger.type
        raise CommandError(Exit.USAGE, f"{which!r} is started by {kind}, not by a cron")
    ids_of_all = [info.function_id for info in known if info.trigger.type == "cron"]
    near = difflib.get_close_matches(which, ids_of_all, n=NEAREST, cutoff=0.0)
    known_ones = f"; the nearest: {', '.join(map(repr, near))}" if near else ", nor any other"
    raise CommandError(Exit.USAGE, f"no cron has the function id {which!r}{known_ones}")


def stand(
    info: FunctionInfo,
    entry: ScheduleEntry | None,
    journalled: Sequence[JournalEntry],
    now: datetime,
) -> CronStand:
    """Say how a cron stands (pure).

    Args:
        entry: its schedule entry, as it lies in the topic.
        journalled: what its journal says, in order.
    """
    last = next((one for one in reversed(journalled) if one.phase == "end"), None)
    state, verdict, late = _judged(entry, last, now)
    return CronStand(
        function_id=info.function_id,
        name=info.name,
        service=info.service,
        expression=info.trigger.config.get("expression", ""),
        owner=info.owner,
        next=None if entry is None else entry.due,
        finished=None if entry is None else entry.finished,
        outcome=None if last is None else last.outcome,
        ended=None if last is None else last.ended,
        state=state,
        verdict=verdict,
        late_seconds=int(late.total_seconds()),
    )


def _judged(
    entry: ScheduleEntry | None, last: JournalEntry | None, now: datetime
) -> tuple[State, str, timedelta]:
    none = timedelta()
    if entry is None:
        return "unplanned", "no worker has taken it over yet: does its service run?", none
    since = entry.instant or entry.due
    late = max(none, now - since)
    if entry.begun is not None:
        if now - entry.begun <= RUNS_AT_MOST:
            return "running", f"running since {instant(entry.begun)}", late
        began = f"its run began {instant(entry.begun)} and has no end"
        words = f"late by {span(late)}: {began}; the worker that takes it over resumes it"
        return "late", words, late
    if now - entry.due > LATE:
        late = now - min(since, entry.due)
        return "late", f"late by {span(late)}: does its service run, is it paused?", late
    if entry.due <= now:
        return "due", "due now", late
    if entry.kind == "wait":
        return "waiting", f"waits {relative(entry.due, now)}: {entry.reason}", late
    if entry.kind == "retry":
        words = f"attempt {entry.attempt} failed, the next {relative(entry.due, now)}"
        return "failing", f"{words}: {entry.reason}", late
    if last is not None and last.outcome not in GOOD_ENDS:
        words = f"its last run ended as {last.outcome}, the next {relative(entry.due, now)}"
        return "failing", f"{words}: {last.summary}", none
    return "on time", f"on time, next {relative(entry.due, now)}", none


def runs_of(journalled: Iterable[JournalEntry]) -> list[CronRun]:
    """Return the runs that a cron's journal tells of, the last one first (pure)."""
    attempts: dict[str, list[JournalEntry]] = {}
    for entry in journalled:
        if entry.phase == "end":
            # the last to end stands last, whatever began before it
            attempts.setdefault(entry.run_id, []).append(entry)
    found = [_run(entries) for entries in attempts.values()]
    return sorted(found, key=lambda run: (run.ended or run.began, run.began), reverse=True)


def _run(entries: Sequence[JournalEntry]) -> CronRun:
    first, last = entries[0], entries[-1]
    manual = ".requests:" in first.origin
    reasons = dict.fromkeys(entry.reason for entry in entries if entry.reason)
    return CronRun(
        run_id=last.run_id,
        instant=None if manual else _instant(last),
        manual=manual,
        began=first.began,
        ended=last.ended,
        attempts=len(entries),
        outcome=last.outcome or "",
        summary=last.summary,
        reason="; ".join(reasons),
        error=last.error,
        again=last.due,
        worker=last.worker,
    )


def _instant(entry: JournalEntry) -> datetime | None:
    """Return the instant that a run was for; entries of an earlier version do not tell."""
    found = getattr(entry, "instant", None)
    if isinstance(found, str):
        try:
            found = datetime.fromisoformat(found)
        except ValueError:
            return None
    return found.astimezone(UTC) if isinstance(found, datetime) and found.tzinfo else None


# -- reading ----------------------------------------------------------------------------------------


async def _entries(log: Reads, crons: Sequence[FunctionInfo]) -> dict[str, ScheduleEntry]:
    """Return the schedule entries of these crons, by function id."""
    names = {topics.schedule(info.service).name for info in crons}
    if not names:
        return {}
    homes = {home_of(info.function_id) for info in crons}
    owners = {info.function_id: topics.schedule(info.service).name for info in crons}
    entries, _ = await folded(log.read(places(sorted(names), sorted(homes))))
    return {
        entry.entity_id: entry
        for (topic, _), entry in entries.items()
        if entry.entity == ENTITY and owners.get(entry.entity_id) == topic
    }


async def _journalled(
    log: Reads, crons: Sequence[FunctionInfo]
) -> Mapping[str, list[JournalEntry]]:
    """Return what the journal says about these crons, by function id, in order."""
    keys = {f"{ENTITY}:{info.function_id}".encode(): info for info in crons}
    homes = {home_of(info.function_id) for info in crons}
    found: dict[str, list[JournalEntry]] = {}
    if not homes:
        return found
    async for record in log.read(places([topics.JOURNAL.name], sorted(homes))):
        info = keys.get(record.key or b"")
        if info is None or record.value is None:
            continue
        try:
            entry = JournalEntry.model_validate_json(record.value)
        except ValidationError:
            continue
        if entry.service == info.service:
            found.setdefault(info.function_id, []).append(entry)
    return found
