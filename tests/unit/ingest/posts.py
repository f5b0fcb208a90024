"""A CRM that signs and a log that keeps: what the ingest tests stand on."""

import asyncio
import base64
import hashlib
import hmac
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bitbylaw_common.errors import LogUnavailableError, UndeclaredTopicError
from bitbylaw_common.journal import RunFacts
from bitbylaw_common.outcomes import Skipped
from bitbylaw_common.runtime import ApiRequest, ApiResponse, Context, Emit
from bitbylaw_common.runtime.overview import Overview
from bitbylaw_common.sync.brake import Extent
from bitbylaw_ingest.deps import Deps
from bitbylaw_ingest.steps.vmh_webhook_api_step import STEPS

WEBHOOK_ID = "65f0c1d2e3a4b5c6d"
SECRET = "0123456789abcdef0123456789abcdef"


@dataclass
class Lines:
    """A logger that keeps its lines: level, event, fields."""

    kept: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)

    def debug(self, event: str, **fields: Any) -> None:
        self.kept.append(("debug", event, fields))

    def info(self, event: str, **fields: Any) -> None:
        self.kept.append(("info", event, fields))

    def warning(self, event: str, **fields: Any) -> None:
        self.kept.append(("warning", event, fields))

    def error(self, event: str, **fields: Any) -> None:
        self.kept.append(("error", event, fields))

    def at(self, level: str) -> list[str]:
        return [event for line_level, event, _ in self.kept if line_level == level]


@dataclass
class Kept:
    """A host's side of a run: publishes into a list, all or nothing; can be down or silent."""

    declared: frozenset[str]
    emits: list[Emit[Any]]
    down: bool = False
    silent: bool = False
    facts: RunFacts = field(default_factory=RunFacts)

    def now(self) -> datetime:
        return datetime(2026, 3, 12, 9, 0, tzinfo=UTC)

    def still_owner(self) -> None:
        return None

    def saw(self, digest: str) -> Skipped | None:
        return None

    async def publish(self, emits: Sequence[Emit[Any]]) -> list[str]:
        for emit in emits:
            if emit.topic.name not in self.declared:
                raise UndeclaredTopicError(emit.topic.name)
        if self.silent:
            await asyncio.Event().wait()
        if self.down:
            raise LogUnavailableError("the broker is away")
        first = len(self.emits)
        self.emits.extend(emits)
        return [f"event-{first + number}" for number in range(len(emits))]

    def base_unreadable(self, reason: str) -> None:
        raise AssertionError("a webhook has no base")

    def base(self) -> bytes | None:
        return None

    def extent(self) -> Extent:
        return Extent(share=0.0)

    async def write_base(self, value: bytes | None, *, intent: bool) -> None:
        raise AssertionError("a webhook has no base")

    async def overview(self, entity: str) -> Overview:
        raise AssertionError("a webhook looks at no base")


class Ingest:
    """ingest without a host: posts go to the step whose route they name."""

    def __init__(self, deps: Deps) -> None:
        self.deps = deps
        self.emits: list[Emit[Any]] = []
        self.lines = Lines()
        self.down = False
        self.silent = False

    async def post(
        self, body: bytes, headers: dict[str, str] | None = None, route: str = "document/create"
    ) -> ApiResponse:
        path = f"/vmh/webhook/{route}"
        step = next(one for one in STEPS if one.http_triggers[0].path == path)
        run = Kept(
            frozenset(topic.name for topic in step.enqueues), self.emits, self.down, self.silent
        )
        ctx = Context(self.deps, self.lines, run, event_id="e", run_id="r")
        request = ApiRequest("POST", path, body, body, headers or {})
        return await step(request, ctx)

    def on(self, topic: str) -> list[Any]:
        return [emit.event for emit in self.emits if emit.topic.name == topic]


def signature(body: bytes, webhook_id: str = WEBHOOK_ID, secret: str = SECRET) -> str:
    """What EspoCRM 9 puts into `Signature`."""
    proof = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return base64.b64encode(f"{webhook_id}:{proof}".encode()).decode()
