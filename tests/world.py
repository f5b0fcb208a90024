"""The whole system in one process: both simulators, every service that exists, virtual time."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

from multidict import CIMultiDict

from bitbylaw_common.errors import LogUnavailableError, Transient
from bitbylaw_common.http.transport import Request, Response
from bitbylaw_common.runtime.app import App
from bitbylaw_common.runtime.hosts.memory_host import MemoryHost
from bitbylaw_common.runtime.triggers import ApiResponse
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_document_sync.app import deps_over
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.settings import DocumentSyncSettings
from bitbylaw_ingest.app import app as ingest
from bitbylaw_simulators.clock import SimClock
from bitbylaw_simulators.espocrm import Delivery, EspoCRM, EspoQuirks
from bitbylaw_simulators.simulator import Simulator
from bitbylaw_simulators.wire import ConnectionReset, SimRequest, TornAnswer
from bitbylaw_simulators.xai import Xai, XaiQuirks

ESPOCRM, XAI, INGEST = "https://espocrm.test", "https://xai.test", "https://ingest.test"
PIECE = 64 * 1024


@dataclass
class SimResponseBody:
    """An answer of a simulator as a client sees it; a torn one ends early."""

    request: Request
    status: int
    headers: Mapping[str, str]
    body: bytes
    torn: bool

    async def read(self, limit: int = 32 * 1024 * 1024) -> bytes:
        body = b"".join([chunk async for chunk in self.chunks()])
        assert len(body) <= limit
        return body

    async def chunks(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self.body), PIECE):
            yield self.body[start : start + PIECE]
        if self.torn:
            raise _no_answer(self.request, "the answer broke off")


class SimTransport:
    """Carries requests to simulators in the same process; no socket is opened.

    Attributes:
        on_moment: called before each request is carried out and after, before its answer is
            seen; may raise what a death would.
    """

    def __init__(self, hosts: Mapping[str, Simulator]) -> None:
        self._hosts = hosts
        self.on_moment: Callable[[str], None] = _nothing

    @asynccontextmanager
    async def send(self, request: Request) -> AsyncIterator[Response]:
        url = urlsplit(request.url)
        body = request.body
        if body is None:
            body = b""
        elif not isinstance(body, bytes):
            body = b"".join([chunk async for chunk in body])
        announced = CIMultiDict(request.headers).get("Content-Length")
        assert announced is None or int(announced) == len(body)
        query = (*parse_qsl(request.query, keep_blank_values=True), *request.params)
        call = SimRequest(request.method, url.path, query, dict(request.headers), body)
        torn = False
        self.on_moment(f"before {request.operation}")
        try:
            answer = await self._hosts[f"{url.scheme}://{url.netloc}"].handle(call)
            content = answer.read()
        except ConnectionReset:
            raise _no_answer(request, "the connection was reset") from None
        except TornAnswer as cut:
            answer, torn = cut.answer, True
            content = answer.read()[: cut.sent]
        self.on_moment(f"after {request.operation}")
        headers = CIMultiDict(answer.headers)
        headers["Content-Length"] = str(answer.size)
        yield SimResponseBody(request, answer.status, headers, content, torn)


def _nothing(_moment: str) -> None:
    return None


def _no_answer(request: Request, detail: str) -> Transient:
    return Transient(
        request.system, request.operation, detail=detail, ambiguous=not request.idempotent
    )


class World:
    """EspoCRM, xAI and our services around one log and one clock.

    Attributes:
        espocrm, xai: the other sides; a test says there what people and vendors do.
        host: our services.
    """

    def __init__(
        self,
        *,
        espocrm: EspoQuirks | None = None,
        xai: XaiQuirks | None = None,
        host: MemoryHost | None = None,
        **env: str,
    ) -> None:
        self.host = host or MemoryHost()
        clock = self.host.clock
        time = SimClock(clock.now, sleep=clock.sleep)
        self.espocrm = EspoCRM(time, quirks=espocrm)
        # Indexing takes no time, unless a test says so: most are about something else.
        self.xai = Xai(time, quirks=xai or XaiQuirks(indexing_stage_seconds=0))
        self.transport = SimTransport({ESPOCRM: self.espocrm, XAI: self.xai})
        self.env = {
            "ESPOCRM_API_BASE_URL": f"{ESPOCRM}/api/v1",
            "ESPOCRM_API_KEY": self.espocrm.api_user.api_key or "",
            "XAI_API_KEY": self.xai.api_key,
            "XAI_MANAGEMENT_KEY": self.xai.management_key,
            "XAI_FILES_URL": XAI,
            "XAI_MANAGEMENT_URL": XAI,
            "BBL_DIGEST_KEY": "only-the-tests-use-this-key",
            "INGEST_UNSIGNED": "accept",
            **env,
        }

    async def start(self) -> None:
        """Start every service that exists."""

        @asynccontextmanager
        async def open_deps(env: Mapping[str, str]) -> AsyncIterator[Deps]:
            settings = DocumentSyncSettings.from_env(env)
            deps = deps_over(self.transport, settings, self.host.clock)
            try:
                yield deps
            finally:
                await deps.circuits.close()

        with_simulators: App[Deps] = replace(document_sync, open_deps=open_deps)
        await self.host.start(ingest, self.env)
        await self.host.start(with_simulators, self.env)

    async def stop(self) -> None:
        """Stop them all."""
        await self.host.stop()

    def add_collection(self, name: str) -> str:
        """Make a collection at xAI; return its id. The CRM's knowledge base follows the first link."""
        return self.xai.add_collection(name)

    async def webhook(self, entity: str, action: str, entity_id: str) -> ApiResponse:
        """Post what EspoCRM posts about a record."""
        return await self.webhooks(entity, action, [entity_id])

    async def webhooks(self, entity: str, action: str, ids: Sequence[str]) -> ApiResponse:
        """Post what EspoCRM posts about several records at once."""
        return await self.host.request(
            "POST",
            f"/vmh/webhook/{entity}/{action}",
            body=json.dumps([{"id": entity_id} for entity_id in ids]).encode(),
            headers={"Content-Type": "application/json"},
        )

    def register_webhooks(self, *, skip_own: bool = False) -> None:
        """Have EspoCRM tell of documents by itself, as `deliver` lets it."""
        for action in ("create", "update", "delete"):
            self.espocrm.add_webhook(
                f"CDokumente.{action}",
                f"{INGEST}/vmh/webhook/document/{action}",
                skip_own=skip_own,
                user=self.espocrm.api_user if skip_own else None,
            )

    async def deliver(self) -> list[int]:
        """Let EspoCRM's job post what is due, and return what ingest answered to each post."""
        done = await self.espocrm.deliver_pass(self._post)
        return [int(entry["status"]) for entry in done]

    async def _post(self, delivery: Delivery) -> int:
        path = urlsplit(delivery.url).path
        try:
            answer = await self.host.request(
                "POST", path, body=delivery.body, headers=delivery.headers
            )
        except LogUnavailableError:
            return 503  # as the HTTP host answers it
        return answer.status

    async def told(self, action: str, entity_id: str) -> None:
        """Post a document's webhook and let everything come to rest."""
        answer = await self.webhook("document", action, entity_id)
        assert answer.status == 200
        await self.settle()

    async def settle(self) -> None:
        """Let everything happen that happens now."""
        await self.host.settle()

    async def advance(self, **span: float) -> None:
        """Let time pass, as `timedelta(**span)`, and happen what is due meanwhile."""
        await self.host.advance(**span)

    def effects(self) -> list[tuple[str, str, str]]:
        """Return everything our services changed at the other sides, in order per side."""
        return [
            (side.name, effect.name, effect.target)
            for side in (self.espocrm, self.xai)
            for effect in side.effects()
        ]

    def calls(self, side: Simulator, operation: str) -> int:
        """Return how often an operation was asked of a side."""
        return sum(call.operation == operation for call in side.requests.since(0))
