"""The events and quarantine entries that one post of a webhook becomes (pure)."""

import base64
import hashlib
from collections import Counter
from collections.abc import Sequence

from bitbylaw_common.events import EntityChanged, Quarantined
from bitbylaw_common.webhooks import Webhook
from bitbylaw_ingest.domain.reading import Item, Reading, Unreadable

_WINDOW_BYTES = 3 * 256 * 1024  # divisible by three, so that the parts join to one base64 text


def changes(webhook: Webhook, ids: Sequence[str], *, source: str) -> tuple[EntityChanged, ...]:
    """Return one event for each id, all attributes possibly changed."""
    return tuple(_event(webhook, entity_id, (), source) for entity_id in ids)


def events(
    webhook: Webhook, items: Sequence[Item], *, source: str = "webhook"
) -> tuple[EntityChanged, ...]:
    """Return one event for each item, in their order; an id that repeats has as many events."""
    return tuple(_event(webhook, item.id, item.changed, source) for item in items)


def quarantined(webhook: Webhook, webhook_id: str, reading: Reading) -> tuple[Quarantined, ...]:
    """Return one entry for each unreadable part of the post.

    The same bytes posted to the same route by the same webhook have the same entry's id, so a
    post that is repeated after a 503 is found to be one; within a post every entry has its own.
    """
    return tuple(_entry(webhook.route, webhook_id, part) for part in reading.unreadable)


def duplicate_mark(route: str, webhook_id: str, item: Item) -> str:
    """Return what the same item of the same webhook always has; it only counts duplicates."""
    origin = f"{route}\0{webhook_id}\0".encode()  # neither can hold a NUL
    return hashlib.sha256(origin + item.fingerprint).hexdigest()


def in_words(unreadable: Sequence[Unreadable]) -> str:
    """Return the faults with how often each occurs, without any content."""
    counted = Counter(part.fault.value for part in unreadable)
    return ", ".join(f"{fault} ({count})" for fault, count in counted.most_common())


def _event(
    webhook: Webhook, entity_id: str, changed: tuple[str, ...], source: str
) -> EntityChanged:
    return EntityChanged(
        entity_type=webhook.entity_type,
        entity_id=entity_id,
        action=webhook.action,
        changed=changed,
        source=source,
    )


def _entry(route: str, webhook_id: str, part: Unreadable) -> Quarantined:
    place = b"" if part.index is None else str(part.index).encode()
    return Quarantined(
        quarantine_id=_digest(route.encode(), webhook_id.encode(), place, part.raw)[:32],
        route=route,
        webhook_id=webhook_id,
        reason=part.fault.value,
        raw=_base64(part.raw),
        item=part.index,
    )


def _base64(raw: bytes) -> str:
    """Encode in steps, so that other threads may run between them."""
    return "".join(
        base64.b64encode(raw[start : start + _WINDOW_BYTES]).decode("ascii")
        for start in range(0, len(raw), _WINDOW_BYTES)
    )


def _digest(*parts: bytes) -> str:
    found = hashlib.sha256()
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.hexdigest()
