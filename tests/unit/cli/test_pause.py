"""`bbl pause`, `bbl resume`, `bbl paused`: what they write, what they refuse, what they show."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import typer
from typer.testing import CliRunner, Result

from bitbylaw_cli import fleet_functions
from bitbylaw_cli.commands import pause
from bitbylaw_cli.output import Exit
from bitbylaw_cli.pausing import Change, StandList
from bitbylaw_common import topics
from bitbylaw_common.events import ReplayCancelled, StepHalted, StepPaused
from bitbylaw_common.runtime.commands import parse
from bitbylaw_common.runtime.control import functions_of
from bitbylaw_common.runtime.hosts.memory_host import MemoryLog
from bitbylaw_common.runtime.ports import Outgoing
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_ingest.app import app as ingest
from unit.cli.shelf import NOW, SERVICE, STEP, Shelf

TOPIC = topics.COMMANDS.name


class Bbl:
    """The verbs over a shelf that holds the fleet's functions."""

    def __init__(self) -> None:
        self.shelf = Shelf()
        self.cli = typer.Typer()
        pause.register(self.cli)

    def __call__(self, *words: str) -> Result:
        return CliRunner().invoke(self.cli, words)

    def change(self, *words: str, ends: Exit = Exit.OK) -> Change:
        answer = self(*words, "--json")
        assert answer.exit_code == ends, answer.stderr
        return Change.model_validate_json(answer.stdout, strict=True)

    def paused(self, *words: str) -> StandList:
        answer = self("paused", *words, "--json")
        assert answer.exit_code == Exit.OK, answer.stderr
        return StandList.model_validate_json(answer.stdout, strict=True)

    def halt(self, version: str = "1.0", step: str = STEP) -> StepHalted:
        halted = StepHalted(
            service=SERVICE,
            step=step,
            code_version=version,
            since=NOW,
            by="worker-0",
            reason="runs of 5 records ended in a bug",
        )
        self.shelf.put(topics.COMMANDS, halted)
        return halted


@pytest.fixture
def bbl(monkeypatch: pytest.MonkeyPatch) -> Bbl:
    bbl = Bbl()
    for app in (ingest, document_sync):
        for info in functions_of(app, owner="w"):
            bbl.shelf.put(topics.FUNCTIONS, info)

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield bbl.shelf.log

    monkeypatch.setattr(pause, "open_log", open_log)
    monkeypatch.setattr(fleet_functions, "open_log", open_log)
    return bbl


def test_a_pause_stands_until_it_is_resumed(bbl: Bbl) -> None:
    bbl.change("pause", SERVICE, STEP, "--reason", "  audit\n today ", "--yes")

    [record] = bbl.shelf.records(TOPIC)
    said = parse(record)
    assert isinstance(said, StepPaused)
    assert (said.service, said.step, said.reason, said.by) == (
        SERVICE,
        STEP,
        "audit today",
        "operator",
    )
    [stands] = bbl.paused().entries
    assert stands.ends_with == f"bbl resume {SERVICE} '{STEP}' --yes"

    change = bbl.change("resume", SERVICE, STEP, "--yes")
    assert [one.reason for one in change.ends] == ["audit today"]
    assert bbl.paused().entries == ()
    assert [record.value for record in bbl.shelf.records(TOPIC)][1:] == [None]


def test_a_plan_says_the_same_and_writes_nothing(bbl: Bbl) -> None:
    halted = bbl.halt()
    planned = bbl.change("pause", SERVICE, "--reason", "audit", "--plan")
    assert (planned.written, len(planned.sets)) == (False, 1)
    ended = bbl.change("resume", SERVICE, "--plan")
    assert [one.code_version for one in ended.ends] == [halted.code_version]

    assert len(bbl.shelf.records(TOPIC)) == 1
    told = bbl("pause", SERVICE, "--reason", "audit", "--plan").stdout
    assert f"--yes pauses every step of {SERVICE}: audit." in told


@pytest.mark.parametrize("words", [("pause", "--reason", "x"), ("resume",)])
@pytest.mark.parametrize("flags", [(), ("--plan", "--yes")])
def test_writing_wants_one_of_plan_and_yes(
    bbl: Bbl, words: tuple[str, ...], flags: tuple[str, ...]
) -> None:
    assert bbl(words[0], SERVICE, *words[1:], *flags).exit_code == Exit.USAGE


@pytest.mark.parametrize("reason", [(), ("--reason", "  ")])
def test_a_pause_wants_a_reason(bbl: Bbl, reason: tuple[str, ...]) -> None:
    answer = bbl("pause", SERVICE, *reason, "--yes")

    assert (answer.exit_code, "--reason" in answer.stderr) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("document-snyc",), "'document-sync'"),
        ((SERVICE, "Dokument Sync"), f"'{STEP}'"),
    ],
)
@pytest.mark.parametrize("verb", [("pause", "--reason", "x"), ("resume",)])
def test_an_unknown_name_is_refused_with_the_nearest(
    bbl: Bbl, verb: tuple[str, ...], words: tuple[str, ...], named: str
) -> None:
    answer = bbl(verb[0], *words, *verb[1:], "--yes")

    assert answer.exit_code == Exit.USAGE
    assert f"the nearest is {named}" in answer.stderr
    assert bbl.shelf.records(TOPIC) == []


