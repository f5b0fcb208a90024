"""EspoCRM's webhook queue: signatures to the byte, portions, batches, attempts."""

import base64
import json

import pytest

from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import Delivery, EspoCRM, EspoQuirks
from bitbylaw_simulators.espocrm.php import php_json
from bitbylaw_simulators.espocrm.webhooks import signatures

WEBHOOK, SECRET = "65f0c1d2e3a4b5c6d", "0123456789abcdef0123456789abcdef"
BODY_A = b'[{"id":"69a68b9cd4c01ad4c","name":"Klage.pdf","dateiStatus":"Neu"}]'
BODY_B = rb'[{"id":"1","dateiStatus":"Ge\u00e4ndert","url":"https:\/\/a\/b"}]'


@pytest.fixture
def crm() -> EspoCRM:
    return EspoCRM(SimClock())


@pytest.mark.parametrize(
    ("body", "signature", "legacy"),
    [
        (
            BODY_A,
            "NjVmMGMxZDJlM2E0YjVjNmQ6OWU2YWRjYWNkODZiNWMyNjk1ZDBiZjI5MDRkZGU0ZmJhZWIxODlmZGFhMDNmNjEzMmE1ZTlmOWU2OTRhNjM5MA==",
            "NjVmMGMxZDJlM2E0YjVjNmQ6nmrcrNhrXCaV0L8pBN3k+66xif2qA/YTKl6fnmlKY5A=",
        ),
        (
            BODY_B,
            "NjVmMGMxZDJlM2E0YjVjNmQ6NjVhMWVkM2M5NDFkZmFkMWJmZTU4YjY2YjkxNDA3YWQ5Yjk4ZWE1YTcxMWJlNTUxZGE5ZmNiOGM3NzZiNTBjMg==",
            "NjVmMGMxZDJlM2E0YjVjNmQ6ZaHtPJQd+tG/5YtmuRQHrZuY6lpxG+VR2p/LjHdrUMI=",
        ),
    ],
)
def test_a_body_is_signed_to_exactly_the_known_headers(
    body: bytes, signature: str, legacy: str
) -> None:
    both = signatures(WEBHOOK, SECRET, body)

    assert both == {"Signature": signature, "X-Signature": legacy}
    assert signatures(WEBHOOK, SECRET, body, "signature") == {"Signature": signature}
    assert signatures(WEBHOOK, SECRET, body, "x-signature") == {"X-Signature": legacy}
    assert signatures(WEBHOOK, SECRET, body, "none") == {}


def test_espo_06_a_raw_signature_may_hold_a_colon() -> None:
    legacy = signatures(WEBHOOK, SECRET, b'[{"id":"t12"}]')["X-Signature"]

    assert legacy == "NjVmMGMxZDJlM2E0YjVjNmQ6iT911w3XKyfFPgY3dfZ2Qxg6dH08b5difUn30VeuK/I="
    assert b":" in base64.b64decode(legacy).partition(b":")[2]


def test_json_is_written_as_php_writes_it() -> None:
    body = [{"id": "1", "dateiStatus": "Geändert", "url": "https://a/b"}]

    assert php_json(body) == BODY_B
    assert php_json({"a": "\u2028\n\U0001f600", "b": [True, None, 1]}) == (
        rb'{"a":"\u2028\n\ud83d\ude00","b":[true,null,1]}'
    )


def test_a_delivery_is_signed_over_its_own_bytes(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.create", "http://x/y", webhook_id=WEBHOOK, secret=SECRET)
    crm.add_document("Räumungsklage.pdf", b"v1")

    [delivery] = crm.due_deliveries()

    signed = signatures(WEBHOOK, SECRET, delivery.body)
    assert delivery.headers == {"Content-Type": "application/json", **signed}
    assert rb"R\u00e4umungsklage.pdf" in delivery.body
    assert next(iter(json.loads(delivery.body)[0])) == "id"


@pytest.mark.parametrize("status", [200, 201, 204, 301, 302, 399])
def test_any_answer_from_200_to_399_is_a_success(crm: EspoCRM, status: int) -> None:
    delivered(crm, status)

    assert outcome(crm) == ("Success", 1)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 408, 500, 503, 0])
def test_these_answers_are_tried_four_times_ten_minutes_apart(crm: EspoCRM, status: int) -> None:
    registered(crm)
    crm.add_document("Klage.pdf", b"v1")
    tried: list[float] = []
    start = crm.clock.now()

    for _ in range(60):
        for delivery in crm.due_deliveries():
            tried.append((crm.clock.now() - start).total_seconds() / 60)
            assert delivery.attempt == len(tried)
            crm.delivered(delivery, status)
        crm.clock.advance(60)

    assert tried == [0, 10, 20, 30]
    assert outcome(crm) == ("Failed", 4)


