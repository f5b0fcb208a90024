"""The verbs as a page for people and as JSON schemas for programs, made from the commands."""

import inspect
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Union, get_args

import typer
from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.reference_model import (
    Ending,
    FileChange,
    Parameter,
    Reference,
    ReferenceFiles,
    VerbReference,
)
from bitbylaw_cli.verbs import VERBS, Verb

PAGE = "cli.md"
SCHEMAS = "cli"

Command = TyperCommand | TyperGroup

_EVERYWHERE = ("--env", "--json", "--plan", "--yes")
_MEANINGS = {
    Exit.OK: "done, and all is well",
    Exit.FINDING: "done, and there is something to look at",
    Exit.USAGE: "wrong usage, or settings that do not fit; nothing was done",
    Exit.UNREACHABLE: "a system that it asks does not answer",
    Exit.REFUSED: "a guard refused; the line says which, and what to do",
}
_PREFACE = """\
# `bbl`, for programs and people

Written by `bbl schema cli` from the commands; a test holds the two equal. Change a command, then run
`bbl schema cli --into docs --yes`.

Every verb takes `--help` and `--json`. With `--json` nothing but one JSON document goes to standard
output, its keys always in the same order; where a verb follows something, each line is one document.
A field may come; none goes or changes its meaning. Progress and errors go to standard error.

Verbs that ask a running system take `--env FILE`, a file of `NAME=value` lines. Without it the
environment counts where it names Kafka, else what `bbl up` runs in this folder.

Every verb that writes takes `--plan`, which shows what it would do and writes nothing, and `--yes`,
which does it. Without either, or with both, it ends with 2.

| exit code | means |
| --- | --- |
"""


def commands_of(root: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Command]]:
    """Yield every verb of a command, as it is typed, and the command that runs it.

    A group is a verb itself where it runs without a further word.
    """
    commands: Mapping[str, Any] = getattr(root, "commands", {})
    if not commands or getattr(root, "invoke_without_command", False):
        yield " ".join(words), root
    for name, command in commands.items():
        yield from commands_of(command, (*words, name))


def reference(root: typer.Context) -> Reference:
    """Return what the commands are.

    Args:
        root: the context of `bbl` itself.

    Raises:
        ValueError: a command is missing in `VERBS`, or one there is no command.
    """
    commands = dict(commands_of(root.command))
    known = {one.words: one for one in VERBS}
    if unlike := set(commands) ^ set(known):
        raise ValueError(f"verbs.py and the commands differ: {', '.join(sorted(unlike))}")
    return Reference(
        verbs=tuple(_described(root, known[words], commands[words]) for words in commands)
    )


def files(root: typer.Context) -> dict[str, str]:
    """Return the page and the schemas by their paths below the folder of the documents."""
    found = reference(root)
    made = {PAGE: page(found)}
    for one in found.verbs:
        for end, schema in ((".json", one.answer), (".line.json", one.line)):
            if schema is not None:
                text = json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
                made[f"{SCHEMAS}/{schema_name(one.verb)}{end}"] = text
    return made


def bring_in_line(root: typer.Context, folder: Path, *, write: bool) -> ReferenceFiles:
    """Return which files differ from the code; with `write` they are brought in line.

    Raises:
        CommandError: a file cannot be read or written.
    """
    wanted = files(root)
    changes: list[FileChange] = []
    try:
        there = [path.relative_to(folder).as_posix() for path in (folder / SCHEMAS).glob("*.json")]
        for name in sorted({*wanted, *there}):
            path, text = folder / name, wanted.get(name)
            if text is None:
                changes.append(FileChange(path=name, change="remove"))
                if write:
                    path.unlink()
            elif not path.exists() or path.read_text("utf-8") != text:
                changes.append(
                    FileChange(path=name, change="change" if path.exists() else "create")
                )
                if write:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(text, "utf-8")
    except OSError as unfit:
        raise CommandError(
            Exit.REFUSED, f"{unfit.filename}: {unfit.strerror}; --into takes a folder you may write"
        ) from None
    return ReferenceFiles(folder=str(folder), changes=tuple(changes), written=write)


