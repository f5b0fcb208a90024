"""The pipeline: one run, from what started it to the acknowledged record of its outcome.

The order of an effective run: base with its intent, effects, base, then schedule or dead letter
with the journal; the worker finishes the offset after that. Each is acknowledged before the next,
so a crash anywhere means "run again", and what runs again finds what was done.
"""

import asyncio
import base64
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Generic, NamedTuple, TypeVar

from pydantic_core import to_json

from bitbylaw_common import metrics, spans, topics, tracing
from bitbylaw_common.circuits import working_on
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import (
    HeldBack,
    LockLost,
    LogUnavailableError,
    OutsideError,
    OwnershipLost,
    RecordRefused,
)
from bitbylaw_common.events import RunRequested
from bitbylaw_common.ids import new_run_id
from bitbylaw_common.journal import JournalEntry, Phase, RunFacts
from bitbylaw_common.kafka import codec
from bitbylaw_common.logs import RUN_ENDED, RUN_STARTED, announces_runs, step_logger
from bitbylaw_common.outcomes import Outcome, Retry, Skipped, Wait
from bitbylaw_common.runtime import ticks
from bitbylaw_common.runtime.context import Context, Emit, StepLogger
from bitbylaw_common.runtime.dead_letters import DeadLetter
from bitbylaw_common.runtime.desk import Desk, Partition, Unreadable, publish
from bitbylaw_common.runtime.lanes import LaneKey, Work
from bitbylaw_common.runtime.overview import Overview, overview
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.schedule import Carried, ScheduleEntry
from bitbylaw_common.runtime.step import Step
from bitbylaw_common.runtime.triggers import Tick
from bitbylaw_common.runtime.verdict import Chain, Verdict, judge, outcome_of
from bitbylaw_common.sync.brake import Extent

D = TypeVar("D")

LOCK_BUSY_PAUSE = timedelta(seconds=5)
ECHO_TIME = timedelta(minutes=15)
"""How long after a death an event that shows the same is taken for the echo of the last attempt;
later it is a reason to try again."""
WORDS_KEPT = 2_000
"""Characters of a reason that journal and schedule keep; a log line has the rest."""


JOURNAL_BYTES = 768 * 1024
EFFECTS_KEPT = 100
"""Of a journal that is too large, the first and the last effects, half of this each."""


async def given_way() -> None:
    """Let the consumer ask Kafka for more before what is left of a run is done.

    Nobody waits for the rest, and meanwhile the answer is on its way. aiokafka sends the next fetch
    two turns of the loop after it gave out what the last one brought, which is when handlers start.
    """
    await asyncio.sleep(0)
    await asyncio.sleep(0)


def cut(entry: JournalEntry) -> JournalEntry:
    """Return the entry short enough for Kafka: with fewer effects, and the names of their fields."""
    half = EFFECTS_KEPT // 2
    kept = (*entry.effects[:half], *entry.effects[half:][-half:])
    left_out = len(entry.effects) - len(kept)
    effects = tuple(
        effect.model_copy(
            update={
                "target": effect.target[:WORDS_KEPT],
                "fields": {name[:100]: "" for name in list(effect.fields)[:50]},
            }
        )
        for effect in kept
    )
    words = f"{entry.reason} (shortened: {left_out} effects and the values of fields left out)"
    return entry.model_copy(update={"effects": effects, "reason": words, "saw": entry.saw[:200]})


