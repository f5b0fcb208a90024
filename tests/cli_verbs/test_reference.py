"""The table of verbs beside the commands, the documents and the cases; help of every verb."""

import re
from collections import defaultdict
from pathlib import Path

import pytest
import typer
from jsonschema import Draft202012Validator
from typer.testing import CliRunner

from bitbylaw_cli.demonstration import Demo, FileLine
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_cli.reference import commands_of, files, reference
from bitbylaw_cli.verbs import VERBS, verb
from cli_verbs.answers import DOCS, check, is_error
from cli_verbs.cases import ELSEWHERE, TYPICAL, Case, every_case
from cli_verbs.typist import Typed

ROOT = Path(__file__).parents[2]
BBL = typer.main.get_command(build())
COMMANDS = dict(commands_of(BBL))
REFERENCE = {one.verb: one for one in reference(typer.Context(BBL)).verbs}


def test_every_command_is_in_the_table_and_nothing_else() -> None:
    assert set(COMMANDS) == {one.words for one in VERBS} == set(TYPICAL)


def test_the_documents_are_what_the_commands_say() -> None:
    wanted = files(typer.Context(BBL))
    there = {path.relative_to(DOCS).as_posix() for path in (DOCS / "cli").glob("*")}
    assert there | {"cli.md"} == set(wanted)
    for name, text in wanted.items():
        assert (DOCS / name).read_text("utf-8") == text, "bbl schema cli --into docs --yes"


def test_every_schema_is_one() -> None:
    for one in REFERENCE.values():
        Draft202012Validator.check_schema(one.answer)
        assert one.answer["title"] == f"bbl {one.verb} --json"
        assert all(one.answers)


@pytest.mark.parametrize("words", COMMANDS)
def test_help_tells_what_a_verb_does_and_what_each_option_means(words: str) -> None:
    answer = CliRunner().invoke(build(), [*words.split(), "--help"], env={"COLUMNS": "200"})
    assert answer.exit_code == Exit.OK
    assert answer.stderr == ""
    assert f"Usage: bbl {words}" in answer.stdout
    assert REFERENCE[words].does
    for parameter in REFERENCE[words].parameters:
        assert parameter.meaning, parameter.name
        assert parameter.name.split()[0].strip(",").lower() in answer.stdout.lower()


@pytest.mark.parametrize("words", COMMANDS)
def test_a_verb_takes_json_and_one_that_writes_plan_and_yes(words: str) -> None:
    options = {name for parameter in COMMANDS[words].params for name in parameter.opts}
    assert "--json" in options
    assert options & {"--plan", "--yes"} == ({"--plan", "--yes"} if verb(words).writes else set())
    assert bool(options & {"--follow", "--watch"}) == (verb(words).line is not None)


def test_every_end_of_every_verb_is_shown_by_a_case_or_a_test_that_is_named() -> None:
    shown: defaultdict[str, set[Exit]] = defaultdict(set)
    for case in every_case():
        shown[case.verb].add(case.exit)
    for words, code in ELSEWHERE:
        shown[words].add(code)
    assert {one.words: set(one.exits) for one in VERBS} == dict(shown)


def test_every_verb_that_writes_is_seen_to_write_and_to_plan() -> None:
    cases = list(every_case())
    for one in VERBS:
        if one.writes and (one.words, Exit.OK) not in ELSEWHERE:
            mine = [case for case in cases if case.verb == one.words]
            assert any(case.writes and case.exit is Exit.OK for case in mine), one.words
            assert any("--plan" in case.words and not is_error(case.exit) for case in mine)


def test_every_error_says_what_where_and_what_to_do() -> None:
    for case in every_case():
        assert len(case.says) == (3 if is_error(case.exit) and not case.json else 0), str(case)
    verbs = {case.verb for case in every_case() if case.says}
    assert verbs == set(COMMANDS)


def test_the_tests_that_are_named_exist() -> None:
    for named in ELSEWHERE.values():
        path, _, name = named.partition("::")
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text("utf-8"), re.MULTILINE)


def test_a_demonstration_in_which_a_document_is_not_where_it_should_be_ends_with_1(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    line = FileLine(
        "a.pdf", 1, ("row 2",), "done", False, "synced", problem="xAI holds other bytes"
    )
    found = Demo(False, (), (line,), (), 1, 0.5)

    async def demonstrate(*_given: object, **_more: object) -> Demo:
        return found

    monkeypatch.setattr("bitbylaw_cli.demo_words.demonstrate", demonstrate)
    answer = CliRunner().invoke(build(), ["demo", "--json"])
    check(Case("demo", "", Exit.FINDING), Typed(answer.exit_code, answer.stdout, "", 0.0), {})
    assert "xAI holds other bytes" in answer.stdout
