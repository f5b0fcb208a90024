"""`bbl audit documents` and `bbl coverage`: what they say, and how they end."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import audit as command
from bitbylaw_cli.commands.coverage import rendered
from bitbylaw_cli.covering import judged
from bitbylaw_cli.main import build
from bitbylaw_cli.output import Exit
from bitbylaw_common.runtime.overview import Reads
from bitbylaw_document_sync.app import deps_over
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.domain.coverage import ComparisonState, CoverageState, Gap, Handling
from bitbylaw_document_sync.settings import DocumentSyncSettings
from world import World

NOW = datetime(2026, 3, 12, 9, 0, tzinfo=UTC)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    """Give both sides, and a `bbl` that looks at them."""
    sides = World()

    @asynccontextmanager
    async def open_sides(_env: object) -> AsyncIterator[tuple[Reads, Deps]]:
        settings = DocumentSyncSettings.from_env(sides.env)
        deps = deps_over(sides.transport, settings, sides.host.clock)
        try:
            yield sides.host.log, deps
        finally:
            await deps.circuits.close()

    monkeypatch.setattr(command, "open_sides", open_sides)
    return sides


def typed(*words: str) -> Result:
    answer = CliRunner().invoke(build(), ["audit", "documents", *words])
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer


def found() -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(typed("--json").stdout)
    return answer


def test_all_well_is_said_first_and_ends_with_0(world: World) -> None:
    world.espocrm.add_document("Ohne Akte.pdf", b"frei", fileStatus="unchanged")
    effects = world.effects()
    answer = typed()
    assert answer.exit_code == Exit.OK
    assert answer.stdout.startswith("All well: 1 excluded")
    assert found()["counts"]["excluded"] == 1
    assert world.effects() == effects


def test_what_is_off_is_listed_and_ends_with_1(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    stranger = world.xai.add_file("Fremd.pdf", b"fremd")
    world.xai.attach(akte, stranger)
    world.host.clock.move(2 * 3600)
    effects = world.effects()
    answer = typed()
    assert answer.exit_code == Exit.FINDING
    assert answer.stdout.startswith("Something is off: 1 pending, 1 orphan")
    assert klage in answer.stdout
    assert "row 4: new document" in answer.stdout
    assert stranger in answer.stdout
    said = found()
    assert [(one["entity_id"], one["standing"]) for one in said["off"]] == [(klage, "pending")]
    assert [one["file_id"] for one in said["orphans"]] == [stranger]
    assert world.effects() == effects


def test_names_of_files_and_records_are_not_shown(world: World) -> None:
    akte = world.add_collection("akte-1")
    world.espocrm.add_document("Mandant Müller.pdf", b"v1", collections=[akte])
    stranger = world.xai.add_file("Gegner Schulze.pdf", b"fremd")
    world.xai.attach(akte, stranger)
    world.host.clock.move(2 * 3600)
    for words in ((), ("--json",)):
        said = typed(*words).stdout
        assert "Müller" not in said
        assert "Schulze" not in said


# -- coverage ---------------------------------------------------------------------------------------


def state(*, age: timedelta = timedelta(), **more: Any) -> CoverageState:
    at = NOW - age
    return CoverageState(
        key_id="k", written_at=at, complete_since=NOW - timedelta(days=9), complete_until=at, **more
    )


def gap(handling: Handling, age: timedelta) -> Gap:
    return Gap(document_id="d1", since=NOW - age, seen="s", told=1, handling=handling)


def comparison(age: timedelta) -> ComparisonState:
    began = NOW - age
    return ComparisonState(key_id="k", written_at=began, began=began, ended=began, counts={})


OLD = timedelta(hours=3)


@pytest.mark.parametrize(
    ("given", "compared", "wanted"),
    [
        (None, None, "never"),
        (state(), None, "covered"),
        (state(), comparison(timedelta(hours=7)), "covered"),
        (state(), comparison(timedelta(hours=27)), "late"),
        (state(age=timedelta(minutes=31)), None, "late"),
        (state(uncovered=("a list",)), None, "blind"),
        (state(gaps=(gap("told", timedelta()),)), None, "covered"),
        (state(gaps=(gap("told", OLD),)), None, "gaps"),
        (state(gaps=(gap("quiet", OLD),)), None, "gaps"),
        (state(gaps=(gap("waiting", OLD),)), None, "covered"),
        (state(gaps=(gap("given up", OLD),)), None, "covered"),
    ],
)
def test_a_verdict_says_whether_a_change_can_have_been_missed(
    given: CoverageState | None, compared: ComparisonState | None, wanted: str
) -> None:
    result = judged(given, compared, NOW)
    assert result.state == wanted
    assert list(rendered(result, NOW))


def test_an_overdue_gap_is_told_with_its_age_and_what_to_press() -> None:
    result = judged(state(gaps=(gap("told", OLD),)), None, NOW)
    assert "for up to 3 h" in result.verdict
    assert "bbl why document" in result.verdict
    assert result.gaps[0].state == "overdue"
