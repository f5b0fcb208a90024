"""Outages of the outside systems, whole: what is sent meanwhile, and what it costs the documents."""

import itertools

import pytest

from bitbylaw_common.circuits import FAILED_RECORDS, Circuits
from bitbylaw_common.http.transport import Request
from bitbylaw_document_sync.app import app, deps_over
from bitbylaw_document_sync.settings import DocumentSyncSettings
from world import World

SERVICE = "document-sync"
DOCUMENTS = 12


async def told_of(world: World, count: int) -> list[str]:
    """Tell of new documents in one collection; return their ids."""
    akte = world.add_collection("akte-1")
    added = [
        world.espocrm.add_document(f"Klage {number}.pdf", b"v1 %d" % number, collections=[akte])
        for number in range(count)
    ]
    for document in added:
        assert (await world.webhook("document", "create", document)).status == 200
    await world.settle()
    return added


def synced(world: World, documents: list[str]) -> int:
    """Return how many of them are in line."""
    states = [world.espocrm.document(document)["fileStatus"] for document in documents]
    return states.count("synced")


def burnt(world: World, documents: list[str]) -> int:
    """Return how many attempts failed in all."""
    runs = [run for document in documents for run in world.host.journal(document)]
    return sum(run.phase == "end" and run.outcome == "retry" for run in runs)


class Sent:
    """Notes when something was sent to a system."""

    def __init__(self, world: World) -> None:
        self.times: list[tuple[float, str]] = []
        self._world = world
        self._inner = world.transport.send
        world.transport.send = self._send  # type: ignore[method-assign]

    def _send(self, request: Request):  # type: ignore[no-untyped-def]  # noqa: ANN202 - as the inner's
        self.times.append((self._world.host.clock.monotonic(), request.system))
        return self._inner(request)

    def to(self, system: str) -> list[float]:
        return [at for at, asked in self.times if asked == system]


def test_every_system_that_a_step_needs_has_a_circuit() -> None:
    world = World()
    settings = DocumentSyncSettings.from_env(world.env)
    deps = deps_over(world.transport, settings, world.host.clock)
    assert isinstance(deps.circuits, Circuits)
    for step in app.steps:
        assert step.needs
        assert deps.circuits.room(step.needs) is None


@pytest.mark.parametrize("down", ["espocrm", "xai"])
async def test_in_an_outage_only_the_calls_that_found_it_burn_an_attempt(
    world: World, down: str
) -> None:
    side = {"espocrm": world.espocrm, "xai": world.xai}[down]
    side.faults.plan("status", status=503, times=None)
    documents = await told_of(world, DOCUMENTS)
    sent = Sent(world)
    await world.advance(minutes=10)
    assert burnt(world, documents) == FAILED_RECORDS
    assert len(sent.to(down)) < 40, "probes, each of one or two calls"
    assert synced(world, documents) == 0

    side.faults.clear()
    await world.advance(minutes=10)
    assert synced(world, documents) == DOCUMENTS
    assert burnt(world, documents) == FAILED_RECORDS
    assert world.host.dead_letters(SERVICE) == []


async def test_a_key_that_espocrm_does_not_accept_is_shown_to_it_once_a_minute(
    world: World,
) -> None:
    sent = Sent(world)
    world.espocrm.faults.plan("status", status=401, times=None)
    documents = await told_of(world, DOCUMENTS)
    await world.advance(minutes=30)
    times = sent.to("espocrm")
    assert 5 <= len(times) <= 31
    assert all(later - earlier >= 60 for earlier, later in itertools.pairwise(times))
    assert sent.to("xai") == []
    assert burnt(world, documents) == 1

    world.espocrm.faults.clear()
    await world.advance(minutes=30)
    assert synced(world, documents) == DOCUMENTS
    assert world.host.dead_letters(SERVICE) == []


async def test_a_rate_limit_that_xai_names_holds_back_the_documents_behind_it(
    world: World,
) -> None:
    sent = Sent(world)
    world.xai.faults.plan("rate_limit", retry_after=20)
    documents = await told_of(world, DOCUMENTS)
    (first, *later) = sent.to("xai")
    assert all(at - first >= 20 for at in later)
    await world.advance(minutes=5)
    assert synced(world, documents) == DOCUMENTS
    assert burnt(world, documents) == 0