@pytest.mark.parametrize("status", [400, 413, 415, 422, 429, 501, 502, 504])
def test_these_answers_lose_the_batch_at_once(crm: EspoCRM, status: int) -> None:
    delivered(crm, status)

    assert outcome(crm) == ("Failed", 1)


def test_version_10_loses_a_batch_whose_connection_was_refused(crm: EspoCRM) -> None:
    crm.switch({"version": "10.0"})

    delivered(crm, 0)

    assert outcome(crm) == ("Failed", 1)


def test_410_removes_the_webhook_and_what_waits_for_it(crm: EspoCRM) -> None:
    registered(crm)
    crm.add_webhook("CDokumente.delete", "http://x/other")
    for number in range(60):
        crm.add_document(f"{number}.pdf", b"v1")
    for _ in range(3):
        crm.due_deliveries()

    crm.delivered(crm.due_deliveries()[0], 410)

    assert [hook["event"] for hook in crm.records("Webhook")] == ["CDokumente.delete"]
    assert crm.webhooks.items == {}


def test_espo_35_a_mass_update_arrives_in_portions_of_twenty(crm: EspoCRM) -> None:
    ids = [crm.add_document(f"{number}.pdf", b"v1") for number in range(1000)]
    crm.add_webhook("CDokumente.update", "http://x/y")
    for record_id in ids:
        crm.edit(record_id, description="alle")

    seen: list[str] = []
    sizes: set[int] = set()
    passes = 0
    while len(seen) < 1000:
        passes += 1
        for delivery in crm.due_deliveries():
            told = [entry["id"] for entry in json.loads(delivery.body)]
            sizes.add(len(told))
            seen += told
            crm.delivered(delivery, 200)
        assert passes <= 50

    assert (passes, sizes) == (50, {20})
    assert sorted(seen) == sorted(ids)


def test_a_batch_holds_at_most_fifty_objects(crm: EspoCRM) -> None:
    registered(crm)
    for number in range(70):
        crm.add_document(f"{number}.pdf", b"v1")
    crm.switch({"webhook_event_portion": 100})

    first = crm.due_deliveries()[0]
    crm.delivered(first, 200)
    second = crm.due_deliveries()[0]

    assert (len(first.items), len(second.items)) == (50, 20)


def test_a_pass_serves_at_most_twenty_webhooks(crm: EspoCRM) -> None:
    for number in range(25):
        crm.add_webhook("CDokumente.create", f"http://x/{number}")
    crm.add_document("Klage.pdf", b"v1")

    first = crm.due_deliveries()
    for delivery in first:
        crm.delivered(delivery, 200)

    assert (len(first), len(crm.due_deliveries())) == (20, 5)


