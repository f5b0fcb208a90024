"""Logging in to Advoware: one token for all processes, kept in Redis until shortly before its end.

The configurator tells where a firm's API and its security gateway are; the gateway gives a token
for a signed request. `Login` speaks to both, `RedisTokens` keeps the token where all processes find
it, and `Tokens` sees to it that however many calls want one, it is asked for once.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import math
import secrets
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, Protocol
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.exceptions import RedisError

from bitbylaw_common import metrics
from bitbylaw_common.circuits import probing
from bitbylaw_common.clients.advoware_words import Trouble, trouble
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import (
    HeldBack,
    OutsideError,
    RateLimited,
    TimedOut,
    Transient,
    Unauthorized,
)
from bitbylaw_common.http.answers import date_of, parsed, retry_after, words
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import AdvowareSettings, RedisSettings

SYSTEM = "advoware"

CONFIGURATOR_SECONDS = 15.0
"""The configurator is waited for no longer, as in the vendor's own client."""

ADDRESSES_SECONDS = 3600.0
"""How long addresses are used before the configurator is asked again."""

ASK_AGAIN_SECONDS = 60.0
"""While older addresses hold, a configurator that did not answer is asked again after this."""

ASK_SOON_SECONDS = 5.0
"""The same while there are none, and nothing can be sent."""

LOGIN_SECONDS = 20.0
"""All that one login may take."""

LOCK_SECONDS = LOGIN_SECONDS + 5
"""The turn to log in is free after this, should its holder die."""

REFUSAL_SECONDS = 55.0
"""So long no process tries the same credentials again: too many failed logins may lock the user."""

SKEW_SECONDS = 5.0
"""A clock that is off by less is not worth a word; a Date header alone leaves a second open."""

REDIS_SECONDS = 1.0
"""Redis is waited for no longer: logging in takes about as long."""

REDIS_AGAIN_SECONDS = 10.0
"""While Redis is down it is asked this seldom."""

