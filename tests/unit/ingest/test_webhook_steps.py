"""The nine webhooks, from the post to the events and the answer."""

import asyncio
import base64
import json
from datetime import timedelta

import pytest

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.runtime import App
from bitbylaw_common.webhooks import WEBHOOKS, Webhook
from bitbylaw_ingest.deps import Deps, RecentMarks, open_deps
from bitbylaw_ingest.domain.reading import read
from bitbylaw_ingest.steps import vmh_webhook_api_step
from bitbylaw_ingest.steps.vmh_webhook_api_step import AT_ONCE, STEPS, emits_of
from unit.ingest.posts import SECRET, WEBHOOK_ID, Ingest, signature

BODY_A = b'[{"id":"69a68b9cd4c01ad4c","name":"Klage.pdf","dateiStatus":"Neu"}]'


def test_there_are_nine_webhooks_with_the_seed_s_names_and_routes() -> None:
    entities = ("beteiligte", "bankverbindungen", "document")
    actions = ("create", "update", "delete")
    app = App("ingest", STEPS, open_deps)
    assert [
        (step.name, step.http_triggers[0].method, step.http_triggers[0].path) for step in app.steps
    ] == [
        (
            f"VMH Webhook {entity.title()} {action.title()}",
            "POST",
            f"/vmh/webhook/{entity}/{action}",
        )
        for entity in entities
        for action in actions
    ]
    for step, webhook in zip(STEPS, WEBHOOKS, strict=True):
        assert webhook.topic.name == f"vmh.{webhook.entity}.{webhook.action}"
        assert step.enqueues == (webhook.topic, topics.QUARANTINE)
        assert step.http_triggers[0].kind == "bytes"
        assert step.http_triggers[0].max_body_bytes == 16 * topics.MIB
    assert app.works_on_records is False


async def test_espo_01_a_signed_post_becomes_one_event(guarded: Ingest) -> None:
    answer = await guarded.post(BODY_A, {"signature": signature(BODY_A)})
    assert answer.status == 200
    assert answer.body == {
        "status": "received",
        "action": "create",
        "new_ids_count": 1,
        "total_ids_in_batch": 1,
        "event_ids": ["event-0"],
    }
    (event,) = guarded.on("vmh.document.create")
    assert (event.entity_type, event.entity_id, event.action, event.changed, event.source) == (
        "CDokumente",
        "69a68b9cd4c01ad4c",
        "create",
        ("name", "dateiStatus"),
        "webhook",
    )


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({"signature": signature(b"[]")}, "mismatch"),
        ({"signature": signature(BODY_A, webhook_id="foreign")}, "unknown_webhook"),
        ({}, "missing"),
        ({"signature": "?"}, "malformed"),
    ],
)
async def test_espo_03_05_08_a_post_that_is_not_the_crm_s_is_refused_and_nothing_stored(
    guarded: Ingest, headers: dict[str, str], reason: str
) -> None:
    before = metrics.value("bitbylaw_webhook_signature_failures_total", reason=reason)
    answer = await guarded.post(BODY_A, headers)
    assert answer.status == 401
    assert guarded.emits == []
    after = metrics.value("bitbylaw_webhook_signature_failures_total", reason=reason)
    assert after == before + 1
    assert SECRET not in json.dumps(answer.body) + repr(guarded.lines.kept)


async def test_espo_08_without_secrets_and_where_allowed_a_post_needs_no_signature(
    ingest: Ingest,
) -> None:
    assert (await ingest.post(BODY_A)).status == 200
    assert (await ingest.post(BODY_A, {"signature": "whatever"})).status == 200
    assert len(ingest.on("vmh.document.create")) == 2


