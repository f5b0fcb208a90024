"""The nine webhooks of EspoCRM: each object posted becomes one event, each fault an entry."""

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from bitbylaw_common import metrics, topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.runtime import ApiRequest, ApiResponse, Context, Emit, Step, http, step
from bitbylaw_common.webhooks import WEBHOOKS, Webhook
from bitbylaw_ingest.deps import Deps
from bitbylaw_ingest.domain.reading import (
    PLAIN_BYTES,
    PLAIN_ITEMS,
    Reading,
    read_carefully,
    read_plain,
)
from bitbylaw_ingest.domain.signature import Refusal, Refused, Verified, verify
from bitbylaw_ingest.domain.webhooks import duplicate_mark, events, in_words, quarantined

MAX_BODY_BYTES = 16 * topics.MIB
"""Far above fifty full records; what is longer is lost at the CRM and found by comparison."""

ACKNOWLEDGED_WITHIN = timedelta(seconds=4)
"""EspoCRM gives up after 10 s and would send the whole post again; it shall hear by 5 s."""

AT_ONCE = 250
"""Records published in one go; EspoCRM sends 50. More would hold up the event loop."""

INLINE_BYTES = 4 * 1024
"""A faulty body up to this size is judged at once, a larger one in a thread."""

DUPLICATE_HEADER = "bbl-dup"

_REFUSALS = {
    Refusal.MISSING: "the post carries neither Signature nor X-Signature",
    Refusal.MALFORMED: "the signature is not base64 of webhook id, colon and HMAC",
    Refusal.UNKNOWN_WEBHOOK: "the signature names a webhook whose secret is not configured",
    Refusal.MISMATCH: "the signature does not fit the body and the webhook's secret",
}


class Tally:
    """The counters of one webhook, looked up once: they count every post."""

    def __init__(self, webhook: Webhook) -> None:
        labels = (webhook.entity, webhook.action)
        self._posts = metrics.Often(metrics.WEBHOOKS_RECEIVED.labels(*labels))
        self._answers = {
            status: metrics.Often(metrics.WEBHOOK_ANSWERS.labels(*labels, str(status)))
            for status in (200, 401, 503)
        }
        self._refusals = {
            refusal: metrics.SIGNATURE_FAILURES.labels(refusal.value) for refusal in Refusal
        }
        self._items = metrics.Often(metrics.WEBHOOK_ITEMS.labels(*labels))
        self._bad_items = metrics.WEBHOOKS_QUARANTINED.labels(*labels, "item")
        self._bad_bodies = metrics.WEBHOOKS_QUARANTINED.labels(*labels, "body")
        self._duplicates = metrics.WEBHOOK_DUPLICATES.labels(*labels)

    def received(self) -> None:
        """Count a post, whatever becomes of it."""
        self._posts.inc()

    def refused(self, reason: Refusal) -> None:
        """Count a post whose signature was not believed."""
        self._refusals[reason].inc()
        self._answers[401].inc()

    def unavailable(self) -> None:
        """Count a post that Kafka did not acknowledge."""
        self._answers[503].inc()

    def stored(self, reading: Reading, known: int) -> None:
        """Count a post that is stored, `known` of its items not for the first time."""
        self._answers[200].inc()
        self._items.inc(len(reading.items))
        for part in reading.unreadable:
            (self._bad_bodies if part.index is None else self._bad_items).inc()
        if known:
            self._duplicates.inc(known)


def webhook_step(webhook: Webhook) -> Step[ApiRequest[bytes], ApiResponse, Deps]:
    """Return the step that takes the posts of `webhook`."""
    tally = Tally(webhook)

    @step(
        name=webhook.name,
        description=f"Stores one event for each object of EspoCRM's {webhook.entity_type}.{webhook.action} webhook",
        flows=["vmh", f"vmh-{webhook.entity}"],
        triggers=[http("POST", webhook.route, body="bytes", max_body_bytes=MAX_BODY_BYTES)],
        enqueues=[webhook.topic, topics.QUARANTINE],
        deadline=timedelta(seconds=8),
    )
    async def receive(request: ApiRequest[bytes], ctx: Context[Deps]) -> ApiResponse:
        tally.received()
        sender = await _sender(request, ctx.deps)
        if isinstance(sender, Refused):
            tally.refused(sender.reason)
            ctx.logger.warning("webhook refused", reason=sender.reason.value)
            return _refusal(sender)
        _note_content_type(request, ctx)
        reading = await _reading(request.body)
        emits, marks = await _emits(webhook, sender.webhook_id, reading)
        ids = await _publish(emits, ctx, tally)
        known = ctx.deps.recent.remember(marks)
        tally.stored(reading, known)
        if reading.unreadable:
            ctx.logger.warning(
                "parts of a webhook were put into quarantine", faults=in_words(reading.unreadable)
            )
        ctx.logger.debug("webhook stored", events=len(reading.items), known_before=known)
        return ApiResponse(200, _receipt(webhook, reading, emits, ids))

    return receive


