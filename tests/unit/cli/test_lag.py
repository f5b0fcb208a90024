"""`bbl lag`: one table for each verdict, which one comes first, and what people and programs read."""

import json
import random
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import StringIO
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner, Result

from bitbylaw_cli import lag_words as say
from bitbylaw_cli.commands import lag as lag_command
from bitbylaw_cli.lag_model import Finding, Head, LagReport, ServiceLag, Snapshot, Stretch, Verdict
from bitbylaw_cli.lag_page import rendered
from bitbylaw_cli.lagging import judge
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common import topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import StepHalted, StepPaused
from bitbylaw_common.kafka.admin import Group, Member
from bitbylaw_common.runtime.status import (
    FailingKey,
    Held,
    RunningLane,
    Sighting,
    WorkerStatus,
)
from bitbylaw_common.topics import PARTITIONS

NOW = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
SERVICE = "document-sync"
STEP = "Document Sync"
TOPICS = (topics.DOCUMENT_UPDATE.name, topics.requests(SERVICE).name)
ALL = tuple(range(PARTITIONS))


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def member(
    instance: str = "document-sync-0", numbers: Sequence[int] = ALL, names: Sequence[str] = TOPICS
) -> Member:
    places = frozenset((name, number) for name in names for number in numbers)
    return Member(f"{SERVICE}-{instance}", "10.0.0.7", frozenset(names), places)


def stretches(*waiting: Stretch) -> tuple[Stretch, ...]:
    """Return all partitions; those that are not named have nothing waiting."""
    named = {(one.topic, one.number): one for one in waiting}
    return tuple(
        named.get((topic, number), Stretch(topic, number, STEP, 100, 100))
        for topic in TOPICS
        for number in ALL
    )


def behind(
    count: int, *, waited: float, number: int = 3, key: str = "d17", **given: Any
) -> Stretch:
    head = Head(118, ago(waited), key)
    return Stretch(TOPICS[0], number, STEP, 118, 118 + count, head=head, **given)


def status(instance: str = "document-sync-0", **given: Any) -> WorkerStatus:
    fields: dict[str, Any] = {
        "service": SERVICE,
        "instance": instance,
        "code_version": "1.2",
        "at": ago(2),
        "began": ago(3600),
        "partitions": ALL,
        "p95_run_seconds": 0.2,
    }
    return WorkerStatus(**fields | given)


def seen(one: WorkerStatus, *, seconds: float = 2) -> Sighting:
    return Sighting(SERVICE, one.instance, one, ago(seconds))


def stopped(instance: str = "document-sync-0", *, seconds: float = 480) -> Sighting:
    return Sighting(SERVICE, instance, None, ago(seconds))


def lane(**given: Any) -> RunningLane:
    fields: dict[str, Any] = {
        "step": STEP,
        "entity": "document",
        "entity_id": "d17",
        "position": f"{TOPICS[0]}:3:118",
        "started": ago(240),
    }
    return RunningLane(**fields | given)


def failing(**given: Any) -> FailingKey:
    fields: dict[str, Any] = {
        "step": STEP,
        "entity": "document",
        "entity_id": "d9",
        "since": ago(7_200),
        "failures": 4,
        "due": NOW + timedelta(hours=1),
        "origin": f"{TOPICS[0]}:5:7",
        "error": "Transient",
    }
    return FailingKey(**fields | given)


def paused(step: str = STEP, **given: Any) -> StepPaused:
    fields: dict[str, Any] = {"since": ago(480), "reason": "xAI moves house"} | given
    return StepPaused(service=SERVICE, step=step, **fields)


def halted(**given: Any) -> StepHalted:
    fields: dict[str, Any] = {
        "step": STEP,
        "code_version": "1.2",
        "since": ago(480),
        "by": "document-sync-0",
        "reason": "bugs in runs of 5 keys within 60 s",
    }
    return StepHalted(service=SERVICE, **fields | given)


def held(**given: Any) -> Held:
    fields: dict[str, Any] = {
        "what": "circuit",
        "system": "xai",
        "since": ago(480),
        "until": NOW + timedelta(seconds=50),
        "reason": "5 records failed, the last with 503",
        "keys": 340,
    }
    return Held(**fields | given)


CALM = Snapshot(
    service=SERVICE,
    now=NOW,
    group=Group(SERVICE, "Stable", (member(),)),
    stretches=stretches(),
    workers=(seen(status()),),
)


