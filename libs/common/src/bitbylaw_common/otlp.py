"""Sends spans to an OpenTelemetry collector, by OTLP over HTTP, from a thread of its own.

Nothing here waits for the collector but that thread: a span is put into a bounded queue, or counted
as lost. `tracing.export` imports this module where an endpoint is set, and nothing else does.
"""

import asyncio
import logging
import ssl
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import requests
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.util.types import AttributeValue

from bitbylaw_common import metrics
from bitbylaw_common.errors import SettingsError
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import TraceSettings
from bitbylaw_common.tracing import Ended, Trace

QUEUE_SPANS = 2_048
"""How many spans wait for the collector at most."""
BATCH_SPANS = 64
"""Writing a batch holds the interpreter, and with it the event loop, for about 0.1 ms a span."""
EVERY_SECONDS = 1.0
ANSWER_SECONDS = 2.0
"""How long a batch may take, with all its repeats."""
CLOSE_SECONDS = 2.0
_LONGEST_TEXT = 256

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "client": SpanKind.CLIENT,
    "producer": SpanKind.PRODUCER,
    "consumer": SpanKind.CONSUMER,
}
_SCOPE = InstrumentationScope("bitbylaw")
_FINE = Status(StatusCode.UNSET)
_FLAGS = TraceFlags(TraceFlags.SAMPLED)


class Exporter:
    """Takes spans until it is closed.

    Args:
        settings: with an endpoint.
        service: this process's name, for spans that name no service of their own.

    Raises:
        SettingsError: the certificate is no PEM file.
    """

    def __init__(
        self, settings: TraceSettings, *, service: str, version: str, instance: str
    ) -> None:
        self._common = {
            "service.namespace": "bitbylaw",
            "service.version": version,
            "service.instance.id": instance,
        }
        self._service = service
        self._resources: dict[str, _OneResource] = {}
        self._delivery = _Delivery(settings)
        self._processor = BatchSpanProcessor(
            self._delivery,
            max_queue_size=QUEUE_SPANS,
            max_export_batch_size=BATCH_SPANS,
            schedule_delay_millis=EVERY_SECONDS * 1000,
            export_timeout_millis=ANSWER_SECONDS * 1000,
        )

    def take(self, ended: Ended) -> None:
        """Let a span wait for the collector; when too many do, it is lost and counted."""
        if self._delivery.admit():
            self._processor.on_end(self._span(ended))

    async def close(self) -> None:
        """Send what waits, for at most `CLOSE_SECONDS`; the rest is lost and counted."""
        loop, sent = asyncio.get_running_loop(), asyncio.Event()

        def flush() -> None:
            self._processor.shutdown()  # type: ignore[no-untyped-call]  # the library's gap
            try:
                loop.call_soon_threadsafe(sent.set)
            except RuntimeError:  # too late: the loop is closed, and nobody waits any more
                return

        # No pool's thread: the end of the loop would wait for that one.
        threading.Thread(target=flush, name="traces-flush", daemon=True).start()
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await sent.wait()
        except TimeoutError:
            self._delivery.give_up()

    def _span(self, ended: Ended) -> ReadableSpan:
        # The SDK's own tracer would make ids of its own and take ten times as long; ours were made
        # before, and travel whether or not anybody collects.
        trace, parent = ended.trace, None
        if trace.parent_id:
            parent = _context(Trace(trace.trace_id, trace.parent_id), remote=True)
        attributes: dict[str, AttributeValue] = {
            name: _text(value) if isinstance(value, str) else value
            for name, value in ended.attributes.items()
        }
        status = _FINE
        if ended.error:
            attributes["error.type"] = _text(ended.error)
            status = Status(StatusCode.ERROR, _text(ended.error))
        return ReadableSpan(
            _text(ended.name),
            _context(trace),
            parent,
            self._resource(ended.service or self._service),
            attributes,
            (),
            tuple(Link(_context(one, remote=True)) for one in ended.links),
            _KINDS[ended.kind],
            status=status,
            start_time=ended.began_ns,
            end_time=ended.ended_ns,
            instrumentation_scope=_SCOPE,
        )

    def _resource(self, service: str) -> Resource:
        found = self._resources.get(service)
        if found is None:
            found = self._resources[service] = _OneResource(
                {"service.name": service, **self._common}
            )
        return found