_SAFETY = timedelta(minutes=2)
_LOOK_SECONDS = (0.03, 0.25)
_TRIES = 3
_REFUSED_KEPT = 100


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a firm's Advoware is; addresses without a slash at their end.

    Attributes:
        api: of the API.
        security_gateway: of the logins.
        source: who told: the configurator named the firm's own connector or the relay, or it was
            not asked or did not answer, and the settings hold.
    """

    api: str
    security_gateway: str
    source: Literal["connector", "relay", "settings"]


@dataclass(frozen=True, slots=True)
class Grant:
    """A token as the gateway gave it.

    Attributes:
        token: the secret.
        lifetime: from its answer to its end.
    """

    token: str = field(repr=False)
    lifetime: timedelta


@dataclass(frozen=True, slots=True)
class Token:
    """What Advoware lets us in with.

    Attributes:
        value: goes into the `Authorization` header and nowhere else.
        until: seconds of the clock's `monotonic`; until then it may be used.
    """

    value: str = field(repr=False)
    until: float


# -- what is decided ------------------------------------------------------------------------------


def signature(*, product: int, app_id: str, nonce: str, timestamp: str, api_key: str) -> str:
    """Return the signature of a token request (pure): base64 of its HMAC-SHA512.

    Args:
        product: the number sent as `Product`.
        app_id: as sent.
        nonce: as sent.
        timestamp: as sent.
        api_key: base64 of the key's bytes, as the vendor hands it over.
    """
    message = f"{product}:{app_id}:{nonce}:{timestamp}".encode()
    digest = hmac.new(base64.b64decode(api_key), message, hashlib.sha512).digest()
    return base64.b64encode(digest).decode()


def timestamp_of(now: datetime) -> str:
    """Return the instant as token requests tell it: `2026-08-30T00:00:00.000Z`."""
    return now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def lifetime_of(answer: Mapping[str, Any], *, now: datetime, most: timedelta) -> timedelta:
    """Return how long the token of an answer may be used: by its own word, but `most` at most.

    Args:
        answer: with `expiration_utc`, an instant, or `expires_in`, seconds; or neither.
        now: the gateway's own time where its answer tells it, so that our clock may be off.
        most: also holds where the answer says nothing, or something that cannot be.
    """
    told = [_until(answer.get("expiration_utc"), now), _seconds(answer.get("expires_in"))]
    return min((span for span in told if span is not None and span > timedelta()), default=most)


def usable(lifetime: timedelta) -> timedelta:
    """Return for how long a token is given out: not in its last two minutes, or its last tenth."""
    return lifetime - min(_SAFETY, lifetime / 10)


def _until(value: Any, now: datetime) -> timedelta | None:
    if not isinstance(value, str):
        return None
    try:
        end = datetime.fromisoformat(value.strip())
    except ValueError:
        return None
    return (end if end.tzinfo is not None else end.replace(tzinfo=UTC)) - now


def _seconds(value: Any) -> timedelta | None:
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return None
    return timedelta(seconds=seconds) if 0 < seconds < 1e9 else None


def addresses_of(answer: Any, *, configurator_url: str, gateway_url: str) -> Addresses | None:
    """Return the addresses in the configurator's answer; None when it knows none for the firm.

    Args:
        answer: its JSON.
        configurator_url: who answered. One that was asked over TLS may send us, with the password,
            to nobody who has none; only the firm's own connector may do without.
        gateway_url: the gateway where the answer names none.

    Raises:
        ValueError: an address is none, or may not be trusted.
    """
    if not isinstance(answer, Mapping):
        return None
    named = {str(name).lower(): value for name, value in answer.items()}
    secure = urlsplit(configurator_url).scheme == "https"
    connector = _address(named.get("connectorurl"), secure=False)
    relay = _address(named.get("relayurl"), secure=secure)
    gateway = _address(named.get("securitygateway"), secure=secure) or gateway_url
    if connector:
        return Addresses(connector, gateway, "connector")
    return Addresses(relay, gateway, "relay") if relay else None


def _address(value: Any, *, secure: bool) -> str:
    if value is None or value == "":
        return ""
    parts = urlsplit(value) if isinstance(value, str) else None
    schemes = {"https"} if secure else {"http", "https"}
    if parts is None or parts.scheme not in schemes or not parts.hostname or parts.username:
        raise ValueError("no address, or one without TLS")
    if parts.query or parts.fragment:
        raise ValueError("an address with a query")
    return str(value).rstrip("/")


# -- configurator and gateway ---------------------------------------------------------------------


class _Unheard(OutsideError):  # noqa: N818 - it names a fact, not a mistake
    """The configurator answers, but names no address that can be used; others may be known."""


class _ClockOff(OutsideError):  # noqa: N818 - it names a fact, not a mistake
    """The gateway refused for no known reason, and its clock is not ours."""

    def __init__(self, by: timedelta, refusal: OutsideError) -> None:
        super().__init__(SYSTEM, "log_in", status=refusal.status, detail=refusal.detail)
        self.by = by


class Login:
    """Asks where a firm's Advoware is, and logs in. Remembers the addresses, and no token.

    Args:
        transport: carries the requests.
        settings: whose login it is.
        clock: signs requests with the time; the gateway's own where that is known to differ.
    """

    def __init__(self, transport: Transport, settings: AdvowareSettings, clock: Clock) -> None:
        self._transport = transport
        self._settings = settings
        self._clock = clock
        self._logger = step_logger()
        self._addresses: Addresses | None = None
        self._ask_at = 0.0
        self._asking = asyncio.Lock()
        self._unheard: OutsideError | None = None
        self._correction = timedelta()
        self.skew: timedelta | None = None
        """How far Advoware's clock is ahead of ours, as its last answer told; None: not known."""

    @property
    def credentials(self) -> str:
        """A digest that is another one for other credentials, and tells nothing of them."""
        s = self._settings
        whole = (s.app_id, s.product_id, s.kanzlei, s.database, s.user, s.role)
        message = json.dumps([*whole, s.password.get_secret_value()]).encode()
        return hmac.new(_key(s), message, hashlib.sha256).hexdigest()

    async def addresses(self) -> Addresses:
        """Return where the firm's Advoware is.

        Asked once an hour. While the configurator does not answer, what it said last holds, or what
        the settings say.

        Raises:
            Unauthorized: the configurator knows no such firm, and the settings name no address.
            OutsideError: it does not answer, and the settings name no address.
        """
        if self._addresses is None or self._clock.monotonic() >= self._ask_at:
            async with self._asking:
                if self._addresses is None or self._clock.monotonic() >= self._ask_at:
                    self._addresses = await self._found()
        return self._addresses

    def doubt(self) -> None:
        """Note that nothing answers at the API's address: perhaps there is another one by now."""
        soon = self._clock.monotonic() + ASK_AGAIN_SECONDS
        self._ask_at = min(self._ask_at, soon)

    async def log_in(self) -> Grant:
        """Log in and return the token. Never repeated by itself, but once with the gateway's time.

        Raises:
            Unauthorized: licence, application, user or password are refused; the text says what
                to correct.
            Transient: the firm's server is away, or the gateway.
        """
        addresses = await self.addresses()
        try:
            return await self._granted(addresses, last=False)
        except _ClockOff as off:
            self._correction = off.by
            return await self._granted(addresses, last=True)

    # ---- the configurator

    async def _found(self) -> Addresses:
        now = self._clock.monotonic()
        configured = self._configured()
        if self._settings.configurator_url == "off" and configured is not None:
            self._ask_at = math.inf
            return configured
        fallback = self._addresses or configured
        if fallback is None and self._unheard is not None and now < self._ask_at:
            after = timedelta(seconds=self._ask_at - now)
            raise HeldBack(SYSTEM, "find_addresses", reason=str(self._unheard), after=after)
        try:
            found = await self._asked()
        except HeldBack:
            if self._addresses is None:
                raise
            return self._addresses
        except OutsideError as unheard:
            self._ask_at = now + (ASK_AGAIN_SECONDS if fallback else ASK_SOON_SECONDS)
            first, self._unheard = self._unheard is None, unheard
            if fallback is None:
                raise _told(unheard) from None
            if first:
                self._logger.warning(
                    "the configurator of Advoware is of no use; older addresses are used",
                    error=str(unheard),
                )
            return fallback
        self._ask_at = now + ADDRESSES_SECONDS
        if self._unheard is not None:
            self._unheard = None
            self._logger.info("the configurator of Advoware answers again")
        return found

    def _configured(self) -> Addresses | None:
        if self._settings.base_url is None:
            return None
        return Addresses(self._settings.base_url, self._settings.security_gateway_url, "settings")

    async def _asked(self) -> Addresses:
        request = Request(
            system=SYSTEM,
            operation="find_addresses",
            method="GET",
            url=self._settings.configurator_url,
            params=(("Kanzlei", self._settings.kanzlei),),
            headers={"Accept": "application/json"},
            timeout_seconds=min(CONFIGURATOR_SECONDS, self._settings.timeout_seconds),
            idempotent=True,
        )
        async with self._transport.send(request) as response:
            self._note_time(response)
            status, body = response.status, await words(response)
        try:
            found = addresses_of(
                parsed(body) if status == 200 else None,
                configurator_url=self._settings.configurator_url,
                gateway_url=self._settings.security_gateway_url,
            )
        except ValueError as unfit:
            raise _Unheard(SYSTEM, "find_addresses", status=status, detail=str(unfit)) from None
        if found is None and (status >= 500 or status in (408, 429)):
            raise Transient(SYSTEM, "find_addresses", status=status)
        if found is None:
            detail = "it knows no address of the firm: is ADVOWARE_KANZLEI right?"
            raise _Unheard(SYSTEM, "find_addresses", status=status, detail=detail)
        return found

    # ---- the gateway

    async def _granted(self, addresses: Addresses, *, last: bool) -> Grant:
        request = self._token_request(addresses)
        async with self._transport.send(request) as response:
            self._note_time(response)
            body = await words(response)
            answer = parsed(body)
            if response.status < 300 and isinstance(answer, Mapping):
                named = {str(name).lower(): value for name, value in answer.items()}
                token = named.get("access_token")
                if isinstance(token, str) and token.isascii() and token.isprintable() and token:
                    now = date_of(response.headers) or self._clock.now()
                    most = timedelta(minutes=self._settings.token_lifetime_minutes)
                    lifetime = min(most, lifetime_of(named, now=now, most=most))
                    return Grant(token, lifetime)
            known = trouble(body)
            refusal = _refusal(request, response, known, self._clock.now())
            unexplained = known is None and not isinstance(refusal, RateLimited)
            skew = self.skew or timedelta()
            if unexplained and not last and _is_off(skew - self._correction):
                raise _ClockOff(skew, refusal)
            raise refusal

    def _token_request(self, addresses: Addresses) -> Request:
        s = self._settings
        nonce = str(uuid.uuid4())
        timestamp = timestamp_of(self._clock.now() + self._correction)
        body = {
            "AppID": s.app_id,
            "Kanzlei": s.kanzlei,
            "Database": s.database,
            "User": s.user,
            "Role": s.role,
            "Product": s.product_id,
            "Password": s.password.get_secret_value(),
            "Nonce": nonce,
            "HMAC512Signature": signature(
                product=s.product_id,
                app_id=s.app_id,
                nonce=nonce,
                timestamp=timestamp,
                api_key=s.api_key.get_secret_value(),
            ),
            "RequestTimeStamp": timestamp,
        }
        return Request(
            system=SYSTEM,
            operation="log_in",
            method="POST",
            url=f"{addresses.security_gateway}/api/v1/Token",
            headers={"Accept": "application/json", "Content-Type": "application/json"},
            body=json.dumps(body).encode(),
            timeout_seconds=min(LOGIN_SECONDS, s.timeout_seconds),
            idempotent=False,  # a nonce counts once
        )

    def _note_time(self, response: Response) -> None:
        told = date_of(response.headers)
        if told is None:
            return
        before, self.skew = self.skew, told - self._clock.now()
        metrics.ADVOWARE_CLOCK_SKEW_SECONDS.set(self.skew.total_seconds())
        if _is_off(self.skew) and not _is_off(before):
            self._logger.warning(
                "the clocks of Advoware and of this machine differ",
                ahead_seconds=round(self.skew.total_seconds()),
            )


