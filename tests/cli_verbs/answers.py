"""What every answer of `bbl` must be, whatever the verb."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any, Union, cast

import pytest
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from bitbylaw_cli.output import Exit
from bitbylaw_cli.reference import schema_name
from bitbylaw_cli.verbs import verb
from cli_verbs.cases import Case
from cli_verbs.typist import Typed

DOCS = Path(__file__).parents[2] / "docs"

REAL_ENV = """\
KAFKA_BOOTSTRAP_SERVERS=127.0.0.1:1
REDIS_URL=redis://127.0.0.1:1/0
ESPOCRM_API_BASE_URL=http://127.0.0.1:1/api/v1
ESPOCRM_API_KEY=geheimer-schluessel
XAI_API_KEY=xai-geheim
XAI_MANAGEMENT_KEY=xai-token-geheim
BBL_DIGEST_KEY=a key of sixteen bytes
"""
"""A system of which nothing answers."""

_LOG_LINE = {
    "time": "2026-03-09T08:00:01.000Z",
    "level": "info",
    "event": "stored",
    "service": "ingest",
    "entity_id": "65f0",
}


def furnish(folder: Path) -> Path:
    """Put into a folder what cases name there, and return it."""
    (folder / "real.env").write_text(REAL_ENV, "utf-8")
    (folder / "state" / "logs").mkdir(parents=True)
    (folder / "state" / "logs" / "services.log").write_text(json.dumps(_LOG_LINE) + "\n", "utf-8")
    return folder


def asked_for(request: pytest.FixtureRequest) -> set[int]:
    """Return the numbers of the cases of this module that are going to be asked for."""
    return {
        cast("int", item.callspec.params["case"])
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and item.path == request.path
        and "case" in item.fixturenames
    }


def check(case: Case, typed: Typed, names: Mapping[str, str]) -> None:
    """Return if the answer is as the case says, and as every answer is to be."""
    assert "Traceback" not in typed.out + typed.err
    assert typed.exit == case.exit, typed.err or typed.out
    assert "geheim" not in typed.out + typed.err
    for words in case.told:
        assert words.format_map(names) in typed.out if "{" in words else words in typed.out
    if case.json:
        texts = typed.out.splitlines(keepends=True) if case.lines else [typed.out]
        assert texts
        for text in texts:
            _check_document(case, text)
    if case.says:
        if case.verb != "up":  # tells what it begins before it finds that it cannot
            assert typed.out == ""
        told = " ".join(typed.err.split())
        for words in case.says:
            assert words in told, (words, told)
        if case.words != "--nosuch":  # that is told by the library, which frames it
            assert typed.err.count("\n") == 1


def _check_document(case: Case, text: str) -> None:
    """Return if it is JSON by the stored schema, and letter for letter what its type makes."""
    document = json.loads(text)
    end = ".line.json" if case.lines else ".json"
    faults = list(_validator(f"{schema_name(case.verb)}{end}").iter_errors(document))
    assert not faults, faults[0].message
    declared = verb(case.verb)
    answers = (declared.line,) if case.lines else declared.answers
    any_of: Any = Union[answers]  # noqa: UP007 - from a tuple
    adapter = TypeAdapter(any_of)
    read = adapter.validate_json(text)
    assert adapter.dump_json(read, indent=None if case.lines else 2).decode() + "\n" == text


@cache
def _validator(name: str) -> Draft202012Validator:
    return Draft202012Validator(json.loads((DOCS / "cli" / name).read_text("utf-8")))


def is_error(code: Exit) -> bool:
    """Say whether something did not happen."""
    return code not in (Exit.OK, Exit.FINDING)
