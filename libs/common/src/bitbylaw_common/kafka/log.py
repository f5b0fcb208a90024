"""Kafka as the runtime's `Log`: append with acknowledgement, read to the end."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError, MessageSizeTooLargeError, OutOfOrderSequenceNumber

from bitbylaw_common import metrics
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import LogUnavailableError, RecordRefused
from bitbylaw_common.kafka.closing import CLOSE_SECONDS, closed
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.kafka.state import KafkaState
from bitbylaw_common.logs import step_logger
from bitbylaw_common.runtime.ports import Outgoing, Position, Record, State, check_sizes
from bitbylaw_common.topics import LARGE_RECORD_BYTES, MIB

BYTES_WAITING = 64 * MIB
"""At most this many bytes wait for Kafka; more is refused at once instead of eating memory."""

CONNECT_PAUSE_SECONDS = 1.0

_SPOILING = (MessageSizeTooLargeError, OutOfOrderSequenceNumber)

READ_SECONDS = 60.0
"""Reading to the end gives up after this long without a record."""


@dataclass(slots=True)
class _Totals:
    """What all logs of this process hold; asked for when metrics are read, not at each record."""

    waiting: int = 0


_totals = _Totals()
metrics.KAFKA_BYTES_WAITING.set_function(lambda: _totals.waiting)


class KafkaLog:
    """One idempotent producer, and a reader for whole partitions. An async context manager.

    Made on the event loop that it lives on.

    Args:
        options: how to connect: `KafkaSettings.client_options()`.
        service: names the process to the broker and in metrics.
        acknowledge_seconds: how long `append` waits for all in-sync replicas.
    """

    def __init__(
        self, options: Mapping[str, Any], *, service: str, acknowledge_seconds: float = 4.0
    ) -> None:
        self._options = dict(options)
        self._service = service
        self._deadlines = Deadlines(acknowledge_seconds)
        self._waiting = 0
        self._producer: AIOKafkaProducer | None = None
        self._loop = asyncio.get_running_loop()
        self._open = asyncio.Event()
        self._connecting: asyncio.Task[None] | None = None
        self._logger = step_logger(service=service)

    async def __aenter__(self) -> Self:
        """Begin to connect, and go on trying until a broker answers."""
        self._connecting = asyncio.create_task(self._connect())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush for a moment, then disconnect."""
        if self._connecting is not None:
            self._connecting.cancel()
            await asyncio.wait({self._connecting}, timeout=2 * CLOSE_SECONDS)
        producer, self._producer = self._producer, None
        if producer is not None:
            try:
                async with asyncio.timeout(self._deadlines.seconds):
                    await producer.stop()
            except TimeoutError:
                # With the broker gone a flush would wait for ever; what is not acknowledged was
                # reported as such to whoever appended it.
                await closed(producer._sender.close())  # noqa: SLF001 - aiokafka has no stop without a flush
                await closed(producer.client.close())

    async def connected(self, seconds: float) -> None:
        """Return once a broker answered.

        Raises:
            LogUnavailableError: none did within `seconds`.
        """
        try:
            async with asyncio.timeout(seconds):
                await self._open.wait()
        except TimeoutError:
            raise LogUnavailableError(
                "no Kafka broker answers at KAFKA_BOOTSTRAP_SERVERS"
            ) from None

    async def _connect(self) -> None:
        while True:
            producer = AIOKafkaProducer(
                **self._options,
                client_id=self._service,
                acks="all",
                enable_idempotence=True,
                linger_ms=0,
                max_request_size=LARGE_RECORD_BYTES + MIB,
                request_timeout_ms=10_000,
                retry_backoff_ms=200,
            )
            try:
                await producer.start()
            except (KafkaError, OSError) as down:
                await closed(producer.stop())
                self._logger.warning(
                    "no Kafka broker answers; trying again", error=type(down).__name__
                )
                await asyncio.sleep(CONNECT_PAUSE_SECONDS)
                continue
            except asyncio.CancelledError:
                await closed(producer.stop())
                raise
            self._producer = producer
            self._open.set()
            return

    def _renew(self) -> None:
        """Go on with another producer.

        What the broker refused for good leaves a gap in the partition's sequence, and it refuses
        whatever this producer sends behind the gap, for ever.
        """
        spoilt = self._producer
        if spoilt is None:
            return  # another append that failed with it has seen to that
        self._producer = None
        self._open.clear()
        self._connecting = asyncio.create_task(self._replace(spoilt))

    async def _replace(self, spoilt: AIOKafkaProducer) -> None:
        try:
            await self._connect()
        finally:
            await closed(spoilt.stop())

    @property
    def bytes_waiting(self) -> int:
        """Bytes handed to Kafka that are not acknowledged yet."""
        return self._waiting

    async def take_over(self, service: str, partition: int) -> State:
        """Become the only writer of the partition's state; see `Log.take_over`."""
        return await KafkaState.taken_over(self._options, service, partition)

    async def append(self, records: Sequence[Outgoing]) -> list[Position]:
        """Append all; see `Log.append`. At most `BYTES_WAITING` wait at once.

        Raises:
            LogUnavailableError: too much waits already (nothing was sent), or it was not
                acknowledged in time (each may be stored, now or when the broker is back).
            RecordRefused: as `Log.append`; also where the broker's own limit is lower than declared.
        """
        if not records:
            return []
        check_sizes(records)
        size = sum(map(_weight, records))
        if self._waiting and self._waiting + size > BYTES_WAITING:
            metrics.KAFKA_APPEND_FAILURES.labels("refused").inc()
            raise LogUnavailableError(f"{self._waiting} bytes wait for Kafka already")
        started = self._loop.time()
        try:
            with self._deadlines.limit():
                if not self._open.is_set():
                    await self._open.wait()
                stored = await self._send(records, size)
        except TimeoutError:
            metrics.KAFKA_APPEND_FAILURES.labels("late").inc()
            raise LogUnavailableError(
                f"Kafka did not acknowledge: {self._deadlines.seconds:g} s passed"
            ) from None
        except (KafkaError, OSError) as failed:
            if isinstance(failed, _SPOILING):
                self._renew()
            raise _failed(failed) from failed
        metrics.KAFKA_APPEND_SECONDS.observe(self._loop.time() - started)
        return stored

    async def _send(self, records: Sequence[Outgoing], size: int) -> list[Position]:
        """Hand all to the producer, then wait for all.

        What is given up meanwhile goes on in the background, and keeps counting as waiting until
        the broker takes it.

        Raises:
            KafkaError: of the first that was not stored; every other was waited for.
        """
        self._count(size)
        arrivals = _Arrivals(self._loop, lambda: self._count(-size))
        sends: list[tuple[asyncio.Future[Any], Sequence[int]]] = []
        refused: KafkaError | None = None
        try:
            for place, numbers in _by_place(records).items():
                left = numbers
                while left:
                    try:
                        send, held = await self._hand_over(place, [records[n] for n in left])
                    except KafkaError as failed:
                        refused = refused or failed
                        break
                    arrivals.expect(send)
                    sends.append((send, left[:held]))
                    left = left[held:]
        finally:
            arrivals.handed_over()
        await arrivals.complete()
        for send, _ in sends:
            if (failure := send.exception()) is not None:
                raise failure
        if refused is not None:
            raise refused
        return _positions(len(records), sends)

    async def _hand_over(
        self, place: tuple[str, int], records: Sequence[Outgoing]
    ) -> tuple[asyncio.Future[Any], int]:
        """Give the producer what it takes at once of one partition's records, in their order.

        Returns:
            What ends when that is stored, with the place of its first record; and how many it holds.
        """
        if self._producer is None:
            raise LogUnavailableError("the connection to Kafka is not open")
        topic, partition = place
        first = records[0]
        send: asyncio.Future[Any]
        if len(records) == 1:
            # A single one shares its batch with those of others.
            send = await self._producer.send(
                topic, first.value, first.key, partition, None, _headers(first)
            )
            return send, 1
        # One by one, each would have a future of its own, which costs many times what it does.
        batch = self._producer.create_batch()
        held = 0
        for record in records:
            written = batch.append(
                timestamp=None, key=record.key, value=record.value, headers=_headers(record)
            )
            if written is None:
                break
            held += 1
        send = await self._producer.send_batch(batch, topic, partition=partition)
        return send, held

    def _count(self, size: int) -> None:
        self._waiting += size
        _totals.waiting += size

    async def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """Yield to the ends as they are now; see `Log.read`."""
        if not starts:
            return
        consumer = self._reader()
        try:
            await consumer.start()
            wanted = {TopicPartition(*place): start for place, start in starts.items()}
            consumer.assign(list(wanted))
            open_ends = await _seek(consumer, wanted)
            while open_ends:
                consumer.pause(*(place for place in wanted if place not in open_ends))
                async with asyncio.timeout(READ_SECONDS):
                    batches = await consumer.getmany(timeout_ms=1_000)
                for place, records in batches.items():
                    for record in records:
                        if record.offset < open_ends.get(place, 0):
                            yield from_kafka(record)
                for place in list(open_ends):
                    if await consumer.position(place) >= open_ends[place]:
                        del open_ends[place]
        except (KafkaError, OSError, TimeoutError) as down:
            raise LogUnavailableError(
                f"could not read {len(starts)} partitions to their ends: {type(down).__name__}"
            ) from down
        finally:
            await closed(consumer.stop())

    async def follow(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """Yield from `starts` on, and go on with what is appended, until the caller stops.

        Args:
            starts: as of `read`; -1 begins at the end.

        Raises:
            LogUnavailableError: the broker cannot be asked; begin again where it ended.
        """
        consumer = self._reader()
        try:
            await consumer.start()
            places = [TopicPartition(*place) for place in starts]
            consumer.assign(places)
            for place, start in zip(places, starts.values(), strict=True):
                if start >= 0:
                    consumer.seek(place, start)
            ends = [
                place for place, start in zip(places, starts.values(), strict=True) if start < 0
            ]
            if ends:
                await consumer.seek_to_end(*ends)
            while True:
                batches = await consumer.getmany(timeout_ms=1_000)
                for records in batches.values():
                    for record in records:
                        yield from_kafka(record)
        except (KafkaError, OSError) as down:
            raise LogUnavailableError(f"following broke off: {type(down).__name__}") from down
        finally:
            await closed(consumer.stop())

    def _reader(self) -> AIOKafkaConsumer:
        return AIOKafkaConsumer(
            **self._options,
            client_id=f"{self._service}-reader",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
            isolation_level="read_committed",
            max_partition_fetch_bytes=4 * MIB,
        )


class _Arrivals:
    """The records of one append on their way; together they are over once.

    Args:
        over: called when the broker took or refused the last, also where nobody waits any more.
    """

    __slots__ = ("_complete", "_loop", "_over", "_underway")

    def __init__(self, loop: asyncio.AbstractEventLoop, over: Callable[[], None]) -> None:
        self._loop = loop
        self._over = over
        self._underway = 1  # the handing over itself
        self._complete: asyncio.Future[None] | None = None

    def expect(self, send: asyncio.Future[Any]) -> None:
        """Count a record that is on its way."""
        self._underway += 1
        send.add_done_callback(self._arrived)

    def handed_over(self) -> None:
        """Expect no more."""
        self._underway -= 1
        if not self._underway:
            self._over()

    async def complete(self) -> None:
        """Return once every record arrived or failed."""
        if self._underway:
            self._complete = self._loop.create_future()
            await self._complete

    def _arrived(self, send: asyncio.Future[Any]) -> None:
        if not send.cancelled():
            send.exception()  # looked at: whoever gave it up was told already
        self._underway -= 1
        if not self._underway:
            self._over()
            if self._complete is not None and not self._complete.done():
                self._complete.set_result(None)


def _weight(record: Outgoing) -> int:
    return len(record.key) + len(record.value or b"")


def _headers(record: Outgoing) -> list[tuple[str, bytes]]:
    return [(name, text.encode()) for name, text in record.headers.items()]


def _by_place(records: Sequence[Outgoing]) -> dict[tuple[str, int], list[int]]:
    """Return the records' numbers by topic and partition."""
    places: dict[tuple[str, int], list[int]] = {}
    for number, record in enumerate(records):
        partition = partition_of(record.key) if record.partition is None else record.partition
        places.setdefault((record.topic, partition), []).append(number)
    return places


def _positions(
    count: int, sends: Sequence[tuple[asyncio.Future[Any], Sequence[int]]]
) -> list[Position]:
    """Return where each of `count` records lies, from what was stored of which."""
    found: dict[int, Position] = {}
    for send, numbers in sends:
        stored = send.result()
        for distance, number in enumerate(numbers):
            found[number] = Position(stored.topic, stored.partition, stored.offset + distance)
    return [found[number] for number in range(count)]


def _failed(error: KafkaError | OSError) -> LogUnavailableError | RecordRefused:
    if isinstance(error, MessageSizeTooLargeError):
        # Whoever tried again would try for ever.
        metrics.KAFKA_APPEND_FAILURES.labels("refused").inc()
        return RecordRefused("a record is larger than its topic takes, by the broker's own limit")
    metrics.KAFKA_APPEND_FAILURES.labels("error").inc()
    return LogUnavailableError(f"Kafka did not acknowledge: {type(error).__name__}")


async def _seek(
    consumer: AIOKafkaConsumer, wanted: Mapping[TopicPartition, int]
) -> dict[TopicPartition, int]:
    """Go to the wanted starts; return the ends of the partitions that hold anything from there."""
    async with asyncio.timeout(READ_SECONDS):
        firsts = await consumer.beginning_offsets(list(wanted))
        ends = await consumer.end_offsets(list(wanted))
    open_ends: dict[TopicPartition, int] = {}
    for place, start in wanted.items():
        first = max(start, firsts[place])
        consumer.seek(place, first)
        if first < ends[place]:
            open_ends[place] = ends[place]
    return open_ends


def from_kafka(record: Any) -> Record:
    """Return aiokafka's record as ours."""
    headers: dict[str, str] = {}
    for name, value in record.headers:
        try:
            headers[name] = (value or b"").decode()
        except UnicodeDecodeError:
            headers[name] = repr(value)
    return Record(
        record.topic,
        record.partition,
        record.offset,
        record.key,
        record.value,
        headers,
        datetime.fromtimestamp(record.timestamp / 1000, UTC) if record.timestamp >= 0 else None,
    )
