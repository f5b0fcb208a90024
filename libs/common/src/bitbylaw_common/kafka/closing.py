"""Closing a client of aiokafka within a limit."""

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

CLOSE_SECONDS = 5.0


async def closed(closing: Coroutine[Any, Any, None], seconds: float = CLOSE_SECONDS) -> None:
    """Await what closes a client of aiokafka, but not for ever.

    In it a task that is cancelled just when its answer comes goes on, and is waited for; a second
    time, when the limit is over, it ends.
    """
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await closing
