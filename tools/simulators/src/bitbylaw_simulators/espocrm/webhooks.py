"""The webhook queue of EspoCRM: events, items, batches, signatures and attempts (pure)."""

import base64
import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any

from bitbylaw_simulators.espocrm.php import php_json
from bitbylaw_simulators.espocrm.quirks import EspoQuirks

RETRIED = frozenset({401, 403, 404, 405, 408, 500, 503})
"""Answers after which a batch is sent again; 0 joins them before version 10."""

KEPT = 2_000
"""Finished items that stay visible; the CRM keeps them for ten days."""


@dataclass(frozen=True, slots=True)
class Event:
    """One change that webhooks may want to know.

    Attributes:
        number: counts events.
        name: as webhooks register it: "CDokumente.update".
        entity_id: of the changed record.
        entity_type: of the changed record.
        payload: what is told, in the order told.
        user_id: who changed it.
    """

    number: int
    name: str
    entity_type: str
    entity_id: str
    payload: dict[str, Any]
    user_id: str | None


@dataclass(slots=True)
class Item:
    """One event for one webhook.

    Attributes:
        number: counts items; deliveries keep this order.
        webhook_id: for whom.
        entity_type: of the changed record.
        entity_id: of the changed record.
        payload: what is told.
        status: Pending, Success or Failed.
        attempts: deliveries so far.
        due: not to be sent before; None means at once.
    """

    number: int
    webhook_id: str
    entity_type: str
    entity_id: str
    payload: dict[str, Any]
    status: str = "Pending"
    attempts: int = 0
    due: datetime | None = None


@dataclass(frozen=True, slots=True)
class Delivery:
    """One POST that is due.

    Attributes:
        webhook_id: whose it is.
        url: where it goes.
        headers: Content-Type and the signatures.
        body: the bytes that were signed.
        items: numbers of the items inside.
        attempt: which attempt this is for the oldest item, from 1.
        event: what the webhook is registered for; not part of what is sent.
    """

    webhook_id: str
    url: str
    headers: Mapping[str, str]
    body: bytes
    items: tuple[int, ...]
    attempt: int
    event: str


def signatures(webhook_id: str, secret: str, body: bytes, which: str = "both") -> dict[str, str]:
    """Return the signature headers for a body: `Signature`, `X-Signature`, both or none."""
    mac = hmac.new(secret.encode("ascii"), body, hashlib.sha256)
    head = webhook_id.encode() + b":"
    named = {
        "Signature": base64.b64encode(head + mac.hexdigest().encode()).decode(),
        "X-Signature": base64.b64encode(head + mac.digest()).decode(),
    }
    chosen = {"both": set(named), "signature": {"Signature"}, "x-signature": {"X-Signature"}}
    return {name: text for name, text in named.items() if name in chosen.get(which, set())}


