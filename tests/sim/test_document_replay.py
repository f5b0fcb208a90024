"""Replays: what both sides agree on is read, and nothing is written, however much of it there is."""

import hashlib

import pytest

from bitbylaw_common.sync import base, digests
from bitbylaw_document_sync.domain import planner
from world import World

SERVICE = "document-sync"
MANY = 10_000


async def agreed(world: World, count: int) -> list[str]:
    """Make documents that both sides agree on, as a predecessor left them; return their ids."""
    akte = world.add_collection("akte-1")
    knowledge = world.espocrm.add_knowledge("Akte 1", akte)
    documents: list[str] = []
    for number in range(count):
        content = b"Klage %d" % number
        file = world.xai.add_file(f"Klage {number}.pdf", content)
        world.xai.attach(akte, file)
        document = world.espocrm.add_document(
            f"Klage {number}.pdf",
            content,
            collections=[knowledge],
            silent=True,
            xaiId=file,
            xaiCollections=[akte],
            xaiSyncedHash=hashlib.md5(content, usedforsecurity=False).hexdigest(),
            fileStatus="synced",
        )
        documents.append(document)
    return documents


async def tell_all(world: World, documents: list[str]) -> None:
    """Post an update of each document, fifty in a batch, and let everything come to rest."""
    for start in range(0, len(documents), 50):
        body = ",".join(f'{{"id":"{one}"}}' for one in documents[start : start + 50])
        answer = await world.host.request(
            "POST", "/vmh/webhook/document/update", body=f"[{body}]".encode()
        )
        assert answer.status == 200
        await world.settle()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_xai_43_a_replay_of_ten_thousand_unchanged_documents_only_reads() -> None:
    world = World()
    await world.start()
    documents = await agreed(world, MANY)
    # the first time they are adopted, and that is no write either
    await tell_all(world, documents)
    assert world.effects() == []
    await world.host.restart(SERVICE)
    bases = len(world.host.log.records(f"{SERVICE}.base"))
    assert bases == MANY
    before = (world.espocrm.requests.last, world.xai.requests.last)
    await tell_all(world, documents)
    reads = (world.espocrm.requests.last - before[0], world.xai.requests.last - before[1])
    print(f"reads per record: EspoCRM {reads[0] / MANY:.2f}, xAI {reads[1] / MANY:.2f}")  # noqa: T201 - what was measured
    assert world.effects() == []
    assert len(world.host.log.records(f"{SERVICE}.base")) == bases
    assert reads[0] <= 2 * MANY + 100  # the record and its links, and the CRM's list of fields
    assert reads[1] == 2 * MANY  # the file, and its place in the collection
    assert world.host.dead_letters(SERVICE) == []
    await world.stop()


@pytest.mark.parametrize("reason", ["another normaliser", "another key"])
async def test_bases_that_cannot_be_compared_any_more_cost_no_write(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World()
    await world.start()
    documents = await agreed(world, 200)
    akte = world.xai.collection_ids()[0]
    ours = [
        world.espocrm.add_document(f"Brief {n}.pdf", b"Brief %d" % n, collections=[akte])
        for n in range(50)
    ]
    await tell_all(world, [*documents, *ours])
    effects = world.effects()
    if reason == "another normaliser":
        for module in (digests, base, planner):
            monkeypatch.setattr(module, "NORMALISER", digests.NORMALISER + 1)
    else:
        world.env["BBL_DIGEST_KEY"] = "another-key-that-only-the-tests-use"
    await world.host.restart(SERVICE)
    for _ in range(2):
        await tell_all(world, [*documents, *ours])
        await world.advance(minutes=10)
    assert world.effects() == effects
    assert world.host.dead_letters(SERVICE) == []
    # and the next change is told from what was there
    world.espocrm.replace_file(ours[0], b"Brief, neu")
    await world.told("update", ours[0])
    assert world.xai.contents(akte).count(b"Brief, neu") == 1
    assert b"Brief 0" not in world.xai.contents(akte)
    await world.stop()