def with_worker(snapshot: Snapshot = CALM, **given: Any) -> Snapshot:
    return replace(snapshot, workers=(seen(status(**given)),))


def with_backlog(*waiting: Stretch, snapshot: Snapshot = CALM, **given: Any) -> Snapshot:
    return replace(with_worker(snapshot, **given), stretches=stretches(*waiting))


def only(snapshot: Snapshot) -> Finding:
    """Return the one thing that was found."""
    result = judge(snapshot)
    assert len(result.findings) == 1, [one.words for one in result.findings]
    assert (result.verdict, result.words) == (result.findings[0].verdict, result.findings[0].words)
    assert result.command == result.findings[0].command
    return result.findings[0]


# -- all well -------------------------------------------------------------------------------------


def test_nothing_waiting_is_all_well() -> None:
    result = judge(CALM)
    assert (result.verdict, result.words, result.findings) == (
        "well",
        "All well: nothing waits.",
        (),
    )
    assert (result.behind, result.drain_seconds, result.command) == (0, 0.0, "")


def test_records_on_their_way_are_all_well_and_told_in_seconds() -> None:
    result = judge(
        with_backlog(
            behind(12, waited=0.4, arrived=2400, lately=400), running=8, finished_per_second=40.0
        )
    )
    assert result.words == (
        "All well: 12 records on the way, the oldest for 400 ms; worked off in less than a second "
        "at 40 a second."
    )
    assert (result.behind, result.behind_seconds, result.drain_seconds) == (12, 0.4, 0.3)


def test_what_is_under_way_altogether_takes_as_long_as_a_run() -> None:
    # one record in a quiet hour: the rate of the last minute would make minutes of it
    quiet = behind(1, waited=9, arrived=1)
    result = judge(with_backlog(quiet, running=1, finished_per_second=0.02, p95_run_seconds=12.0))
    assert result.words == (
        "All well: 1 record on the way, the oldest for 9.0 s; worked off in about 12 s."
    )
    assert result.drain_seconds == 12.0


def test_a_few_records_of_a_quiet_hour_are_no_backlog() -> None:
    few = behind(9, waited=20, arrived=9)
    assert judge(with_backlog(few, running=1, finished_per_second=0.05)).verdict == "well"


def test_what_is_finished_beyond_the_watermark_waits_no_more() -> None:
    result = judge(with_backlog(behind(100, waited=1, finished=97), finished_per_second=40.0))
    assert (result.behind, result.partitions[0].behind) == (3, 3)


def test_a_burst_that_nothing_waits_long_in_is_all_well() -> None:
    burst = behind(400, waited=8, arrived=900, lately=900)
    assert judge(with_backlog(burst, running=64, ready=300, finished_per_second=40.0)).verdict == (
        "well"
    )


# -- slow -----------------------------------------------------------------------------------------


def test_more_in_than_out_is_slow_with_both_rates_and_the_difference() -> None:
    found = only(
        with_backlog(
            behind(812, waited=180, arrived=3120, lately=520),
            running=64,
            ready=300,
            finished_per_second=40.0,
        )
    )
    assert found.verdict == "slow"
    assert "52 a second in, 40 a second out, so it grows by 12 a second" in found.words
    assert "812 records wait, the oldest since 08:57:00Z (3 min)" in found.words
    assert "more workers help" in found.words
    assert found.record == f"{TOPICS[0]}:3:118"


def test_a_backlog_that_shrinks_is_told_with_the_time_until_it_is_gone() -> None:
    result = judge(
        with_backlog(
            behind(5_040, waited=200, arrived=720, lately=120),
            running=64,
            ready=4_000,
            finished_per_second=40.0,
        )
    )
    assert result.verdict == "slow"
    assert result.words.startswith("Catching up: 12 a second in, 40 a second out.")
    assert "worked off in about 3 min at 40 a second" in result.words
    assert result.drain_seconds == 180.0


def test_as_much_in_as_out_behind_a_backlog_is_late_and_stays_so() -> None:
    found = only(
        with_backlog(
            behind(5_000, waited=125, arrived=2_400, lately=400), ready=9, finished_per_second=41.0
        )
    )
    assert found.verdict == "slow"
    assert found.words.startswith("Late, and staying so: 40 a second in, 41 a second out.")


