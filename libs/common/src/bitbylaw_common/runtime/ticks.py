"""Cron entries: which instant is next, which runs, what was missed, what an end leaves (pure).

Each cron has one entry in the schedule, under its function id. It names the instant that comes
next, or the one whose run began and has no end yet. Nothing moves it but the end of that instant's
run, a taking over that finds the expression changed, or an instant that overtakes a failing one:

- A run begins by noting so in the entry (`Begun.entry`). A run that died is thereby told from an
  instant that was never tried: it is resumed, with its run id; the policy for missed instants is
  asked for the others only.
- An instant that fails or waits is tried again until the cron's next instant is due, which
  overtakes it and counts its attempts from none. A cron looks at everything each time, so the newer
  instant answers the older one; counted on, a cron of every minute would end in the dead letters,
  where nothing can be redriven, while its next instant is at the door.
- A manual run leaves the entry as it is and only adds its run id, so that its request, delivered
  again after a crash, is known to be answered. Its own next attempt, if it comes before the next
  instant, keeps that instant behind it.
"""

import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain, islice, takewhile
from typing import Any, Literal

from bitbylaw_common.cron import ZONE
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.runtime.triggers import CronTrigger, Tick
from bitbylaw_common.runtime.verdict import Verdict

ENTITY = "cron"
"""The entity of a cron's lane, schedule entry and journal; the id is the function's."""

GRACE = timedelta(minutes=1)
"""How old an instant may be that `missed="skip"` still runs: a restart takes that long."""

LISTED = 5
"""Missed instants that are named; of more, the first and the last of them."""

COUNTED = 1_000
"""Missed instants that are counted; a cron of every second misses 86,400 a day."""

ANSWERED = 16
"""Manual runs remembered as over: more than ever end between two commits of a function's requests."""

REASON_KEPT = 2_000

_RUN_IDS = uuid.UUID("0f0d9a3c-52b1-5d0e-9a57-3f3f0c2f7a11")


@dataclass(frozen=True, slots=True)
class Cron:
    """One declared cron.

    Attributes:
        step: its step's name.
        function_id: its trigger's id.
    """

    step: str
    function_id: str
    trigger: CronTrigger

    @property
    def lane(self) -> LaneKey:
        """The key of its runs and of its entry."""
        return LaneKey(self.step, ENTITY, self.function_id)

    def after(self, instant: datetime) -> datetime:
        """Return its first instant later than this, in UTC."""
        return self.trigger.expression.next_after(instant).astimezone(UTC)


@dataclass(frozen=True, slots=True)
class MissedInstants:
    """Instants that were due and do not run.

    Attributes:
        count: how many, at most `COUNTED`.
        listed: the first of them, in order; the last one is always `last`.
    """

    count: int
    listed: tuple[datetime, ...]
    last: datetime

    @property
    def words(self) -> str:
        """For journal and log: `3 instants missed: 2026-03-02 02:00:00 CET, ...`."""
        named = [_words(instant) for instant in self.listed]
        if self.last not in self.listed:
            named += ["...", _words(self.last)]
        more = "at least " if self.count >= COUNTED else ""
        noun = "instant" if self.count == 1 else "instants"
        return f"{more}{self.count} {noun} missed: {', '.join(named)}"


@dataclass(frozen=True, slots=True)
class Begun:
    """What to do with a tick whose turn has come.

    Attributes:
        how: "run" the handler with `tick`; "pass" over it: journal it as skipped for `reason`;
            "stale": the instant is over, or the entry names another by now, so nothing is done
            and nothing written.
        tick: what the handler takes; the journal's run, too, where it is passed over.
        missed: what does not run, for journal and metric.
        entry: to be acknowledged before the handler begins; None where nothing changes.
        anew: the chain of attempts begins with this run; the entry's belongs to another instant.
        reason: why this run and not another, in words for the journal: what was missed, what is
            resumed. Empty for an instant that runs in time.
    """

    how: Literal["run", "pass", "stale"]
    tick: Tick
    missed: MissedInstants | None = None
    entry: ScheduleEntry | None = None
    anew: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Ended:
    """What a run leaves.

    Attributes:
        verdict: as it is journalled: a next attempt that does not come is taken out.
        entry: the cron's entry from now on.
        moved: whether it is due at another time than before; if not, it must not fire again.
    """

    verdict: Verdict
    entry: ScheduleEntry
    moved: bool


