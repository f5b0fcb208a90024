"""Bytes kept once per content, in memory or in a folder, indexed by SHA-256."""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from blake3 import blake3

from bitbylaw_simulators.wire import CHUNK, SimResponse


@dataclass(frozen=True, slots=True)
class Stored:
    """One content and its hashes, all in lower-case hex."""

    sha256: str
    md5: str
    blake3: str
    size: int


class Contents:
    """Holds contents by their SHA-256.

    Args:
        folder: where they lie as files; None keeps them in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._held: dict[str, bytes] = {}
        self._known: dict[str, Stored] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def add(self, content: bytes | Iterable[bytes]) -> Stored:
        """Keep `content`, given whole or in pieces; the same bytes are kept once."""
        pieces = sliced(content) if isinstance(content, bytes) else content
        return self._to_memory(pieces) if self._folder is None else self._to_disk(pieces)

    def read(self, sha256: str) -> bytes:
        """Return the bytes of a content that was added.

        Raises:
            KeyError: it was not.
        """
        if self._folder is None:
            return self._held[sha256]
        if sha256 not in self._known:
            raise KeyError(sha256)
        return (self._folder / sha256).read_bytes()

    def answer(self, sha256: str, headers: Mapping[str, str]) -> SimResponse:
        """Return the content as a 200, not loaded where it lies on disk."""
        if self._folder is None:
            return SimResponse(200, headers, self._held[sha256])
        return SimResponse(200, headers, file=self._folder / sha256)

    def stored(self, sha256: str) -> Stored:
        """Return the hashes and the size of a content that was added."""
        return self._known[sha256]

    def clear(self) -> None:
        """Forget everything; files in a folder are removed."""
        if self._folder is not None:
            for sha256 in self._known:
                (self._folder / sha256).unlink(missing_ok=True)
        self._held.clear()
        self._known.clear()

    def dump(self) -> list[dict[str, object]]:
        """Return hashes and sizes, as `load` takes them; never the bytes."""
        return [asdict(stored) for stored in self._known.values()]

    def load(self, entries: Iterable[Mapping[str, object]]) -> None:
        """Know again what lies in the folder; an entry whose file is gone is left out."""
        for entry in entries:
            stored = Stored(
                sha256=str(entry["sha256"]),
                md5=str(entry["md5"]),
                blake3=str(entry["blake3"]),
                size=int(str(entry["size"])),
            )
            if self._folder is not None and (self._folder / stored.sha256).exists():
                self._known[stored.sha256] = stored

    def _to_memory(self, pieces: Iterable[bytes]) -> Stored:
        whole = b"".join(pieces)
        stored = _hashed([whole])
        self._held[stored.sha256] = whole
        self._known[stored.sha256] = stored
        return stored

    def _to_disk(self, pieces: Iterable[bytes]) -> Stored:
        assert self._folder is not None  # noqa: S101 - tells the type checker what `add` decided
        handle, name = tempfile.mkstemp(dir=self._folder, prefix=".incoming-")
        with os.fdopen(handle, "wb") as file:

            def written() -> Iterable[bytes]:
                for piece in pieces:
                    file.write(piece)
                    yield piece

            stored = _hashed(written())
        Path(name).rename(self._folder / stored.sha256)
        self._known[stored.sha256] = stored
        return stored


def sliced(view: bytes | mmap.mmap, start: int = 0, end: int | None = None) -> Iterable[bytes]:
    """Yield `view[start:end]` in pieces; a mapped file may stand for the bytes."""
    stop = len(view) if end is None else end
    for at in range(start, stop, CHUNK):
        yield bytes(view[at : min(at + CHUNK, stop)])


def _hashed(pieces: Iterable[bytes]) -> Stored:
    sha256, md5, third, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), blake3(), 0
    for piece in pieces:
        sha256.update(piece)
        md5.update(piece)
        third.update(piece)
        size += len(piece)
    return Stored(sha256.hexdigest(), md5.hexdigest(), third.hexdigest(), size)
