"""What a webhook's body says: which records changed, and what could not be read (pure)."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bitbylaw_ingest.domain.skimming import (
    MAX_DEPTH,
    Fault,
    Outline,
    UnskimmableError,
    outlines,
    text_end,
)

PLAIN_BYTES = 256 * 1024
"""Up to this size a body that is not dense is parsed in one go, in a few milliseconds."""

PLAIN_ITEMS = 500
DENSE_MARKS = 5_000
"""More items, or more commas and brackets, and one go would hold up the event loop."""

MAX_NAMES = 200
"""More changed attributes than this tell a handler nothing: it loads the record anyway."""

MAX_NAME_CHARACTERS = 100

_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_LONGEST_ID_BYTES = 64 * 6 + 2  # every character written as an escape, and the quotes


@dataclass(frozen=True, slots=True)
class Item:
    """One record that EspoCRM tells of.

    Attributes:
        id: the record's id.
        changed: names of the other attributes, in their order; only ASCII identifiers of at
            most 100 characters, at most 200. Never a value.
        fingerprint: SHA-256 of the item's bytes. EspoCRM writes the same item in the same bytes
            each time, so this tells repetitions, at a tenth of what a canonical form costs.
    """

    id: str
    changed: tuple[str, ...]
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Unreadable:
    """What could not be read.

    Attributes:
        fault: why, without any content.
        raw: the exact bytes.
        index: its place in the array; None for a whole body.
    """

    fault: Fault
    raw: bytes
    index: int | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A body read: `items` and `unreadable` together are all of it."""

    items: tuple[Item, ...]
    unreadable: tuple[Unreadable, ...] = ()


def read(body: bytes) -> Reading:
    """Return everything `body` holds; never raises.

    An item that cannot be read leaves the others alone. A body that is no JSON, neither array
    nor object, or made to hurt (an attribute twice, NaN, very deep, very many) is unreadable as
    a whole.
    """
    return read_plain(body) or read_carefully(body)


def is_id(text: str) -> bool:
    """Whether `text` can be an id of EspoCRM: 1 to 64 letters, digits, hyphens, underscores."""
    return _ID.fullmatch(text) is not None


def is_plain(raw: bytes) -> bool:
    """Whether `raw` can be parsed in one go within a few milliseconds."""
    size = len(raw)
    if size <= DENSE_MARKS:
        return True
    return (
        size <= PLAIN_BYTES and sum(raw.count(mark) for mark in (b",", b"{", b"[")) <= DENSE_MARKS
    )


def read_plain(body: bytes) -> Reading | None:
    """Return the reading of a body that is not heavy and has no fault; else None.

    Quick enough for the event loop. None says nothing: ask `read_carefully`.
    """
    if not is_plain(body):
        return None
    try:
        return _plain_items(body.decode())
    except (ValueError, RecursionError):
        return None


def _plain_items(text: str) -> Reading | None:
    """Read `text` value by value; None at the first fault.

    Raises:
        ValueError, RecursionError: it is no JSON, or not of the plain kind.
    """
    nested = text.count("[") + text.count("{") > MAX_DEPTH
    if text.startswith("[{") and text.endswith("}]") and not nested:
        value, end = _SCAN(text, 1)
        if end == len(text) - 1:  # one record, as most posts have
            item = _item(value, text[1:end].encode())
            return None if isinstance(item, Fault) else Reading((item,))
    pos = _past_blanks(text, 0)
    in_array = text.startswith("[", pos)
    if in_array:
        pos = _past_blanks(text, pos + 1)
    items: list[Item] = []
    while not (in_array and not items and text.startswith("]", pos)):
        value, end = _SCAN(text, pos)
        if not isinstance(value, dict) or (nested and _is_deep(value)):
            return None
        item = _item(value, text[pos:end].encode())
        if isinstance(item, Fault) or len(items) == PLAIN_ITEMS:
            return None
        items.append(item)
        pos = _past_blanks(text, end)
        if not in_array or not text.startswith(",", pos):
            break
        pos = _past_blanks(text, pos + 1)
    if in_array and not text.startswith("]", pos):
        return None
    if _past_blanks(text, pos + in_array) != len(text):
        return None
    return Reading(tuple(items))


