"""The body of an answer and the call behind it: which of the two ends first, and how."""

from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self

import pytest

from bitbylaw_advoware_proxy.relay import Patience, Relay
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import Transient


class Call:
    """A call and its answer, with these pieces; one that is an error breaks it."""

    status = 200
    headers: dict[str, str] = {}  # noqa: RUF012 - never changed

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = pieces
        self.ended: list[type[BaseException] | None] = []

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if isinstance(piece, Exception):
                raise piece
            yield piece

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.ended.append(kind)


def relayed(call: Call) -> tuple[Relay, list[bool]]:
    relay, told = Relay(call, call, Patience(Deadlines(5))), list[bool]()
    relay.on_end = told.append
    return relay, told


async def test_the_call_behind_a_body_that_was_read_ends_after_the_body() -> None:
    call = Call(b"ab", b"cd")
    relay, told = relayed(call)
    assert relay.give(b"<" + await relay.read(100) + b">") == 6
    assert await anext(relay) == b"<abcd>"
    assert (call.ended, told) == ([], [])
    assert [piece async for piece in relay] == []
    assert (call.ended, told) == ([None], [True])


async def test_a_body_that_nobody_takes_ends_its_call_once_and_is_not_whole() -> None:
    call = Call(b"ab")
    relay, told = relayed(call)
    relay.give(await relay.read(100))
    await relay.aclose()
    await relay.aclose()
    assert (call.ended, told) == ([None], [False])


async def test_a_body_that_breaks_off_while_it_is_read_ends_its_call_with_the_reason() -> None:
    call = Call(b"ab", Transient("Advoware", "call", detail="it broke off"))
    relay, told = relayed(call)
    with pytest.raises(Transient):
        await relay.read(100)
    assert (call.ended, told) == ([Transient], [False])


async def test_more_than_was_asked_for_is_cut_off() -> None:
    assert await relayed(Call(b"abc", b"def", b"ghi"))[0].read(4) == b"abcd"
