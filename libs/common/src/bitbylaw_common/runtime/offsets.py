"""Which offsets of a partition may be committed (pure)."""

from collections import deque
from dataclasses import dataclass, field


@dataclass(slots=True)
class Offsets:
    """The records of one partition between delivery and commit.

    Delivered in rising order, with gaps where the log has them; finished in any order. Committable
    is the first offset that is not finished: everything below it never runs again.
    """

    _open: deque[int] = field(default_factory=deque)
    _finished: set[int] = field(default_factory=set)
    _next: int | None = None
    _acknowledged: int | None = None

    @property
    def unfinished(self) -> int:
        """How many delivered records have no acknowledged outcome yet."""
        return len(self._open) - len(self._finished)

    @property
    def oldest(self) -> int | None:
        """The record that holds the watermark; None when all are finished."""
        return self._open[0] if self._open else None

    def delivered(self, offset: int) -> bool:
        """Note a delivery; False when the offset was seen already (a fetch after a seek)."""
        if self._open and offset <= self._open[-1]:
            return False
        if self._next is not None and offset < self._next:
            return False
        self._open.append(offset)
        return True

    def finished(self, offset: int) -> None:
        """Note that the record's outcome is acknowledged; a repeated call does nothing."""
        if not self._open or offset < self._open[0]:
            return
        self._finished.add(offset)
        while self._open and self._open[0] in self._finished:
            done = self._open.popleft()
            self._finished.discard(done)
            self._next = done + 1

    @property
    def committable(self) -> int | None:
        """The offset to commit; None when it was acknowledged already or nothing finished."""
        return None if self._next == self._acknowledged else self._next

    def committed(self, offset: int) -> None:
        """Note that the broker acknowledged a commit of `offset`."""
        self._acknowledged = offset