class _OneResource(Resource):
    """A resource of which there is one each, so that none need be compared by its content.

    The exporter asks every span's for its hash, and the SDK's writes JSON for that.
    """

    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other


class _Delivery(SpanExporter):
    """Sends batches, counts what became of the spans, and says once when the collector is away."""

    def __init__(self, settings: TraceSettings) -> None:
        if settings.certificate is not None:
            _check(settings.certificate)
        self._session = _Session()
        self._inner = OTLPSpanExporter(
            endpoint=settings.traces_url,
            certificate_file=None if settings.certificate is None else str(settings.certificate),
            headers=settings.header_values(),
            timeout=ANSWER_SECONDS,
            session=self._session,
        )
        # They tell of every batch, and quote what the collector answered.
        library = logging.getLogger("opentelemetry")
        library.propagate = False
        library.addHandler(logging.NullHandler())
        self._lock = threading.Lock()
        self._waiting = 0
        self._away = False
        self._given_up = False
        self._logger = step_logger()

    def admit(self) -> bool:
        """Count a span in; say whether there is room for it."""
        with self._lock:
            room = self._waiting < QUEUE_SPANS and not self._given_up
            self._waiting += room
        if not room:
            metrics.TRACE_SPANS.labels("dropped").inc()
        return room

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch; called by the processor's thread."""
        result = SpanExportResult.FAILURE
        if not self._given_up:
            result = self._inner.export(spans)
            if not self._session.accepted:  # an answer like 302 counts as a success there
                result = SpanExportResult.FAILURE
            self._tell(sent=result is SpanExportResult.SUCCESS)
        with self._lock:
            self._waiting -= len(spans)
        sent = result is SpanExportResult.SUCCESS
        metrics.TRACE_SPANS.labels("sent" if sent else "failed").inc(len(spans))
        return result

    def _tell(self, *, sent: bool) -> None:
        if sent and self._away:
            self._logger.info("the collector of traces takes spans again")
        elif not sent and not self._away:
            self._logger.warning(
                "the collector of traces takes no spans; they are lost, the work goes on",
                reason=self._session.reason,
            )
        self._away = not sent

    def give_up(self) -> None:
        """Send nothing more, whatever waits."""
        self._given_up = True
        self._tell(sent=False)
        self._inner.shutdown()  # type: ignore[no-untyped-call]  # the library's gap

    def shutdown(self) -> None:
        """Close the connections; called when all was sent."""
        if not self._given_up:
            self._inner.shutdown()  # type: ignore[no-untyped-call]  # the library's gap


class _Session(requests.Session):
    """Remembers how the last request went, in words without address, header or answer.

    Attributes:
        accepted: whether the answer was one of success.
    """

    def __init__(self) -> None:
        super().__init__()
        # No proxy and no .netrc: what goes where is for the settings to say.
        self.trust_env = False
        self.accepted = False
        self.reason = "no answer"

    def request(self, *args: Any, **kwargs: Any) -> requests.Response:
        """Send."""
        self.accepted, self.reason = False, "no answer"
        try:
            response = super().request(*args, **kwargs)
        except Exception as lost:
            self.reason = type(lost).__name__
            raise
        self.accepted, self.reason = response.ok and not response.is_redirect, ""
        if not self.accepted:
            self.reason = f"HTTP {response.status_code}"
        return response


def _check(certificate: Path) -> None:
    """Find out at the start, not by the first batch that is lost."""
    try:
        ssl.create_default_context(cafile=certificate)
    except (ssl.SSLError, OSError):
        raise SettingsError(
            f"OTEL_EXPORTER_OTLP_CERTIFICATE={certificate} cannot be used: it must be a PEM file"
        ) from None


def _context(place: Trace, *, remote: bool = False) -> SpanContext:
    return SpanContext(int(place.trace_id, 16), int(place.span_id, 16), remote, _FLAGS)


def _text(value: str) -> str:
    """Return it short and fit for UTF-8: one that is not would cost its whole batch."""
    value = value[:_LONGEST_TEXT]
    return value if value.isascii() else value.encode(errors="replace").decode()