class Run(Generic[D]):
    """One run: what `Context` may ask for, and what is written about it."""

    def __init__(
        self,
        desk: Desk[D],
        partition: Partition,
        work: Work,
        begun: ticks.Begun | None = None,
    ) -> None:
        now = desk.clock.now()
        given = work.item.given
        self.desk = desk
        self.partition = partition
        self.work = work
        self.begun = begun
        self.facts = RunFacts()
        self.run_id = given.run_id if isinstance(given, Tick) else new_run_id()
        self.trace = tracing.child_of(work.item.envelope.traceparent)
        self.began = now
        self.entry = desk.schedule.get(work.key)
        self.awaited = bool(work.causes & {"due", "request"})
        self.new_sight = False
        self.unchanged: Skipped | None = None
        self._lock_lost = False
        self.chain = self._fresh_chain()
        anew = begun is not None and begun.anew
        if self.entry is not None and self.entry.kind in ("retry", "wait") and not anew:
            self.chain = Chain(
                self.entry.attempt, self.entry.chain, self.entry.since, self.entry.until
            )
        position = work.item.position
        carried = self.entry.carried if self.entry is not None else None
        self.origin = (
            f"{position.topic}:{position.partition}:{position.offset}"
            if position is not None
            else carried.origin
            if carried is not None
            else "schedule"
        )
        self.logger: StepLogger = step_logger(
            service=desk.app.name,
            step=work.key.step,
            entity=work.key.entity,
            entity_id=work.key.entity_id,
            run_id=self.run_id,
            event_id=work.item.envelope.event_id,
            trace_id=self.trace.trace_id,
        )

    def _fresh_chain(self) -> Chain:
        return Chain(0, self.work.item.envelope.event_id, self.began)

    @property
    def overtaken(self) -> bool:
        """Whether what was due is not any more: a run that came in between settled the key."""
        due = self.work.item.due
        return self.work.causes == {"due"} and (self.entry is None or self.entry.due != due)

    # What a context asks ----------------------------------------------------------------------

    def now(self) -> datetime:
        """See `Context.now`."""
        return self.desk.clock.now()

    def still_owner(self) -> None:
        """See `Context.still_owner`."""
        if self._lock_lost:
            raise LockLost("another process took the record's lock")
        self.desk.still_owner(self.partition)

    def lock_lost(self) -> None:
        """Note that the record's lock has another holder now."""
        self._lock_lost = True

    def saw(self, digest: str) -> Skipped | None:
        """See `Context.saw`."""
        self.facts.seen = digest
        entry = self.entry
        if entry is not None and entry.kind == "dead" and not self.awaited:
            if entry.seen == digest and self.now() < entry.due:
                since = entry.since.isoformat(timespec="seconds")
                self.unchanged = Skipped(f"unchanged since it was given up at {since}: an echo")
            return self.unchanged
        if entry is None or entry.kind != "retry" or self.awaited:
            return None
        if entry.seen == digest:
            due = entry.due.isoformat(timespec="seconds")
            self.unchanged = Skipped(f"unchanged since attempt {entry.attempt}, next at {due}")
            return self.unchanged
        if entry.seen:
            self.new_sight = True
            self.chain = self._fresh_chain()
        return None

    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]:
        """See `Context.enqueue_all`."""
        self.still_owner()
        return await publish(
            emits,
            log=self.desk.log,
            declared=self.desk.step(self.work.key.step).publishes,
            service=self.desk.app.name,
            now=self.now(),
            trace=self.trace,
        )

    @property
    def _record_key(self) -> bytes:
        return f"{self.work.key.entity}:{self.work.key.entity_id}".encode()

    def base(self) -> bytes | None:
        """Return the record's base as it lies in the log."""
        return self.partition.base.get(self._record_key)

    async def write_base(self, value: bytes | None, *, intent: bool) -> None:
        """See `Context.intend` and `Context.agree`."""
        self.still_owner()
        base = Outgoing(
            self.desk.base_topic,
            self._record_key,
            value,
            {"traceparent": self.trace.header, codec.ORIGIN: self.origin},
            self.partition.number,
        )
        await self.desk.keep([base, self.journal("intent")] if intent else [base], self.partition)
        if intent:
            metrics.JOURNAL_RECORDS.labels(self.desk.app.name, "intent").inc()
        if value is None:
            self.partition.base.pop(self._record_key, None)
        else:
            self.partition.base[self._record_key] = value

    async def overview(self, entity: str) -> Overview:
        """See `Context.overview`."""
        return await overview(self.desk.log, self.desk.app.name, entity)

    def extent(self) -> Extent:
        """See `Context.extent`."""
        return self.desk.extent()

    def base_unreadable(self, reason: str) -> None:
        """Count and log a base that counts as none."""
        metrics.UNDECODABLE.labels(self.desk.app.name, "base").inc()
        self.logger.error("the record's base is unreadable and counts as none", reason=reason)

    # What is written about it -----------------------------------------------------------------

    def carried(self) -> Carried | None:
        """Return the event to run with again; None for a cron."""
        item = self.work.item
        if item.event is None or isinstance(item.event, RunRequested):
            return None
        body = item.event.model_dump_json(exclude_none=True)
        headers = {
            "ce_id": item.envelope.event_id,
            # The next run is a child of what began the chain, as this one is, and names this one.
            "traceparent": item.envelope.traceparent or self.trace.header,
            spans.EARLIER: self.trace.header,
        }
        if item.origin:
            headers[codec.ORIGIN] = item.origin
        return Carried(topic=item.topic, value=body, headers=headers, origin=self.origin)

    def journal(
        self, phase: Phase, *, verdict: Verdict | None = None, due: datetime | None = None
    ) -> Outgoing:
        """Return the journal's record of this run, as it stands now."""
        item = self.work.item
        # Written for every run, from our own values: through the model it costs four times as much.
        fields = {
            "phase": phase,
            "service": self.desk.app.name,
            "step": self.work.key.step,
            "entity": self.work.key.entity,
            "entity_id": self.work.key.entity_id,
            "run_id": self.run_id,
            "event_id": item.envelope.event_id,
            "event_type": item.topic,
            "action": getattr(item.event, "action", ""),
            "trace_id": self.trace.trace_id,
            "code_version": self.desk.options.code_version,
            "worker": self.desk.options.instance,
            "attempt": self.chain.attempt + 1,
            "answers": self.work.answers,
            "began": self.began,
            "rule": self.facts.rule,
            "reason": self._reason[:WORDS_KEPT],
            "saw": self.facts.seen,
            "effects": self.facts.effects,
            "conflicts": self.facts.conflicts,
            "origin": self.origin,
        }
        if verdict is not None:
            fields["ended"] = self.now()
            fields["outcome"] = verdict.name
            fields["summary"] = verdict.summary[:WORDS_KEPT]
            fields["error"] = verdict.error
        if due is not None:
            fields["due"] = due
        if self.begun is not None and not self.begun.tick.manual:
            fields["instant"] = self.begun.tick.due
        value = to_json(fields)
        if len(value) > JOURNAL_BYTES:
            # Cut rather than lost: Kafka would refuse it, at every try.
            metrics.JOURNAL_CUT.labels(self.desk.app.name).inc()
            whole = JournalEntry.model_validate_json(value)
            value = cut(whole).model_dump_json(exclude_none=True).encode()
        return Outgoing(
            topics.JOURNAL.name,
            self._record_key,
            value,
            {"traceparent": self.trace.header},
            self.partition.number,
        )

    @property
    def _reason(self) -> str:
        """Why this run, where it is a cron's out of turn, and why it did what it did."""
        why = "" if self.begun is None else self.begun.reason
        return "; ".join(words for words in (why, self.facts.reason) if words)

    def dead_letter(self, verdict: Verdict, now: datetime) -> DeadLetter:
        """Return the letter that says how the record died."""
        return DeadLetter(
            service=self.desk.app.name,
            step=self.work.key.step,
            entity=self.work.key.entity,
            entity_id=self.work.key.entity_id,
            # Of what was asked for again the request is only the messenger.
            origin=self.work.item.origin or self.origin,
            reason=verdict.summary[:WORDS_KEPT],
            error=verdict.error or "Rejected",
            attempts=verdict.chain.attempt,
            first_seen=verdict.chain.since,
            died=now,
            event_id=self.work.item.envelope.event_id,
            run_id=self.run_id,
            trace_id=self.trace.trace_id,
            code_version=self.desk.options.code_version,
            carried=self.carried(),
        )


