"""What the runtime promises, one suite over the memory host and over Kafka."""

import asyncio
import json
from datetime import datetime, timedelta

from bitbylaw_common import topics
from bitbylaw_common.errors import Invalid, Transient
from bitbylaw_common.events import RunRequested
from bitbylaw_common.kafka import codec
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.runtime import Context
from harness import Harness, journalled
from toy import CHANGED, ECHO, ORDERED, Ledger, ThingBase, ThingChanged, state, toy_sync


async def test_each_event_of_a_thing_runs_by_itself_and_in_order(host: Harness) -> None:
    for number in range(20):
        await host.publish(ORDERED, ThingChanged(thing=host.thing(f"t{number % 2}"), number=number))
    await host.until(lambda: len(host.ledger.ended) == 20)

    assert host.ledger.numbers(host.thing("t0")) == list(range(0, 20, 2))
    assert host.ledger.numbers(host.thing("t1")) == list(range(1, 20, 2))
    assert host.ledger.overlaps == 0


async def test_what_waits_for_a_key_is_answered_by_one_run_that_starts_afterwards(
    host: Harness,
) -> None:
    a = host.thing("a")

    async def slow(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.number == 0:
            await ctx.deps.gate.wait()
        return Done("looked")

    host.ledger.answer = slow
    await host.publish(CHANGED, ThingChanged(thing=a, number=0))
    await host.until(lambda: host.ledger.started == [(a, 0)])
    for number in range(1, 6):
        await host.publish(CHANGED, ThingChanged(thing=a, number=number))
    await host.delivered(CHANGED, 6)
    host.ledger.gate.set()
    await host.until(lambda: len(host.ledger.ended) == 2)

    assert host.ledger.ended == [(a, 0), (a, 5)]
    assert host.ledger.overlaps == 0


async def test_a_slow_thing_holds_up_no_other(host: Harness) -> None:
    slow = host.thing("slow")

    async def hang(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.thing == slow:
            await ctx.deps.gate.wait()
        return Done("looked")

    host.ledger.answer = hang
    await host.publish(ORDERED, ThingChanged(thing=slow))
    for number in range(10):
        await host.publish(ORDERED, ThingChanged(thing=host.thing(f"quick{number}")))
    await host.until(lambda: len(host.ledger.ended) == 10)
    assert (slow, 0) not in host.ledger.ended
    host.ledger.gate.set()
    await host.until(lambda: len(host.ledger.ended) == 11)


async def test_what_was_finished_does_not_run_again_after_a_clean_stop(host: Harness) -> None:
    later = host.thing("later")
    things = [host.thing(f"t{number}") for number in range(5)]
    for thing in things:
        await host.publish(ORDERED, ThingChanged(thing=thing))
    await host.until(lambda: all(host.journal(thing) for thing in things))
    await host.restart()
    await host.publish(ORDERED, ThingChanged(thing=later))
    await host.until(lambda: (later, 0) in host.ledger.ended)

    assert len(host.ledger.ended) == 6


async def test_a_run_that_was_killed_is_made_again(host: Harness) -> None:
    a = host.thing("a")

    async def stuck_once(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if len(ctx.deps.started) == 1:
            await asyncio.Event().wait()
        return Done("looked")

    host.ledger.answer = stuck_once
    await host.publish(CHANGED, ThingChanged(thing=a, number=7))
    await host.until(lambda: len(host.ledger.started) == 1)
    await host.crash()
    await host.until(lambda: host.journal(a) != [])

    assert host.ledger.started == [(a, 7), (a, 7)]


async def test_a_retry_comes_at_its_time_with_its_number_even_after_a_crash(host: Harness) -> None:
    a = host.thing("a")
    attempts: list[int] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if ctx.attempt > 1:
            await ctx.deps.gate.wait()  # the crash comes before, however slow the machine
        attempts.append(ctx.attempt)
        return Retry("it is raining") if ctx.attempt < 3 else Done("dry again")

    host.ledger.answer = fail
    await host.publish(CHANGED, ThingChanged(thing=a))
    await host.until(lambda: len(host.journal(a)) == 1)
    assert host.journal(a)[0].outcome == "retry"

    await host.crash()
    host.ledger.gate.set()
    await host.until(lambda: len(host.journal(a)) == 3)

    assert attempts == [1, 2, 3]
    assert [entry.outcome for entry in host.journal(a)] == ["retry", "retry", "done"]
    await host.until(lambda: host.scheduled(a) == [])


async def test_after_the_last_attempt_it_is_dead_with_origin_and_reason(host: Harness) -> None:
    a = host.thing("a")

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        raise Transient("xai", "get_file", status=503)

    host.ledger.answer = fail
    await host.publish(CHANGED, ThingChanged(thing=a, number=3))
    await host.until(lambda: host.dead_letters() != [])

    (letter,) = host.dead_letters()
    assert (letter.entity, letter.entity_id, letter.error) == ("thing", a, "Transient")
    assert letter.attempts == len(host.ladder) + 1
    assert letter.origin.startswith("toy.thing.changed:")
    assert "answered 503 to get_file" in letter.reason
    assert letter.carried is not None
    assert ThingChanged.model_validate_json(letter.carried.value).number == 3
    await host.until(lambda: host.scheduled(a) == [])


async def test_a_wait_is_no_attempt_and_dies_only_past_its_end(host: Harness) -> None:
    late = host.thing("late")
    patient = host.thing("patient")
    ends: list[datetime] = []

    async def wait(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        assert ctx.attempt == 1
        if event.thing == patient:
            return Wait("indexing", timedelta()) if len(ctx.deps.started) < 12 else Done("indexed")
        ends.append(host.now() + host.rung * 3)
        return Wait("indexing", host.rung, until=ends[-1])

    host.ledger.answer = wait
    await host.publish(CHANGED, ThingChanged(thing=patient))
    await host.until(lambda: len(host.ledger.ended) == 12)
    assert host.dead_letters() == []

    await host.publish(CHANGED, ThingChanged(thing=late))
    await host.until(lambda: len(host.dead_letters()) == 1)
    assert host.dead_letters()[0].error == "WaitedTooLong"
    assert host.dead_letters()[0].died >= ends[0]
    assert len(host.ledger.numbers(late)) <= 5


async def test_the_same_sight_before_the_next_attempt_is_skipped(host: Harness) -> None:
    a = host.thing("a")
    sights = {a: "same"}

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if held := ctx.saw(sights[event.thing]):
            return held
        return Retry("it is raining") if sights[event.thing] != "dry" else Done("dry again")

    host.ledger.answer = fail
    host.freeze()
    await host.publish(CHANGED, ThingChanged(thing=a))
    await host.until(lambda: len(host.journal(a)) == 1)
    for number in range(1, 4):
        await host.publish(CHANGED, ThingChanged(thing=a, number=number))
        await journalled(host, a, number + 1)

    assert [e.outcome for e in host.journal(a)] == ["retry", "skipped", "skipped", "skipped"]
    assert "unchanged since attempt 1" in host.journal(a)[-1].summary
    await host.until(lambda: host.scheduled(a) != [])
    (entry,) = host.scheduled(a)
    assert entry.attempt == 1

    # a different sight starts anew, and its success clears the chain
    sights[a] = "dry"
    await host.publish(CHANGED, ThingChanged(thing=a, number=4))
    await host.until(lambda: len(host.journal(a)) == 5)
    assert host.journal(a)[-1].outcome == "done"
    await host.until(lambda: host.scheduled(a) == [])


async def test_events_between_two_attempts_do_not_use_attempts_up(host: Harness) -> None:
    a = host.thing("a")

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        raise Transient("espocrm", "get_entity", status=503)

    host.ledger.answer = fail
    host.freeze()
    for number in range(10):
        await host.publish(CHANGED, ThingChanged(thing=a, number=number))
        await journalled(host, a, number + 1)

    await host.until(lambda: host.scheduled(a) != [])
    (entry,) = host.scheduled(a)
    assert entry.attempt == 1
    assert host.dead_letters() == []


async def test_what_can_never_succeed_is_dead_at_once_and_the_next_goes_on(host: Harness) -> None:
    bad, refused, good = (host.thing(name) for name in ("bad", "refused", "good"))

    async def judge(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.thing == bad:
            return Rejected("a thing without a name")
        if event.thing == refused:
            raise Invalid("xai", "upload_file", status=400)
        return Done("looked")

    host.ledger.answer = judge
    for thing in (bad, refused, good):
        await host.publish(ORDERED, ThingChanged(thing=thing))
    await host.until(lambda: len(host.ledger.ended) == 3 and len(host.dead_letters()) == 2)
    await journalled(host, good, 1)

    assert {letter.error for letter in host.dead_letters()} == {"Rejected", "Invalid"}
    assert host.journal(good)[-1].outcome == "done"


async def test_what_is_asked_for_again_and_dies_anew_still_names_its_own_record(
    host: Harness,
) -> None:
    a = host.thing("a")

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        return Retry("it is raining")

    host.ledger.answer = fail
    await host.publish(CHANGED, ThingChanged(thing=a, number=3))
    await host.until(lambda: host.dead_letters() != [])
    (first,) = host.dead_letters()
    assert first.carried is not None

    # when it is asked for again, and its process dies between two attempts
    asked = RunRequested(
        function_id=toy_sync.function_id(),
        run_id="f" * 32,
        subject=a,
        requested=json.loads(first.carried.value),
        topic=first.carried.topic,
    )
    await host.publish(topics.requests("toy"), asked, {codec.ORIGIN: first.origin})
    attempts = len(host.ladder) + 1
    await host.until(lambda: len(host.journal(a)) > attempts)
    await host.crash()
    await host.until(lambda: len(host.dead_letters()) == 2)

    # then the new letter leads to the same record, while each run tells what brought it
    last = host.dead_letters()[-1]
    assert (last.origin, last.attempts) == (first.origin, attempts)
    assert last.carried is not None
    assert last.carried.origin.startswith("toy.requests:")
    assert {e.origin for e in host.journal(a)[attempts:]} == {last.carried.origin}


async def test_a_bug_has_bounded_attempts_and_is_counted_apart(host: Harness) -> None:
    a = host.thing("a")

    async def bug(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        raise ZeroDivisionError("secret value 12345")

    host.ledger.answer = bug
    await host.publish(ORDERED, ThingChanged(thing=a))
    await host.until(lambda: host.dead_letters() != [])

    (letter,) = host.dead_letters()
    assert letter.error == "Bug"
    assert "ZeroDivisionError" in letter.reason
    assert "12345" not in letter.reason
    assert {entry.outcome for entry in host.journal(a)} == {"bug"}


async def test_an_undecodable_record_is_dead_with_its_bytes_and_the_others_are_done(
    host: Harness,
) -> None:
    await host.publish_raw(ORDERED, b"poison", b"\xff\xfe not json")
    for number in range(5):
        await host.publish(ORDERED, ThingChanged(thing=host.thing(f"t{number}")))
    await host.until(lambda: len(host.ledger.ended) == 5 and host.dead_letters() != [])

    (letter,) = host.dead_letters()
    assert letter.error == "Undecodable"
    assert letter.raw_bytes == b"\xff\xfe not json"
    assert letter.origin.startswith("toy.thing.ordered:")


async def test_the_base_and_its_intent_survive_a_crash_between_two_effects(host: Harness) -> None:
    a = host.thing("a")

    async def effects(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        base = ctx.base(ThingBase)
        if base is None:
            await ctx.intend(state(1, ctx.run_id))
            await asyncio.Event().wait()
        ctx.decided("again", f"an interrupted run had written {base.effects if base else 0}")
        async with ctx.effect("toy", "finish", target=event.thing):
            await ctx.agree(state(2, ctx.run_id))
        return Done("finished")

    host.ledger.answer = effects
    await host.publish(CHANGED, ThingChanged(thing=a))
    await host.until(lambda: [e.phase for e in host.journal(a)] == ["intent"])
    await host.crash()
    await host.until(lambda: [e.phase for e in host.journal(a)] == ["intent", "end"])

    first, second = host.journal(a)
    assert first.run_id != second.run_id
    assert second.reason == "an interrupted run had written 1"
    assert [effect.method for effect in second.effects] == ["finish"]


async def test_publishing_what_is_not_declared_is_a_bug_and_publishes_nothing(
    host: Harness,
) -> None:
    declared = host.thing("declared")
    undeclared = host.thing("undeclared")

    async def publish(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        await ctx.enqueue(ECHO if event.thing == declared else ORDERED, event)
        return Done("published")

    host.ledger.answer = publish
    await host.publish(CHANGED, ThingChanged(thing=declared))
    await host.publish(CHANGED, ThingChanged(thing=undeclared))
    await host.until(lambda: host.journal(declared) != [] and host.journal(undeclared) != [])
    await host.until(lambda: host.records(ECHO) != [])

    assert len(host.records(ECHO)) == 1
    assert host.records(ORDERED) == []
    assert host.journal(undeclared)[0].outcome == "bug"


async def test_a_post_answers_with_the_id_of_the_event_it_stored(host: Harness) -> None:
    a = host.thing("a")
    answer = await host.post(f"/toy/{a}")
    assert answer.status == 200
    await host.until(lambda: host.ledger.numbers(a) == [0])
    await host.delivered(CHANGED, 1)
    (record,) = host.records(CHANGED)
    assert answer.body == {"event_id": record.headers["ce_id"]}


async def test_a_skipped_run_is_in_the_journal_with_its_reason(host: Harness) -> None:
    a = host.thing("a")

    async def skip(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        ctx.decided("row 5", "both sides agree")
        return Skipped("already in line")

    host.ledger.answer = skip
    await host.publish(CHANGED, ThingChanged(thing=a))
    await host.until(lambda: host.journal(a) != [])

    (entry,) = host.journal(a)
    assert (entry.outcome, entry.rule, entry.summary) == ("skipped", "row 5", "already in line")
    assert entry.effects == ()


async def test_an_event_that_arrives_while_its_thing_is_worked_on_gets_a_run_afterwards(
    host: Harness,
) -> None:
    a = host.thing("a")
    looked: list[int] = []

    async def slow(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.number == 0:
            await ctx.deps.gate.wait()
        looked.append(event.number)
        return Skipped("nothing to do")

    host.ledger.answer = slow
    await host.publish(CHANGED, ThingChanged(thing=a, number=0))
    await host.until(lambda: host.ledger.started == [(a, 0)])
    await host.publish(CHANGED, ThingChanged(thing=a, number=1))
    await host.delivered(CHANGED, 2)
    assert host.ledger.started == [(a, 0)]
    host.ledger.gate.set()
    await journalled(host, a, 2)

    assert looked == [0, 1]


async def test_later_events_of_a_step_that_takes_each_wait_for_the_one_that_failed(
    host: Harness,
) -> None:
    a, other = host.thing("a"), host.thing("other")
    attempts: list[tuple[int, int]] = []

    async def fail(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if (event.number, ctx.attempt) == (0, 2):
            await ctx.deps.gate.wait()  # the crash comes before, however slow the machine
        attempts.append((event.number, ctx.attempt))
        if event.number in (0, 2) and ctx.attempt < 3:
            return Retry("it is raining")
        return Done("dry again")

    host.ledger.answer = fail
    await host.publish(ORDERED, ThingChanged(thing=a, number=0))
    await journalled(host, a, 1)
    for number in range(1, 4):
        await host.publish(ORDERED, ThingChanged(thing=a, number=number))
    await host.publish(ORDERED, ThingChanged(thing=other, number=9))
    await host.until(lambda: host.journal(other) != [])
    await host.crash()
    host.ledger.gate.set()
    await host.until(lambda: len(host.journal(a)) == 8)

    # each is tried until it is done, and only then the next
    assert [number for number, _ in attempts if number != 9] == [0, 0, 0, 1, 2, 2, 2, 3]
    assert [one for one in attempts if one[0] == 2] == [(2, 1), (2, 2), (2, 3)]
    await host.until(lambda: host.scheduled(a) == [])
    assert [letter for letter in host.dead_letters() if letter.entity_id == a] == []


async def test_what_was_due_and_is_settled_meanwhile_does_not_run(host: Harness) -> None:
    a = host.thing("a")

    told = asyncio.Event()

    async def once(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.number == 0:
            await told.wait()
            return Retry("it is raining")
        await ctx.deps.gate.wait()
        return Done("dry again")

    host.ledger.answer = once
    await host.publish(CHANGED, ThingChanged(thing=a, number=0))
    await host.until(lambda: len(host.ledger.started) == 1)
    await host.publish(CHANGED, ThingChanged(thing=a, number=1))
    await host.delivered(CHANGED, 2)

    # given that the next attempt becomes due while a later event is worked on
    told.set()
    await host.until(lambda: len(host.ledger.started) == 2)
    (entry,) = host.scheduled(a)
    await host.until(lambda: host.now() > entry.due + host.rung / 2)
    host.ledger.gate.set()
    await journalled(host, a, 2)

    # then that event's success answers for it
    settled = host.now()
    await host.until(lambda: host.now() > settled + host.rung * 2)
    assert host.ledger.started == [(a, 0), (a, 1)]
    await host.until(lambda: host.scheduled(a) == [])


async def test_an_owner_that_was_overtaken_writes_no_base_and_goes_on_from_the_other_s(
    host: Harness,
) -> None:
    a = host.thing("a")
    runs: list[str] = []
    saw: list[int] = []

    async def count(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        runs.append(ctx.run_id)
        if len(runs) == 1:
            await ctx.deps.gate.wait()
        base = ctx.base(ThingBase)
        saw.append(0 if base is None else base.effects)
        await ctx.agree(state(saw[-1] + 1, ctx.run_id))
        return Done("counted")

    host.ledger.answer = count
    await host.publish(CHANGED, ThingChanged(thing=a))
    await host.until(lambda: len(runs) == 1)
    await host.usurp(a, state(100, "the other"))
    host.ledger.gate.set()
    await host.until(lambda: [e.outcome for e in host.journal(a)] == ["done"])

    def bases() -> list[ThingBase]:
        return [
            ThingBase.from_bytes(record.value)
            for record in host.records(topics.base("toy"))
            if record.key == f"thing:{a}".encode() and record.value is not None
        ]

    await host.until(lambda: len(bases()) >= 2)
    assert [(base.effects, base.written_by) for base in bases()] == [
        (100, "the other"),
        (101, runs[1]),
    ]
    assert saw == [0, 100]


async def test_what_finished_behind_a_slow_record_does_not_run_again_after_a_crash(
    host: Harness,
) -> None:
    slow = host.thing("slow")
    number = codec.partition_of(slow.encode())
    names = (host.thing(f"quick{one}") for one in range(1_000))
    quick = [name for name in names if codec.partition_of(name.encode()) == number][:20]

    async def hang(event: ThingChanged, ctx: Context[Ledger]) -> Outcome:
        if event.thing == slow and len(ctx.deps.started) <= 21:
            await ctx.deps.gate.wait()
        return Done("looked")

    host.ledger.answer = hang
    await host.publish(ORDERED, ThingChanged(thing=slow))
    for name in quick:
        await host.publish(ORDERED, ThingChanged(thing=name))
    await host.until(lambda: all(host.journal(name) for name in quick))
    await host.committed(unfinished=1)
    await host.crash()
    await host.until(lambda: host.journal(slow) != [])

    again = host.ledger.started[21:]
    assert again == [(slow, 0)]
