"""Delivers EspoCRM's webhooks over HTTP, one pass after another, as its job does."""

import asyncio
from typing import Any

import aiohttp

from bitbylaw_simulators.espocrm.state import EspoCRM
from bitbylaw_simulators.espocrm.webhooks import Delivery

CONNECT_SECONDS = 5.0
TOTAL_SECONDS = 10.0
"""The CRM's own limits for one post."""

CATCH_UP = 1_000
"""Passes made up for at once after the clock was moved far."""


class Pump:
    """Posts what is due; run it as a task, or ask for passes by `deliver`.

    Args:
        espocrm: whose webhooks.
        session: posts; it follows no redirects here.
    """

    def __init__(self, espocrm: EspoCRM, session: aiohttp.ClientSession) -> None:
        self._espocrm = espocrm
        self._session = session
        self._passing = asyncio.Lock()
        espocrm.deliver = self.deliver

    async def run(self) -> None:
        """Make a pass every `delivery_seconds`, for ever; a moved clock makes up for the passes."""
        clock = self._espocrm.clock
        before = clock.now()
        while True:
            pause = max(0.01, self._espocrm.quirks.delivery_seconds)
            await clock.sleep(pause)
            now = clock.now()
            missed = max(1, int((now - before).total_seconds() // pause))
            before = now
            for _ in range(min(missed, CATCH_UP)):
                if not await self.deliver(1) and not self._espocrm.webhooks.events:
                    break

    async def deliver(self, passes: int) -> list[dict[str, Any]]:
        """Make passes now; return what was posted: webhook, event, objects, attempt, status."""
        done: list[dict[str, Any]] = []
        for _ in range(passes):
            async with self._passing:
                done += await self._espocrm.deliver_pass(self._posted)
        return done

    async def _posted(self, delivery: Delivery) -> int:
        limits = aiohttp.ClientTimeout(total=TOTAL_SECONDS, connect=CONNECT_SECONDS)
        try:
            async with self._session.post(
                delivery.url,
                data=delivery.body,
                headers=delivery.headers,
                timeout=limits,
                allow_redirects=False,
            ) as response:
                await response.read()
                return response.status
        except TimeoutError:
            return 408
        except aiohttp.ClientError:
            return 0
