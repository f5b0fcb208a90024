"""The verdict: each answer of a handler has one fate."""

from datetime import UTC, datetime, timedelta

import pytest

from bitbylaw_common.errors import (
    Conflict,
    Invalid,
    NotFound,
    OutsideError,
    RateLimited,
    Transient,
    Unauthorized,
)
from bitbylaw_common.outcomes import Done, Outcome, Rejected, Retry, Skipped, Wait
from bitbylaw_common.retry import LADDER
from bitbylaw_common.runtime.verdict import RATE_LIMIT_PAUSE, Chain, Verdict, judge, outcome_of

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SINCE = NOW - timedelta(hours=1)
FIRST = Chain(0, "event-1", SINCE)
MINUTE = timedelta(minutes=1)
WORDS = ("espocrm", "update_entity")


@pytest.mark.parametrize(
    ("error", "fate"),
    [
        (
            Transient(*WORDS, status=503),
            Retry("espocrm answered 503 to update_entity", "Transient"),
        ),
        (Transient(*WORDS), Retry("espocrm did not answer to update_entity", "Transient")),
        (
            Unauthorized(*WORDS, status=401),
            Retry("espocrm answered 401 to update_entity", "Unauthorized"),
        ),
        (NotFound(*WORDS, status=404), Retry("espocrm answered 404 to update_entity", "NotFound")),
        (Conflict(*WORDS), Retry("espocrm answered 409 to update_entity", "Conflict")),
        (
            OutsideError(*WORDS, status=418),
            Retry("espocrm answered 418 to update_entity", "OutsideError"),
        ),
        (Invalid(*WORDS, status=400), Rejected("espocrm answered 400 to update_entity", "Invalid")),
        (
            RateLimited(*WORDS),
            Wait("espocrm answered 429 to update_entity", RATE_LIMIT_PAUSE, imposed=True),
        ),
        (
            RateLimited(*WORDS, retry_after=7 * MINUTE),
            Wait("espocrm answered 429 to update_entity", 7 * MINUTE, imposed=True),
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_each_error_of_an_outside_system_is_one_fate(error: OutsideError, fate: Outcome) -> None:
    assert outcome_of(error) == fate


def test_done_and_skipped_end_the_chain_without_an_entry() -> None:
    assert judge(Done("1 uploaded"), FIRST, NOW) == Verdict("done", "1 uploaded", FIRST)
    assert judge(Skipped("in line"), FIRST, NOW) == Verdict("skipped", "in line", FIRST)


def test_an_unchanged_sight_leaves_the_pending_attempt_as_it_is() -> None:
    verdict = judge(Skipped("unchanged since attempt 1"), FIRST, NOW, unchanged=True)
    assert verdict.keep_entry
    assert verdict.due is None


def test_six_failures_climb_the_ladder_and_the_last_is_dead() -> None:
    chain = FIRST
    for number, rung in enumerate(LADDER, start=1):
        verdict = judge(Retry("it rains", "Transient"), chain, NOW)
        assert (verdict.name, verdict.kind, verdict.death) == ("retry", "retry", None)
        assert verdict.due == NOW + rung
        assert verdict.chain == Chain(number, "event-1", SINCE)
        assert verdict.error == "Transient"
        chain = verdict.chain
    last = judge(Retry("it rains", "Transient"), chain, NOW)
    assert (last.name, last.death, last.due, last.kind) == ("rejected", "exhausted", None, "")
    assert last.chain.attempt == 6
    assert last.summary == "it rains (attempt 6 was the last)"


def test_a_time_the_other_side_named_prolongs_the_rung_and_never_shortens_it() -> None:
    later = judge(Retry("r", not_before=3 * MINUTE), FIRST, NOW)
    sooner = judge(Retry("r", not_before=timedelta(seconds=1)), FIRST, NOW)
    assert (later.due, sooner.due) == (NOW + 3 * MINUTE, NOW + MINUTE)


def test_a_bug_is_tried_again_and_dies_by_its_own_name() -> None:
    again = judge(Retry("KeyError", "Bug"), FIRST, NOW, bug=True)
    dead = judge(Retry("KeyError", "Bug"), Chain(5, "event-1", SINCE), NOW, bug=True)
    assert (again.name, again.death, again.due) == ("bug", None, NOW + MINUTE)
    assert (dead.name, dead.death, dead.error) == ("bug", "bug", "Bug")


def test_what_is_rejected_dies_at_once_with_the_attempt_counted() -> None:
    verdict = judge(Rejected("no such type", "Invalid"), Chain(2, "event-1", SINCE), NOW)
    assert (verdict.name, verdict.death, verdict.error) == ("rejected", "rejected", "Invalid")
    assert verdict.chain.attempt == 3
    assert verdict.due is None


def test_waiting_counts_no_attempt() -> None:
    chain = Chain(2, "event-1", SINCE)
    verdict = judge(Wait("indexing", 5 * MINUTE), chain, NOW)
    assert (verdict.name, verdict.kind, verdict.error) == ("wait", "wait", "")
    assert (verdict.due, verdict.chain) == (NOW + 5 * MINUTE, chain)


@pytest.mark.parametrize("after", [timedelta(), -MINUTE])
def test_waiting_for_nothing_is_due_at_once(after: timedelta) -> None:
    assert judge(Wait("a part is done", after), FIRST, NOW).due == NOW


def test_a_wait_is_looked_at_once_more_when_its_end_comes_and_is_dead_then() -> None:
    end = NOW + 2 * MINUTE
    verdict = judge(Wait("indexing", 5 * MINUTE, end), FIRST, NOW)
    assert (verdict.due, verdict.chain.until) == (end, end)

    dead = judge(Wait("indexing", 5 * MINUTE, end), verdict.chain, end)
    assert (dead.name, dead.death, dead.error) == ("rejected", "expired", "WaitedTooLong")
    assert dead.summary == "waited until 2026-03-02T09:02:00+00:00: indexing"
    assert dead.due is None


def test_waiting_again_does_not_move_the_end() -> None:
    chain = judge(Wait("indexing", MINUTE, NOW + 2 * MINUTE), FIRST, NOW).chain
    again = judge(Wait("indexing", MINUTE, NOW + 60 * MINUTE), chain, NOW + MINUTE)
    assert again.chain.until == NOW + 2 * MINUTE
    sooner = judge(Wait("indexing", MINUTE, NOW + MINUTE), chain, NOW)
    assert sooner.chain.until == NOW + MINUTE
    silent = judge(Wait("indexing", MINUTE), chain, NOW)
    assert silent.chain.until == NOW + 2 * MINUTE


def test_a_failure_after_a_wait_forgets_the_end_of_the_wait() -> None:
    waiting = judge(Wait("indexing", MINUTE, NOW + MINUTE), FIRST, NOW).chain
    assert judge(Retry("it rains"), waiting, NOW).chain.until is None


def test_another_ladder_is_climbed_to_its_own_end() -> None:
    ladder = (timedelta(seconds=1),)
    first = judge(Retry("r"), FIRST, NOW, ladder=ladder)
    assert first.due == NOW + timedelta(seconds=1)
    assert judge(Retry("r"), first.chain, NOW, ladder=ladder).death == "exhausted"


def test_a_wait_that_a_system_imposes_uses_up_no_time_of_the_record_s_own() -> None:
    waiting = judge(Wait("indexing", MINUTE, NOW + MINUTE), FIRST, NOW).chain
    spared = judge(Wait("xai is down", 10 * MINUTE, imposed=True), waiting, NOW + 5 * MINUTE)
    assert (spared.name, spared.due) == ("wait", NOW + 15 * MINUTE)
    assert spared.chain == waiting
    assert judge(Wait("indexing", MINUTE), spared.chain, NOW + 15 * MINUTE).death == "expired"
