import json
from dataclasses import dataclass

import pytest
import typer
from typer.core import TyperGroup
from typer.main import get_command
from typer.testing import CliRunner

from bitbylaw_cli.main import COMMANDS, build
from bitbylaw_cli.output import (
    CommandError,
    Exit,
    as_json,
    guarded,
    may_write,
    out,
    run,
    show,
    table,
)
from bitbylaw_common.errors import LogUnavailableError, SettingsError, Transient


@dataclass(frozen=True)
class Shelf:
    name: str
    books: tuple[str, ...]


def test_the_exit_codes_never_change() -> None:
    assert {code.name: code.value for code in Exit} == {
        "OK": 0,
        "FINDING": 1,
        "USAGE": 2,
        "UNREACHABLE": 3,
        "REFUSED": 4,
    }


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (CommandError(Exit.REFUSED, "port 3111 is held"), 4, "port 3111 is held"),
        (SettingsError("KAFKA is missing"), 2, "KAFKA is missing"),
        (LogUnavailableError("no broker answers"), 3, "no broker answers"),
        (Transient("espocrm", "get_entity"), 3, "espocrm did not answer"),
    ],
)
def test_what_is_known_to_go_wrong_is_one_line_and_a_code(
    error: Exception, code: int, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    async def work() -> None:
        raise error

    with pytest.raises(typer.Exit) as ended:
        run(work())

    printed = capsys.readouterr()
    assert ended.value.exit_code == code
    assert printed.err.startswith(says)
    assert printed.err.count("\n") == 1
    assert not printed.out


def test_a_bug_is_not_hidden_behind_one_line() -> None:
    async def work() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run(work())


def test_a_write_needs_plan_or_yes() -> None:
    assert may_write(plan=False, yes=True)
    assert not may_write(plan=True, yes=False)
    for both in (True, False):
        with pytest.raises(typer.Exit) as ended:
            guarded(lambda both=both: may_write(both, both))  # type: ignore[misc]
        assert ended.value.exit_code == Exit.USAGE


def test_json_is_the_result_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    shelf = Shelf("[red]Gänse[/red]", ("a", "b"))

    show(shelf, json=True, render=lambda _: "never")

    assert json.loads(capsys.readouterr().out) == {"name": "[red]Gänse[/red]", "books": ["a", "b"]}
    assert as_json([shelf], indent=None).count("\n") == 0


def test_a_table_shows_text_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    show(
        Shelf("[bold]x[/bold]", ()),
        json=False,
        render=lambda shelf: table(("name", "books"), [(shelf.name, None)]),
    )

    printed = capsys.readouterr().out
    assert "[bold]x[/bold]" in printed
    assert printed.rstrip().endswith("-")


def test_a_piped_table_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    out().print(table(("one", "two"), [("x" * 100, "y" * 100)]))

    assert "y" * 100 in capsys.readouterr().out


def test_every_command_has_help_and_takes_json() -> None:
    runner, cli = CliRunner(), build()
    names = [module.__name__.rpartition(".")[2] for module in COMMANDS]
    listed = runner.invoke(cli, ["--help"], env={"COLUMNS": "200"}).output

    commands = get_command(cli)
    assert isinstance(commands, TyperGroup)
    # nouns have verbs of their own
    nouns = {name for name, one in commands.commands.items() if isinstance(one, TyperGroup)}
    for name in names:
        assert name in listed
        told = runner.invoke(cli, [name, "--help"], env={"COLUMNS": "200"})
        assert told.exit_code == 0, name
        if name not in nouns:
            assert "--json" in told.output, name


def test_an_unknown_command_is_wrong_usage() -> None:
    assert CliRunner().invoke(build(), ["upp"]).exit_code == Exit.USAGE