async def _sender(request: ApiRequest[bytes], deps: Deps) -> Verified | Refused:
    if deps.accepts_unsigned:
        return Verified("")
    if len(request.body) <= PLAIN_BYTES:
        return verify(request.body, request.headers, deps.secrets)
    return await asyncio.to_thread(verify, request.body, request.headers, deps.secrets)


async def _reading(body: bytes) -> Reading:
    plain = read_plain(body)
    if plain is not None:
        return plain
    if len(body) <= INLINE_BYTES:
        return read_carefully(body)
    return await asyncio.to_thread(read_carefully, body)


async def _emits(
    webhook: Webhook, webhook_id: str, reading: Reading
) -> tuple[list[Emit[Any]], list[str]]:
    if len(reading.items) <= PLAIN_ITEMS and not reading.unreadable:
        return emits_of(webhook, webhook_id, reading)
    return await asyncio.to_thread(emits_of, webhook, webhook_id, reading)


def emits_of(
    webhook: Webhook, webhook_id: str, reading: Reading, *, source: str = "webhook"
) -> tuple[list[Emit[Any]], list[str]]:
    """Return what to publish, events before quarantine entries, and the marks of the items."""
    marks = [duplicate_mark(webhook.route, webhook_id, item) for item in reading.items]
    found = events(webhook, reading.items, source=source)
    emits = [
        Emit(webhook.topic, event, {DUPLICATE_HEADER: mark})
        for event, mark in zip(found, marks, strict=True)
    ]
    entries = quarantined(webhook, webhook_id, reading)
    return [*emits, *(Emit(topics.QUARANTINE, entry) for entry in entries)], marks


async def _publish(emits: Sequence[Emit[Any]], ctx: Context[Deps], tally: Tally) -> list[str]:
    """Publish all of a post; the runtime answers 503 when that cannot be."""
    try:
        if len(emits) <= AT_ONCE:
            return await ctx.enqueue_all(emits)  # the log answers within its own limit
        async with asyncio.timeout(ACKNOWLEDGED_WITHIN.total_seconds()):
            ids: list[str] = []
            for start in range(0, len(emits), AT_ONCE):
                if start:
                    await asyncio.sleep(0)  # other requests have their turn in between
                ids += await ctx.enqueue_all(emits[start : start + AT_ONCE])
            return ids
    except TimeoutError:
        tally.unavailable()
        seconds = ACKNOWLEDGED_WITHIN.total_seconds()
        raise LogUnavailableError(f"no acknowledgement within {seconds:g} s") from None
    except LogUnavailableError:
        tally.unavailable()
        raise


def _receipt(
    webhook: Webhook, reading: Reading, emits: Sequence[Emit[Any]], ids: Sequence[str]
) -> dict[str, Any]:
    """Return the answer, with the predecessor's keys first."""
    total = len(reading.items)
    receipt: dict[str, Any] = {
        "status": "received",
        "action": webhook.action,
        "new_ids_count": len({item.id for item in reading.items}),
        "total_ids_in_batch": total,
        "event_ids": list(ids[:total]),
    }
    if reading.unreadable:
        receipt["quarantined"] = [emit.event.key for emit in emits[total:]]
    return receipt


def _refusal(refused: Refused) -> ApiResponse:
    return ApiResponse(401, {"error": "signature refused", "details": _REFUSALS[refused.reason]})


def _note_content_type(request: ApiRequest[bytes], ctx: Context[Deps]) -> None:
    """The body decides what it is; a label that says otherwise is worth a line, no more."""
    if not request.headers.get("content-type", "").lower().startswith("application/json"):
        ctx.logger.debug("webhook read as JSON although it is labelled otherwise")


STEPS = tuple(webhook_step(webhook) for webhook in WEBHOOKS)