def run_id(function_id: str, instant: datetime) -> str:
    """Return the id of the run of one instant, the same wherever and however often it runs."""
    name = f"{function_id}|{instant.astimezone(UTC).isoformat(timespec='seconds')}"
    return uuid.uuid5(_RUN_IDS, name).hex


def declared(steps: Iterable[Step[Any, Any, Any]]) -> dict[str, Cron]:
    """Return the crons of these steps, by function id."""
    return {
        function_id: Cron(step.name, function_id, trigger)
        for step in steps
        for number, trigger in enumerate(step.triggers)
        if isinstance(trigger, CronTrigger)
        for function_id in (step.function_id(number),)
    }


def tick_of(entry: ScheduleEntry) -> Tick:
    """Return what an entry that is due starts."""
    if entry.manual:
        return Tick(entry.due, entry.run_id, manual=True)
    instant = _instant(entry)
    return Tick(instant, entry.run_id or run_id(entry.entity_id, instant))


def answered(entry: ScheduleEntry | None, asked: str) -> bool:
    """Say whether the manual run with this id is over, or has its next attempt in the entry."""
    if entry is None:
        return False
    return asked in entry.answered or (entry.manual and entry.run_id == asked)


# -- taking over ------------------------------------------------------------------------------------


def planned(cron: Cron, entry: ScheduleEntry | None, now: datetime) -> ScheduleEntry | None:
    """Return the entry to write when a worker takes the cron over; None leaves what is there.

    There is something to write when there is no entry, or when the one that waits does not fit the
    expression any more. What is overdue, interrupted or waits for its next attempt stays.
    """
    if entry is None:
        return _pending(cron, cron.after(now), now)
    # another worker's clock may have been ahead of ours
    following = cron.after(max(now, entry.finished or now))
    if entry.due <= now or entry.begun is not None:
        return None
    if entry.kind != "tick" and entry.due < following:
        if not entry.manual or _instant(entry) == following:
            return None
        return entry.model_copy(update={"instant": following})
    if entry.kind == "tick" and entry.due == following:
        return None
    return _pending(cron, following, now, before=entry)


def orphans(entries: Iterable[ScheduleEntry], crons: Mapping[str, Cron]) -> list[ScheduleEntry]:
    """Return the entries of crons that this code declares no more; each gets a tombstone.

    Args:
        crons: see `declared`.
    """
    return [
        entry
        for entry in entries
        if entry.entity == ENTITY
        and (entry.entity_id not in crons or crons[entry.entity_id].step != entry.step)
    ]


# -- beginning --------------------------------------------------------------------------------------