def _is_off(skew: timedelta | None) -> bool:
    return skew is not None and abs(skew.total_seconds()) > SKEW_SECONDS


def _key(settings: AdvowareSettings) -> bytes:
    return base64.b64decode(settings.api_key.get_secret_value())


def _told(unheard: OutsideError) -> OutsideError:
    """Return the error for callers when nobody tells where the firm's Advoware is."""
    if not isinstance(unheard, _Unheard):
        return unheard
    return Unauthorized(SYSTEM, unheard.operation, status=unheard.status, detail=unheard.detail)


def _refusal(
    request: Request, response: Response, known: Trouble | None, now: datetime
) -> OutsideError:
    """Return what an answer without a token means."""
    names, status = (request.system, request.operation), response.status
    if known is not None:
        kind = Unauthorized if known.lasting else Transient
        return kind(*names, status=status, detail=known.words)
    if status == 429:
        return RateLimited(*names, retry_after=retry_after(response.headers, now))
    if status in (404, 405):
        return Unauthorized(
            *names,
            status=status,
            detail="nobody takes logins at this address: check what the configurator names, or "
            "ADVOWARE_SECURITY_GATEWAY_URL",
        )
    if 400 <= status < 500 and status != 408:
        return Unauthorized(
            *names,
            status=status,
            detail="the login is refused: check ADVOWARE_APP_ID, ADVOWARE_API_KEY, "
            "ADVOWARE_PRODUCT_ID, ADVOWARE_ROLE and the clock",
        )
    detail = "" if status >= 400 else "the answer holds no token; is another server answering?"
    return Transient(*names, status=status, detail=detail)


