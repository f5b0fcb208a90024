"""Finds the items of a JSON body without building its values, in small steps (pure).

The standard library parses a value in one go and lets no other thread run meanwhile: 16 MiB of
`[],[],` were measured to take three seconds of the whole process, one long string 34 ms. This
reader looks at no more than a window at once, so a body of any shape can be judged in a thread
while the event loop goes on. It is also the authority on what is wrong with a body.
"""

import codecs
import json
import re
from dataclasses import dataclass
from enum import StrEnum

WINDOW_BYTES = 256 * 1024
"""The most that one regular expression looks at before other threads may run."""

MAX_ITEMS = 10_000
"""EspoCRM sends 50 in a post by default; each item becomes an event."""

MAX_DEPTH = 64
"""Containers inside one another, the item itself included; EspoCRM's items are flat."""

MAX_VALUES = 250_000
"""Values in a body, so that the longest judgement stays near one second."""


class Fault(StrEnum):
    """Why a body or an item cannot be read; never with any of its content."""

    NOT_UTF8 = "the body is not UTF-8"
    NOT_JSON = "the body is not JSON"
    NOT_A_BATCH = "the body is neither an array nor an object"
    NAME_TWICE = "an object names an attribute twice"
    TOO_DEEP = "the body is nested too deeply"
    TOO_MANY_ITEMS = "the body has too many items"
    TOO_MANY_VALUES = "the body has too many values"
    NOT_AN_OBJECT = "the item is not an object"
    NO_ID = "the item has no id"
    ID_NOT_TEXT = "the item's id is not a string"
    ID_IMPOSSIBLE = "the item's id cannot be an id of EspoCRM"


