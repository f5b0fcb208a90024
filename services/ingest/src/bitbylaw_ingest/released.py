"""Quarantine entries read again, or answered with ids that an operator names (pure)."""

import base64
from collections.abc import Sequence
from typing import Any

from bitbylaw_common.events import Quarantined
from bitbylaw_common.runtime import Emit
from bitbylaw_common.webhooks import WEBHOOKS, Webhook
from bitbylaw_ingest.domain.reading import Reading, Unreadable, is_id, read, read_item
from bitbylaw_ingest.domain.skimming import Fault
from bitbylaw_ingest.domain.webhooks import changes
from bitbylaw_ingest.steps.vmh_webhook_api_step import emits_of

SOURCE = "operator"
"""The `source` of events that leave the quarantine."""


def reread(entry: Quarantined) -> Reading:
    """Return what the entry says by today's rules; never raises.

    An entry that is still unreadable has its fault in `unreadable`; one whose base64 is broken
    counts as no JSON.
    """
    try:
        raw = base64.b64decode(entry.raw, validate=True)
    except ValueError:
        return Reading((), (Unreadable(Fault.NOT_JSON, entry.raw.encode(), entry.item),))
    return read(raw) if entry.item is None else read_item(raw)


def emits_of_entry(entry: Quarantined, reading: Reading) -> list[Emit[Any]]:
    """Return the events of what could be read; what still cannot stays where it is.

    Raises:
        KeyError: no webhook has the entry's route any more; the text names it.
    """
    readable = Reading(reading.items)
    emits, _ = emits_of(_webhook(entry), entry.webhook_id, readable, source=SOURCE)
    return emits


def emits_of_ids(entry: Quarantined, ids: Sequence[str]) -> list[Emit[Any]]:
    """Return one event for each record that an operator found the entry to be about.

    Raises:
        KeyError: as `emits_of_entry`.
        ValueError: an id that cannot be one of EspoCRM; the text names its place.
    """
    for place, entity_id in enumerate(ids, start=1):
        if not is_id(entity_id):
            raise ValueError(
                f"id number {place} cannot be an id of EspoCRM: "
                "1 to 64 letters, digits, hyphens or underscores"
            )
    webhook = _webhook(entry)
    return [Emit(webhook.topic, event) for event in changes(webhook, ids, source=SOURCE)]


def _webhook(entry: Quarantined) -> Webhook:
    for webhook in WEBHOOKS:
        if webhook.route == entry.route:
            return webhook
    raise KeyError(f"no webhook has the route {entry.route}")