@pytest.mark.parametrize(
    ("count", "arrived", "finished", "drain"),
    [
        (100, 0, 10.0, 10.0),
        (100, 300, 10.0, 20.0),
        (100, 600, 10.0, 10.0),
        (100, 630, 10.0, 10.0),
        (100, 900, 10.0, None),
        (100, 0, 0.0, None),
        (30, 30, 0.75, 120.0),
    ],
)
def test_the_time_to_drain_is_what_waits_over_what_is_left_of_the_pace(
    count: int, arrived: int, finished: float, drain: float | None
) -> None:
    stretch = behind(count, waited=1, arrived=arrived, lately=arrived // 6)
    result = judge(with_backlog(stretch, running=1, finished_per_second=finished))
    assert result.drain_seconds == drain


def test_where_no_key_waits_for_a_place_more_workers_are_not_recommended() -> None:
    found = only(with_backlog(behind(30, waited=90), running=1, finished_per_second=2.0))
    assert (found.verdict, "more workers would not help" in found.words) == ("slow", True)


# -- standing still -------------------------------------------------------------------------------


def test_records_wait_and_nothing_runs_is_standing_still() -> None:
    found = only(with_backlog(behind(8, waited=45)))
    assert found.verdict == "still"
    assert found.words.startswith("Nothing moves: 8 records wait, the oldest since 08:59:15Z")


def test_records_that_just_came_are_not_standing_still_yet() -> None:
    assert judge(with_backlog(behind(8, waited=4))).verdict == "well"


def test_a_member_that_tells_nothing_is_not_trusted_to_move() -> None:
    silent = replace(CALM, workers=(), stretches=stretches(behind(8, waited=90)))
    found = only(silent)
    assert (found.verdict, "no worker tells how it stands" in found.words) == ("still", True)
    assert judge(replace(silent, stretches=stretches(behind(8, waited=9)))).verdict == "well"


# -- one stuck key --------------------------------------------------------------------------------


def test_a_long_run_is_told_with_step_record_watermark_and_who_waits_behind_it() -> None:
    found = only(
        with_backlog(
            behind(813, waited=241, arrived=2400, lately=400),
            oldest=(lane(attempt=2, behind=3),),
            running=64,
            finished_per_second=40.0,
        )
    )
    assert found.verdict == "stuck"
    assert found.words == (
        "document d17 (Document Sync) runs since 08:56:00Z (4 min), attempt 2; 3 records wait for "
        f"the same key. Its record {TOPICS[0]}:3:118 holds the watermark: 812 records lie behind "
        "it, and those of other keys go on."
    )
    assert (found.entity, found.entity_id, found.step) == ("document", "d17", STEP)
    assert (found.record, found.waiting) == (f"{TOPICS[0]}:3:118", 812)
    assert found.command == "bbl why document d17"


def test_a_coalesced_run_is_told_by_the_first_of_its_records_not_by_the_last() -> None:
    late = lane(position=f"{TOPICS[0]}:3:900")
    found = only(
        with_backlog(behind(900, waited=50), oldest=(late,), running=1, finished_per_second=1000.0)
    )
    assert found.record == f"{TOPICS[0]}:3:118"


def test_a_long_run_that_holds_no_watermark_is_told_by_its_own_record() -> None:
    found = only(with_worker(oldest=(lane(),), running=1))
    assert (found.record, "Its record is" in found.words) == (f"{TOPICS[0]}:3:118", True)


@pytest.mark.parametrize(
    ("started", "p95", "stuck"),
    [(29, 0.1, False), (31, 0.1, True), (119, 30.0, False), (121, 30.0, True), (31, None, True)],
)
def test_a_run_is_stuck_when_it_takes_far_longer_than_others(
    started: float, p95: float | None, stuck: bool
) -> None:
    snapshot = with_worker(oldest=(lane(started=ago(started)),), p95_run_seconds=p95)
    assert (judge(snapshot).verdict == "stuck") is stuck


@pytest.mark.parametrize(("failures", "stuck"), [(1, False), (2, True)])
def test_a_key_that_failed_again_after_its_first_pause_is_told(failures: int, stuck: bool) -> None:
    key = failing(failures=failures)
    snapshot = with_worker(failing=1, failing_oldest=(key,))
    assert (judge(snapshot).verdict == "stuck") is stuck


def test_a_failing_key_is_told_with_attempts_and_when_it_is_tried_again() -> None:
    found = only(with_worker(failing=1, failing_oldest=(failing(),)))
    assert found.words == (
        "document d9 (Document Sync) fails since 07:00:00Z (2 h): 4 attempts, the last with "
        "Transient. It is tried again at 10:00:00Z (in 1 h) and holds up no other key."
    )
    assert (found.record, found.command) == (f"{TOPICS[0]}:5:7", "bbl why document d9")


def test_many_failing_keys_are_one_finding_that_leads_to_all_of_them() -> None:
    keys = tuple(failing(entity_id=f"d{number}", since=ago(number)) for number in range(1, 6))
    found = only(with_worker(failing=12, failing_oldest=keys))
    assert (found.entity_id, "12 keys fail altogether" in found.words) == ("d5", True)
    assert found.command == f"bbl waiting {SERVICE}"


def test_a_stuck_cron_leads_to_its_history() -> None:
    tick = lane(entity="cron", entity_id="steps::Nightly Sync::trigger::0", position="")
    found = only(with_worker(oldest=(tick,), running=1))
    assert found.command == "bbl cron history 'steps::Nightly Sync::trigger::0'"


def test_a_run_of_a_worker_that_was_taken_over_from_is_not_told() -> None:
    dead = seen(status("old", oldest=(lane(),)), seconds=60)
    heir = seen(status("new", at=NOW), seconds=1)
    snapshot = replace(CALM, workers=(dead, heir))
    assert judge(snapshot).verdict == "well"


# -- an outside system ----------------------------------------------------------------------------


def test_an_open_circuit_is_told_with_system_since_until_and_what_waits() -> None:
    found = only(with_backlog(behind(400, waited=470), held=(held(),), finished_per_second=0.0))
    assert found.verdict == "upstream"
    assert found.words == (
        "xai is left alone since 08:52:00Z (8 min): 5 records failed, the last with 503. It is "
        "asked again at 09:00:50Z (in 50 s), by itself. 340 keys wait for it; no attempt is used up."
    )
    assert (found.system, found.until, found.command) == (
        "xai",
        NOW + timedelta(seconds=50),
        "bbl doctor",
    )


def test_a_rate_limit_is_a_finding_while_something_waits_for_it_or_it_lasts() -> None:
    limit = held(what="rate limit", since=None, reason="429")
    assert only(with_worker(held=(limit,))).words.startswith("xai asked for fewer calls: 429.")
    idle = held(what="rate limit", keys=0)
    assert judge(with_worker(held=(idle,))).verdict == "well"
    long = held(what="rate limit", keys=0, until=NOW + timedelta(minutes=10))
    assert "What needs it waits in the schedule" in only(with_worker(held=(long,))).words
    shut = held(keys=0)
    assert only(with_worker(held=(shut,))).verdict == "upstream"


def test_the_same_system_seen_by_two_workers_is_one_finding() -> None:
    first = status("a", partitions=ALL[:6], held=(held(),))
    other = status("b", partitions=ALL[6:], held=(held(since=ago(500), keys=10),))
    found = only(
        replace(
            CALM,
            group=Group(SERVICE, "Stable", (member("a", ALL[:6]), member("b", ALL[6:]))),
            workers=(seen(first), seen(other)),
        )
    )
    assert (found.waiting, found.since) == (350, ago(500))


def test_a_system_that_comes_back_slowly_is_a_note_and_no_finding() -> None:
    result = judge(with_worker(held=(held(what="ramping", until=None),)))
    assert (result.verdict, result.notes) == (
        "well",
        ("document-sync-0: xai comes back slowly, few runs at once",),
    )


# -- paused, halted -------------------------------------------------------------------------------


def test_a_paused_step_is_told_with_reason_and_the_command_that_ends_it() -> None:
    found = only(replace(with_backlog(behind(7, waited=400)), commands=(paused(),)))
    assert found.words == (
        'Step "Document Sync" is paused since 08:52:00Z (8 min), by operator: xAI moves house. '
        "7 records wait."
    )
    assert found.command == f"bbl resume {SERVICE} '{STEP}' --yes"


def test_a_paused_service_is_told_as_a_whole() -> None:
    found = only(replace(CALM, commands=(paused(""),)))
    assert found.words.startswith("Every step is paused")
    assert found.command == f"bbl resume {SERVICE} --yes"


def test_a_halt_counts_for_the_version_that_runs() -> None:
    assert only(replace(CALM, commands=(halted(),))).verdict == "halted"
    assert judge(replace(CALM, commands=(halted(code_version="1.1"),))).verdict == "well"


def test_a_halt_that_kafka_has_not_taken_yet_is_told_by_the_worker() -> None:
    local = held(what="halted", step=STEP, system="", by="document-sync-0", until=None)
    assert only(with_worker(held=(local,))).verdict == "halted"
    both = replace(with_worker(held=(local,)), commands=(halted(),))
    assert len(judge(both).findings) == 1


def test_commands_of_other_services_are_not_ours() -> None:
    other = StepPaused(service="other", step="", since=NOW)
    assert judge(replace(CALM, commands=(other,))).verdict == "well"


# -- no owner -------------------------------------------------------------------------------------


def empty(*workers: Sighting, state: str = "Empty") -> Snapshot:
    group = Group(SERVICE, state)
    return replace(CALM, group=group, workers=workers, stretches=stretches(behind(9, waited=470)))


@pytest.mark.parametrize(
    ("workers", "when"),
    [
        ((), ", and none was ever heard of"),
        ((stopped(),), " since 08:52:00Z (8 min), when document-sync-0 stopped"),
        (
            (seen(status(), seconds=480),),
            " since 08:52:00Z (8 min), when document-sync-0 fell silent",
        ),
    ],
)
def test_nobody_at_work_is_told_since_the_last_sign_of_a_worker(
    workers: tuple[Sighting, ...], when: str
) -> None:
    words = f"Nobody works: no worker is in the group{when}. 9 records wait."
    found = only(empty(*workers))
    assert (found.verdict, found.words.startswith(words)) == ("no_owner", True)
    assert (found.partitions, found.waiting) == (ALL, 9)
    assert found.command == f"bbl logs --service {SERVICE} --level warning"


def test_a_service_whose_topics_are_not_there_is_not_all_well() -> None:
    assert judge(replace(empty(state="Dead"), stretches=())).verdict == "no_owner"


def test_partitions_that_no_member_has_are_named() -> None:
    torn = replace(
        CALM,
        group=Group(SERVICE, "Stable", (member(numbers=ALL[:10]),)),
        workers=(seen(status(partitions=ALL[:10])),),
    )
    found = only(torn)
    assert found.words.startswith("Partitions 10 and 11 are owned by nobody. No record waits.")
    assert (found.partitions, found.since) == ((10, 11), None)


def test_a_static_member_whose_process_said_good_bye_owns_nothing() -> None:
    found = only(replace(CALM, workers=(stopped(seconds=10),)))
    assert (found.verdict, found.since) == ("no_owner", ago(10))


def test_a_run_of_a_dead_worker_is_not_told_beside_no_owner() -> None:
    dead = seen(status(oldest=(lane(),)), seconds=60)
    assert only(empty(dead)).verdict == "no_owner"


def test_a_topic_that_nobody_subscribes_to_any_more_has_no_owner_to_miss() -> None:
    old = Stretch("vmh.old", 0, "", 5, 9)
    assert judge(replace(CALM, stretches=(*stretches(), old))).verdict == "well"


# -- rebalancing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["PreparingRebalance", "CompletingRebalance"])
def test_a_rebalancing_group_is_told(state: str) -> None:
    bare = Member(f"{SERVICE}-document-sync-0", "h", frozenset(), frozenset())
    found = only(replace(CALM, group=Group(SERVICE, state, (bare,))))
    assert (found.verdict, found.command) == ("rebalancing", f"bbl lag {SERVICE} --watch")


def test_partitions_that_are_given_but_not_loaded_are_told_as_rebalancing() -> None:
    found = only(with_worker(partitions=ALL[:9]))
    assert (found.verdict, found.partitions) == ("rebalancing", (9, 10, 11))
    assert found.words.startswith("Partitions 9, 10 and 11 are handed out, but not taken over yet")


# -- which comes first ----------------------------------------------------------------------------


def everything(present: frozenset[Verdict]) -> Snapshot:
    """Return a service in which all of these are true at once."""
    given: dict[str, Any] = {"finished_per_second": 1.0}
    if "stuck" in present:
        given["oldest"] = (lane(),)
    if "upstream" in present:
        given["held"] = (held(),)
    numbers = ALL
    if "no_owner" in present:
        numbers = ALL[:10]
    given["partitions"] = numbers
    backlog = (behind(500, waited=600, arrived=600, lately=100),)
    snapshot = with_backlog(*(backlog if "slow" in present else ()), **given)
    state = "PreparingRebalance" if "rebalancing" in present else "Stable"
    commands = [
        *([halted()] if "halted" in present else []),
        *([paused("Other Step")] if "paused" in present else []),
    ]
    return replace(
        snapshot,
        group=Group(SERVICE, state, (member(numbers=numbers),)),
        commands=tuple(commands),
    )


PRECEDENCE: tuple[Verdict, ...] = (
    "rebalancing",
    "no_owner",
    "halted",
    "paused",
    "upstream",
    "stuck",
    "slow",
)


@pytest.mark.parametrize("number", range(1 << len(PRECEDENCE)))
def test_of_all_that_is_true_the_one_that_explains_most_is_the_verdict(number: int) -> None:
    present = frozenset(word for bit, word in enumerate(PRECEDENCE) if number >> bit & 1)
    result = judge(everything(present))
    first = next((word for word in PRECEDENCE if word in present), "well")
    assert result.verdict == first
    ranks = [PRECEDENCE.index(one.verdict) for one in result.findings]
    assert ranks == sorted(ranks)
    told = {one.verdict for one in result.findings}
    hidden = set(present) - told
    if "rebalancing" in present:
        hidden -= {"no_owner"}
    if present & {"rebalancing", "no_owner", "halted", "paused", "upstream"}:
        hidden -= {"slow"}
    assert (hidden, told <= present) == (set(), True)


# -- notes ----------------------------------------------------------------------------------------


def test_a_member_that_fell_silent_is_noted() -> None:
    (note,) = judge(replace(CALM, workers=(seen(status(), seconds=300),))).notes
    assert note.startswith("document-sync-0 is in the group, but tells nothing since 08:55:00Z")


def test_a_late_event_loop_is_noted() -> None:
    (note,) = judge(with_worker(loop_lag_seconds=0.9)).notes
    assert "late by 900 ms" in note


def test_workers_that_left_long_ago_are_listed_no_more() -> None:
    old = (stopped("a", seconds=86_500), seen(status("b"), seconds=86_500), stopped("c"))
    result = judge(replace(CALM, workers=(*CALM.workers, *old)))
    assert [one.instance for one in result.workers] == ["document-sync-0", "c"]


# -- words ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("per_second", "words"),
    [
        (40.4, "40 a second"),
        (1.25, "1.2 a second"),
        (0.2, "12 a minute"),
        (0.001, "less than one a minute"),
        (0.0, "none"),
    ],
)
def test_a_rate_is_told_in_the_unit_that_fits(per_second: float, words: str) -> None:
    assert say.rate(per_second) == words


