"""Redrive: every cause with what helps; letters asked for in their order, once, whatever dies."""

import json
import random
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from bitbylaw_cli.letters import (
    Filed,
    IssueList,
    Redrive,
    RedriveList,
    in_order,
    run_id_of,
)
from bitbylaw_cli.output import Exit
from bitbylaw_common import topics
from bitbylaw_common.errors import DecodeError
from bitbylaw_common.events import RunRequested
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka import codec
from bitbylaw_common.runtime.control import FunctionInfo, TriggerInfo
from bitbylaw_common.runtime.dead_letters import DeadLetter, Redriven, read
from bitbylaw_common.runtime.ports import Outgoing, Record
from bitbylaw_common.runtime.schedule import Carried
from unit.cli.shelf import NOW, SERVICE, STEP, Bbl, Shelf, letter, open_instead

REQUESTS = f"{SERVICE}.requests"
DLQ = f"{SERVICE}.dlq"
MINUTE = timedelta(minutes=1)


class Died(Exception):  # noqa: N818 - it is what happened
    """The command was killed."""


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    shelf = Shelf()
    open_instead(monkeypatch, shelf.log)
    return Bbl(shelf)


def ran(bbl: Bbl, entity_id: str, outcome: str, *, after: timedelta) -> None:
    run = JournalEntry(
        phase="end", service=SERVICE, step=STEP, entity="document", entity_id=entity_id,
        run_id="later", event_id="e", began=NOW + after, ended=NOW + after, outcome=outcome,
    )  # fmt: skip
    number = codec.partition_of(entity_id.encode())
    bbl.shelf.append(
        Outgoing(topics.JOURNAL.name, run.key, run.model_dump_json().encode(), {}, number)
    )


def unreadable(bbl: Bbl) -> None:
    bbl.shelf.bury(
        letter("", step="", entity="", error="Undecodable", reason="no JSON", raw="AA==",
               carried=None, origin="vmh.document.update:4:1", run_id="r", event_id="")
    )  # fmt: skip


def requests(bbl: Bbl) -> list[RunRequested]:
    """Return what was asked for, in the order in which it was sent."""
    found = [
        RunRequested.model_validate_json(record.value or b"")
        for record in bbl.shelf.records(REQUESTS)
    ]
    return sorted(found, key=lambda asked: asked.number)


def marks(bbl: Bbl) -> list[Redriven]:
    found = [read(record) for record in bbl.shelf.records(DLQ)]
    return [one for one in found if isinstance(one, Redriven)]


def issues(bbl: Bbl) -> IssueList:
    answer = bbl("dlq", "issues", SERVICE, "--json")
    return IssueList.model_validate_json(answer.stdout, strict=True)


def many(bbl: Bbl, *words: str) -> RedriveList:
    answer = bbl("dlq", "redrive", SERVICE, *words, "--json")
    assert answer.exit_code == Exit.OK, answer.stderr
    return RedriveList.model_validate_json(answer.stdout, strict=True)


def declare(bbl: Bbl, *names: str) -> None:
    for number, topic in enumerate(names):
        info = FunctionInfo(
            function_id=f"steps::{STEP}::trigger::{number}", name=STEP, description="d",
            service=SERVICE, flows=(), enqueues=(),
            trigger=TriggerInfo(type="queue", config={"topic": topic}),
        )  # fmt: skip
        bbl.shelf.put(topics.FUNCTIONS, info)


# Causes --------------------------------------------------------------------------------------------