def schema_name(words: str) -> str:
    """Return the verb as its schema's file is named."""
    return words.replace(" ", "-")


def _described(root: typer.Context, of: Verb, command: Command) -> VerbReference:
    return VerbReference(
        verb=of.words,
        does=inspect.cleandoc(command.help or ""),
        parameters=tuple(_parameters(root, command)),
        writes=of.writes,
        ends=tuple(Ending(code=int(code), when=_when(of, code)) for code in sorted(of.exits)),
        answers=tuple(_sentence(answer) for answer in of.answers),
        answer=_schema(Union[of.answers], f"bbl {of.words} --json"),  # noqa: UP007 - from a tuple
        line=None if of.line is None else _schema(of.line, f"a line of bbl {of.words} --json"),
    )


def _parameters(root: typer.Context, command: Command) -> Iterator[Parameter]:
    for one in command.params:
        if isinstance(one, TyperArgument):
            name = one.metavar or (one.name or "").upper()
            yield Parameter(name=name, meaning=one.help or "", required=one.required)
        elif isinstance(one, TyperOption):
            value = "" if one.is_flag else f" {one.metavar or one.display_type(root)}"
            name = ", ".join(one.opts) + value
            yield Parameter(name=name, meaning=one.help or "", required=one.required)


def _when(of: Verb, code: Exit) -> str:
    words = {Exit.FINDING: of.finding, Exit.UNREACHABLE: of.asks, Exit.REFUSED: of.refused}
    return words.get(code, "")


def _sentence(answer: Any) -> str:
    """Return the first sentence of what an answer says about itself."""
    of_many = [one for one in get_args(answer) if one is not Ellipsis]
    told = inspect.getdoc(of_many[0] if of_many else answer) or ""
    first = " ".join(told.partition("\n\n")[0].split())
    return f"A list; each: {first}" if of_many else first


def _schema(answer: Any, title: str) -> dict[str, Any]:
    made = TypeAdapter(answer).json_schema(mode="serialization")
    made.pop("title", None)
    return {"$schema": GenerateJsonSchema.schema_dialect, "title": title, **made}


# -- the page -------------------------------------------------------------------------------------


def page(found: Reference) -> str:
    """Return docs/cli.md."""
    lines = [_PREFACE.rstrip("\n")]
    lines += [f"| {int(code)} | {words} |" for code, words in _MEANINGS.items()]
    lines += ["| 130 | Ctrl-C |", "", "| verb | what it does | writes | ends with |"]
    lines += ["| --- | --- | --- | --- |"]
    for one in found.verbs:
        codes = ", ".join(str(end.code) for end in one.ends)
        first = one.does.partition("\n\n")[0].partition(". ")[0].rstrip(".")
        writes = "yes" if one.writes else ""
        link = f"[`bbl {one.verb}`](#bbl-{schema_name(one.verb)})"
        lines.append(f"| {link} | {_cell(first)} | {writes} | {codes} |")
    for one in found.verbs:
        lines += ["", *_section(one)]
    return "\n".join(lines) + "\n"


def _section(one: VerbReference) -> Iterator[str]:
    yield f"## bbl {one.verb}"
    yield ""
    yield one.does
    yield ""
    for parameter in one.parameters:
        if parameter.name.split()[0] not in _EVERYWHERE:
            needed = " Required." if parameter.required and "--" in parameter.name else ""
            yield f"- `{parameter.name}`: {parameter.meaning}{needed}"
    name = schema_name(one.verb)
    yield f"- Answers ([schema]({SCHEMAS}/{name}.json)): {' Or: '.join(one.answers)}"
    if one.line is not None:
        yield f"- Each line while it follows: [schema]({SCHEMAS}/{name}.line.json)"
    for end in one.ends:
        if end.when:
            asked = "this does not answer: " if end.code == Exit.UNREACHABLE else ""
            yield f"- Ends with {end.code}: {asked}{end.when}."


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