def test_an_instant_of_another_day_is_told_with_its_day() -> None:
    assert say.clock(ago(3_600), NOW) == "08:00:00Z"
    assert say.clock(ago(86_400), NOW) == "2026-03-01 09:00:00Z"


# -- the page -------------------------------------------------------------------------------------


def page(*snapshots: Snapshot, width: int = 100) -> str:
    console = Console(
        file=StringIO(), width=width, highlight=False, emoji=False, markup=False, color_system=None
    )
    report = LagReport(at=NOW, services=tuple(judge(one) for one in snapshots))
    for part in rendered(report):
        console.print(part)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_no_line_is_wider_than_the_terminal() -> None:
    chance = random.Random(3)
    for _ in range(40):
        present = frozenset(word for word in PRECEDENCE if chance.random() < 0.5)
        for width in (60, 100):
            assert max(map(len, page(everything(present), width=width).splitlines())) <= width


def test_the_page_names_verdict_command_record_owner_and_worker() -> None:
    told = page(everything(frozenset({"slow"})))
    for part in (
        "document-sync  slow",
        f"next: bbl lag {SERVICE} --watch",
        f"{TOPICS[0]}:3:118",
        "d17",
        "document-sync-0",
        "0-11",
        "500",
    ):
        assert part in told, told


def test_a_service_that_is_well_takes_two_lines() -> None:
    assert page(CALM) == "document-sync  all well\n  All well: nothing waits.\n"


