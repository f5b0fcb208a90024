"""`bbl cron`: what is due, whether it is on time, what each instant came to, a run by hand."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import cron as cron_command
from bitbylaw_cli.crons import (
    LATE,
    RUNS_AT_MOST,
    CronHistory,
    CronStandList,
    State,
    Triggered,
    runs_of,
    stand,
)
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_common.events import RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.control import FunctionInfo, TriggerInfo
from bitbylaw_common.runtime.hosts.memory_host import MemoryLog
from bitbylaw_common.runtime.lanes import LaneKey
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.runtime.ticks import run_id
from unit.cli.shelf import NOW, SERVICE, Shelf

SWEEP = "steps::Document Sweep::trigger::0"
NIGHTLY = "steps::Nightly::trigger::0"
MINUTE = timedelta(minutes=1)


class Bbl:
    """`bbl cron` over a shelf."""

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        self.cli = typer.Typer(no_args_is_help=True)
        cron_command.register(self.cli)

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.cli, ["cron", *words])


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield shelf.log

    monkeypatch.setattr(cron_command, "open_log", open_log)
    bbl = Bbl(shelf)
    declare(bbl, SWEEP, "Document Sweep", "0 */15 * * * *")
    declare(bbl, NIGHTLY, "Nightly", "0 0 2 * * *")
    other = info("steps::Document Sync::trigger::0", "Document Sync", "")
    queue = TriggerInfo(type="queue", config={"topic": "vmh.document.create"})
    bbl.shelf.put(topics.FUNCTIONS, other.model_copy(update={"trigger": queue}))
    return bbl


def info(function_id: str, name: str, expression: str) -> FunctionInfo:
    return FunctionInfo(
        function_id=function_id, name=name, description="d", service=SERVICE, flows=(),
        trigger=TriggerInfo(type="cron", config={"expression": expression}), enqueues=(),
        owner="worker-1",
    )  # fmt: skip


def declare(bbl: Bbl, function_id: str, name: str, expression: str) -> None:
    bbl.shelf.put(topics.FUNCTIONS, info(function_id, name, expression))


def tick(now: datetime, *, due: timedelta, **given: Any) -> ScheduleEntry:
    fields: dict[str, Any] = {
        "step": "Document Sweep", "entity": "cron", "entity_id": SWEEP, "due": now + due,
        "kind": "tick", "since": now - 15 * MINUTE, "instant": now + due,
        "run_id": run_id(SWEEP, now + due), "finished": now + due - 15 * MINUTE,
    }  # fmt: skip
    return ScheduleEntry(**fields | given)


def keep(bbl: Bbl, entry: ScheduleEntry) -> None:
    number = codec.partition_of(entry.entity_id.encode())
    key = LaneKey(entry.step, "cron", entry.entity_id).to_bytes()
    bbl.shelf.append(Outgoing(f"{SERVICE}.schedule", key, entry.to_bytes(), {}, number))


def ended(instant: datetime | None, outcome: str, *, began: datetime, **given: Any) -> JournalEntry:
    fields: dict[str, Any] = {
        "phase": "end", "service": SERVICE, "step": "Document Sweep", "entity": "cron",
        "entity_id": SWEEP, "event_id": "e", "began": began, "ended": began + timedelta(seconds=3),
        "outcome": outcome, "summary": f"it was {outcome}", "origin": "schedule",
        "run_id": run_id(SWEEP, instant or NOW),
    }  # fmt: skip
    more = {} if instant is None else {"instant": instant}
    return JournalEntry(**fields | more | given)


def journal(bbl: Bbl, *entries: JournalEntry) -> None:
    number = codec.partition_of(SWEEP.encode())
    for entry in entries:
        value = entry.model_dump_json(exclude_none=True).encode()
        bbl.shelf.append(Outgoing(topics.JOURNAL.name, entry.key, value, {}, number))


def listed(bbl: Bbl) -> CronStandList:
    return CronStandList.model_validate_json(bbl("list", "--json").stdout, strict=True)


# How it stands --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("due", "given", "state", "words"),
    [
        (5 * MINUTE, {}, "on time", "on time, next in 5 min"),
        (-LATE, {}, "due", "due now"),
        (-LATE - MINUTE, {}, "late", "late by 1 min: does its service run, is it paused?"),
        (-3 * 60 * MINUTE, {}, "late", "late by 3 h: "),
        (-MINUTE, {"begun": NOW - MINUTE}, "running", "running since 2026-03-02 08:59:00Z"),
        (
            -20 * MINUTE,
            {"begun": NOW - RUNS_AT_MOST - MINUTE},
            "late",
            "late by 20 min: its run began 2026-03-02 08:56:00Z and has no end",
        ),
        (
            MINUTE,
            {"kind": "retry", "attempt": 2, "instant": NOW - 5 * MINUTE, "reason": "no answer"},
            "failing",
            "attempt 2 failed, the next in 1 min: no answer",
        ),
        (
            MINUTE,
            {"kind": "wait", "instant": NOW - 5 * MINUTE, "reason": "rate limit"},
            "waiting",
            "waits in 1 min: rate limit",
        ),
        (
            -10 * MINUTE,
            {"kind": "retry", "attempt": 2, "instant": NOW - 25 * MINUTE},
            "late",
            "late by 25 min",
        ),
    ],
)
def test_a_cron_stands_as_its_entry_tells(
    due: timedelta, given: dict[str, Any], state: State, words: str
) -> None:
    found = stand(info(SWEEP, "Document Sweep", "x"), tick(NOW, due=due, **given), [], NOW)
    assert found.state == state
    assert found.verdict.startswith(words)
    assert (found.late_seconds > 0) == (state in ("late", "due", "running") or "instant" in given)


def test_a_cron_on_time_whose_last_run_failed_is_failing() -> None:
    sweep, entry = info(SWEEP, "Document Sweep", "x"), tick(NOW, due=5 * MINUTE)
    bad = ended(NOW - 10 * MINUTE, "retry", began=NOW - 10 * MINUTE)
    good = ended(NOW - 10 * MINUTE, "done", began=NOW - 9 * MINUTE)
    found = stand(sweep, entry, [bad], NOW)
    assert (found.state, found.outcome) == ("failing", "retry")
    assert found.verdict == "its last run ended as retry, the next in 5 min: it was retry"
    assert stand(sweep, entry, [bad, good], NOW).state == "on time"


def test_the_list_tells_next_instant_last_run_owner_and_verdict(bbl: Bbl) -> None:
    now = SystemClock().now()
    keep(bbl, tick(now, due=5 * MINUTE))
    journal(bbl, ended(now - 10 * MINUTE, "done", began=now - 10 * MINUTE))
    answer = bbl("list", "--json")
    assert answer.exit_code == Exit.FINDING  # nobody has planned the other one
    nightly, sweep = sorted(listed(bbl).crons, key=lambda one: one.name, reverse=True)
    assert (sweep.name, sweep.owner, sweep.state) == ("Document Sweep", "worker-1", "on time")
    assert (sweep.outcome, sweep.next) == ("done", now + 5 * MINUTE)
    assert sweep.finished == now - 10 * MINUTE
    assert (nightly.state, nightly.next, nightly.outcome) == ("unplanned", None, None)
    words = bbl("list").stdout
    assert "0 */15 * * * *" in words
    assert "done, 9 min ago" in words
    assert "no worker has taken it over yet" in words


def test_a_fleet_whose_crons_are_on_time_is_no_finding(bbl: Bbl) -> None:
    now = SystemClock().now()
    keep(bbl, tick(now, due=5 * MINUTE))
    keep(bbl, tick(now, due=60 * MINUTE, step="Nightly", entity_id=NIGHTLY))
    assert bbl("list").exit_code == Exit.OK


def test_a_cron_that_was_removed_from_the_schedule_is_unplanned_again(bbl: Bbl) -> None:
    now = SystemClock().now()
    keep(bbl, tick(now, due=5 * MINUTE))
    key = LaneKey("Document Sweep", "cron", SWEEP).to_bytes()
    number = codec.partition_of(SWEEP.encode())
    bbl.shelf.append(Outgoing(f"{SERVICE}.schedule", key, None, {}, number))
    assert {one.state for one in listed(bbl).crons} == {"unplanned"}


def test_no_cron_at_all_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    empty = Shelf()

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield empty.log

    monkeypatch.setattr(cron_command, "open_log", open_log)
    answer = Bbl(empty)("list")
    assert (answer.exit_code, answer.stdout.startswith("No service declares a cron")) == (0, True)


# What came of it ------------------------------------------------------------------------------------


def test_the_attempts_of_an_instant_are_one_run_with_its_last_outcome() -> None:
    entries = [
        ended(NOW, "retry", began=NOW, due=NOW + MINUTE, reason="3 instants missed: a, b, c"),
        ended(NOW, "retry", began=NOW + MINUTE),
        ended(NOW, "done", began=NOW + 6 * MINUTE),
        ended(NOW + 15 * MINUTE, "done", began=NOW + 15 * MINUTE),
    ]
    newest, first = runs_of(entries)
    assert newest.instant == NOW + 15 * MINUTE
    assert (first.instant, first.attempts, first.outcome) == (NOW, 3, "done")
    assert (first.began, first.reason) == (NOW, "3 instants missed: a, b, c")
    assert first.again is None


def test_history_tells_instants_run_ids_outcomes_missed_and_what_was_run_by_hand(
    bbl: Bbl,
) -> None:
    keep(bbl, tick(SystemClock().now(), due=5 * MINUTE))
    journal(
        bbl,
        ended(NOW, "done", began=NOW, reason="2 instants missed: x, y"),
        ended(None, "done", began=NOW + 7 * MINUTE, run_id="by-hand",
              origin=f"{SERVICE}.requests:3:9"),
        ended(NOW + 15 * MINUTE, "rejected", began=NOW + 15 * MINUTE),
    )  # fmt: skip
    found = CronHistory.model_validate_json(bbl("history", SWEEP, "--json").stdout, strict=True)
    assert [(one.instant, one.outcome, one.manual) for one in found.runs] == [
        (NOW + 15 * MINUTE, "rejected", False),
        (None, "done", True),
        (NOW, "done", False),
    ]
    assert found.runs[1].run_id == "by-hand"
    assert found.runs[2].run_id == run_id(SWEEP, NOW)
    assert (found.more, found.stand.function_id) == (False, SWEEP)
    words = bbl("history", "Document Sweep").stdout
    assert "by hand" in words
    assert "it was done; 2 instants missed: x, y" in words
    assert run_id(SWEEP, NOW) in words


def test_history_is_cut_at_the_limit_and_says_so(bbl: Bbl) -> None:
    journal(bbl, *(ended(NOW + n * MINUTE, "done", began=NOW + n * MINUTE) for n in range(9)))
    found = json.loads(bbl("history", SWEEP, "--limit", "4", "--json").stdout)
    assert (len(found["runs"]), found["more"]) == (4, True)
    assert found["runs"][0]["began"].startswith("2026-03-02T09:08")
    assert "--limit 8" in bbl("history", SWEEP, "-n", "4").stdout


def test_a_journal_of_the_version_before_has_no_instant_and_is_shown(bbl: Bbl) -> None:
    old = ended(NOW, "done", began=NOW).model_dump(mode="json")
    del old["instant"]
    journal(bbl, JournalEntry.model_validate(old))
    (run,) = CronHistory.model_validate_json(bbl("history", SWEEP, "--json").stdout).runs
    assert (run.instant, run.manual, run.outcome) == (None, False, "done")


def test_an_instant_is_read_whatever_the_journal_declares() -> None:
    class Later(JournalEntry):
        instant: datetime | None = None

    later = Later.model_validate(ended(NOW, "done", began=NOW).model_dump(mode="json"))
    assert runs_of([later])[0].instant == NOW
    entry = ended(NOW, "done", began=NOW)
    stamp = entry.model_copy(update={"instant": "2026-03-02T10:00:00+01:00"})
    assert runs_of([stamp])[0].instant == datetime(2026, 3, 2, 9, tzinfo=UTC)
    assert runs_of([entry.model_copy(update={"instant": "soon"})])[0].instant is None


def test_a_cron_that_never_ran_says_so(bbl: Bbl) -> None:
    assert "It has not run yet." in bbl("history", "Nightly").stdout


# By hand --------------------------------------------------------------------------------------------


def test_a_trigger_asks_the_owner_for_one_run_under_the_id_that_is_answered(bbl: Bbl) -> None:
    plan = Triggered.model_validate_json(bbl("trigger", SWEEP, "--plan", "--json").stdout)
    assert (plan.written, plan.run_id) == (False, "")
    assert bbl.shelf.records(f"{SERVICE}.requests") == []
    done = Triggered.model_validate_json(bbl("trigger", SWEEP, "--yes", "--json").stdout)
    (record,) = bbl.shelf.records(f"{SERVICE}.requests")
    asked, _ = codec.decode(topics.requests(SERVICE), record)
    assert asked == RunRequested.model_validate(
        {"function_id": SWEEP, "run_id": done.run_id, "subject": SWEEP, "v": 1}
    )
    assert record.partition == codec.partition_of(SWEEP.encode())
    words = bbl("trigger", "Document Sweep", "--yes").stdout
    assert f"Next: bbl cron history '{SWEEP}'" in words


def test_a_trigger_wants_plan_or_yes(bbl: Bbl) -> None:
    assert bbl("trigger", SWEEP).exit_code == Exit.USAGE
    assert bbl.shelf.records(f"{SERVICE}.requests") == []


@pytest.mark.parametrize("verb", [("trigger", "--yes"), ("history",)])
@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ("steps::Document Swep::trigger::0", f"the nearest: '{SWEEP}', "),
        ("Document Sync", "'Document Sync' is started by queue, not by a cron"),
    ],
)
def test_what_is_no_cron_is_refused_with_the_nearest(
    bbl: Bbl, verb: tuple[str, ...], asked: str, said: str
) -> None:
    answer = bbl(verb[0], asked, *verb[1:])
    assert answer.exit_code == Exit.USAGE
    assert said in answer.stderr
    assert bbl.shelf.records(f"{SERVICE}.requests") == []


def test_a_step_with_two_crons_is_named_by_its_function_id(bbl: Bbl) -> None:
    declare(bbl, "steps::Nightly::trigger::1", "Nightly", "0 0 3 * * *")
    answer = bbl("trigger", "Nightly", "--plan")
    assert answer.exit_code == Exit.USAGE
    assert "has several crons; name one of 'steps::Nightly::trigger::0'" in answer.stderr
    assert bbl("trigger", "steps::Nightly::trigger::1", "--plan").exit_code == Exit.OK
