"""`bbl brake`: what is held back, how much waits, and letting it go on, over a whole world."""

from rich.console import Console

from bitbylaw_cli.braking import LASTS, braked, release
from bitbylaw_cli.commands.brake import rendered
from bitbylaw_common.sync.brake import held_back
from world import World

SERVICE = "document-sync"


async def held(count: int) -> tuple[World, list[str]]:
    """Return a world in which all but one of these documents wait to leave their collection."""
    world = World(DOCUMENT_BRAKE_DETACHES="5/1")
    await world.start()
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(f"Anlage {n}.pdf", b"v%d" % n, collections=[akte])
        for n in range(count)
    ]
    for document in documents:
        await world.webhook("document", "create", document)
    await world.settle()
    for document in documents:
        world.espocrm.unlink(document, akte)
        await world.webhook("document", "update", document)
    await world.settle()
    assert len(world.xai.contents(akte)) == count - 1
    return world, documents


def waiting(world: World) -> int:
    entries = world.host.worker(SERVICE).schedule.entries()
    return sum(bool(held_back(entry.reason)) for entry in entries)


async def test_show_says_what_since_when_why_how_much_and_what_to_press() -> None:
    world, _ = await held(4)
    (one,) = (await braked(world.host.log, world.host.clock)).entries
    assert (one.service, one.effect, one.held) == (SERVICE, "detach", True)
    assert (one.records, one.waiting) == (3, 3)
    assert one.reason == "detach 2 times within an hour; 1 are allowed"
    assert one.since == world.host.clock.now()
    assert one.press == "bbl brake release document-sync detach --yes"
    (board,) = rendered(await braked(world.host.log, world.host.clock), one.since)
    with (console := Console(width=120)).capture() as printed:
        console.print(board)
    assert "3 records wait with 3" in printed.get()
    await world.stop()


async def test_a_plan_of_a_release_changes_nothing() -> None:
    world, _ = await held(4)
    stored = world.host.log.stored
    planned = await release(world.host.log, world.host.clock, SERVICE, "", write=False)
    assert (planned.asked, planned.written) == (3, False)
    assert world.host.log.stored == stored
    await world.stop()


async def test_a_release_lets_everything_that_waits_go_on_at_once() -> None:
    world, _ = await held(4)
    done = await release(world.host.log, world.host.clock, SERVICE, "detach", write=True)
    assert done.until == world.host.clock.now() + LASTS
    await world.settle()
    assert world.xai.contents(world.xai.collection_ids()[0]) == []
    assert waiting(world) == 0
    (one,) = (await braked(world.host.log, world.host.clock)).entries
    assert (one.held, one.allowed, one.records, one.press) == (False, 3, 0, "")
    await world.stop()


async def test_a_release_is_no_licence() -> None:
    world, documents = await held(4)
    await release(world.host.log, world.host.clock, SERVICE, "detach", write=True)
    await world.settle()
    akte = world.xai.collection_ids()[0]
    for document in documents:
        world.espocrm.link(document, akte)
        await world.webhook("document", "update", document)
    await world.settle()
    for document in documents:
        world.espocrm.unlink(document, akte)
        await world.webhook("document", "update", document)
    await world.settle()
    assert len(world.xai.contents(akte)) == 3
    assert (await braked(world.host.log, world.host.clock)).held
    await world.stop()


async def test_releasing_what_is_not_held_back_does_nothing() -> None:
    world, _ = await held(2)
    stored = world.host.log.stored
    done = await release(world.host.log, world.host.clock, SERVICE, "upload", write=True)
    assert (done.releases, done.asked) == ((), 0)
    assert world.host.log.stored == stored
    await world.stop()
