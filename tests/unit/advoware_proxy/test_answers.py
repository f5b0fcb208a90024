"""How Advoware's answers become ours, without a network."""

import asyncio
from collections.abc import AsyncIterator, Mapping

import pytest
from multidict import CIMultiDict

from bitbylaw_advoware_proxy.domain.answers import (
    announced_bytes,
    beginning,
    forwarded,
    has_body,
    is_json,
    kept,
    words_of,
)
from bitbylaw_advoware_proxy.relay import Patience, Relay
from bitbylaw_common.deadlines import Deadlines
from bitbylaw_common.errors import TimedOut, Transient


@pytest.mark.parametrize(
    ("content_type", "json"),
    [
        ("application/json", True),
        ("application/json; charset=utf-8", True),
        ('Application/JSON;charset="UTF-8"', True),
        ("text/json", True),
        ("application/problem+json", True),
        ("application/json; charset=iso-8859-1", False),
        ("application/json; charset=utf-16", False),
        ("application/jsonp", False),
        ("text/plain", False),
        ("application/pdf", False),
        ("", False),
    ],
)
def test_json_is_what_fits_into_ours(content_type: str, json: bool) -> None:
    assert is_json(content_type) is json


def test_what_may_stand_before_json_is_left_out() -> None:
    assert beginning(b'\xef\xbb\xbf\r\n {"a": 1}', first=True) == b'{"a": 1}'
    assert beginning(b" \t", first=True) == b""
    assert beginning(b'\xef\xbb\xbf"', first=False) == b'\xef\xbb\xbf"'


def test_a_body_is_there_when_it_is_announced_or_comes_in_pieces() -> None:
    assert has_body({"content-length": "1"})
    assert has_body({"transfer-encoding": "chunked"})
    assert not has_body({"content-length": "0"})
    assert not has_body({})


def test_without_a_body_nothing_is_said_about_one() -> None:
    headers = {"content-type": "a/b", "content-length": "3", "accept": "*/*", "apikey": "k"}
    assert forwarded(headers, has_body=False) == {"accept": "*/*"}
    assert "apikey" not in forwarded(headers, has_body=True)


def test_the_length_of_what_is_unpacked_is_not_told() -> None:
    packed = CIMultiDict({"Content-Length": "10", "Content-Encoding": "gzip"})
    assert announced_bytes(packed) is None
    assert "content-length" not in kept(packed)
    assert kept(CIMultiDict({"Content-Length": "10"})) == {
        "content-type": "application/octet-stream",
        "content-length": "10",
    }


def test_a_header_that_cannot_be_sent_is_left_out() -> None:
    headers = CIMultiDict({"Content-Type": "a/b", "Content-Disposition": 'filename="\x01ä"'})
    assert kept(headers) == {"content-type": "a/b"}


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        ("application/json", b'{"message": "Das Feld rowId fehlt."}', "Das Feld rowId fehlt."),
        ("application/json", b'{"Message": "x", "Detail": "y\\n z"}', "y z"),
        ("application/json", b'"nur Text"', "nur Text"),
        ("application/json", b'{"errors": {"name": ["Pflichtfeld"]}}', ""),
        ("application/json", b"[" * 100_000, ""),
        ("application/json", b"", ""),
        ("text/plain; charset=utf-8", "für\x00 dich".encode(), "für dich"),
        ("text/html", b"<html>", ""),
        ("application/json", b'{"message": "token ' + b"a1" * 40 + b' ist alt"}', "token *** ist alt"),
    ],
)  # fmt: skip
def test_of_an_error_advoware_s_own_words_are_told_and_nothing_like_a_secret(
    content_type: str, body: bytes, words: str
) -> None:
    assert words_of(content_type, body) == words


def test_endless_words_are_cut() -> None:
    assert len(words_of("text/plain", b"ja und " * 10_000)) == 500


# -- a body on its way ----------------------------------------------------------------------------


class Given:
    """An answer of these pieces; `None` breaks off, a number waits as many seconds."""

    def __init__(self, *pieces: bytes | float | None) -> None:
        self.status = 200
        self.headers: Mapping[str, str] = {}
        self.ended = False
        self._pieces = pieces

    async def chunks(self) -> AsyncIterator[bytes]:
        for piece in self._pieces:
            if piece is None:
                raise Transient("advoware", "call_get", detail="the answer broke off")
            if isinstance(piece, float):
                await asyncio.sleep(piece)
            else:
                yield piece


class Call:
    """The block that holds a call; it remembers how it was left."""

    def __init__(self) -> None:
        self.left_with: list[type[BaseException] | None] = []

    async def __aenter__(self) -> Given:
        raise AssertionError("it was entered before")

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.left_with.append(kind)


async def relaying(given: Given, call: Call, seconds: float = 5) -> Relay:
    return Relay(given, call, Patience(Deadlines(seconds)))


@pytest.mark.parametrize(
    ("pieces", "wrapped"),
    [
        ((b"[1,", b"2]"), b'{"result": [1,2]}'),
        ((b"\xef\xbb\xbf", b" \n", b"[1]"), b'{"result": [1]}'),
        ((b" ", b"\n"), b'{"result": null}'),
        ((), b'{"result": null}'),
    ],
)
async def test_json_is_wrapped_piece_by_piece(pieces: tuple[bytes, ...], wrapped: bytes) -> None:
    call, ends = Call(), list[bool]()
    relay = await relaying(Given(*pieces), call)
    relay.on_end = ends.append
    await relay.begin(as_json=True)
    assert b"".join([piece async for piece in relay]) == wrapped
    assert (call.left_with, ends) == ([None], [True])


async def test_a_body_that_is_not_taken_ends_its_call_all_the_same() -> None:
    call, ends = Call(), list[bool]()
    relay = await relaying(Given(b"a", b"b"), call)
    relay.on_end = ends.append
    await relay.begin(as_json=False)
    await relay.aclose()
    await relay.aclose()
    assert (call.left_with, ends) == ([None], [False])


async def test_a_body_that_breaks_off_ends_its_call_with_the_reason() -> None:
    call, ends = Call(), list[bool]()
    relay = await relaying(Given(b"a", None), call)
    relay.on_end = ends.append
    await relay.begin(as_json=False)
    assert await anext(relay) == b"a"
    with pytest.raises(Transient):
        await anext(relay)
    await relay.aclose()
    assert (call.left_with, ends) == ([Transient], [False])


async def test_a_pause_in_the_middle_is_limited_and_the_whole_is_not() -> None:
    pieces: list[bytes | float] = [0.06, b"x"] * 10
    steady = await relaying(Given(*pieces), Call(), seconds=0.4)
    await steady.begin(as_json=False)
    assert [piece async for piece in steady] == [b"x"] * 10
    call = Call()
    stalling = await relaying(Given(b"x", 5.0, b"y"), call, seconds=0.05)
    await stalling.begin(as_json=False)
    assert await anext(stalling) == b"x"
    with pytest.raises(TimedOut):
        await anext(stalling)
    assert call.left_with == [TimedOut]
