"""Appends of many that go to Kafka as one."""

import asyncio
from collections.abc import Sequence
from itertools import islice

from bitbylaw_common.runtime.ports import Appends, Outgoing, Position, check_sizes


class Gathering:
    """An `Appends` that lets each append wait a moment for others, and appends all at once.

    A request to Kafka costs us and the broker much the same with one record and with thirty. For
    what nobody waits for.

    Args:
        log: takes what was gathered.
        seconds: how long the first append waits for more.
    """

    def __init__(self, log: Appends, seconds: float) -> None:
        self._log = log
        self._seconds = seconds
        self._waiting: list[tuple[Sequence[Outgoing], asyncio.Future[list[Position]]]] = []
        self._flushes: set[asyncio.Task[None]] = set()

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """See `Appends.append`; what is cancelled while it waits is appended all the same.

        Raises:
            RecordRefused, LogUnavailableError: as there; the latter also where others' records are
                what Kafka did not take.
        """
        check_sizes(records)
        loop = asyncio.get_running_loop()
        stored: asyncio.Future[list[Position]] = loop.create_future()
        if not self._waiting:
            loop.call_later(self._seconds, self._flush)
        self._waiting.append((records, stored))
        return await stored

    def _flush(self) -> None:
        gathered, self._waiting = self._waiting, []
        task = asyncio.create_task(self._append(gathered))
        self._flushes.add(task)
        task.add_done_callback(self._flushes.discard)

    async def _append(
        self, gathered: Sequence[tuple[Sequence[Outgoing], asyncio.Future[list[Position]]]]
    ) -> None:
        try:
            found = iter(
                await self._log.append([one for records, _ in gathered for one in records])
            )
        except asyncio.CancelledError:
            for _, stored in gathered:
                stored.cancel()
            raise
        except Exception as failed:  # noqa: BLE001 - it is passed on to everybody who waits
            for _, stored in gathered:
                if not stored.done():
                    stored.set_exception(failed)
        else:
            for records, stored in gathered:
                positions = list(islice(found, len(records)))
                if not stored.done():
                    stored.set_result(positions)