def begin(cron: Cron, entry: ScheduleEntry | None, tick: Tick, now: datetime) -> Begun:
    """Say what a tick whose turn has come starts; called right before its run.

    Args:
        entry: the cron's, as it is now.
    """
    if tick.manual:
        own = entry is not None and entry.manual and entry.run_id == tick.run_id
        return Begun("run", tick, anew=not own)
    if entry is None or tick_of(entry) != tick or (entry.kind != "tick" and entry.due > now):
        return Begun("stale", tick)
    if entry.begun is not None:
        began = f"resumed: it began at {_words(entry.begun)} and did not end"
        missed_before = f"; {entry.reason}" if "missed" in entry.reason else ""
        return Begun("run", tick, reason=began + missed_before)
    expression, policy = cron.trigger.expression, cron.trigger.missed
    newer = expression.instants(tick.due)
    first = next(newer, None)
    if first is None or first > now:
        if entry.kind == "tick" and policy == "skip" and now - tick.due > GRACE:
            return _pass(tick, _missed([tick.due], tick.due))
        return Begun("run", tick, entry=_marked(entry, tick, now))
    if policy == "all":
        if entry.kind == "tick":
            return Begun("run", tick, entry=_marked(entry, tick, now))
        return _run_newer(entry, first, None, now)
    newest = (expression.last_until(now) or first).astimezone(UTC)
    # an instant that was tried and failed is overtaken, not missed
    waiting = [tick.due] if entry.kind == "tick" else []
    due = chain(waiting, [first], newer)
    if policy == "skip" and now - newest > GRACE:
        late = Tick(newest, run_id(entry.entity_id, newest))
        return _pass(late, _missed(_up_to(due, newest), newest))
    before = newest - timedelta(seconds=1)
    earlier, last = _up_to(due, before), expression.last_until(before)
    missed = _missed(earlier, max(last or tick.due, tick.due)) if earlier else None
    return _run_newer(entry, newest, missed, now)


def _run_newer(
    entry: ScheduleEntry, instant: datetime, missed: MissedInstants | None, now: datetime
) -> Begun:
    tick = Tick(instant.astimezone(UTC), run_id(entry.entity_id, instant))
    reason = "" if missed is None else missed.words
    marked = _marked(entry, tick, now, reason)
    return Begun("run", tick, missed, marked, anew=True, reason=reason)


def _pass(tick: Tick, missed: MissedInstants) -> Begun:
    return Begun("pass", tick, missed, anew=True, reason=missed.words)


def _marked(entry: ScheduleEntry, tick: Tick, now: datetime, reason: str = "") -> ScheduleEntry:
    """Return the entry that tells of a run under way: due at once for whoever finds it."""
    update: dict[str, Any] = {"begun": now, "instant": tick.due, "run_id": tick.run_id}
    if tick.due != _instant(entry):
        update |= {"kind": "tick", "due": tick.due, "attempt": 0, "chain": "", "since": now}
        update |= {"error": "", "seen": "", "until": None}
    if reason:
        update["reason"] = reason
    return entry.model_copy(update=update)


def _missed(instants: list[datetime], last: datetime) -> MissedInstants:
    # in UTC: an instant of the hour that comes twice is called unequal to itself in another zone
    listed = tuple(instant.astimezone(UTC) for instant in instants[:LISTED])
    end = listed[-1] if len(instants) <= LISTED else last.astimezone(UTC)
    return MissedInstants(len(instants), listed, end)


def _up_to(instants: Iterable[datetime], last: datetime) -> list[datetime]:
    # compared in UTC: two instants of one zone compare by the clock on the wall
    end = last.astimezone(UTC)
    in_order = (instant.astimezone(UTC) for instant in islice(instants, COUNTED))
    return list(takewhile(lambda instant: instant <= end, in_order))


def overdue(entry: ScheduleEntry, now: datetime) -> timedelta:
    """Return for how long the entry's instant has been due without an end; zero before it is."""
    return max(timedelta(), now - _instant(entry))


# -- ending -----------------------------------------------------------------------------------------


def end(
    cron: Cron,
    entry: ScheduleEntry | None,
    tick: Tick,
    verdict: Verdict,
    now: datetime,
    *,
    seen: str = "",
) -> Ended:
    """Say what the end of a tick's run leaves: the cron's entry, and the verdict to journal.

    Args:
        entry: the cron's, as it is now; for an instant's run the one that `begin` was asked with.
        tick: the one that ran.
        verdict: see `verdict.judge`.
        seen: digest of what the run saw.
    """
    if tick.manual:
        return _manual(cron, entry, tick, verdict, now, seen=seen)
    following = cron.after(tick.due)
    if verdict.due is not None and verdict.due < following:
        again = _again(cron, entry, tick, verdict, tick.due, seen=seen)
        return Ended(verdict, again, moved=True)
    verdict = _overtaken(verdict, following, following)
    pending = _pending(cron, following, now, before=entry, finished=tick.due)
    return Ended(verdict, pending, moved=True)


