"""The functions of the whole fleet: what this process declares, and what others published."""

import uuid
from collections.abc import Callable, Sequence

from pydantic import ValidationError

from bitbylaw_common import topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.events import RunRequested
from bitbylaw_common.ids import new_event_id
from bitbylaw_common.kafka import codec
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.control import FunctionInfo, UnknownFunction
from bitbylaw_common.topics import PARTITIONS

PUBLISH_SECONDS = 15.0
"""How soon a change in a function's health is seen in the rest of the fleet, at the latest."""


class Fleet:
    """Publishes this process's functions to `control.functions` and follows everybody's.

    Args:
        own: returns this process's functions as they are now.
        log: to publish with and to follow.
        source: the service name for the events' headers.
    """

    def __init__(
        self, own: Callable[[], Sequence[FunctionInfo]], log: KafkaLog, clock: Clock, *, source: str
    ) -> None:
        self._own = own
        self._log = log
        self._clock = clock
        self._source = source
        self._others: dict[str, FunctionInfo] = {}
        self._published: dict[str, FunctionInfo] = {}
        self._logger = step_logger(service=source)

    def functions(self) -> list[FunctionInfo]:
        """Return the fleet's functions; for ours, what is known here is newer than the topic."""
        return list((self._others | {info.function_id: info for info in self._own()}).values())

    async def trigger(self, function_id: str) -> str:
        """Ask the cron's owner for a run now; return the run's id once that is acknowledged.

        Raises:
            UnknownFunction: no cron has this id.
            LogUnavailableError: Kafka did not acknowledge in time.
        """
        info = next((f for f in self.functions() if f.function_id == function_id), None)
        if info is None or info.trigger.type != "cron":
            raise UnknownFunction(function_id)
        run_id = uuid.uuid4().hex
        asked = RunRequested(function_id=function_id, run_id=run_id, subject=function_id)
        await self._log.append(
            [
                codec.encode(
                    topics.requests(info.service),
                    asked,
                    event_id=new_event_id(),
                    source=self._source,
                    now=self._clock.now(),
                )
            ]
        )
        return run_id

    async def publish(self) -> None:
        """Publish what changed, now and every `PUBLISH_SECONDS`, until cancelled."""
        while True:
            changed = [f for f in self._own() if self._published.get(f.function_id) != f]
            try:
                await self._log.append(
                    [
                        codec.encode(
                            topics.FUNCTIONS,
                            info,
                            event_id=new_event_id(),
                            source=self._source,
                            now=self._clock.now(),
                        )
                        for info in changed
                    ]
                )
                self._published |= {info.function_id: info for info in changed}
            except LogUnavailableError as down:
                self._logger.warning("functions were not published; again soon", error=str(down))
            await self._clock.sleep(PUBLISH_SECONDS)

    async def follow(self) -> None:
        """Follow what the fleet publishes, until cancelled."""
        while True:
            try:
                starts = {(topics.FUNCTIONS.name, number): 0 for number in range(PARTITIONS)}
                async for record in self._log.follow(starts):
                    self._learn(record.key, record.value)
            except LogUnavailableError as down:
                self._logger.warning("functions are not followed; again soon", error=str(down))
            await self._clock.sleep(1)

    def _learn(self, key: bytes | None, value: bytes | None) -> None:
        if key is None:
            return
        if value is None:
            self._others.pop(key.decode(errors="replace"), None)
            return
        try:
            info = FunctionInfo.model_validate_json(value)
        except ValidationError:
            self._logger.error("an unreadable function was passed over")
            return
        self._others[info.function_id] = info