# -- where all processes find the token -----------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Kept:
    """What is kept for all processes.

    Attributes:
        token: of the same credentials; empty when there is none.
        seconds_left: for how long it may be given out.
        since: when it was granted, as its process told; None when that cannot be read.
        refused: why the same credentials were refused a moment ago; empty when they were not.
        refused_seconds: until anybody tries them again.
    """

    token: str = field(default="", repr=False)
    seconds_left: float = 0.0
    since: datetime | None = None
    refused: str = ""
    refused_seconds: float = 0.0


class TokenStore(Protocol):
    """Where processes share a token. None of it ever fails: a store that is away keeps nothing."""

    async def read(self) -> Kept | None:
        """Return what is kept; None when the store is away."""
        ...

    async def keep(self, token: str, seconds: float) -> None:
        """Keep a new token for so long; what was refused is forgotten."""
        ...

    async def note_refusal(self, reason: str) -> None:
        """Let nobody try these credentials for a while."""
        ...

    def turn(self) -> AbstractAsyncContextManager[bool]:
        """Take the turn to log in for the block; yields False while another process has it."""
        ...


class NoStore:
    """Keeps nothing: every process has a token of its own."""

    async def read(self) -> Kept | None:
        """Return None."""
        return None

    async def keep(self, token: str, seconds: float) -> None:
        """Forget it."""

    async def note_refusal(self, reason: str) -> None:
        """Forget it."""

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """Yield True."""
        yield True