async def test_espo_10_of_fifty_objects_with_one_bad_forty_nine_become_events(
    guarded: Ingest,
) -> None:
    objects = [b'{"id":"%d"}' % number for number in range(50)]
    objects[7] = b'{"name":"Klage.pdf"}'
    body = b"[" + b",".join(objects) + b"]"
    answer = await guarded.post(body, {"signature": signature(body)}, "document/update")

    assert answer.status == 200
    assert isinstance(answer.body, dict)
    assert (answer.body["new_ids_count"], answer.body["total_ids_in_batch"]) == (49, 49)
    events = guarded.on("vmh.document.update")
    assert [event.entity_id for event in events] == [str(n) for n in range(50) if n != 7]
    (entry,) = guarded.on("ingest.quarantine")
    assert answer.body["quarantined"] == [entry.quarantine_id]
    assert answer.body["event_ids"] == [f"event-{number}" for number in range(49)]
    assert base64.b64decode(entry.raw) == objects[7]
    assert (entry.route, entry.webhook_id, entry.item) == (
        "/vmh/webhook/document/update",
        WEBHOOK_ID,
        7,
    )
    assert "Klage" not in entry.reason + repr(guarded.lines.kept)


async def test_espo_11_a_single_object_is_accepted(ingest: Ingest) -> None:
    answer = await ingest.post(b'{"id":"test123","entityType":"CDokumente"}')
    assert answer.status == 200
    assert [event.entity_id for event in ingest.on("vmh.document.create")] == ["test123"]


async def test_espo_12_an_empty_array_is_received_and_says_nothing(ingest: Ingest) -> None:
    answer = await ingest.post(b"[]")
    assert answer.status == 200
    assert answer.body == {
        "status": "received",
        "action": "create",
        "new_ids_count": 0,
        "total_ids_in_batch": 0,
        "event_ids": [],
    }
    assert ingest.emits == []


@pytest.mark.parametrize("body", [b'[{"id":"1"', b'[{"id":"1","a":"' + b"x" * 300_000])
async def test_espo_13_an_authentic_body_that_is_no_json_is_kept_and_answered_200(
    guarded: Ingest, body: bytes
) -> None:
    answer = await guarded.post(body, {"signature": signature(body)})
    assert answer.status == 200
    assert isinstance(answer.body, dict)
    (entry,) = guarded.on("ingest.quarantine")
    assert answer.body["quarantined"] == [entry.quarantine_id]
    assert base64.b64decode(entry.raw) == body
    assert entry.item is None
    assert guarded.on("vmh.document.create") == []
    assert guarded.lines.at("warning") == ["parts of a webhook were put into quarantine"]


async def test_espo_15_while_kafka_is_away_the_runtime_s_error_comes_through(
    ingest: Ingest,
) -> None:
    ingest.down = True
    with pytest.raises(LogUnavailableError):
        await ingest.post(BODY_A)

    # after the recovery the CRM's repetition gives exactly one event
    ingest.down = False
    assert (await ingest.post(BODY_A)).status == 200
    assert len(ingest.on("vmh.document.create")) == 1