@dataclass(slots=True)
class WebhookQueue:
    """What waits to be told.

    Attributes:
        webhooks: gives the registered webhooks, by id, with their fields.
        exists: tells whether a record's row is still there, deleted softly or not.
        drop: deletes a webhook that answered 410.
    """

    webhooks: Callable[[], Mapping[str, Mapping[str, Any]]]
    exists: Callable[[str, str], bool]
    drop: Callable[[str], None]
    events: list[Event] = field(default_factory=list)
    items: dict[int, Item] = field(default_factory=dict)
    finished: list[Item] = field(default_factory=list)
    last_event: int = 0
    last_item: int = 0

    def wants(self, name: str) -> bool:
        """Return whether an active webhook is registered for the event."""
        return any(
            webhook["event"] == name and webhook["isActive"] for webhook in self.webhooks().values()
        )

    def record(
        self, name: str, entity_type: str, entity_id: str, payload: dict[str, Any], user: str | None
    ) -> None:
        """Note an event, if an active webhook is registered for it."""
        if self.wants(name):
            self.last_event += 1
            event = Event(self.last_event, name, entity_type, entity_id, payload, user)
            self.events.append(event)

    def due(self, now: datetime, quirks: EspoQuirks) -> list[Delivery]:
        """Do one pass: expand events, return one batch for each webhook that has items due."""
        self._expand(quirks)
        webhooks = self.webhooks()
        waiting: dict[str, list[Item]] = {}
        for item in list(self.items.values()):
            webhook = webhooks.get(item.webhook_id)
            gone = webhook is None or not webhook["isActive"]
            if gone or not self.exists(item.entity_type, item.entity_id):
                del self.items[item.number]
            elif item.due is None or item.due <= now:
                waiting.setdefault(item.webhook_id, []).append(item)
        served = list(waiting.items())[: quirks.webhook_portion]
        return [
            self._delivery(webhooks[webhook_id], batch[: quirks.webhook_batch], quirks)
            for webhook_id, batch in served
        ]

    def delivered(self, delivery: Delivery, status: int, now: datetime, quirks: EspoQuirks) -> None:
        """Note how a delivery ended.

        Args:
            delivery: one that `due` returned.
            status: the answer; 408 when none came in time, 0 when the connection was refused.
            now: the time.
            quirks: the version decides about 0.
        """
        if status == 410:
            self.drop(delivery.webhook_id)
            doomed = [i.number for i in self.items.values() if i.webhook_id == delivery.webhook_id]
            for number in doomed:
                del self.items[number]
            return
        again = status in RETRIED or (status == 0 and quirks.version == "9.3")
        for number in delivery.items:
            item = self.items.get(number)
            if item is None:
                continue
            item.attempts += 1
            if 200 <= status < 400:
                self._finish(item, "Success")
            elif again and item.attempts < quirks.webhook_attempts:
                item.due = now + timedelta(seconds=quirks.webhook_retry_seconds)
            else:
                self._finish(item, "Failed")

    def refused(self, delivery: Delivery) -> None:
        """Note that the CRM itself refused to send: the items fail at once."""
        for number in delivery.items:
            item = self.items.get(number)
            if item is not None:
                item.attempts += 1
                self._finish(item, "Failed")

    def dump(self) -> dict[str, Any]:
        """Return the queue as JSON."""
        return {
            "events": [asdict(event) for event in self.events],
            "items": [_item_json(item) for item in self.items.values()],
            "finished": [_item_json(item) for item in self.finished],
            "last_event": self.last_event,
            "last_item": self.last_item,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up what `dump` returned."""
        self.events = [Event(**entry) for entry in state["events"]]
        self.items = {entry["number"]: _item(entry) for entry in state["items"]}
        self.finished = [_item(entry) for entry in state["finished"]]
        self.last_event, self.last_item = state["last_event"], state["last_item"]

    def clear(self) -> None:
        """Forget what waits and what is done."""
        self.load({"events": [], "items": [], "finished": [], "last_event": 0, "last_item": 0})

    def _expand(self, quirks: EspoQuirks) -> None:
        portion = self.events[: quirks.webhook_event_portion]
        self.events = self.events[quirks.webhook_event_portion :]
        for event in portion:
            for webhook_id, webhook in self.webhooks().items():
                own = quirks.skip_own and webhook["skipOwn"] and webhook["userId"] is not None
                if (
                    webhook["event"] != event.name
                    or not webhook["isActive"]
                    or (own and webhook["userId"] == event.user_id)
                ):
                    continue
                self.last_item += 1
                self.items[self.last_item] = Item(
                    self.last_item, webhook_id, event.entity_type, event.entity_id, event.payload
                )

    def _delivery(
        self, webhook: Mapping[str, Any], batch: Iterable[Item], quirks: EspoQuirks
    ) -> Delivery:
        items = list(batch)
        body = php_json([item.payload for item in items])
        signed = signatures(webhook["id"], webhook["secretKey"], body, quirks.webhook_signatures)
        return Delivery(
            webhook_id=webhook["id"],
            url=webhook["url"],
            headers={"Content-Type": "application/json", **signed},
            body=body,
            items=tuple(item.number for item in items),
            attempt=items[0].attempts + 1,
            event=webhook["event"],
        )

    def _finish(self, item: Item, status: str) -> None:
        item.status = status
        del self.items[item.number]
        self.finished.append(item)
        del self.finished[:-KEPT]


def _item_json(item: Item) -> dict[str, Any]:
    return {**asdict(item), "due": item.due.isoformat() if item.due else None}


def _item(entry: Mapping[str, Any]) -> Item:
    due = datetime.fromisoformat(entry["due"]) if entry["due"] else None
    return Item(**{**entry, "due": due})