def test_each_cause_is_an_issue_with_how_far_it_is_put_right_and_what_helps(bbl: Bbl) -> None:
    for entity_id in ("d1", "d2", "d3"):
        bbl.shelf.bury(letter(entity_id, died=NOW + MINUTE))
    bbl.shelf.bury(letter("d4", error="Bug", reason="KeyError in the handler"))
    unreadable(bbl)
    bbl("dlq", "redrive", SERVICE, "d2", "--yes")
    ran(bbl, "d3", "done", after=5 * MINUTE)
    found = issues(bbl)
    assert [
        (issue.number, issue.error, issue.count, issue.open, issue.redriven, issue.resolved)
        for issue in found.issues
    ] == [(1, "Bug", 1, 1, 0, 0), (2, "Undecodable", 1, 0, 0, 0), (3, "Invalid", 3, 1, 1, 1)]
    assert found.issues[1].unreadable == 1
    assert found.issues[0].command == f"bbl dlq redrive {SERVICE} --issue 1 --plan"
    assert found.issues[1].command.startswith(f"bbl dlq show {SERVICE} {DLQ}:")
    answer = bbl("dlq", "issues", SERVICE)
    assert answer.exit_code == Exit.FINDING
    assert "issue 3  Invalid: xai answered 400 to upload_file\n" in answer.stdout
    assert "3 letters, 1 open, 1 asked for again, 1 resolved since\n" in answer.stdout
    assert f"  bbl dlq redrive {SERVICE} --issue 3 --plan\n" in answer.stdout
    assert "KeyError in the handler" in answer.stdout