async def test_espo_15_a_broker_that_never_answers_counts_as_away_after_four_seconds(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert timedelta(seconds=4) == vmh_webhook_api_step.ACKNOWLEDGED_WITHIN
    monkeypatch.setattr(vmh_webhook_api_step, "ACKNOWLEDGED_WITHIN", timedelta(milliseconds=20))
    ingest.silent = True
    # one go is bounded by the log itself; what takes several has the same time for all of them
    body = json.dumps([{"id": f"d{number}"} for number in range(AT_ONCE + 1)]).encode()
    with pytest.raises(LogUnavailableError, match=r"no acknowledgement within 0\.02 s"):
        await asyncio.wait_for(ingest.post(body), 5)


async def test_espo_16_a_repeated_post_is_published_again_under_the_same_mark(
    ingest: Ingest,
) -> None:
    labels = {"entity": "document", "action": "create"}
    before = metrics.value("bitbylaw_webhook_duplicates_total", **labels)
    await ingest.post(BODY_A)
    await ingest.post(BODY_A)
    first, second = (emit.headers["bbl-dup"] for emit in ingest.emits)
    assert first == second
    assert metrics.value("bitbylaw_webhook_duplicates_total", **labels) == before + 1

    # another route is another fact
    await ingest.post(BODY_A, route="document/update")
    assert ingest.emits[2].headers["bbl-dup"] != first


async def test_a_repeated_id_has_as_many_events_and_counts_once(ingest: Ingest) -> None:
    answer = await ingest.post(b'[{"id":"a"},{"id":"b"},{"id":"a","name":"x"}]')
    assert isinstance(answer.body, dict)
    assert (answer.body["new_ids_count"], answer.body["total_ids_in_batch"]) == (2, 3)
    assert [event.entity_id for event in ingest.on("vmh.document.create")] == ["a", "b", "a"]


@pytest.mark.parametrize("label", ["text/plain", "application/x-www-form-urlencoded", None])
async def test_the_body_decides_what_it_is_not_its_label(ingest: Ingest, label: str | None) -> None:
    headers = {} if label is None else {"content-type": label}
    assert (await ingest.post(BODY_A, headers)).status == 200
    assert "webhook read as JSON although it is labelled otherwise" in ingest.lines.at("debug")
    assert ingest.lines.at("warning") == []


@pytest.mark.parametrize("webhook", WEBHOOKS, ids=lambda webhook: webhook.route)
async def test_every_route_publishes_to_its_own_topic(ingest: Ingest, webhook: Webhook) -> None:
    answer = await ingest.post(b'[{"id":"1"}]', route=f"{webhook.entity}/{webhook.action}")
    assert answer.status == 200
    (emit,) = ingest.emits
    assert emit.topic is webhook.topic
    assert emit.event.entity == webhook.entity


async def test_no_value_of_a_record_reaches_events_answers_or_lines(ingest: Ingest) -> None:
    body = json.dumps(
        [
            {"id": "1", "name": "MARKER-name", "iban": "MARKER-iban"},
            {"id": "MARKER id", "MARKER key": 1},
        ]
    ).encode()
    answer = await ingest.post(body)
    seen = repr(answer.body) + repr(ingest.lines.kept) + repr(ingest.on("vmh.document.create"))
    assert "MARKER" not in seen
    (entry,) = ingest.on("ingest.quarantine")
    assert "MARKER" not in entry.reason + entry.quarantine_id


async def test_ten_thousand_items_of_one_post_are_all_published(ingest: Ingest) -> None:
    body = json.dumps([{"id": str(number)} for number in range(10_000)]).encode()
    answer = await ingest.post(body)
    assert isinstance(answer.body, dict)
    assert answer.body["new_ids_count"] == 10_000
    assert len(ingest.on("vmh.document.create")) == 10_000


def test_the_same_garbage_has_one_quarantine_id_and_other_garbage_another() -> None:
    webhook = WEBHOOKS[0]

    def entry_ids(body: bytes, webhook_id: str = "w") -> list[str]:
        return [emit.event.key for emit in emits_of(webhook, webhook_id, read(body))[0]]

    assert entry_ids(b"{") == entry_ids(b"{")
    assert entry_ids(b"{") != entry_ids(b"{ ")
    assert entry_ids(b"{") != entry_ids(b"{", "other")
    twice = entry_ids(b"[{},{}]")
    assert len(set(twice)) == 2


def test_a_large_body_is_encoded_whole() -> None:
    body = bytes(range(256)) * 8_000 + b"!"
    (emit,) = emits_of(WEBHOOKS[0], "", read(body))[0]
    assert base64.b64decode(emit.event.raw) == body  # Quarantined


def test_only_the_last_marks_are_remembered() -> None:
    recent = RecentMarks(limit=3)
    assert recent.remember(["a", "b", "a"]) == 1
    assert recent.remember(["c", "d", "e"]) == 0
    assert recent.remember(["a"]) == 0
    assert recent.remember(["e"]) == 1


def test_deps_do_not_show_their_secrets() -> None:
    assert SECRET not in repr(Deps({WEBHOOK_ID: (SECRET,)}, accepts_unsigned=False))
