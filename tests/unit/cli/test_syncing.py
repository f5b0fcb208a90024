"""`bbl plan documents`, `bbl sync document`, `bbl apply documents`: foretold, asked for, done."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from typer.testing import CliRunner, Result

from bitbylaw_cli.commands import sync as command
from bitbylaw_cli.main import build
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.syncing import apply, chosen, plan
from bitbylaw_common import topics
from bitbylaw_common.runtime.overview import Reads
from bitbylaw_document_sync.app import deps_over
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.settings import DocumentSyncSettings
from world import World

SERVICE = "document-sync"


@asynccontextmanager
async def sides(world: World) -> AsyncIterator[Deps]:
    settings = DocumentSyncSettings.from_env(world.env)
    deps = deps_over(world.transport, settings, world.host.clock)
    try:
        yield deps
    finally:
        await deps.circuits.close()


@pytest.fixture
def still(monkeypatch: pytest.MonkeyPatch) -> World:
    """Give both sides where no service runs, and a `bbl` that looks at them."""
    world = World()

    @asynccontextmanager
    async def open_sides(_env: object) -> AsyncIterator[tuple[Reads, Deps]]:
        async with sides(world) as deps:
            yield world.host.log, deps

    monkeypatch.setattr(command, "open_sides", open_sides)
    return world


@pytest.fixture
async def world() -> AsyncIterator[World]:
    world = World()
    await world.start()
    yield world
    await world.stop()


def typed(*words: str) -> Result:
    answer = CliRunner().invoke(build(), list(words))
    assert answer.exception is None or isinstance(answer.exception, SystemExit)
    return answer


def test_a_plan_says_what_a_run_would_do_and_writes_nothing(still: World) -> None:
    akte = still.add_collection("akte-1")
    klage = still.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    effects, stored = still.effects(), still.host.log.stored
    answer = typed("plan", "documents", klage)
    assert answer.exit_code == Exit.FINDING
    assert "row 4: new document" in answer.stdout
    assert "upload the file (2 bytes)" in answer.stdout
    assert "Klage.pdf" not in answer.stdout
    (told,) = json.loads(typed("sync", "document", klage, "--plan", "--json").stdout)["records"]
    assert told["rule"] == "row 4: new document"
    assert told["more"] is True
    applied = typed("apply", "documents", klage, "--plan", "--json")
    assert applied.exit_code == Exit.OK
    assert json.loads(applied.stdout)["written"] is False
    assert (still.effects(), still.host.log.stored) == (effects, stored)


def test_a_plan_of_what_is_in_line_ends_with_0(still: World) -> None:
    klage = still.espocrm.add_document("Klage.pdf", b"v1", fileStatus="unchanged")
    answer = typed("plan", "documents", klage)
    assert answer.exit_code == Exit.OK
    assert "row 3: not wanted" in answer.stdout


def test_what_cannot_be_read_is_said_for_that_document(still: World) -> None:
    klage = still.espocrm.add_document("Klage.pdf", b"v1")
    still.espocrm.faults.plan("status", status=403, times=None)
    (told,) = json.loads(typed("plan", "documents", klage, "--json").stdout)["records"]
    assert "403" in told["error"]


async def test_the_plan_knows_what_the_service_agreed_on(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    await world.told("create", klage)
    async with sides(world) as deps:
        (in_line,) = (await plan(world.host.log, deps, world.host.clock, [klage])).records
        assert in_line.quiet
        world.espocrm.edit(klage, silent=True, xaiId="file_of_a_person")
        (edited,) = (await plan(world.host.log, deps, world.host.clock, [klage])).records
    assert edited.overwrites == ("file",)
    assert edited.actions[-1].startswith("write file")


async def test_what_is_asked_for_runs_at_once_and_a_wait_is_answered_by_it(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])
    other = world.espocrm.add_document("Antrag.pdf", b"w1", collections=[akte])
    asked = await apply(world.host.log, world.host.clock, [klage, other])
    await world.settle()
    assert asked.written
    assert [bool(one.run_id) for one in asked.records] == [True, True]
    assert sorted(world.xai.contents(akte)) == [b"v1", b"w1"]
    assert world.host.log.records(topics.requests(SERVICE).name) != []


def test_an_audit_s_answer_names_what_is_off() -> None:
    audit = {
        "service": SERVICE,
        "entity": "document",
        "began": "2026-03-02T09:00:00Z",
        "ended": "2026-03-02T09:01:00Z",
        "counts": {"pending": 2},
        "off": [
            {"entity_id": name, "standing": "pending", "rule": "r", "reason": "w"}
            for name in ("d2", "d3")
        ],
        "orphans": [],
        "uncovered": [],
    }
    assert chosen(["d1", "d2"], json.dumps(audit)) == ("d1", "d2", "d3")
    assert chosen([], json.dumps(audit | {"off": []})) == ()
    with pytest.raises(CommandError, match="no answer of an audit"):
        chosen([], "{}")