class Closing(NamedTuple):
    """The last of a run that left nothing in the schedule: its journal.

    Attributes:
        journal: to be acknowledged before the run's offsets are finished.
        then: counts the run.
    """

    journal: Outgoing
    then: Callable[[], None]


class Pipeline(Generic[D]):
    """Carries runs out, one call each."""

    def __init__(self, desk: Desk[D]) -> None:
        self.desk = desk
        self._deadlines = {
            step.name: Deadlines(step.deadline.total_seconds()) for step in desk.app.steps
        }

    async def carry_out(self, work: Work, run: Run[D]) -> Closing | None:
        """Run the step; return once its outcome is acknowledged, or only its journal is missing.

        Returns:
            What is left to write, where nothing but the journal is: the key's next run need not
            wait for that. None when everything is acknowledged.

        Raises:
            OwnershipLost: the partition went to another worker; nothing was written since.
        """
        step = self.desk.step(work.key.step)
        with spans.run(
            work,
            at=run.trace,
            service=self.desk.app.name,
            run_id=run.run_id,
            attempt=run.chain.attempt + 1,
            earlier=spans.earlier(run.entry.carried if run.entry is not None else None),
        ):
            if announces_runs():
                run.logger.info(RUN_STARTED, attempt=run.chain.attempt + 1, answers=work.answers)
            if run.begun is not None and run.begun.entry is not None:
                marked = run.begun.entry.to_bytes()
                mark = _outgoing(self.desk.schedule_topic, work.key, marked, run)
                await self.desk.keep([mark], run.partition)
            outcome, bug = await self._outcome(step, work, run)
            await given_way()
            try:
                verdict = self._verdict(outcome, run, bug=bug)
            except (AssertionError, OverflowError, TypeError) as unfit:
                # Raised further it would end the process, again and again: one step's mistake
                # would hold up every record.
                run.logger.error("a handler answered what nothing can be made of", exc_info=unfit)
                unusable = Retry("the handler's answer is unusable; see the log", error="Bug")
                verdict = self._verdict(unusable, run, bug=True)
            spans.ended(verdict.name, error=verdict.error, effects=len(run.facts.effects))
            try:
                return await self._settle_run(step, work, run, verdict)
            except RecordRefused as refused:
                # What is due later carries its event; one that is too large for that is given up
                # in the open, where there is room for it.
                dead = replace(
                    verdict,
                    name="rejected",
                    summary=f"cannot be kept for later: {refused}",
                    error="RecordRefused",
                    due=None,
                    kind="",
                    death="rejected",
                    keep_entry=False,
                )
                return await self._settle_run(step, work, run, dead)

    def _verdict(self, outcome: Outcome, run: Run[D], *, bug: bool) -> Verdict:
        verdict = judge(
            outcome,
            run.chain,
            self.desk.clock.now(),
            bug=bug,
            unchanged=outcome is run.unchanged,
            ladder=self.desk.app.ladder,
        )
        early = run.entry is not None and run.entry.kind == "retry" and not run.awaited
        if verdict.kind == "retry" and early and not run.new_sight and run.entry is not None:
            # Events between two attempts do not use attempts up: the pending one stays.
            return replace(verdict, keep_entry=True, due=run.entry.due)
        return verdict

    async def _outcome(
        self, step: Step[Any, Any, D], work: Work, run: Run[D]
    ) -> tuple[Outcome, bool]:
        """Run the handler; return its answer, and whether it is a bug."""
        if run.begun is not None and run.begun.how == "pass":
            return Skipped(run.begun.reason), False
        pause = 0.5
        while True:
            context = Context(
                self.desk.deps,
                run.logger,
                run,
                event_id=work.item.envelope.event_id,
                run_id=run.run_id,
                attempt=run.chain.attempt + 1,
                requested="request" in work.causes and not work.item.replay,
            )
            try:
                return await self._guarded(step, work, run, context), False
            except HeldBack as error:
                # The circuit, or the limit, said so already; each run that is spared is no news.
                run.logger.info("a system is spared", system=error.system, error=str(error))
                return outcome_of(error), False
            except OutsideError as error:
                run.logger.warning(
                    "an outside system ended the run", system=error.system, error=str(error)
                )
                return outcome_of(error), False
            except TimeoutError:
                seconds = int(step.deadline.total_seconds())
                return Retry(f"not finished within {seconds} s", error="Deadline"), False
            except LockLost:
                return Wait("another process took the record's lock", LOCK_BUSY_PAUSE), False
            except OwnershipLost:
                raise
            except LogUnavailableError as down:
                # Nothing that follows could be recorded, so the run begins again once Kafka
                # answers; what it did is found out then.
                await self.desk.pause(down, pause)
                run.still_owner()
                pause = min(pause * 2, 5.0)
            except Exception as bug:
                run.logger.error("bug in a handler", exc_info=bug)
                kind = type(bug).__name__
                return Retry(f"{kind} in the handler; the log has the traceback", error="Bug"), True

    async def _guarded(
        self, step: Step[Any, Any, D], work: Work, run: Run[D], context: Context[D]
    ) -> Outcome:
        if work.item.replay and self.desk.gates.cancelled(work.item.replay):
            return Skipped(f"replay {work.item.replay} was cancelled")
        if step.lock is None:
            return await self._timed(step, work, context)
        hold = self.desk.locks.hold(step.lock, work.key.entity_id, run.lock_lost)
        async with spans.lock(step.lock, hold) as held:
            if not held:
                metrics.LOCK_WAITS.labels(step.lock).inc()
                return Wait("another process works on this record", LOCK_BUSY_PAUSE)
            return await self._timed(step, work, context)

    async def _timed(self, step: Step[Any, Any, D], work: Work, context: Context[D]) -> Outcome:
        record = (work.key.entity, work.key.entity_id)
        with self._deadlines[step.name].limit(), working_on(record):
            outcome: Outcome = await step.handler(work.item.given, context)
        return outcome

    async def _settle_run(
        self, step: Step[Any, Any, D], work: Work, run: Run[D], verdict: Verdict
    ) -> Closing | None:
        now = self.desk.clock.now()
        entry, moved = None, True
        if isinstance(work.item.given, Tick):
            cron, tick = self.desk.crons[work.key.entity_id], work.item.given
            ended = ticks.end(cron, run.entry, tick, verdict, now, seen=run.facts.seen)
            verdict, entry, moved = ended.verdict, ended.entry, ended.moved
        else:
            entry = self._entry_after(work, run, verdict)
        journal = run.journal("end", verdict=verdict, due=verdict.due)
        kept: list[Outgoing] = []
        if verdict.death is not None:
            letter = run.dead_letter(verdict, now)
            out = _outgoing(self.desk.dlq_topic, work.key, letter.to_bytes(), run)
            kept.append(replace(out, headers={**out.headers, codec.ORIGIN: letter.origin}))
        forget = run.entry is not None and not verdict.keep_entry
        if entry is not None:
            kept.append(_outgoing(self.desk.schedule_topic, work.key, entry.to_bytes(), run))
        elif forget:
            kept.append(_outgoing(self.desk.schedule_topic, work.key, None, run))
        if not kept:
            return Closing(journal, lambda: self._count(step, run, verdict, now))
        await self.desk.keep([*kept, journal], run.partition)
        if entry is not None and not moved:
            self.desk.schedule.amend(entry)
        elif entry is not None:
            self.desk.schedule.put(entry, run.partition.number)
        elif forget:
            self.desk.schedule.remove(work.key)
        self._count(step, run, verdict, now)
        return None

    def _entry_after(self, work: Work, run: Run[D], verdict: Verdict) -> ScheduleEntry | None:
        """Return the key's next entry; None when it has none, or keeps the one it has."""
        if verdict.keep_entry and run.entry is not None:
            return None
        if verdict.due is not None:
            return ScheduleEntry(
                step=work.key.step,
                entity=work.key.entity,
                entity_id=work.key.entity_id,
                due=verdict.due,
                kind=verdict.kind or "retry",
                attempt=verdict.chain.attempt,
                chain=verdict.chain.id,
                since=verdict.chain.since,
                reason=verdict.summary[:WORDS_KEPT],
                error=verdict.error,
                seen=run.facts.seen,
                until=verdict.chain.until,
                carried=run.carried(),
            )
        if verdict.death is not None and run.facts.seen and not isinstance(work.item.given, Tick):
            # What the last attempt wrote about its own failure comes back as an event: without this
            # it would begin a new chain, and die again, for ever.
            now = self.desk.clock.now()
            return ScheduleEntry(
                step=work.key.step,
                entity=work.key.entity,
                entity_id=work.key.entity_id,
                due=now + ECHO_TIME,
                kind="dead",
                attempt=verdict.chain.attempt,
                chain=verdict.chain.id,
                since=now,
                reason=verdict.summary[:WORDS_KEPT],
                error=verdict.error,
                seen=run.facts.seen,
            )
        return None

    async def forget(self, work: Work, partition: Partition) -> None:
        """Forget that a key was given up; return once that is acknowledged.

        Raises:
            OwnershipLost: as `Desk.keep`.
        """
        entry = self.desk.schedule.get(work.key)
        if entry is None or entry.due != work.item.due:
            return
        gone = Outgoing(self.desk.schedule_topic, work.key.to_bytes(), None, {}, partition.number)
        await self.desk.keep([gone], partition)
        self.desk.schedule.remove(work.key)

    def _count(self, step: Step[Any, Any, D], run: Run[D], verdict: Verdict, now: datetime) -> None:
        service = self.desk.app.name
        series = metrics.run_series(service, step.name, verdict.name)
        series.runs.inc()
        series.seconds.observe((now - run.began).total_seconds())
        series.journals.inc()
        if run.begun is not None and run.begun.missed is not None:
            metrics.CRON_MISSED.labels(service, step.name).inc(run.begun.missed.count)
        if run.work.answers > 1:
            metrics.RECORDS_COALESCED.labels(service, step.name).inc(run.work.answers - 1)
        if not (verdict.name == "skipped" and verdict.keep_entry):
            # One that only confirms a pending attempt says nothing about the step's health.
            self.desk.gates.ended(step.name, run.work.key.entity_id, verdict.name)
        health = self.desk.health[step.name]
        if verdict.name in ("done", "skipped"):
            health.last_success = now
            series.success_at.set(now.timestamp())
        elif verdict.name != "wait":
            health.last_failure = now
        if verdict.death is not None:
            metrics.DEAD_LETTERS.labels(service, verdict.death).inc()
        elif verdict.kind == "retry" and not verdict.keep_entry:
            metrics.RETRIES.labels(service, step.name, str(verdict.chain.attempt)).inc()
        level = "error" if verdict.death else "warning" if verdict.error else "info"
        getattr(run.logger, level)(
            RUN_ENDED,
            outcome=verdict.name,
            summary=verdict.summary,
            rule=run.facts.rule or None,
            effects=len(run.facts.effects),
            due=None if verdict.due is None else verdict.due.isoformat(timespec="seconds"),
        )

    async def bury(self, unreadable: Unreadable, run: Run[D]) -> None:
        """Put an unreadable record among the dead letters; return once that is acknowledged."""
        record, now = unreadable.record, self.desk.clock.now()
        letter = DeadLetter(
            service=self.desk.app.name,
            origin=run.origin,
            reason=unreadable.reason,
            error="Undecodable",
            attempts=1,
            first_seen=now,
            died=now,
            event_id=run.work.item.envelope.event_id,
            run_id=run.run_id,
            trace_id=run.trace.trace_id,
            code_version=self.desk.options.code_version,
            raw=None if record.value is None else base64.b64encode(record.value).decode(),
        )
        key = record.key or run.origin.encode()
        out = Outgoing(
            self.desk.dlq_topic,
            key,
            letter.to_bytes(),
            {codec.ORIGIN: run.origin, codec.REASON: unreadable.reason},
            record.partition,
        )
        await self.desk.append([out], run.partition)
        metrics.UNDECODABLE.labels(self.desk.app.name, "event").inc()
        metrics.DEAD_LETTERS.labels(self.desk.app.name, "undecodable").inc()
        run.logger.error(
            "an unreadable record went to the dead letters",
            origin=run.origin,
            reason=unreadable.reason,
        )


def _outgoing(topic: str, key: LaneKey, value: bytes | None, run: Run[Any]) -> Outgoing:
    headers = {"traceparent": run.trace.header, codec.ORIGIN: run.origin}
    return Outgoing(topic, key.to_bytes(), value, headers, run.partition.number)