# -- the command ----------------------------------------------------------------------------------


class Bbl:
    """The command line over looks that a test prepared."""

    def __init__(self, *looks: Snapshot | Exception) -> None:
        self.looks = list(looks)
        self.cli = typer.Typer(no_args_is_help=True)
        lag_command.register(self.cli)
        self.cli.command("other")(lambda: None)

    async def at(self, _services: Sequence[str]) -> list[Snapshot]:
        look = self.looks.pop(0)
        if isinstance(look, Exception):
            raise look
        return [look]

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.cli, words)


def opened(monkeypatch: pytest.MonkeyPatch, *looks: Snapshot | Exception) -> Bbl:
    bbl = Bbl(*looks)

    @asynccontextmanager
    async def open_looks(_env: object, _clock: object) -> AsyncGenerator[Bbl, None]:
        yield bbl

    monkeypatch.setattr(lag_command, "open_looks", open_looks)
    return bbl


def test_all_well_ends_with_0_and_a_finding_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    assert opened(monkeypatch, CALM)("lag").exit_code == Exit.OK
    answer = opened(monkeypatch, empty())("lag", SERVICE)
    assert (answer.exit_code, "no owner" in answer.stdout) == (Exit.FINDING, True)


def test_kafka_not_answering_is_one_line_and_ends_with_3(monkeypatch: pytest.MonkeyPatch) -> None:
    down = opened(monkeypatch, LogUnavailableError("Kafka did not tell"))("lag")
    assert (down.exit_code, down.stdout, down.stderr.count("\n")) == (Exit.UNREACHABLE, "", 1)
    asked = opened(monkeypatch, LogUnavailableError("Kafka did not tell"))("lag", "--json")
    report = LagReport.model_validate_json(asked.stdout)
    assert (asked.exit_code, report.services) == (Exit.UNREACHABLE, ())
    assert report.unreachable.startswith("Kafka did not tell")


