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
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
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
from bitbylaw_common.http.answers import parsed, retry_after, words
from bitbylaw_common.http.transport import Request, Response, Transport
from bitbylaw_common.logs import step_logger
from bitbylaw_common.settings import AdvowareSettings, RedisSettings

SYSTEM = "advoware"

CONFIGURATOR_SECONDS = 15.0
"""The configurator is waited for no longer, as in the vendor's own client."""

ADDRESSES_SECONDS = 3600.0
"""How long addresses are used before the configurator is asked again."""

ASK_AGAIN_SECONDS = 60.0
"""A configurator that did not answer, or an API that could not be reached, is asked after this."""

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


@dataclass(frozen=True, slots=True)
class Token:
    """What Advoware lets us in with.

    Attributes:
        value: goes into the `Authorization` header and nowhere else.
        until: seconds of the clock's `monotonic`; until then it may be used.
    """

    value: str = field(repr=False)
    until: float


class Tokens:
    """The token of this process, which is the fleet's while Redis answers."""

    async def api(self) -> str:
        """Return the address of the firm's API, without a slash at its end."""
        raise NotImplementedError

    async def current(self, *, compared: bool = False) -> Token:
        """Return a token to use; `compared`: with the other processes', though ours seems good."""
        raise NotImplementedError

    async def instead_of(self, refused: Token) -> Token:
        """Return another token than the one that Advoware does not accept any more."""
        raise NotImplementedError


@asynccontextmanager
async def shared_tokens(
    settings: AdvowareSettings, redis: RedisSettings, transport: Transport, clock: Clock
) -> AsyncIterator[Tokens]:
    """Open what all processes share; Redis itself may be away."""
    raise NotImplementedError
    yield
