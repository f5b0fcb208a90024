"""The state of one partition in Kafka: transactions that only its present owner can commit."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    InvalidProducerEpoch,
    InvalidTxnState,
    KafkaError,
    ProducerFenced,
    TransactionCoordinatorFenced,
)

from bitbylaw_common import metrics
from bitbylaw_common.errors import LogUnavailableError, OwnershipLost
from bitbylaw_common.kafka.closing import closed
from bitbylaw_common.kafka.lookup import asks_again
from bitbylaw_common.runtime.ports import Outgoing, check_sizes
from bitbylaw_common.topics import LARGE_RECORD_BYTES, MIB

TAKE_OVER_SECONDS = 15.0
WRITE_SECONDS = 12.0
STOP_SECONDS = 2.0
TRANSACTION_MS = 15_000
"""The broker ends a transaction that its writer left open after this; longer than a write may take,
so that it is always the writer who learns first."""
GROUP_RECORDS = 500
GROUP_BYTES = 4 * MIB

_FENCED = (ProducerFenced, InvalidProducerEpoch, InvalidTxnState, TransactionCoordinatorFenced)


class KafkaState:
    """A transactional producer named `{service}.state.{partition}`.

    A transaction takes the same time for one record or a hundred, so what is written while one is
    under way goes into the next together.
    """

    def __init__(self, producer: AIOKafkaProducer, name: str) -> None:
        self._producer = producer
        self._name = name
        self._waiting: list[tuple[Sequence[Outgoing], asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self._spent: OwnershipLost | LogUnavailableError | None = None

    @classmethod
    async def taken_over(
        cls, options: Mapping[str, Any], service: str, partition: int
    ) -> "KafkaState":
        """Fence every earlier writer of this state; a transaction it left open is rolled back.

        Raises:
            LogUnavailableError: Kafka did not agree in time.
        """
        name = f"{service}.state.{partition}"
        producer = AIOKafkaProducer(
            **options,
            client_id=name,
            transactional_id=name,
            transaction_timeout_ms=TRANSACTION_MS,
            acks="all",
            linger_ms=0,
            max_request_size=LARGE_RECORD_BYTES + MIB,
            request_timeout_ms=10_000,
            retry_backoff_ms=100,
        )
        asks_again(producer.client)
        try:
            async with asyncio.timeout(TAKE_OVER_SECONDS):
                await producer.start()
        except (KafkaError, OSError, TimeoutError) as down:
            await _stop(producer)
            raise LogUnavailableError(
                f"the state of partition {partition} could not be taken over: {type(down).__name__}"
            ) from down
        except BaseException:
            await _stop(producer)
            raise
        return cls(producer, name)

    async def write(self, records: Sequence[Outgoing]) -> None:
        """See `State.write`."""
        check_sizes(records)
        if self._spent is not None:
            raise type(self._spent)(str(self._spent))
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((records, written))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name=self._name)
        await written

    async def close(self) -> None:
        """See `State.close`."""
        self._spend(OwnershipLost(f"{self._name} was given up"))
        if self._writing is not None and not self._writing.done():
            await asyncio.wait({self._writing}, timeout=2)
            self._writing.cancel()
            await asyncio.wait({self._writing}, timeout=2)
        await _stop(self._producer)

    async def _write_all(self) -> None:
        while self._waiting:
            group = self._next_group()
            began = asyncio.get_running_loop().time()
            failure: OwnershipLost | LogUnavailableError | None = None
            try:
                async with asyncio.timeout(WRITE_SECONDS):
                    await self._transact([record for records, _ in group for record in records])
            except _FENCED as fenced:
                failure = OwnershipLost(f"{self._name} is written by another worker now")
                failure.__cause__ = fenced
            except (KafkaError, OSError, TimeoutError, AssertionError) as down:
                # aiokafka asserts where its sender gave up between two transactions.
                failure = LogUnavailableError(
                    f"{self._name} was not written: {type(down).__name__}"
                )
                failure.__cause__ = down
            else:
                metrics.STATE_WRITE_SECONDS.observe(asyncio.get_running_loop().time() - began)
            for _, written in group:
                _settle(written, failure)
            if failure is not None:
                metrics.STATE_WRITE_FAILURES.labels(
                    "fenced" if isinstance(failure, OwnershipLost) else "unknown"
                ).inc()
                self._spend(failure)
                return

    def _next_group(self) -> list[tuple[Sequence[Outgoing], asyncio.Future[None]]]:
        """Take as many writes as one transaction should hold, at least one."""
        count = records = size = 0
        for written, _ in self._waiting:
            records += len(written)
            size += sum(len(record.value or b"") for record in written)
            if count and (records > GROUP_RECORDS or size > GROUP_BYTES):
                break
            count += 1
        group, self._waiting = self._waiting[:count], self._waiting[count:]
        return group

    async def _transact(self, records: Sequence[Outgoing]) -> None:
        await self._producer.begin_transaction()
        sends = []
        try:
            for record in records:
                sends.append(  # noqa: PERF401 - what was sent must be known when the next fails
                    await self._producer.send(
                        record.topic,
                        record.value,
                        key=record.key,
                        partition=record.partition,
                        headers=[(name, text.encode()) for name, text in record.headers.items()],
                    )
                )
            await self._producer.commit_transaction()
        finally:
            for send in sends:
                # What failed is told by the commit; asked here, it is not called forgotten.
                send.add_done_callback(_look)

    def _spend(self, failure: OwnershipLost | LogUnavailableError) -> None:
        if self._spent is None:
            self._spent = failure
        waiting, self._waiting = self._waiting, []
        for _, written in waiting:
            _settle(written, failure)


def _look(send: "asyncio.Future[Any]") -> None:
    if not send.cancelled():
        send.exception()


def _settle(written: "asyncio.Future[None]", failure: BaseException | None) -> None:
    if written.done():
        return
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(type(failure)(str(failure)))


async def _stop(producer: AIOKafkaProducer) -> None:
    """Close the producer; returns within seconds.

    Whatever was promised is committed already, so there is nothing to flush; aiokafka's own stop
    would wait for what a silent broker still owes.
    """
    producer._closed = True  # noqa: SLF001 - else it complains that nobody stopped it
    with suppress(KafkaError, OSError):
        await closed(producer.client.close(), STOP_SECONDS)
    with suppress(KafkaError, OSError):
        # There is no stop without a flush.
        await closed(producer._sender.close(), STOP_SECONDS)  # noqa: SLF001
    # What was given up holds the failure once more, where nobody looks; Python would complain of it
    # in the log, long after the write was told.
    given_up = [
        batch._drain_waiter  # noqa: SLF001
        for batches in producer._message_accumulator._batches.values()  # noqa: SLF001
        for batch in batches
    ]
    given_up.append(producer._txn_manager.wait_for_transaction_end())  # noqa: SLF001
    for waiter in given_up:
        if waiter is not None and waiter.done():
            _look(waiter)