def test_failed_items_wait_while_newer_ones_go_ahead(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.update", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.edit(klage, description="eins")
    [first] = crm.due_deliveries()
    crm.delivered(first, 503)
    crm.edit(klage, description="zwei")

    [newer] = crm.due_deliveries()
    crm.delivered(newer, 200)
    crm.clock.advance(600)
    [older] = crm.due_deliveries()

    assert [json.loads(d.body)[0]["description"] for d in (newer, older)] == ["zwei", "eins"]


def test_a_payload_is_a_snapshot_of_its_save(crm: EspoCRM) -> None:
    registered(crm)
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.edit(klage, name="Anders.pdf")

    [delivery] = crm.due_deliveries()

    assert json.loads(delivery.body)[0]["name"] == "Klage.pdf"


def test_an_update_tells_changed_attributes_only_and_the_id_last(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.update", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.clock.advance(5)
    crm.edit(klage, fileStatus="synced", xaiId="file_1", md5sum=crm.document(klage)["md5sum"])

    [told] = json.loads(crm.due_deliveries()[0].body)

    assert set(told) == {"fileStatus", "xaiId", "modifiedById", "modifiedByName", "id"}
    assert list(told)[-1] == "id"


def test_a_save_that_changes_nothing_tells_nothing(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.update", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.edit(klage, description="x")
    crm.delivered(crm.due_deliveries()[0], 200)

    crm.edit(klage, description="x")

    assert crm.due_deliveries() == []


def test_espo_22_another_user_s_empty_save_tells_only_the_modifier(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.update", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.edit(klage, description="x")
    crm.delivered(crm.due_deliveries()[0], 200)

    crm.edit(klage, user=crm.api_user, description="x")

    [told] = json.loads(crm.due_deliveries()[0].body)
    assert told == {"modifiedById": crm.api_user.id, "modifiedByName": "bitbylaw", "id": klage}


def test_a_delete_tells_exactly_the_id(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.delete", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.delete(klage)

    [delivery] = crm.due_deliveries()

    assert json.loads(delivery.body) == [{"id": klage}]


def test_a_field_update_tells_the_field_s_attributes(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.fieldUpdate.dokument", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    crm.edit(klage, description="tells nothing")
    attachment = crm.replace_file(klage, b"v2", "Neu.pdf")

    [told] = json.loads(crm.due_deliveries()[0].body)

    assert told == {"id": klage, "dokumentId": attachment, "dokumentName": "Neu.pdf"}


def test_silent_saves_tell_nothing_and_leave_no_stamp(crm: EspoCRM) -> None:
    for action in ("create", "update", "delete"):
        crm.add_webhook(f"CDokumente.{action}", f"http://x/{action}")
    klage = crm.add_document("Klage.pdf", b"v1", silent=True)
    before = crm.document(klage)["modifiedAt"]
    crm.clock.advance(60)
    crm.edit(klage, silent=True, description="Import")
    after = crm.document(klage)["modifiedAt"]
    crm.delete(klage, silent=True)
    crm.restore(klage)

    assert crm.due_deliveries() == []
    assert before == after


def test_selecting_a_link_tells_nothing_and_saving_one_does(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.update", "http://x/y")
    klage = crm.add_document("Klage.pdf", b"v1")
    akte = crm.add_knowledge("Akte", "akte-1")
    stamp = crm.document(klage)["modifiedAt"]
    crm.clock.advance(60)

    crm.link(klage, akte, silent=True)
    assert (crm.due_deliveries(), crm.document(klage)["modifiedAt"]) == ([], stamp)
    crm.unlink(klage, akte)

    [told] = json.loads(crm.due_deliveries()[0].body)
    assert told["cAIKnowledgesIds"] == []


@pytest.mark.parametrize(("known", "posts"), [(True, 0), (False, 1)])
def test_espo_23_skip_own_drops_what_its_user_did(crm: EspoCRM, known: bool, posts: int) -> None:
    crm.switch({"skip_own": known})
    crm.add_webhook("CDokumente.update", "http://x/y", skip_own=True, user=crm.api_user)
    klage = crm.add_document("Klage.pdf", b"v1")

    crm.edit(klage, user=crm.api_user, xaiId="file_1")

    assert len(crm.due_deliveries()) == posts


def test_skip_own_without_a_user_has_no_effect(crm: EspoCRM) -> None:
    crm.add_webhook("CDokumente.create", "http://x/y", skip_own=True)
    crm.add_document("Klage.pdf", b"v1", user=crm.api_user)

    assert len(crm.due_deliveries()) == 1


def test_an_inactive_webhook_s_items_are_dropped(crm: EspoCRM) -> None:
    hook = registered(crm)
    crm.add_document("Klage.pdf", b"v1")
    crm.delivered(crm.due_deliveries()[0], 503)

    crm.edit(hook, entity="Webhook", isActive=False)
    crm.clock.advance(600)

    assert crm.due_deliveries() == []
    assert crm.webhooks.items == {}


def test_the_queue_outlives_a_restart(crm: EspoCRM) -> None:
    registered(crm)
    crm.add_document("Klage.pdf", b"v1")
    crm.add_document("Zwei.pdf", b"v2")
    crm.delivered(crm.due_deliveries()[0], 503)
    state = json.loads(json.dumps(crm.state()))

    other = EspoCRM(SimClock())
    other.load(state)
    other.clock.advance(600)

    assert [d.body for d in other.due_deliveries()] == [redelivered(crm).body]


def test_the_quirk_defaults_are_the_vendor_s_constants() -> None:
    quirks = EspoQuirks()

    assert (quirks.webhook_event_portion, quirks.webhook_portion, quirks.webhook_batch) == (
        20,
        20,
        50,
    )
    assert (quirks.webhook_attempts, quirks.webhook_retry_seconds) == (4, 600.0)
    assert quirks.delivery_seconds == 120.0


def registered(crm: EspoCRM) -> str:
    return crm.add_webhook("CDokumente.create", "http://x/y")


def delivered(crm: EspoCRM, status: int) -> None:
    """Deliver one object once, with this answer."""
    registered(crm)
    crm.add_document("Klage.pdf", b"v1")
    [delivery] = crm.due_deliveries()
    crm.delivered(delivery, status)


def redelivered(crm: EspoCRM) -> Delivery:
    crm.clock.advance(600)
    [delivery] = crm.due_deliveries()
    return delivery


def outcome(crm: EspoCRM) -> tuple[str, int]:
    """Return how the one item ended, after how many attempts."""
    assert crm.webhooks.items == {}
    [item] = crm.webhooks.finished
    return item.status, item.attempts
