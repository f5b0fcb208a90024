"""A call while it passes: the caller's body on its way there, Advoware's on its way back."""

from collections.abc import AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Self

from bitbylaw_advoware_proxy.deps import UpstreamAnswer
from bitbylaw_advoware_proxy.domain.answers import AFTER, BEFORE, EMPTY, beginning
from bitbylaw_common.clients.advoware_auth import SYSTEM
from bitbylaw_common.deadlines import Deadlines, Limit
from bitbylaw_common.errors import TimedOut


class Patience:
    """How long Advoware may keep us waiting for it to take or to send a byte.

    A whole call may take long, because bodies are large; a pause in the middle of it may not. While
    the caller is the one who is waited for, Advoware is not blamed.
    """

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._limit: Limit | None = None

    def __enter__(self) -> None:
        """Limit what is done in the block; blocks follow one another."""
        self._limit = self._deadlines.limit()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the limit.

        Raises:
            TimedOut: nothing moved for too long.
        """
        limit, self._limit = self._limit, None
        if limit is None:
            return
        try:
            limit.__exit__(kind, error, trace)
        except TimeoutError:
            raise TimedOut(
                SYSTEM, "call", detail=f"nothing moved for {self._deadlines.seconds:g} s"
            ) from None

    async def watched(self, body: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        """Yield the caller's body; each piece that is taken begins the wait anew."""
        pieces = aiter(body)
        while True:
            self._suspend()
            try:
                piece = await anext(pieces, b"")
            finally:
                self._resume()
            if not piece:
                return
            yield piece

    def _suspend(self) -> None:
        if self._limit is not None:
            self._limit.over = True

    def _resume(self) -> None:
        if self._limit is not None and not self._limit.expired:
            self._limit = self._deadlines.renewed(self._limit)


class Relay:
    """The body of an answer, as the host takes it; the call ends with it, whichever way it ends.

    Args:
        answer: whose body it is.
        call: entered; it is left when the body ends.
        patience: with Advoware.

    Attributes:
        on_end: told once, whether the body came to its end.
    """

    def __init__(
        self,
        answer: UpstreamAnswer,
        call: AbstractAsyncContextManager[UpstreamAnswer],
        patience: Patience,
    ) -> None:
        self.on_end: Callable[[bool], None] = lambda whole: None
        self._chunks = answer.chunks()
        self._call = call
        self._patience = patience
        self._ahead: list[bytes] = []
        self._closed = False
        self._ended = False
        self._last = b""

    async def read(self, limit: int) -> bytes:
        """Return the body when it has at most `limit` bytes, cut there when it has more.

        Raises:
            Transient: it broke off.
        """
        found = bytearray()
        try:
            with self._patience:
                while len(found) <= limit and (piece := await anext(self._chunks, b"")):
                    found += piece
        except BaseException as broken:
            await self.fail(broken)
            raise
        return bytes(found[:limit])

    def give(self, body: bytes) -> int:
        """Make this the whole body, in place of what was read; return its length.

        The call ends behind it, as behind any other body: the caller has its answer by then.
        """
        self._ahead, self._ended = [body], True
        return len(body)

    async def begin(self, *, as_json: bool) -> bool:
        """Wait for the first bytes; return whether there are any.

        Args:
            as_json: the body is to stand inside `{"result": ...}`.

        Raises:
            Transient: it broke off before them.
        """
        first = piece = await self._piece()
        if as_json:
            first = beginning(piece, first=True)
            while piece and not first:
                piece = await self._piece()
                first = beginning(piece, first=False)
            self._ahead = [BEFORE, first] if first else [EMPTY]
            self._last = AFTER if first else b""
        elif first:
            self._ahead = [first]
        return bool(first)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """Return the next piece.

        Raises:
            Transient: the body broke off.
        """
        if self._ahead:
            ahead, self._ahead = b"".join(self._ahead), []
            return ahead
        if not self._ended and (piece := await self._piece()):
            return piece
        if self._last:
            last, self._last, self._ended = self._last, b"", True
            return last
        await self._close(whole=True)
        raise StopAsyncIteration

    async def aclose(self) -> None:
        """End the call, also where the body has not been taken."""
        await self._close(whole=False)

    async def _piece(self) -> bytes:
        try:
            with self._patience:
                return await anext(self._chunks, b"")
        except BaseException as broken:
            await self.fail(broken)
            raise

    async def fail(self, error: BaseException) -> None:
        """End the call with what broke it: its own block learns of it, and who judges Advoware."""
        if not self._closed:
            self._closed = True
            try:
                await self._call.__aexit__(type(error), error, error.__traceback__)
            finally:
                self.on_end(False)

    async def _close(self, *, whole: bool) -> None:
        if not self._closed:
            self._closed = True
            try:
                await self._call.__aexit__(None, None, None)
            finally:
                self.on_end(whole)