def test_an_issue_keeps_its_number_when_another_cause_kills_more(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    before = issues(bbl).issues[0]
    for number in range(5):
        bbl.shelf.bury(letter(f"e{number}", error="Bug", reason="b", died=NOW + MINUTE))
    assert issues(bbl).issues[0] == before


def test_an_issue_whose_records_are_all_in_line_is_settled_and_no_finding(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    bbl("dlq", "redrive", SERVICE, "--yes")
    (asked,) = issues(bbl).issues
    assert (asked.redriven, asked.command) == (1, "bbl why document d1")
    ran(bbl, "d1", "skipped", after=MINUTE)
    (issue,) = issues(bbl).issues
    assert (issue.settled, issue.resolved, issue.command) == (True, 1, "")
    assert bbl("dlq", "issues", SERVICE).exit_code == Exit.OK


def test_no_dead_letters_are_no_issue(bbl: Bbl) -> None:
    answer = bbl("dlq", "issues", SERVICE)
    assert (answer.exit_code, answer.stdout) == (Exit.OK, f"{SERVICE} has no dead letters.\n")


def test_a_cron_that_died_is_run_by_hand_and_not_redriven(bbl: Bbl) -> None:
    sweep = "steps::Sweep::trigger::0"
    bbl.shelf.bury(letter(sweep, step="Sweep", entity="cron", carried=None, origin="schedule"))
    (issue,) = issues(bbl).issues
    assert (issue.unreadable, issue.command) == (1, f"bbl cron trigger '{sweep}' --plan")
    refused = bbl("dlq", "redrive", SERVICE, sweep, "--yes")
    assert refused.exit_code == Exit.REFUSED
    assert f"run it now with `bbl cron trigger '{sweep}' --yes`" in refused.stderr
    assert requests(bbl) == []


# Order ---------------------------------------------------------------------------------------------


def test_letters_are_asked_for_as_their_events_came_not_as_they_died(bbl: Bbl) -> None:
    def bury(entity_id: str, origin: str, *, seen: int, died: int) -> None:
        times = {"first_seen": NOW + seen * MINUTE, "died": NOW + died * MINUTE}
        bbl.shelf.bury(letter(entity_id, origin=origin, **times))

    bury("d1", "vmh.document.update:3:9", seen=5, died=6)
    bury("d2", "vmh.document.update:7:1", seen=2, died=7)
    bury("d1", "vmh.document.create:3:4", seen=1, died=8)
    bury("d1", "vmh.document.update:3:8", seen=6, died=9)
    found = many(bbl, "--yes")
    assert [one.entity_id for one in found.redrives] == ["d1", "d2", "d1", "d1"]
    origins = [record.headers[codec.ORIGIN] for record in bbl.shelf.records(REQUESTS)
               if record.key == b"d1"]  # fmt: skip
    assert origins == [
        "vmh.document.create:3:4", "vmh.document.update:3:8", "vmh.document.update:3:9",
    ]  # fmt: skip
    assert [(asked.number, asked.of, asked.subject) for asked in requests(bbl)] == [
        (1, 4, "d1"), (2, 4, "d2"), (3, 4, "d1"), (4, 4, "d1"),
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(20))
def test_the_order_keeps_the_places_of_each_topic_for_each_record(seed: int) -> None:
    chance = random.Random(seed)
    found = []
    for number in range(60):
        entity_id, topic = chance.choice("abcd"), chance.choice(["create", "update"])
        dead = letter(
            entity_id,
            origin=f"vmh.document.{topic}:{ord(entity_id) % 12}:{chance.randrange(1000)}",
            first_seen=NOW + chance.randrange(500) * MINUTE,
            died=NOW + chance.randrange(500) * MINUTE,
        )
        found.append(Filed(f"{DLQ}:1:{number}", 1, dead))
    ordered = in_order(found)
    assert sorted(one.place for one in ordered) == sorted(one.place for one in found)
    for entity_id in "abcd":
        mine = [one.dead for one in ordered if one.dead.entity_id == entity_id]
        for topic in ("create", "update"):
            offsets = [int(d.origin.rpartition(":")[2]) for d in mine if topic in d.origin]
            assert offsets == sorted(offsets)
    # whose turn it is among the records goes by death
    by_death = sorted(found, key=lambda one: (one.dead.died, one.place))
    assert [one.dead.entity_id for one in ordered] == [one.dead.entity_id for one in by_death]


# Once ----------------------------------------------------------------------------------------------


def test_a_letter_is_asked_for_once_and_the_refusal_names_when_and_by_whom(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    done = bbl("dlq", "redrive", SERVICE, "d1", "--by", "night watch", "--yes", "--json")
    asked = Redrive.model_validate_json(done.stdout, strict=True)
    assert (asked.written, asked.found) == (True, False)
    again = bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    assert again.exit_code == Exit.REFUSED
    assert "was asked for again already, 20" in again.stderr
    assert "by night watch; `bbl why document d1` tells what came of it" in again.stderr
    assert len(requests(bbl)) == 1
    shown = json.loads(bbl("dlq", "show", SERVICE, "d1", "--json").stdout)
    assert (shown["redriven_by"], shown["redriven"] is not None) == ("night watch", True)


def test_the_record_of_a_redrive_lies_behind_its_letter_in_its_partition(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    first, second = bbl.shelf.records(DLQ)
    assert first.partition == second.partition
    found = read(second)
    assert isinstance(found, Redriven)
    assert found.letter == f"{DLQ}:{first.partition}:{first.offset}"
    assert found.run_id == requests(bbl)[0].run_id
    listed = json.loads(bbl("dlq", "list", SERVICE, "--json").stdout)
    assert (listed["count"], listed["unreadable"]) == (1, 0)


def test_a_record_that_died_anew_may_be_asked_for_again_by_its_new_letter(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    first = f"{DLQ}:{codec.partition_of(b'd1')}:0"
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    later = NOW + timedelta(days=365)
    bbl.shelf.bury(letter("d1", origin=f"{REQUESTS}:3:0", died=later, first_seen=later))
    old = bbl("dlq", "redrive", SERVICE, first, "--yes")
    assert old.exit_code == Exit.REFUSED
    assert f"its record died anew: `bbl dlq redrive {SERVICE} {DLQ}:" in old.stderr
    assert bbl("dlq", "redrive", SERVICE, "d1", "--yes").exit_code == Exit.OK
    assert len({asked.run_id for asked in requests(bbl)}) == 2


def test_all_open_letters_are_asked_for_and_the_others_are_counted(bbl: Bbl) -> None:
    for entity_id in ("d1", "d2", "d3"):
        bbl.shelf.bury(letter(entity_id))
    unreadable(bbl)
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    ran(bbl, "d2", "done", after=MINUTE)
    plan = many(bbl, "--plan")
    assert [one.entity_id for one in plan.redrives] == ["d3"]
    assert (plan.redriven, plan.resolved, plan.unreadable, plan.written) == (1, 1, 1, False)
    assert len(requests(bbl)) == 1
    words = bbl("dlq", "redrive", SERVICE, "--yes").stdout
    assert "Asked document-sync for 1 run, in this order. Passed over: 1 asked for before" in words
    again = bbl("dlq", "redrive", SERVICE, "--yes")
    assert again.exit_code == Exit.REFUSED
    assert "2 letters were asked for before, the last one 20" in again.stderr
    assert len(requests(bbl)) == 2


def test_nothing_open_is_said_and_no_error(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    ran(bbl, "d1", "done", after=MINUTE)
    answer = bbl("dlq", "redrive", SERVICE, "--yes")
    assert answer.exit_code == Exit.OK
    assert answer.stdout == f"{SERVICE} has no open letter there. Passed over: 1 in line since.\n"


@pytest.mark.parametrize("cause", ["2", "invalid", "400 to upload", "Invalid: xai"])
def test_one_issue_is_named_by_its_number_or_by_words(bbl: Bbl, cause: str) -> None:
    bbl.shelf.bury(letter("d1", error="Bug", reason="KeyError in the handler"))
    bbl.shelf.bury(letter("d2", died=NOW + MINUTE))
    found = many(bbl, "--issue", cause, "--yes")
    assert [one.entity_id for one in found.redrives] == ["d2"]


@pytest.mark.parametrize(
    ("cause", "said"),
    [("9", "no issue of document-sync fits '9'"), ("e", "fits several issues: 1 (Bug), 2 (Inv")],
)
def test_words_that_fit_none_or_several_issues_are_refused(bbl: Bbl, cause: str, said: str) -> None:
    bbl.shelf.bury(letter("d1", error="Bug", reason="KeyError in the handler"))
    bbl.shelf.bury(letter("d2", died=NOW + MINUTE))
    answer = bbl("dlq", "redrive", SERVICE, "--issue", cause, "--yes")
    assert answer.exit_code == Exit.USAGE
    assert said in answer.stderr
    assert requests(bbl) == []


def test_a_letter_and_an_issue_exclude_each_other(bbl: Bbl) -> None:
    answer = bbl("dlq", "redrive", SERVICE, "d1", "--issue", "1", "--plan")
    assert answer.exit_code == Exit.USAGE


# Which function ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("topic", "number"), [("create", 0), ("update", 1), ("sync_check", 2)])
def test_the_function_is_the_trigger_whose_topic_the_event_came_from(
    bbl: Bbl, topic: str, number: int
) -> None:
    declare(bbl, *(f"vmh.document.{name}" for name in ("create", "update", "sync_check")))
    event = json.dumps({"entity_type": "CDokumente", "entity_id": "d1", "action": "update"})
    bbl.shelf.bury(letter("d1", carried=Carried(topic=f"vmh.document.{topic}", value=event)))
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    (asked,) = requests(bbl)
    assert asked.function_id == f"steps::{STEP}::trigger::{number}"
    assert asked.topic == f"vmh.document.{topic}"
    assert asked.origin == f"{DLQ}:{codec.partition_of(b'd1')}:0"


def test_where_the_fleet_does_not_tell_the_topic_is_named_all_the_same(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    (asked,) = requests(bbl)
    assert asked.function_id == f"steps::{STEP}::trigger::0"
    assert asked.topic == "vmh.document.update"


# Death ---------------------------------------------------------------------------------------------


def die_on(bbl: Bbl, topic: str, *, stored: bool, after: int = 0) -> None:
    """Let the command die when it writes to this topic for the `after`th time and one more."""
    seen = 0

    def die(records: Sequence[Outgoing]) -> None:
        nonlocal seen
        if records and records[0].topic == topic:
            seen += 1
            if seen > after:
                raise Died

    if stored:
        bbl.shelf.log.on_stored = die
    else:
        bbl.shelf.log.on_append = die


def live(bbl: Bbl) -> None:
    bbl.shelf.log.on_append = bbl.shelf.log.on_stored = lambda _: None


@pytest.mark.parametrize("topic", [REQUESTS, DLQ])
@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_wherever_a_redrive_dies_the_next_one_loses_none_and_asks_for_none_twice(
    bbl: Bbl, monkeypatch: pytest.MonkeyPatch, topic: str, stored: bool, after: int
) -> None:
    monkeypatch.setattr("bitbylaw_cli.letters.TOGETHER", 5)
    for number in range(12):
        bbl.shelf.bury(letter(f"d{number}"))
    die_on(bbl, topic, stored=stored, after=after)
    died = bbl("dlq", "redrive", SERVICE, "--yes")
    assert isinstance(died.exception, Died)
    live(bbl)
    sent, marked = len(requests(bbl)), len(marks(bbl))
    assert 0 <= sent - marked <= 5
    if marked < 12:
        again = many(bbl, "--yes")
        assert len([one for one in again.redrives if one.found]) == sent - marked
        assert again.redriven == marked
    asked = [request.run_id for request in requests(bbl)]
    assert len(asked) == len(set(asked)) == 12
    assert {mark.run_id for mark in marks(bbl)} == set(asked)


def test_the_redrive_that_finds_an_earlier_request_says_so(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    die_on(bbl, DLQ, stored=False)
    bbl("dlq", "redrive", SERVICE, "d1", "--yes")
    live(bbl)
    assert [asked.subject for asked in requests(bbl)] == ["d1"]
    words = bbl("dlq", "redrive", SERVICE, "d1", "--yes").stdout
    assert words.startswith("An earlier redrive had asked document-sync for a run")
    assert len(requests(bbl)) == 1
    assert bbl("dlq", "redrive", SERVICE, "d1", "--yes").exit_code == Exit.REFUSED


def test_a_kafka_that_does_not_acknowledge_leaves_it_to_the_next_redrive(bbl: Bbl) -> None:
    bbl.shelf.bury(letter("d1"))
    bbl.shelf.log.failing = True
    assert bbl("dlq", "redrive", SERVICE, "d1", "--yes").exit_code == Exit.UNREACHABLE
    bbl.shelf.log.failing = False
    assert bbl("dlq", "redrive", SERVICE, "d1", "--yes").exit_code == Exit.OK
    assert len(requests(bbl)) == 1


# The records ---------------------------------------------------------------------------------------


def stored(value: bytes | None, **headers: str) -> Record:
    return Record(DLQ, 1, 0, b"k", value, headers)


def test_a_dead_letter_topic_tells_letters_from_redrives() -> None:
    dead = letter("d1")
    assert read(stored(dead.to_bytes())) == dead
    mark = Redriven(letter=f"{DLQ}:1:0", run_id="r", at=NOW)
    encoded = codec.encode(topics.dlq(SERVICE), mark, event_id="e", source="bbl", now=NOW)
    assert encoded.value is not None
    found = read(Record(DLQ, 1, 0, encoded.key, encoded.value, encoded.headers))
    assert isinstance(found, Redriven)
    assert (found.letter, found.run_id, found.at, found.by) == (mark.letter, "r", NOW, "operator")


@pytest.mark.parametrize("value", [None, b"", b"[]", b'{"letter":"Geheim"}'])
def test_what_is_neither_is_refused_without_its_content(value: bytes | None) -> None:
    for headers in ({}, {"ce_type": Redriven.type}):
        with pytest.raises(DecodeError) as refused:
            read(stored(value, **headers))
        assert "Geheim" not in str(refused.value)


def test_the_run_id_is_the_letter_s_own() -> None:
    def filed(place: str, **given: Any) -> Filed:
        dead: DeadLetter = letter("d1", **given)
        return Filed(place, 1, dead)

    assert run_id_of(filed("a:1:0")) == run_id_of(filed("a:1:0"))
    others = {run_id_of(filed("a:1:1")), run_id_of(filed("a:1:0", died=NOW + MINUTE))}
    assert run_id_of(filed("a:1:0")) not in others