_READ = """
local found = {}
for i, key in ipairs(KEYS) do
    found[2 * i - 1] = redis.call('get', key)
    found[2 * i] = redis.call('pttl', key)
end
return found
"""
_RELEASE = """
if redis.call('get', KEYS[1]) == ARGV[1] then return redis.call('del', KEYS[1]) end
return 0
"""


class RedisTokens:
    """A `TokenStore` in Redis, under the keys of the predecessor.

    Beside `advoware_access_token` and `advoware_token_timestamp` lies `advoware_token_credentials`,
    a digest: a token that other credentials got, such as those of a test database, is none of ours.

    Args:
        redis: a client with a socket time-out.
        credentials: the digest.
        clock: tells when a token was granted.
    """

    TOKEN = "advoware_access_token"  # noqa: S105 - the key's name
    SINCE = "advoware_token_timestamp"
    CREDENTIALS = "advoware_token_credentials"
    REFUSED = "advoware_login_refused"
    LOCK = "advoware_token_lock"

    def __init__(self, redis: Redis, credentials: str, clock: Clock) -> None:
        self._redis = redis
        self._credentials = credentials
        self._clock = clock
        self._down = False
        self._ask_again = 0.0
        self._logger = step_logger()

    async def read(self) -> Kept | None:
        """See `TokenStore.read`."""
        names = (self.TOKEN, self.SINCE, self.CREDENTIALS, self.REFUSED)
        found = await self._ask(lambda: self._redis.eval(_READ, len(names), *names))
        if found is None:
            return None
        token, left, since, _, credentials, _, refused, refused_left = found
        ours = token is not None and _text(credentials) == self._credentials and left > 0
        digest, _, reason = _text(refused).partition(" ")
        barred = digest == self._credentials
        return Kept(
            _text(token) if ours else "",
            left / 1000 if ours else 0.0,
            _instant(_text(since)),
            reason if barred else "",
            max(0, refused_left) / 1000 if barred else 0.0,
        )

    async def keep(self, token: str, seconds: float) -> None:
        """See `TokenStore.keep`."""
        milliseconds = max(1, int(seconds * 1000))
        values = {
            self.TOKEN: token,
            self.SINCE: self._clock.now().isoformat(timespec="seconds"),
            self.CREDENTIALS: self._credentials,
        }

        async def written() -> bool:
            async with self._redis.pipeline(transaction=True) as all_at_once:
                for name, value in values.items():
                    all_at_once.set(name, value, px=milliseconds)
                all_at_once.delete(self.REFUSED)
                await all_at_once.execute()
            return True

        await self._ask(written)

    async def note_refusal(self, reason: str) -> None:
        """See `TokenStore.note_refusal`."""
        milliseconds = int(REFUSAL_SECONDS * 1000)
        value = f"{self._credentials} {reason}"
        await self._ask(lambda: self._redis.set(self.REFUSED, value, px=milliseconds))

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[bool]:
        """See `TokenStore.turn`; while Redis is away every process has its own."""
        holder = secrets.token_hex(16)
        milliseconds = int(LOCK_SECONDS * 1000)

        async def taken() -> bool:
            return bool(await self._redis.set(self.LOCK, holder, px=milliseconds, nx=True))

        ours = await self._ask(taken)
        try:
            yield ours is not False
        finally:
            if ours:
                await self._ask(lambda: self._redis.eval(_RELEASE, 1, self.LOCK, holder))

    async def _ask(self, command: Callable[[], Any]) -> Any:
        """Return Redis' answer; None while it is away, which is said once and counted."""
        if self._down and self._clock.monotonic() < self._ask_again:
            metrics.TOKEN_STORE_DOWN.inc()
            return None
        try:
            answer = await command()
        except (RedisError, OSError, TimeoutError) as down:
            metrics.TOKEN_STORE_DOWN.inc()
            metrics.REDIS_UP.set(0)
            self._ask_again = self._clock.monotonic() + REDIS_AGAIN_SECONDS
            if not self._down:
                self._down = True
                self._logger.warning(
                    "Redis does not answer; each process logs in to Advoware by itself",
                    error=type(down).__name__,
                )
            return None
        metrics.REDIS_UP.set(1)
        if self._down:
            self._down = False
            self._logger.info("Redis answers again; the login to Advoware is shared")
        return answer


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else ""