def _manual(
    cron: Cron,
    entry: ScheduleEntry | None,
    tick: Tick,
    verdict: Verdict,
    now: datetime,
    *,
    seen: str,
) -> Ended:
    lacking = entry is None
    if entry is None:
        entry = _pending(cron, cron.after(now), now)
    entry = entry.model_copy(update={"answered": _with(entry.answered, tick.run_id)})
    own = entry.manual and entry.run_id == tick.run_id
    if entry.kind == "tick" or own:
        # behind it comes an instant, whose turn an attempt of ours must not take
        behind = _instant(entry)
        if verdict.due is not None and now < behind and verdict.due < behind:
            again = _again(cron, entry, tick, verdict, behind, seen=seen)
            return Ended(verdict, again, moved=True)
        if own:
            pending = _pending(cron, behind, now, before=entry)
            return Ended(_overtaken(verdict, behind, None), pending, moved=True)
    return Ended(_overtaken(verdict, entry.due, None), entry, moved=lacking)


def _again(
    cron: Cron,
    entry: ScheduleEntry | None,
    tick: Tick,
    verdict: Verdict,
    instant: datetime,
    *,
    seen: str,
) -> ScheduleEntry:
    return ScheduleEntry(
        step=cron.step,
        entity=ENTITY,
        entity_id=cron.function_id,
        due=verdict.due or tick.due,
        kind=verdict.kind or "retry",
        attempt=verdict.chain.attempt,
        chain=verdict.chain.id,
        since=verdict.chain.since,
        reason=verdict.summary[:REASON_KEPT],
        error=verdict.error,
        seen=seen,
        until=verdict.chain.until,
        instant=instant,
        run_id=tick.run_id,
        manual=tick.manual,
        finished=None if entry is None else entry.finished,
        answered=() if entry is None else entry.answered,
    )


def _overtaken(verdict: Verdict, instant: datetime, due: datetime | None) -> Verdict:
    """Return the verdict without the next attempt that it planned, if it did."""
    if verdict.due is None:
        return verdict
    words = f"{verdict.summary} (not tried again: {_words(instant)} comes first)"
    utc = None if due is None else due.astimezone(UTC)
    return replace(verdict, summary=words, due=utc, kind="")


# -- entries ----------------------------------------------------------------------------------------


def _pending(
    cron: Cron,
    instant: datetime,
    now: datetime,
    *,
    before: ScheduleEntry | None = None,
    finished: datetime | None = None,
) -> ScheduleEntry:
    over = [one for one in (finished, before.finished if before else None) if one is not None]
    return ScheduleEntry(
        step=cron.step,
        entity=ENTITY,
        entity_id=cron.function_id,
        due=instant,
        kind="tick",
        since=now,
        reason=f"cron {cron.trigger.expression.text}",
        instant=instant,
        run_id=run_id(cron.function_id, instant),
        finished=max((one.astimezone(UTC) for one in over), default=None),
        answered=before.answered if before else (),
    )


def _instant(entry: ScheduleEntry) -> datetime:
    """Return the entry's instant; an entry of an earlier version has none of its own."""
    if entry.instant is not None:
        return entry.instant
    return entry.due if entry.kind == "tick" else entry.since.astimezone(UTC)


def _with(before: tuple[str, ...], asked: str) -> tuple[str, ...]:
    return (*(one for one in before if one != asked), asked)[-ANSWERED:]


def _words(instant: datetime) -> str:
    return instant.astimezone(ZONE).strftime("%Y-%m-%d %H:%M:%S %Z")
