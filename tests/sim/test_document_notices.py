"""What people find in EspoCRM: a notification or a task, beside the message in the record."""

from typing import Any

import pytest

from bitbylaw_document_sync.domain.notices import Kind
from bitbylaw_document_sync.domain.texts import SUBJECTS
from bitbylaw_simulators.espocrm.state import ADMIN, PERSON
from world import World


def notifications(world: World) -> list[dict[str, Any]]:
    return world.espocrm.records("Notification")


def tasks(world: World) -> list[dict[str, Any]]:
    return world.espocrm.records("Task")


async def test_the_assigned_user_is_notified_with_a_link_to_the_record(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Scan *neu*.pdf", b"", collections=[akte], assignedUserId=PERSON.id
    )
    for action in ("create", "update", "update"):
        await world.told(action, klage)
    (sent,) = notifications(world)
    assert (sent["userId"], sent["type"]) == (PERSON.id, "Message")
    assert SUBJECTS[Kind.EMPTY] in sent["message"]
    assert "{entity}" in sent["message"]
    assert sent["data"] == {
        "entityType": "CDokumente",
        "entityId": klage,
        "entityName": "Scan *neu*.pdf",
    }
    assert world.espocrm.document(klage)["syncErrorMessage"] in sent["message"]
    assert tasks(world) == []


async def test_replay_and_restart_tell_nobody_again(world: World) -> None:
    akte = world.add_collection("akte-1")
    documents = [
        world.espocrm.add_document(
            f"Scan {n}.exe", b"MZ", collections=[akte], assignedUserId=PERSON.id
        )
        for n in range(5)
    ]
    for document in documents:
        await world.told("create", document)
    assert len(notifications(world)) == 5
    await world.host.restart("document-sync")
    for document in documents:
        await world.told("update", document)
    assert len(notifications(world)) == 5


async def test_nobody_is_notified_where_nobody_is_named(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document("Scan.pdf", b"", collections=[akte])
    await world.told("create", klage)
    assert notifications(world) == tasks(world) == []
    assert world.espocrm.document(klage)["syncErrorMessage"]


@pytest.mark.parametrize("assigned", [None, PERSON.id])
async def test_xai_18_a_missing_collection_is_a_task_of_the_record(assigned: str | None) -> None:
    world = World(ESPOCRM_NOTIFY_USER_ID=ADMIN.id)
    await world.start()
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Klage.pdf", b"v1", collections=[akte], assignedUserId=assigned
    )
    world.xai.remove_collection(akte)
    await world.told("create", klage)
    await world.told("update", klage)
    (task,) = tasks(world)
    assert (task["parentType"], task["parentId"]) == ("CDokumente", klage)
    assert task["assignedUserId"] == (assigned or ADMIN.id)
    assert akte in task["description"]
    await world.stop()


async def test_a_task_whose_answer_was_lost_is_found_again(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Klage.pdf", b"v1", collections=[akte], assignedUserId=PERSON.id
    )
    world.xai.remove_collection(akte)
    world.espocrm.faults.plan("reset_after", operation="create", path="/Task")
    await world.told("create", klage)
    await world.advance(minutes=30)
    assert len(tasks(world)) == 1


async def test_a_crm_without_tasks_for_such_a_record_is_told_by_a_notification(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Klage.pdf", b"v1", collections=[akte], assignedUserId=PERSON.id
    )
    world.xai.remove_collection(akte)
    world.espocrm.faults.plan("status", status=400, operation="create", path="/Task", times=None)
    await world.told("create", klage)
    await world.told("update", klage)
    assert tasks(world) == []
    (sent,) = notifications(world)
    assert SUBJECTS[Kind.COLLECTION_MISSING] in sent["message"]


async def test_a_task_that_a_person_completed_stays_completed_while_the_trouble_lasts(
    world: World,
) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Klage.pdf", b"v1", collections=[akte], assignedUserId=PERSON.id
    )
    world.xai.remove_collection(akte)
    await world.told("create", klage)
    (task,) = tasks(world)
    world.espocrm.edit(task["id"], entity="Task", status="Completed")
    await world.told("update", klage)
    assert [one["status"] for one in tasks(world)] == ["Completed"]


async def test_giving_up_is_a_task_and_a_success_completes_it(world: World) -> None:
    akte = world.add_collection("akte-1")
    klage = world.espocrm.add_document(
        "Klage.pdf", b"v1", collections=[akte], assignedUserId=PERSON.id
    )
    world.xai.faults.plan("status", status=500, operation="upload", times=None)
    await world.told("create", klage)
    await world.advance(hours=12)
    (task,) = tasks(world)
    assert (task["name"], task["status"]) == (SUBJECTS[Kind.GAVE_UP], "Not Started")
    assert len(world.host.dead_letters("document-sync")) == 1

    world.xai.faults.clear()
    world.espocrm.edit(klage, fileStatus="geändert")
    await world.told("update", klage)
    await world.advance(hours=1)
    assert world.xai.contents(akte) == [b"v1"]
    assert [one["status"] for one in tasks(world)] == ["Completed"]
