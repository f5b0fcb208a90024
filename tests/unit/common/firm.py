"""A firm's Advoware as these tests need it: configurator, gateway and API behind one transport."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

from bitbylaw_common.clients.advoware import Advoware
from bitbylaw_common.clients.advoware_auth import Kept, Login, Tokens
from bitbylaw_common.http.transport import Transport
from bitbylaw_common.settings import AdvowareSettings
from scripted_transport import Answer, Lost, ScriptedTransport, Seen, of

API_KEY = "dGVzdC1zZWNyZXQta2V5"
"""base64 of "test-secret-key"."""

PASSWORD = "kennwort-das-niemand-sieht"

SETTINGS: dict[str, Any] = {
    "configurator_url": "https://configurator.test/api/Url",
    "app_id": "app-123",
    "api_key": API_KEY,
    "kanzlei": "kanzlei 7",
    "database": "muster",
    "user": "SB",
    "password": PASSWORD,
}
ADDRESSES = {
    "relayUrl": "https://relay.test:90/",
    "connectorUrl": None,
    "securityGateway": "https://security.test/",
}


class Clock:
    """A clock that a sleep moves on; every sleep lets the others run."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        return datetime(2026, 3, 8, 10, tzinfo=UTC) + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        self.seconds += seconds
        await asyncio.sleep(0)


class MemoryTokens:
    """A store that several processes of a test share; `away` plays a Redis that is down."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.away = False
        self.token = ""
        self.until = 0.0
        self.refused = ""
        self.refused_until = 0.0
        self.busy = False

    async def read(self) -> Kept | None:
        await asyncio.sleep(0)
        if self.away:
            return None
        now = self.clock.monotonic()
        good, barred = self.until > now, self.refused_until > now
        return Kept(
            self.token if good else "",
            max(0.0, self.until - now),
            None,
            self.refused if barred else "",
            max(0.0, self.refused_until - now),
        )

    async def keep(self, token: str, seconds: float) -> None:
        if not self.away:
            self.token, self.until, self.refused = token, self.clock.monotonic() + seconds, ""

    async def note_refusal(self, reason: str) -> None:
        if not self.away:
            self.refused, self.refused_until = reason, self.clock.monotonic() + 55

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        if self.away:
            yield True
            return
        if self.busy:
            yield False
            return
        self.busy = True
        try:
            yield True
        finally:
            self.busy = False


class Firm:
    """Answers as a firm's Advoware would; a test says what the API and the gateway say.

    Attributes:
        api: answers a call that carries a good token.
        gateway: answers a token request instead of this firm, when set.
        configurator: what the configurator answers.
        skew: how far its clock is ahead.
        good: the tokens that are accepted.
    """

    def __init__(self, **settings: Any) -> None:
        self.clock = Clock()
        self.transport = ScriptedTransport(self.answer)
        self.store = MemoryTokens(self.clock)
        self.settings = AdvowareSettings(**{**SETTINGS, **settings})
        self.api: Callable[[Seen], Answer | Lost] = lambda _: of([])
        self.gateway: Callable[[Seen], Answer | Lost] | None = None
        self.configurator: Answer | Lost = of(ADDRESSES)
        self.skew = timedelta()
        self.lifetime: dict[str, Any] = {"expires_in": 3600}
        self.good: set[str] = set()

    def login(self, transport: Transport | None = None) -> Login:
        return Login(transport or self.transport, self.settings, self.clock)

    def tokens(self, transport: Transport | None = None) -> Tokens:
        """Return the tokens of one process."""
        return Tokens(self.login(transport), self.store, self.clock)

    def client(self, transport: Transport | None = None) -> Advoware:
        """Return the client of one process."""
        return Advoware(
            transport or self.transport,
            tokens=self.tokens(transport),
            path_prefix=self.settings.path_prefix,
            clock=self.clock,
        )

    def asked(self, operation: str) -> list[Seen]:
        return [seen for seen in self.transport.seen if seen.operation == operation]

    @property
    def logins(self) -> int:
        return len(self.asked("log_in"))

    @property
    def calls(self) -> list[Seen]:
        """What came in for the API."""
        return [s for s in self.transport.seen if s.operation not in ("find_addresses", "log_in")]

    def answer(self, seen: Seen) -> Answer | Lost:
        found = self._answer(seen)
        if isinstance(found, Lost):
            return found
        date = format_datetime(self.clock.now() + self.skew, usegmt=True)
        return Answer(found.status, found.body, {"Date": date, **found.headers}, found.torn)

    def _answer(self, seen: Seen) -> Answer | Lost:
        if seen.operation == "find_addresses":
            return self.configurator
        if seen.operation == "log_in":
            if self.gateway is not None:
                return self.gateway(seen)
            token = f"token-{len(self.transport.seen)}"
            self.good.add(token)
            return of({"access_token": token, **self.lifetime})
        scheme, _, token = seen.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or token not in self.good:
            return of({"message": "Authorization has been denied for this request."}, 401)
        return self.api(seen)


def text(status: int, words: str) -> Answer:
    """Return an answer of plain text."""
    return Answer(status, words.encode(), {"Content-Type": "text/plain; charset=utf-8"})
