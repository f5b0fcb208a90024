"""Whether a service keeps up, and if not, why and what helps: a judgement over what was seen (pure).

What was seen is a `Snapshot`; `lag_reading.py` takes it, `lag_page.py` shows what comes out.

More than one thing can be found. The one that explains the others comes first and is the verdict;
the order is that of `Verdict`, from last to first:

- rebalancing: nothing new starts until it is over, so nothing else can be told for certain;
- no_owner: partitions without a member stand still, whatever else is right;
- halted, then paused: nothing of the step starts because it must not; a halt is a fault, a pause is
  somebody's wish;
- upstream: an outside system is left alone, and what needs it waits;
- stuck: one key takes long or fails again and again, while the others go on;
- still: nothing moves and nothing above says why;
- slow: it moves, but more comes than goes, or the rest will take its time.

`still` and `slow` are only looked for where nothing above them was found but stuck keys: what is
held back waits by intent.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from bitbylaw_cli import lag_words as say
from bitbylaw_cli.lag_model import (
    Finding,
    PartitionLag,
    ServiceLag,
    Snapshot,
    Stretch,
    WorkerLine,
)
from bitbylaw_common.events import StepHalted, StepPaused
from bitbylaw_common.runtime.gates import resume_command
from bitbylaw_common.runtime.status import (
    LATELY_SECONDS,
    WINDOW_SECONDS,
    FailingKey,
    Held,
    RunningLane,
    WorkerStatus,
)

STUCK_SECONDS = 30.0
"""A run below this is never stuck; above, it is when it takes `STUCK_TIMES` as long as others."""
STUCK_TIMES = 4.0
STUCK_FAILURES = 2
"""A key that failed so often, so at least once after a pause, is told of."""
PATIENCE_SECONDS = 60.0
"""What is worked off within this, or waits no longer than this, is no finding."""
STILL_SECONDS = 30.0
"""How long records wait, with no run under way, before nothing moves."""
LEVEL = 0.1
"""Two rates that differ by no more than this part of what is finished count as the same."""
GROWING_SECONDS = 30.0
"""While nothing waits longer than this, a burst may come faster than it is worked off."""
FORGOTTEN = timedelta(days=1)
"""A worker that stopped or fell silent so long ago is not listed any more."""
FEW_RECORDS = 20
"""So few are no backlog, whatever the rates of a quiet hour make of them."""
LOOP_LAG_SECONDS = 0.25
"""A loop that wakes its sleepers so late holds everything else up."""


@dataclass(frozen=True, slots=True)
class _Pace:
    """How much waits, and how fast it becomes more and less.

    Attributes:
        finished: None when no worker tells.
        running: runs under way.
        longest: what 95 of 100 runs take at most, in seconds; None when no run ended.
    """

    behind: int
    oldest: datetime | None
    waited: float
    arrivals: float
    finished: float | None
    running: int
    longest: float | None

    @property
    def spare(self) -> float:
        """By how much more is finished than arrives, a second; 0 where they are the same."""
        finished = self.finished or 0.0
        spare = finished - self.arrivals
        return 0.0 if abs(spare) <= LEVEL * finished else spare

    @property
    def drain(self) -> float | None:
        """Seconds; see `ServiceLag.drain_seconds`."""
        if not self.behind:
            return 0.0
        if self.behind <= self.running:  # all of it is under way: rates say nothing about it
            return self.longest
        if not self.finished or self.spare < 0:
            return None
        return self.behind / (self.spare or self.finished)


def judge(seen: Snapshot) -> ServiceLag:
    """Return how the service stands."""
    pace = _pace(seen)
    findings = [*_rebalancing(seen), *_no_owner(seen), *_held_steps(seen), *_upstream(seen)]
    explained = bool(findings)
    findings += _stuck(seen)
    if not explained:
        findings += _still_or_slow(seen, pace, found=bool(findings))
    first = findings[0] if findings else None
    return ServiceLag(
        service=seen.service,
        verdict="well" if first is None else first.verdict,
        words=_well(pace) if first is None else first.words,
        command="" if first is None else first.command,
        findings=tuple(findings),
        behind=pace.behind,
        oldest=pace.oldest,
        behind_seconds=round(pace.waited, 1),
        arrivals_per_second=round(pace.arrivals, 2),
        finished_per_second=None if pace.finished is None else round(pace.finished, 2),
        drain_seconds=None if pace.drain is None else round(pace.drain, 1),
        partitions=tuple(_partitions(seen)),
        workers=tuple(_workers(seen)),
        notes=(*seen.notes, *_notes(seen)),
    )


def _pace(seen: Snapshot) -> _Pace:
    heads = [one.head.at for one in seen.stretches if one.head is not None and one.head.at]
    oldest = min(heads, default=None)
    living = seen.living
    return _Pace(
        behind=sum(one.behind for one in seen.stretches),
        oldest=oldest,
        waited=0.0 if oldest is None else max(0.0, (seen.now - oldest).total_seconds()),
        arrivals=_arrivals(seen),
        finished=sum(one.finished_per_second for one in living) if living else None,
        running=sum(one.running for one in living),
        longest=max((one.p95_run_seconds for one in living if one.p95_run_seconds), default=None),
    )


def _arrivals(seen: Snapshot) -> float:
    """Return them a second, over the same length of time as workers tell of; see `WorkerStatus`."""
    arrived = sum(one.arrived for one in seen.stretches)
    if arrived < WINDOW_SECONDS:
        return arrived / WINDOW_SECONDS
    return sum(one.lately for one in seen.stretches) / LATELY_SECONDS


# -- what explains everything else ----------------------------------------------------------------


def _rebalancing(seen: Snapshot) -> Iterator[Finding]:
    look = f"bbl lag {seen.service} --watch"
    if seen.group.rebalancing:
        yield Finding(
            verdict="rebalancing",
            words="The group hands its partitions out anew; what runs may end first, nothing new "
            "starts meanwhile. It is over once the slowest member has drained; if it comes back "
            "again and again, a member keeps dying.",
            command=look,
        )
        return
    living = seen.living
    if not living or len(living) < len(seen.group.members):
        return
    given = {number for member in seen.group.members for _, number in member.places}
    loading = given - {number for one in living for number in one.partitions}
    if loading:
        yield Finding(
            verdict="rebalancing",
            words=f"{say.sentence(say.partitions(loading))} handed out, but not taken over yet: "
            "schedule and base are loaded first.",
            command=look,
            partitions=tuple(sorted(loading)),
        )


def _no_owner(seen: Snapshot) -> Iterator[Finding]:
    if seen.group.rebalancing:
        return
    left = {one.instance for one in seen.workers if one.status is None}
    staying = [
        member
        for member in seen.group.members
        # A static member keeps its place for a while after its process said good-bye.
        if member.client not in {f"{seen.service}-{instance}" for instance in left}
    ]
    owned = {place for member in staying for place in member.places}
    wanted = frozenset().union(*(member.topics for member in seen.group.members))
    missing = {
        one.number
        for one in seen.stretches
        if (one.topic, one.number) not in owned and (not wanted or one.topic in wanted)
    }
    if staying and not missing:
        return
    last = max(seen.workers, key=lambda one: one.at, default=None)
    waiting = sum(one.behind for one in seen.stretches if one.number in missing)
    check = "Start it; its log says why it ended (exit code 2: a setting, 70: a broken consumer)."
    if staying:
        last = None
        words = f"{say.sentence(say.partitions(missing))} owned by nobody"
        check = "Check that all workers run the same version and see all topics."
    elif last is None:
        words = "Nobody works: no worker is in the group, and none was ever heard of"
    else:
        how = "stopped" if last.status is None else "fell silent"
        words = (
            f"Nobody works: no worker is in the group {say.since(last.at, seen.now)}, "
            f"when {last.instance} {how}"
        )
    yield Finding(
        verdict="no_owner",
        words=f"{words}. {_waits(waiting)} {check}",
        command=f"bbl logs --service {seen.service} --level warning",
        since=None if last is None else last.at,
        partitions=tuple(sorted(missing)),
        by="" if last is None else last.instance,
        waiting=waiting,
    )


def _waits(count: int) -> str:
    return f"{say.sentence(say.counted(count, 'record', 'wait'))}."


def _held_steps(seen: Snapshot) -> Iterator[Finding]:
    """Halts before pauses; each step once, whoever says so, with the first that did."""
    told: set[tuple[str, str]] = set()
    for stop in sorted(_stops(seen), key=lambda one: (one.what, one.since)):
        if (stop.what, stop.step) not in told:
            told.add((stop.what, stop.step))
            yield _stopped(seen, stop)


@dataclass(frozen=True, slots=True)
class _Stop:
    what: Literal["halted", "paused"]
    step: str
    since: datetime
    by: str
    reason: str


def _stops(seen: Snapshot) -> Iterator[_Stop]:
    versions = {one.code_version for one in seen.living}
    for command in seen.commands:
        match command:
            case StepPaused(service=seen.service):
                yield _Stop("paused", command.step, command.since, command.by, command.reason)
            # A halt is meant for the version that failed; another version runs.
            case StepHalted(service=seen.service) if (
                not versions or command.code_version in versions
            ):
                yield _Stop("halted", command.step, command.since, command.by, command.reason)
    # A worker halts before its word is acknowledged.
    for held in _helds(seen, "halted"):
        yield _Stop("halted", held.step, held.since or seen.now, held.by, held.reason)


def _stopped(seen: Snapshot, stop: _Stop) -> Finding:
    waiting = sum(one.behind for one in seen.stretches if not stop.step or one.step == stop.step)
    what = f'Step "{stop.step}"' if stop.step else "Every step"
    by = f", by {stop.by}" if stop.by else ""
    why = f": {stop.reason}" if stop.reason else ""
    return Finding(
        verdict=stop.what,
        words=f"{what} is {stop.what} {say.since(stop.since, seen.now)}{by}{why}. "
        f"{_waits(waiting)}",
        command=resume_command(seen.service, stop.step),
        since=stop.since,
        step=stop.step,
        by=stop.by,
        waiting=waiting,
    )


def _upstream(seen: Snapshot) -> Iterator[Finding]:
    by_system: dict[str, list[Held]] = {}
    for held in (*_helds(seen, "circuit"), *_helds(seen, "rate limit")):
        if held.what == "circuit" or held.keys or _lasting(held, seen.now):
            by_system.setdefault(held.system, []).append(held)
    for system, all_held in sorted(by_system.items()):
        since = min((held.since for held in all_held if held.since is not None), default=None)
        until = max((held.until for held in all_held if held.until is not None), default=None)
        keys = sum(held.keys for held in all_held)
        held = min(all_held, key=lambda one: one.what)  # a circuit says more than a rate limit
        what = (
            f"{system} is left alone"
            if held.what == "circuit"
            else f"{system} asked for fewer calls"
        )
        why = f": {held.reason}" if held.reason else ""
        began = "" if since is None else f" {say.since(since, seen.now)}"
        waits = f"{say.sentence(say.counted(keys, 'key', 'wait'))} for it"
        if not keys and held.what == "rate limit":
            waits = "What needs it waits in the schedule"
        again = (
            ""
            if until is None
            else f" It is asked again {say.at(until, seen.now)}, by itself."
            if held.what == "circuit"
            else f" It may be asked again {say.at(until, seen.now)}."
        )
        yield Finding(
            verdict="upstream",
            words=f"{what}{began}{why}.{again} {waits}; no attempt is used up.",
            command="bbl doctor",
            since=since,
            until=until,
            system=system,
            waiting=keys,
        )


def _lasting(held: Held, now: datetime) -> bool:
    """Say whether a system wants more patience than nobody would notice."""
    return held.until is not None and (held.until - now).total_seconds() > PATIENCE_SECONDS


def _helds(seen: Snapshot, what: str) -> Iterator[Held]:
    for status in seen.living:
        yield from (held for held in status.held if held.what == what)


# -- single keys ----------------------------------------------------------------------------------


def _stuck(seen: Snapshot) -> Iterator[Finding]:
    runs = [
        run
        for status in seen.living
        for run in status.oldest
        if (seen.now - run.started).total_seconds() > _longest(status)
    ]
    if runs:
        yield _running(seen, min(runs, key=lambda run: run.started), others=len(runs) - 1)
    failing = [
        key
        for status in seen.living
        for key in status.failing_oldest
        if key.failures >= STUCK_FAILURES
    ]
    if failing:
        altogether = sum(status.failing for status in seen.living)
        yield _failing(seen, min(failing, key=lambda key: key.since), altogether)


def _longest(status: WorkerStatus) -> float:
    return max(STUCK_SECONDS, STUCK_TIMES * (status.p95_run_seconds or 0.0))


def _running(seen: Snapshot, run: RunningLane, *, others: int) -> Finding:
    stretch = _stretch_of(seen, run)
    holds = stretch is not None and stretch.head is not None and stretch.head.key == run.entity_id
    record = run.position
    behind = run.behind
    tail = ""
    if stretch is not None and stretch.head is not None and holds:
        record = f"{stretch.topic}:{stretch.number}:{stretch.head.offset}"
        behind = max(0, stretch.behind - 1)
        tail = (
            f" Its record {record} holds the watermark: {say.counted(behind, 'record', 'lie')} behind "
            "it, and those of other keys go on."
        )
    elif record:
        tail = f" Its record is {record}."
    mine = ""
    if run.behind:
        mine = f"; {say.counted(run.behind, 'record', 'wait')} for the same key"
    more = f" {say.sentence(say.counted(others, 'other run', 'take'))} as long." if others else ""
    attempt = "" if run.attempt < 2 else f", attempt {run.attempt}"
    return Finding(
        verdict="stuck",
        words=f"{run.entity} {run.entity_id} ({run.step}) runs {say.since(run.started, seen.now)}"
        f"{attempt}{mine}.{tail}{more}",
        command=_why(run.entity, run.entity_id),
        since=run.started,
        step=run.step,
        entity=run.entity,
        entity_id=run.entity_id,
        record=record,
        waiting=behind,
    )


def _stretch_of(seen: Snapshot, run: RunningLane) -> Stretch | None:
    """Return the partition whose watermark the run holds; else the one its record lies in."""
    mine = [
        one
        for one in seen.stretches
        if one.head is not None and one.head.key == run.entity_id and one.step == run.step
    ]
    if mine:
        return max(mine, key=lambda one: one.behind)
    topic, _, rest = run.position.partition(":")
    number = rest.partition(":")[0]
    return next(
        (one for one in seen.stretches if (one.topic, str(one.number)) == (topic, number)), None
    )


def _failing(seen: Snapshot, key: FailingKey, altogether: int) -> Finding:
    more = "" if altogether < 2 else f" {altogether} keys fail altogether."
    error = f", the last with {key.error}" if key.error else ""
    return Finding(
        verdict="stuck",
        words=f"{key.entity} {key.entity_id} ({key.step}) fails {say.since(key.since, seen.now)}: "
        f"{key.failures} attempts{error}. It is tried again {say.at(key.due, seen.now)} and holds up "
        f"no other key.{more}",
        command=_why(key.entity, key.entity_id)
        if altogether < 2
        else f"bbl waiting {seen.service}",
        since=key.since,
        until=key.due,
        step=key.step,
        entity=key.entity,
        entity_id=key.entity_id,
        record=key.origin,
        waiting=0,
    )


def _why(entity: str, entity_id: str) -> str:
    if entity == "cron":
        return f"bbl cron history {shlex.quote(entity_id)}"
    return f"bbl why {shlex.quote(entity)} {shlex.quote(entity_id)}"


# -- the whole ------------------------------------------------------------------------------------


def _still_or_slow(seen: Snapshot, pace: _Pace, *, found: bool) -> Iterator[Finding]:
    if not pace.behind:
        return
    wait = say.counted(pace.behind, "record", "wait")
    if pace.oldest is not None:
        wait += f", the oldest {say.since(pace.oldest, seen.now)}"
    common: dict[str, Any] = {
        "since": pace.oldest,
        "waiting": pace.behind,
        "record": _oldest_record(seen),
    }
    logs = f"bbl logs --service {seen.service} --level warning"
    if pace.finished is None:
        if pace.waited > PATIENCE_SECONDS:
            yield Finding(
                verdict="still",
                words=f"{say.sentence(wait)}, and no worker tells how it stands: it hangs, or is of an older "
                "version. Look again to see whether it becomes less.",
                command=logs,
                **common,
            )
        return
    if not pace.finished and not pace.running and pace.waited > STILL_SECONDS:
        yield Finding(
            verdict="still",
            words=f"Nothing moves: {wait}, nothing runs, and nothing is finished.",
            command=logs,
            **common,
        )
        return
    wait = say.sentence(wait)
    rates = f"{say.rate(pace.arrivals)} in, {say.rate(pace.finished)} out"
    watch = f"bbl lag {seen.service} --watch"
    if pace.spare < 0 and pace.behind > FEW_RECORDS and pace.waited > GROWING_SECONDS:
        yield Finding(
            verdict="slow",
            words=f"More arrives than is worked off: {rates}, so it grows by "
            f"{say.rate(pace.arrivals - pace.finished)}. {wait}. {_capacity(seen, pace)}",
            command=watch,
            **common,
        )
    elif pace.behind > FEW_RECORDS and pace.drain is not None and pace.drain > PATIENCE_SECONDS:
        yield Finding(
            verdict="slow",
            words=f"{_course(pace)}: {rates}. {wait}, and that is worked off in "
            f"{say.about(pace.drain)} at {say.rate(pace.finished)}. {_capacity(seen, pace)}",
            command=watch,
            **common,
        )
    elif pace.waited > PATIENCE_SECONDS and not found:
        yield Finding(
            verdict="slow",
            words=f"{_course(pace)}: {rates}. {wait}. {_capacity(seen, pace)}",
            command=watch,
            **common,
        )


def _course(pace: _Pace) -> str:
    if pace.spare > 0:
        return "Catching up"
    return "Late, and staying so" if pace.finished else "Slow"


def _capacity(seen: Snapshot, pace: _Pace) -> str:
    """Say what would make it faster."""
    ready = sum(status.ready for status in seen.living)
    runs = say.sentence(say.counted(pace.running, "run"))
    took = "no run ended lately"
    if pace.longest is not None:
        took = f"95 of 100 runs take at most {say.duration(pace.longest)}"
    if ready:
        return (
            f"{runs} under way and "
            f"{say.counted(ready, 'key', 'wait')} for a place, {took}: "
            "more workers help, or a higher CONCURRENCY."
        )
    return f"{runs} under way and no key waits for a place, {took}: more workers would not help."


def _well(pace: _Pace) -> str:
    if not pace.behind:
        return "All well: nothing waits."
    wait = f"All well: {say.counted(pace.behind, 'record')} on the way"
    if pace.oldest is not None:
        wait += f", the oldest for {say.duration(pace.waited)}"
    if pace.drain is None or not pace.finished:
        return f"{wait}."
    speed = "" if pace.behind <= pace.running else f" at {say.rate(pace.finished)}"
    return f"{wait}; worked off in {say.about(pace.drain)}{speed}."


def _oldest_record(seen: Snapshot) -> str:
    heads = [(one.head.at, one) for one in seen.stretches if one.head and one.head.at]
    if not heads:
        return ""
    _, one = min(heads, key=lambda found: found[0])
    return "" if one.head is None else f"{one.topic}:{one.number}:{one.head.offset}"


# -- lines ----------------------------------------------------------------------------------------


def _partitions(seen: Snapshot) -> Iterator[PartitionLag]:
    owners = {
        number: member.client.removeprefix(f"{seen.service}-")
        for member in seen.group.members
        for _, number in member.places
    } | {number: status.instance for status in seen.living for number in status.partitions}
    for one in sorted(seen.stretches, key=lambda each: (-each.behind, each.topic, each.number)):
        if not one.behind:
            continue
        offset = one.first if one.head is None else one.head.offset
        yield PartitionLag(
            topic=one.topic,
            partition=one.number,
            step=one.step,
            record=f"{one.topic}:{one.number}:{offset}",
            key="" if one.head is None else one.head.key,
            since=None if one.head is None else one.head.at,
            behind=one.behind,
            owner=owners.get(one.number, ""),
        )


def _workers(seen: Snapshot) -> Iterator[WorkerLine]:
    for one in seen.workers:
        status = one.status
        if seen.now - one.at > FORGOTTEN:
            continue
        if status is None:
            yield WorkerLine(instance=one.instance, state="stopped", at=one.at)
            continue
        if not one.alive(seen.now):
            yield WorkerLine(
                instance=one.instance, state="gone", at=one.at, code_version=status.code_version
            )
            continue
        yield WorkerLine(
            instance=one.instance,
            state="draining" if status.draining else "working",
            at=one.at,
            code_version=status.code_version,
            partitions=status.partitions,
            running=status.running,
            ready=status.ready,
            waiting=status.waiting,
            finished_per_second=status.finished_per_second,
            p95_run_seconds=status.p95_run_seconds,
            loop_lag_seconds=status.loop_lag_seconds,
        )


def _notes(seen: Snapshot) -> Iterator[str]:
    for status in seen.living:
        if status.loop_lag_seconds > LOOP_LAG_SECONDS:
            yield (
                f"{status.instance}: the event loop is late by {say.duration(status.loop_lag_seconds)}; "
                "something computes too long in it"
            )
        for held in status.held:
            if held.what == "ramping":
                about = held.system or f'step "{held.step}"'
                yield f"{status.instance}: {about} comes back slowly, few runs at once"
    gone = [one for one in seen.workers if one.status is not None and not one.alive(seen.now)]
    for one in gone:
        if any(member.client == f"{seen.service}-{one.instance}" for member in seen.group.members):
            yield (
                f"{one.instance} is in the group, but tells nothing {say.since(one.at, seen.now)}: "
                "it hangs, or cannot write to Kafka"
            )