def _instant(text: str) -> datetime | None:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found if found.tzinfo is not None else None


# -- one login for everybody ----------------------------------------------------------------------


class Tokens:
    """The token of this process, which is the fleet's while the store answers.

    However many calls want one at the same time, one of them asks, and all get its answer or its
    error; across processes the store's turn sees to it.

    Args:
        login: asks Advoware.
        store: what all processes share.
        clock: tells how long a token is good, and lets the waits for another process pass.
    """

    def __init__(self, login: Login, store: TokenStore, clock: Clock) -> None:
        self._login = login
        self._store = store
        self._clock = clock
        self._token: Token | None = None
        self._refused: deque[str] = deque(maxlen=_REFUSED_KEPT)
        self._flights: dict[bool, asyncio.Task[Token]] = {}
        self._logger = step_logger()

    async def api(self) -> str:
        """Return the address of the firm's API, without a slash at its end.

        Raises:
            OutsideError: as `Login.addresses`.
        """
        return (await self._login.addresses()).api

    def doubt(self) -> None:
        """See `Login.doubt`."""
        self._login.doubt()

    async def current(self, *, compared: bool = False) -> Token:
        """Return a token to use.

        Args:
            compared: with the other processes', though ours seems good: one of them may have found
                it revoked. For a call that cannot be sent twice.

        Raises:
            HeldBack: the credentials were refused a moment ago, so nothing was sent.
            OutsideError: as `Login.log_in`.
        """
        ours = self._token
        if ours is None or not self._is_good(ours):
            return await self._obtained(refused="")
        if not compared:
            return ours
        kept = await self._store.read()
        return self._adopted(kept) or ours

    async def instead_of(self, refused: Token) -> Token:
        """Return another token than this one, which Advoware does not accept any more.

        The first who asks logs in; whoever comes with an older one gets the new one.

        Raises:
            HeldBack: as `current`.
            OutsideError: as `Login.log_in`.
        """
        ours = self._token
        if ours is not None and ours.value != refused.value and self._is_good(ours):
            return ours
        self._token = None
        if refused.value not in self._refused:
            self._refused.append(refused.value)
        return await self._obtained(refused=refused.value)

    async def close(self) -> None:
        """End a login under way."""
        for flight in list(self._flights.values()):
            flight.cancel()
        if self._flights:
            await asyncio.wait(list(self._flights.values()), timeout=5)

    # ---- in this process

    async def _obtained(self, *, refused: str) -> Token:
        for _ in range(_TRIES):
            token = await asyncio.shield(self._flight())
            # who joined late may have got what was refused meanwhile
            if token.value != refused:
                return token
        raise Transient(SYSTEM, "log_in", detail="the same token came again and again")

    def _flight(self) -> asyncio.Task[Token]:
        """Return the one attempt under way; a probe passes where others do not, so it has its own."""
        lane = probing()
        flight = self._flights.get(lane)
        if flight is None or flight.done():
            flight = asyncio.get_running_loop().create_task(self._found())
            flight.add_done_callback(_noticed)
            self._flights[lane] = flight
        return flight

    # ---- among processes

    async def _found(self) -> Token:
        end = self._clock.monotonic() + 2 * LOCK_SECONDS
        pause, longest = _LOOK_SECONDS
        while True:
            if (token := self._admitted(await self._store.read())) is not None:
                return token
            await self._login.addresses()  # before the turn, so that it ends soon
            async with self._store.turn() as ours:
                if ours:
                    # another may have come back from its login since the look
                    found = self._admitted(await self._store.read())
                    return found or await self._logged_in()
            if self._clock.monotonic() >= end:
                raise Transient(
                    SYSTEM, "log_in", detail="other processes log in, and none comes to an end"
                )
            await self._clock.sleep(pause)
            pause = min(2 * pause, longest)

    def _admitted(self, kept: Kept | None) -> Token | None:
        """Return the kept token where it is of use.

        Raises:
            HeldBack: there is none, and asking again so soon might lock the user.
        """
        token = self._adopted(kept)
        if token is None and kept is not None and kept.refused:
            after = timedelta(seconds=max(1.0, kept.refused_seconds))
            raise HeldBack(SYSTEM, "log_in", reason=kept.refused, after=after)
        return token

    def _adopted(self, kept: Kept | None) -> Token | None:
        if kept is None or not kept.token or kept.token in self._refused:
            return None
        return self._taken(kept.token, kept.seconds_left)

    def _taken(self, value: str, seconds: float) -> Token:
        self._token = Token(value, self._clock.monotonic() + seconds)
        return self._token

    async def _logged_in(self) -> Token:
        try:
            async with asyncio.timeout(LOGIN_SECONDS):
                grant = await self._login.log_in()
        except Unauthorized as refused:
            metrics.ADVOWARE_LOGINS.labels("refused").inc()
            await self._store.note_refusal(refused.detail)
            raise
        except HeldBack:  # nothing was sent
            raise
        except OutsideError:
            metrics.ADVOWARE_LOGINS.labels("failed").inc()
            raise
        except TimeoutError:
            metrics.ADVOWARE_LOGINS.labels("failed").inc()
            detail = f"not done within {LOGIN_SECONDS:g} s"
            raise TimedOut(SYSTEM, "log_in", detail=detail) from None
        metrics.ADVOWARE_LOGINS.labels("granted").inc()
        seconds = usable(grant.lifetime).total_seconds()
        self._logger.info("logged in to Advoware", good_for_seconds=round(seconds))
        token = self._taken(grant.token, seconds)
        await self._store.keep(grant.token, seconds)
        return token

    def _is_good(self, token: Token) -> bool:
        return self._clock.monotonic() < token.until


def _noticed(flight: asyncio.Task[Token]) -> None:
    """Look at how an attempt ended, for those whose callers have all gone."""
    if not flight.cancelled():
        flight.exception()


@asynccontextmanager
async def redis_tokens(
    redis: RedisSettings, credentials: str, clock: Clock
) -> AsyncIterator[RedisTokens]:
    """Open what keeps a token for all processes; Redis itself may be away."""
    seconds = min(redis.timeout_seconds, REDIS_SECONDS)
    client = Redis.from_url(
        redis.connection_url(redis.db_advoware_cache).get_secret_value(),
        socket_timeout=seconds,
        socket_connect_timeout=seconds,
    )
    try:
        yield RedisTokens(client, credentials, clock)
    finally:
        await client.aclose()


@asynccontextmanager
async def shared_tokens(
    settings: AdvowareSettings, redis: RedisSettings, transport: Transport, clock: Clock
) -> AsyncIterator[Tokens]:
    """Open the tokens of the settings' firm, shared by all processes; Redis may be away."""
    login = Login(transport, settings, clock)
    async with redis_tokens(redis, login.credentials, clock) as store:
        tokens = Tokens(login, store, clock)
        try:
            yield tokens
        finally:
            await tokens.close()
