"""Bytes from EspoCRM to xAI: in constant memory, and never wrong ones."""

import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from bitbylaw_common.outcomes import Done
from bitbylaw_document_sync.domain.model import FileFacts
from bitbylaw_document_sync.executor import BytesDifferError, Checked
from unit.document_sync.fakes import Bench, Crm, Files, md5_of

MIB = 1024 * 1024
PIECE = bytes(range(256)) * 1024  # 256 KiB


class LargeCrm(Crm):
    """A CRM whose one attachment is 40 MiB that never exist at once."""

    async def inspect(self, attachment_id: str, *, hashed: bool) -> FileFacts:
        return FileFacts(attachment_id, "Akte.pdf", "application/pdf", 40 * MIB)

    @asynccontextmanager
    async def content(self, attachment_id: str) -> AsyncIterator[AsyncIterator[bytes]]:
        yield self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        for _ in range(160):
            yield bytes(PIECE)


class CountingFiles(Files):
    """xAI's files, which count what comes instead of keeping it."""

    received = 0

    async def upload(
        self, content: AsyncIterable[bytes], *, name: str, mime: str, size: int
    ) -> str:
        async for chunk in content:
            self.received += len(chunk)
        return self.world.put(name, b"")


async def test_forty_mib_pass_through_in_constant_memory() -> None:
    bench = Bench()
    bench.xai.add_collection("akte-1")
    crm = LargeCrm(bench.moments)
    crm.add("d1", b"", "akte-1")
    crm.rows["d1"].md5 = md5_of(PIECE * 160)
    files = CountingFiles(bench.xai)
    bench.xai.reported_hash = "none"  # it counts the bytes and keeps others
    bench.deps = replace(bench.deps, documents=crm, files=files)
    tracemalloc.start()
    try:
        outcome = await bench.run("d1")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(outcome, Done)
    assert files.received == 40 * MIB
    assert peak < 2 * MIB


async def pieces(*given: bytes) -> AsyncIterator[bytes]:
    for piece in given:
        yield piece


async def test_right_bytes_pass_whole_and_in_order() -> None:
    checked = Checked(pieces(b"ab", b"c", b"", b"de"), md5=md5_of(b"abcde"), size=5)
    assert b"".join([piece async for piece in checked]) == b"abcde"
    assert (checked.md5, checked.size) == (md5_of(b"abcde"), 5)
    assert checked.released
    assert not checked.differs
    assert len(checked.sha256) == 64


@pytest.mark.parametrize(
    ("md5", "size"), [(md5_of(b"other"), 5), (md5_of(b"abcde"), 6), (md5_of(b"abcde"), 4)]
)
async def test_the_last_piece_of_wrong_bytes_never_leaves(md5: str, size: int) -> None:
    checked = Checked(pieces(b"ab", b"c", b"de"), md5=md5, size=size)
    left: list[bytes] = []

    async def send() -> None:
        async for piece in checked:
            left.append(piece)  # noqa: PERF401 - what left before the error is what counts

    with pytest.raises(BytesDifferError):
        await send()
    assert left == [b"ab", b"c"]
    assert checked.differs
    assert not checked.released