class UnskimmableError(ValueError):
    """The whole body is unreadable, for the reason in `fault`."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Outline:
    """One item as it stands in the body.

    Attributes:
        start, end: its bytes, without blanks around it.
        names: the attributes of an object, in order, each with the place of its value; None
            for an item that is no object.
    """

    start: int
    end: int
    names: dict[str, int] | None


_BLANKS = re.compile(rb"[ \t\n\r]*+")
_TEXT = re.compile(rb'(?:[^"\\\x00-\x1f]++|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*+')
_SCALAR = re.compile(rb"-?(?:0|[1-9][0-9]*+)(?:\.[0-9]++)?+(?:[eE][+-]?[0-9]++)?+|true|false|null")


def outlines(body: bytes, *, one_item: bool = False) -> tuple[tuple[Outline, ...], bool]:
    """Return the items of `body`, and whether they stood in an array.

    Args:
        body: an array of items or a single object.
        one_item: the body is one item of an array, whatever its kind.

    Raises:
        UnskimmableError: the body as a whole cannot be read.
    """
    _require_utf8(body)
    skimmer = _Skimmer(body)
    start = skimmer.blanks(0)
    if body[start : start + 1] == b"[" and not one_item:
        found, in_array = skimmer.items(start + 1), True
    else:
        found, in_array = [skimmer.item(start)], False
    if skimmer.blanks(skimmer.pos) != len(body):
        raise UnskimmableError(Fault.NOT_JSON)
    if not in_array and not one_item and found[0].names is None:
        raise UnskimmableError(Fault.NOT_A_BATCH)
    return tuple(found), in_array


def text_end(body: bytes, pos: int) -> int:
    """Return the place after the closing quote of the string whose text begins at `pos`.

    Raises:
        UnskimmableError: it is not closed, or holds what a JSON string must not.
    """
    while True:
        match = _TEXT.match(body, pos, pos + WINDOW_BYTES)
        end = match.end() if match else pos
        if body[end : end + 1] == b'"':
            return end + 1
        if end == pos:
            raise UnskimmableError(Fault.NOT_JSON)
        pos = end  # the window ended, perhaps within an escape: it begins the next one


def _require_utf8(body: bytes) -> None:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        for start in range(0, len(body), WINDOW_BYTES):
            decoder.decode(body[start : start + WINDOW_BYTES])
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise UnskimmableError(Fault.NOT_UTF8) from None


class _Skimmer:
    """Walks over one body. `pos` is where the last item ended."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.pos = 0
        self._values = 0
        self._open: list[dict[str, int] | None] = []
        """The containers around `pos`: the names so far for an object, None for an array."""

    def items(self, pos: int) -> list[Outline]:
        """Return the elements of the array whose bracket is just before `pos`."""
        found: list[Outline] = []
        pos = self.blanks(pos)
        if self._at(pos) == b"]":
            self.pos = pos + 1
            return found
        while True:
            found.append(self.item(pos))
            if len(found) > MAX_ITEMS:
                raise UnskimmableError(Fault.TOO_MANY_ITEMS)
            pos = self.blanks(self.pos)
            if self._at(pos) == b"]":
                self.pos = pos + 1
                return found
            if self._at(pos) != b",":
                raise UnskimmableError(Fault.NOT_JSON)
            pos = self.blanks(pos + 1)

    def item(self, start: int) -> Outline:
        """Return the value that begins at `start`, whatever it is."""
        names: dict[str, int] | None = {} if self._at(start) == b"{" else None
        pos, complete = self._begin(start, names)
        while not complete or self._open:
            if complete:
                pos, complete = self._go_on(pos)
            else:
                pos, complete = self._begin(pos, {} if self._at(pos) == b"{" else None)
        self.pos = pos
        return Outline(start, pos, names)

    def blanks(self, pos: int) -> int:
        """Return the first place from `pos` that holds no blank."""
        while True:
            match = _BLANKS.match(self.body, pos, pos + WINDOW_BYTES)
            end = match.end() if match else pos
            if end - pos < WINDOW_BYTES:
                return end
            pos = end

    def _at(self, pos: int) -> bytes:
        return self.body[pos : pos + 1]

    def _begin(self, pos: int, names: dict[str, int] | None) -> tuple[int, bool]:
        """Take the value that begins at `pos`; return where to go on and whether it is complete.

        A container with content is opened, and the place is that of its first value.
        """
        self._values += 1
        if self._values > MAX_VALUES:
            raise UnskimmableError(Fault.TOO_MANY_VALUES)
        first = self._at(pos)
        if first == b'"':
            return text_end(self.body, pos + 1), True
        if first not in (b"{", b"["):
            # a number that fills the window is no number that anybody wrote
            match = _SCALAR.match(self.body, pos, pos + WINDOW_BYTES)
            if match is None:
                raise UnskimmableError(Fault.NOT_JSON)
            return match.end(), True
        if len(self._open) >= MAX_DEPTH:
            raise UnskimmableError(Fault.TOO_DEEP)
        pos = self.blanks(pos + 1)
        if self._at(pos) == (b"]" if names is None else b"}"):
            return pos + 1, True
        self._open.append(names)
        return (pos if names is None else self._name(pos, names)), False

    def _go_on(self, pos: int) -> tuple[int, bool]:
        """After a value inside a container: go to the next one, or close the container."""
        names = self._open[-1]
        pos = self.blanks(pos)
        mark = self._at(pos)
        if mark == b",":
            pos = self.blanks(pos + 1)
            return (pos if names is None else self._name(pos, names)), False
        if mark != (b"]" if names is None else b"}"):
            raise UnskimmableError(Fault.NOT_JSON)
        self._open.pop()
        return pos + 1, True

    def _name(self, pos: int, names: dict[str, int]) -> int:
        """Note the attribute's name at `pos` and return the place of its value."""
        if self._at(pos) != b'"':
            raise UnskimmableError(Fault.NOT_JSON)
        end = text_end(self.body, pos + 1)
        raw = self.body[pos:end]
        if len(raw) <= WINDOW_BYTES:
            name: str = json.loads(raw) if b"\\" in raw else raw[1:-1].decode()
        else:
            name = "\udfff" + raw.decode("latin-1")  # compared as it stands; never shown
        if name in names:
            raise UnskimmableError(Fault.NAME_TWICE)
        pos = self.blanks(end)
        if self._at(pos) != b":":
            raise UnskimmableError(Fault.NOT_JSON)
        pos = self.blanks(pos + 1)
        names[name] = pos
        return pos
