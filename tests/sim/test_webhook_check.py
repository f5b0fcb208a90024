"""The daily look at the webhooks' registrations."""

import io
import json
import sys
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from bitbylaw_common import logs, metrics
from bitbylaw_common.webhooks import WEBHOOKS
from bitbylaw_simulators.samples import nine_webhooks
from world import World

BASE = "https://hooks.kanzlei.example"
STEP = "Webhook Registration Check"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    yield stream
    logs.configure("json", "warning", sys.stderr)


@pytest.fixture
async def world(lines: io.StringIO) -> AsyncIterator[World]:
    del lines
    world = World(ESPOCRM_WEBHOOK_BASE_URL=BASE)
    await world.start()
    yield world
    await world.stop()


def told(lines: io.StringIO) -> list[tuple[str, str]]:
    """Return which faults were logged as errors."""
    found: list[dict[str, Any]] = [json.loads(line) for line in lines.getvalue().splitlines()]
    return [
        (line["webhook"], line["fault"])
        for line in found
        if line["level"] == "error" and "webhook" in line
    ]


def faults(event: str) -> set[str]:
    """Return which faults the metric shows for a webhook."""
    webhook = next(one for one in WEBHOOKS if one.event == event)
    labels = {"entity": webhook.entity, "action": webhook.action}
    names = ("missing", "inactive", "elsewhere", "duplicate", "other_user", "echoes")
    return {
        name
        for name in names
        if metrics.value("bitbylaw_webhook_registration_faults", fault=name, **labels) == 1
    }


def reasons(world: World) -> list[str]:
    return [one.reason for one in world.host.journal(f"steps::{STEP}::trigger::0") if one.reason]


async def test_all_nine_as_they_should_be_raise_nothing(world: World, lines: io.StringIO) -> None:
    nine_webhooks(world.espocrm, BASE, skip_own=True)
    await world.advance(hours=24)
    assert told(lines) == []
    assert all(faults(webhook.event) == set() for webhook in WEBHOOKS)
    assert reasons(world) == ["all 9 are registered, active and post to us"]


async def test_espo_18_a_webhook_that_was_answered_410_is_missed_and_its_return_is_seen(
    world: World, lines: io.StringIO
) -> None:
    nine_webhooks(world.espocrm, BASE, skip_own=True)
    world.espocrm.add_document("Klage.pdf", b"v1")
    (delivery,) = world.espocrm.due_deliveries()
    world.espocrm.delivered(delivery, 410)
    await world.advance(hours=24)
    assert told(lines) == [("CDokumente.create", "missing")]
    assert faults("CDokumente.create") == {"missing"}
    assert "CDokumente.create is not registered" in reasons(world)[-1]

    world.espocrm.add_webhook(
        "CDokumente.create",
        f"{BASE}/vmh/webhook/document/create",
        skip_own=True,
        user=world.espocrm.api_user,
    )
    await world.advance(hours=24)
    assert faults("CDokumente.create") == set()


async def test_one_that_is_switched_off_or_posts_elsewhere_is_told(
    world: World, lines: io.StringIO
) -> None:
    ids = sorted(nine_webhooks(world.espocrm, BASE, skip_own=True))
    world.espocrm.edit(ids[0], entity="Webhook", isActive=False)
    world.espocrm.edit(
        ids[1], entity="Webhook", url="https://old.example/vmh/webhook/beteiligte/update"
    )
    await world.advance(hours=24)
    assert told(lines) == [("CBeteiligte.create", "inactive"), ("CBeteiligte.update", "elsewhere")]
    assert faults("CBeteiligte.create") == {"inactive"}
    assert faults("CBeteiligte.update") == {"elsewhere"}


async def test_a_user_who_may_not_see_webhooks_is_a_dead_letter_that_names_the_right(
    world: World,
) -> None:
    world.espocrm.faults.plan("status", status=403, operation="list", path="/Webhook")
    await world.advance(hours=24)
    (letter,) = [one for one in world.host.dead_letters("document-sync") if one.step == STEP]
    assert '"Webhooks"' in letter.reason
