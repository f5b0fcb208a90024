"""Which offsets of a partition are finished, and how a commit says it (pure)."""

import base64
import binascii
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Self

METADATA_CHARACTERS = 4_096
"""Kafka refuses a commit whose metadata is longer (`offset.metadata.max.bytes`)."""

PAUSE_CHARACTERS = 3_500
"""From here on nothing more is fetched of the partition until older records finish."""

_FORM = "u1"


@dataclass(frozen=True, slots=True)
class Commit:
    """What one commit says about a partition.

    Attributes:
        offset: everything below it is finished.
        metadata: which of the records from there on are not; empty when none was delivered.
    """

    offset: int
    metadata: str = ""


@dataclass(slots=True)
class Offsets:
    """The records of one partition between delivery and commit.

    Delivered in rising order, with gaps where the log has them; finished in any order. A commit
    holds the first offset that is not finished and, in its metadata, which ones beyond it are not:
    a worker that takes over runs those, and none that finished before the commit.

    Attributes:
        crowded: at the last commit so much lay unfinished that it could soon not be said any more.
    """

    crowded: bool = False

    _open: deque[int] = field(default_factory=deque)
    _finished: set[int] = field(default_factory=set)
    _next: int | None = None
    _end: int = -1
    _last: int = -1  # the highest that is finished
    _owed: frozenset[int] = frozenset()
    _owed_end: int = -1
    _acknowledged: Commit | None = None

    @classmethod
    def restored(cls, commit: Commit) -> Self:
        """Return the state that a commit tells of.

        Metadata that is unknown, damaged or of another offset counts as empty: then what finished
        beyond the offset runs again, and writes nothing.
        """
        found = decoded(commit)
        end, owed = found if found is not None else (commit.offset, ())
        return cls(
            _next=commit.offset,
            _end=commit.offset - 1,
            _owed=frozenset(owed),
            _owed_end=end,
            _acknowledged=commit,
        )

    def rewound(self) -> "Offsets":
        """Return the state as a new owner would find it, had everything been committed now."""
        if self._next is None:
            return Offsets()
        end = self._known
        return Offsets(
            _next=self._next,
            _end=self._next - 1,
            _owed=frozenset(self._behind(end)),
            _owed_end=end,
            _acknowledged=self._acknowledged,
        )

    @property
    def unfinished(self) -> int:
        """How many delivered records have no acknowledged outcome yet."""
        return len(self._open) - len(self._finished)

    @property
    def oldest(self) -> int | None:
        """The record that holds the watermark; None when all are finished."""
        return self._open[0] if self._open else None

    @property
    def position(self) -> int | None:
        """Where to read on; None when nothing is known yet."""
        return self._next if self._end < 0 else max(self._end + 1, self._next or 0)

    def delivered(self, offset: int) -> bool:
        """Note a delivery; False when it is known as delivered or finished and must not run."""
        if offset <= self._end:
            return False
        if offset < self._owed_end and offset not in self._owed:
            # Finished under an earlier owner. With nothing open before it the watermark moves on.
            self._end = self._last = offset
            if not self._open:
                self._next = offset + 1
            return False
        if self._next is None:
            self._next = offset
        self._open.append(offset)
        self._end = offset
        return True

    def finished(self, offset: int) -> None:
        """Note that the record's outcome is acknowledged; a repeated call does nothing."""
        if not self._open or offset < self._open[0]:
            return
        self._finished.add(offset)
        self._last = max(self._last, offset)
        while self._open and self._open[0] in self._finished:
            self._finished.discard(self._open.popleft())
        # With nothing open, everything delivered is finished, also what an earlier owner finished.
        self._next = self._open[0] if self._open else self._end + 1

    def commit(self) -> Commit | None:
        """Return what to commit; None when the broker knows it already, or nothing is known."""
        if self._next is None:
            return None
        found = Commit(self._next, self._metadata())
        if found == self._acknowledged or (self._acknowledged is None and found == Commit(0)):
            return None
        return found

    def committed(self, commit: Commit) -> None:
        """Note that the broker acknowledged this commit."""
        self._acknowledged = commit

    @property
    def _known(self) -> int:
        """The end of what a commit must tell of: behind the last finished one nothing is finished."""
        return max(self._last + 1, self._owed_end)

    def _behind(self, end: int) -> Iterator[int]:
        """Yield, rising, what is not finished of the offsets before `end`."""
        for offset in self._open:
            if offset >= end:
                return
            if offset not in self._finished:
                yield offset
        yield from sorted(offset for offset in self._owed if self._end < offset < end)

    def _metadata(self) -> str:
        end = self._known
        first = self._next or 0
        self.crowded = False
        if end <= first:
            return ""
        owed = list(self._behind(end))
        if len(owed) == end - first:
            return ""
        text = encoded(first, end, owed)
        self.crowded = len(text) > PAUSE_CHARACTERS
        while len(text) > METADATA_CHARACTERS:
            # What is cut off counts as unfinished: it may run again, and is never lost.
            owed = owed[: len(owed) * METADATA_CHARACTERS * 97 // (len(text) * 100)]
            end = owed[-1] + 1
            text = encoded(first, end, owed)
        return text


def encoded(first: int, end: int, unfinished: list[int]) -> str:
    """Return commit metadata: of the offsets `first` to `end`, all but `unfinished` are finished.

    The distances between them as variable-length numbers, compressed, in base64.
    """
    numbers = bytearray()
    _put(numbers, first)
    _put(numbers, end - first)
    before = first
    for offset in unfinished:
        _put(numbers, offset - before)
        before = offset
    packed = zlib.compress(bytes(numbers), 6)
    return _FORM + base64.b64encode(packed).decode()


def decoded(commit: Commit) -> tuple[int, tuple[int, ...]] | None:
    """Return the end of what the metadata tells of and the unfinished offsets before it.

    Returns:
        None where it is empty, of another form or version, damaged, or of another offset.
    """
    if not commit.metadata.startswith(_FORM):
        return None
    try:
        numbers = _numbers(
            _unpacked(base64.b64decode(commit.metadata[len(_FORM) :], validate=True))
        )
        first, span = next(numbers), next(numbers)
        distances = list(numbers)
    except (binascii.Error, zlib.error, ValueError, StopIteration):
        return None
    if first != commit.offset:
        return None
    unfinished: list[int] = []
    before = first
    for distance in distances:
        before += distance
        unfinished.append(before)
    rising = all(a < b for a, b in pairwise(unfinished))
    if not rising or (unfinished and unfinished[-1] >= first + span):
        return None
    return first + span, tuple(unfinished)


_UNPACKED_BYTES = 1024 * 1024


def _unpacked(packed: bytes) -> bytes:
    """Return at most a megabyte: four thousand characters of ours hold far less.

    Raises:
        ValueError: it is longer, or ends too early.
    """
    inflate = zlib.decompressobj()
    found = inflate.decompress(packed, _UNPACKED_BYTES)
    if not inflate.eof:
        raise ValueError("the metadata is cut off or too long")
    return found


def _put(numbers: bytearray, value: int) -> None:
    while value > 0x7F:
        numbers.append(value & 0x7F | 0x80)
        value >>= 7
    numbers.append(value)


def _numbers(packed: bytes) -> Iterator[int]:
    value = shift = 0
    for byte in packed:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            yield value
            value = shift = 0
    if shift:
        raise ValueError("the metadata ends in the middle of a number")