def test_a_step_of_a_service_that_never_ran_is_refused_in_words(
    monkeypatch: pytest.MonkeyPatch, bbl: Bbl
) -> None:
    empty = Shelf()

    @asynccontextmanager
    async def open_log(_env: object) -> AsyncIterator[MemoryLog]:
        yield empty.log

    monkeypatch.setattr(fleet_functions, "open_log", open_log)
    answer = bbl("pause", SERVICE, STEP, "--reason", "x", "--yes")
    assert (answer.exit_code, "bbl functions" in answer.stderr) == (Exit.USAGE, True)
    assert bbl("pause", SERVICE, "--reason", "x", "--yes").exit_code == Exit.OK


def test_what_answers_requests_cannot_be_paused(bbl: Bbl) -> None:
    route = next(step.name for step in ingest.steps if step.http_triggers)
    for words in ((ingest.name,), (ingest.name, route)):
        answer = bbl("pause", *words, "--reason", "x", "--yes")
        assert (answer.exit_code, "takes no records" in answer.stderr) == (Exit.REFUSED, True)

    assert bbl.shelf.records(TOPIC) == []


def test_a_step_s_resume_ends_its_pause_and_the_halts_of_every_version(bbl: Bbl) -> None:
    bbl.halt("1.0")
    bbl.halt("2.0")
    bbl.halt("1.0", "Former Step")
    bbl.change("pause", SERVICE, STEP, "--reason", "audit", "--yes")

    change = bbl.change("resume", SERVICE, STEP, "--yes")
    assert sorted(one.kind for one in change.ends) == ["halted", "halted", "paused"]
    assert [one.step for one in bbl.paused().entries] == ["Former Step"]


def test_a_service_s_resume_ends_everything_also_of_steps_that_are_gone(bbl: Bbl) -> None:
    bbl.halt()
    bbl.halt("1.0", "Former Step")
    bbl.change("pause", SERVICE, "--reason", "audit", "--yes")

    assert len(bbl.change("resume", SERVICE, "--yes").ends) == 3
    assert bbl.paused().entries == ()


def test_a_step_stays_paused_with_its_service_and_the_command_says_so(bbl: Bbl) -> None:
    bbl.change("pause", SERVICE, "--reason", "audit", "--yes")

    change = bbl.change("resume", SERVICE, STEP, "--yes", ends=Exit.FINDING)
    assert (change.ends, [one.step for one in change.still]) == ((), [""])
    told = bbl("resume", SERVICE, STEP, "--yes").stdout
    assert f"bbl resume {SERVICE} --yes" in told


def test_what_is_so_already_is_left_alone(bbl: Bbl) -> None:
    assert bbl.change("resume", SERVICE, "--yes").ends == ()
    bbl.change("pause", SERVICE, "--reason", "audit", "--yes")
    since = bbl.paused().entries[0].since
    assert bbl.change("pause", SERVICE, "--reason", "audit", "--yes").sets == ()
    assert len(bbl.shelf.records(TOPIC)) == 1

    bbl.change("pause", SERVICE, "--reason", "another", "--yes")
    [stands] = bbl.paused().entries
    assert (stands.reason, stands.since) == ("another", since)


def test_halts_come_first_and_the_list_tells_all_of_it(bbl: Bbl) -> None:
    bbl.change("pause", SERVICE, "--reason", "audit", "--yes")
    bbl.halt("1.0")
    bbl.shelf.put(topics.COMMANDS, ReplayCancelled(replay_id="r1", since=NOW, by="operator"))
    bbl.shelf.append(Outgoing(TOPIC, b"brake|espocrm", b'{"kind":"brake"}'))
    bbl.shelf.append(Outgoing(TOPIC, b"x|y", b"garbage"))

    found = bbl.paused()
    assert [one.kind for one in found.entries] == ["halted", "paused", "replay_cancelled"]
    assert (found.unknown, found.unreadable) == (1, 1)
    assert [one.kind for one in bbl.paused(SERVICE).entries] == ["halted", "paused"]
    assert bbl.paused("ingest").entries == ()
    told = bbl("paused").stdout
    for words in (f"{STEP} of {SERVICE}, version 1.0", "runs of 5 records", "worker-0", "audit"):
        assert words in told


def test_an_empty_list_says_so(bbl: Bbl) -> None:
    assert "Nothing is paused or halted." in bbl("paused").stdout
    assert json.loads(bbl("paused", "--json").stdout)["entries"] == []