def _past_blanks(text: str, pos: int) -> int:
    match = _BLANKS.match(text, pos)
    return match.end() if match else pos


def read_carefully(body: bytes) -> Reading:
    """Return the reading of any body; the authority on faults.

    Takes about a second for the worst 16 MiB but never keeps other threads waiting: run it
    in a thread.
    """
    return _read(body, one_item=False)


def read_item(raw: bytes) -> Reading:
    """Return the reading of one item of an array, as it was quarantined; never raises."""
    return _read(raw, one_item=True)


def _read(body: bytes, *, one_item: bool) -> Reading:
    try:
        found, in_array = outlines(body, one_item=one_item)
    except UnskimmableError as error:
        return Reading((), (Unreadable(error.fault, body, None),))
    items: list[Item] = []
    unreadable: list[Unreadable] = []
    for index, outline in enumerate(found):
        raw = body[outline.start : outline.end]
        item = _outlined(body, outline, raw)
        if isinstance(item, Item):
            items.append(item)
        elif in_array:
            unreadable.append(Unreadable(item, raw, index))
        else:
            unreadable.append(Unreadable(item, body, None))
    return Reading(tuple(items), tuple(unreadable))


def _item(value: dict[str, Any], raw: bytes) -> Item | Fault:
    if "id" not in value:
        return Fault.NO_ID
    entity_id = value["id"]
    if type(entity_id) is not str:
        return Fault.ID_NOT_TEXT
    if not is_id(entity_id):
        return Fault.ID_IMPOSSIBLE
    return Item(entity_id, _changed(value), hashlib.sha256(raw).digest())


def _outlined(body: bytes, outline: Outline, raw: bytes) -> Item | Fault:
    if outline.names is None:
        return Fault.NOT_AN_OBJECT
    start = outline.names.get("id")
    if start is None:
        return Fault.NO_ID
    if body[start : start + 1] != b'"':
        return Fault.ID_NOT_TEXT
    end = text_end(body, start + 1)
    if end - start > _LONGEST_ID_BYTES:
        return Fault.ID_IMPOSSIBLE
    entity_id = json.loads(body[start:end])
    if not is_id(entity_id):
        return Fault.ID_IMPOSSIBLE
    return Item(entity_id, _changed(outline.names), hashlib.sha256(raw).digest())


def _changed(names: Iterable[str]) -> tuple[str, ...]:
    """Keep what can be an attribute of EspoCRM: anything else might be somebody's data."""
    others = [name for name in names if name != "id"]
    if not (
        all(map(str.isidentifier, others))
        and "".join(others).isascii()
        and max(map(len, others), default=0) <= MAX_NAME_CHARACTERS
    ):
        others = [name for name in others if _is_attribute(name)]
    return tuple(others[:MAX_NAMES])


def _is_attribute(name: str) -> bool:
    return len(name) <= MAX_NAME_CHARACTERS and name.isascii() and name.isidentifier()


def _is_deep(item: object) -> bool:
    level: list[Any] = [item]
    for _ in range(MAX_DEPTH):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
        if not level:
            return False
    return True


class _Number(str):
    """A number as it is written: never converted, and never taken for a string."""

    __slots__ = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError(Fault.NAME_TWICE.value)
    return found


def _refuse_constant(_: str) -> None:
    raise ValueError(Fault.NOT_JSON.value)  # NaN and Infinity are no JSON


_SCAN = json.JSONDecoder(
    object_pairs_hook=_object,
    parse_int=_Number,
    parse_float=_Number,
    parse_constant=_refuse_constant,
).raw_decode
_BLANKS = re.compile(r"[ \t\n\r]*")