def test_programs_read_the_same_judgement(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = opened(monkeypatch, everything(frozenset({"stuck", "slow"})))("lag", "--json")
    service = LagReport.model_validate_json(answer.stdout).services[0]
    assert service == judge(everything(frozenset({"stuck", "slow"})))
    assert [one["verdict"] for one in json.loads(answer.stdout)["services"][0]["findings"]] == [
        "stuck",
        "slow",
    ]


def test_watching_goes_on_through_an_outage(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = (CALM, CommandError(Exit.UNREACHABLE, "Kafka does not answer"), empty())
    bbl = opened(monkeypatch, *looks)
    answer = bbl("lag", "--watch", "--count", "3", "--every", "0.5", "--json")
    lines = [LagReport.model_validate_json(line) for line in answer.stdout.splitlines()]
    assert [line.services[0].verdict if line.services else "" for line in lines] == [
        "well",
        "",
        "no_owner",
    ]


@pytest.mark.parametrize(
    ("last", "code"),
    [
        (CALM, Exit.OK),
        (empty(), Exit.FINDING),
        (CommandError(Exit.UNREACHABLE, "Kafka does not answer"), Exit.UNREACHABLE),
    ],
)
def test_watching_ends_with_the_code_of_its_last_answer(
    monkeypatch: pytest.MonkeyPatch, last: Snapshot | Exception, code: Exit
) -> None:
    bbl = opened(monkeypatch, CommandError(Exit.UNREACHABLE, "not yet"), CALM, last)
    assert bbl("lag", "--watch", "--count", "3", "--every", "0.5").exit_code == code


def test_wrong_usage_ends_watching(monkeypatch: pytest.MonkeyPatch) -> None:
    bbl = opened(monkeypatch, CommandError(Exit.USAGE, "that cannot be"))
    assert bbl("lag", "--watch").exit_code == Exit.USAGE


def test_an_unknown_service_is_answered_with_the_nearest(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = opened(monkeypatch)("lag", "dokument-sync")
    assert (answer.exit_code, "'document-sync'" in answer.stderr) == (Exit.USAGE, True)


def test_the_schema_of_a_service_is_what_the_docs_promise() -> None:
    assert set(ServiceLag.model_fields) == {
        "service", "verdict", "words", "command", "findings", "behind", "oldest",
        "behind_seconds", "arrivals_per_second", "finished_per_second", "drain_seconds",
        "partitions", "workers", "notes",
    }  # fmt: skip
