"""The main job, whole: a webhook comes in, the document lands in xAI, EspoCRM is written back."""

from world import World


async def test_a_new_document_lands_in_its_collection_and_espocrm_is_written_back(
    world: World,
) -> None:
    # given a document linked to a case whose knowledge base is active
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Klage.pdf", b"v1", collections=[akte])

    # when EspoCRM tells of it
    answer = await world.webhook("document", "create", klage)
    assert answer.status == 200
    await world.settle()

    # then xAI holds it once, in that collection, and EspoCRM knows
    assert world.xai.contents(akte) == [b"v1"]
    record = world.espocrm.document(klage)
    assert record["xaiId"] == world.xai.file_ids(akte)[0]
    assert record["xaiCollections"] == [akte]
    assert record["xaiSyncedHash"] == record["md5sum"]
    assert record["fileStatus"] == "synced"

    # and our own write-back, told as a change, plans nothing
    effects = world.effects()
    await world.webhook("document", "update", klage)
    await world.settle()
    assert world.effects() == effects
