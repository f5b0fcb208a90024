"""The filters of EspoCRM's lists over records in memory (pure)."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any


@dataclass(frozen=True, slots=True)
class Where:
    """What a filter needs to know beside the record.

    Attributes:
        today: the day, for relative filters.
        linked: gives the ids at the other side of a record's link.
    """

    today: datetime
    linked: Callable[[str, str], list[str]]

    def fits(self, record: Mapping[str, Any], clause: Any) -> bool:
        """Return whether the record fits one clause.

        Raises:
            ValueError: the clause has an unknown type or names an unknown attribute.
        """
        if not isinstance(clause, Mapping):
            raise ValueError("a where item is an object")  # noqa: TRY004 - the caller answers 400 for every ValueError
        kind, value = str(clause.get("type")), clause.get("value")
        if kind in {"and", "or", "not"}:
            inner = [self.fits(record, entry) for entry in _listed(value)]
            return {"and": all(inner), "or": any(inner), "not": not all(inner)}[kind]
        name = str(clause.get("attribute") or clause.get("field") or "")
        if kind in _LINKED:
            return _LINKED[kind](self.linked(str(record["id"]), name), _texts(value))
        if name not in record:
            raise ValueError(f"unknown attribute {name!r} in where")
        if kind in _RELATIVE:
            return _RELATIVE[kind](str(record[name] or ""), self.today, value)
        if kind not in _SIMPLE:
            raise ValueError(f"unknown where type {kind!r}")
        return _SIMPLE[kind](record[name], value)


def _listed(value: Any) -> list[Any]:
    if isinstance(value, list):
        return value
    return [] if value is None else [value]


def _texts(value: Any) -> list[str]:
    return [_text(entry) for entry in _listed(value)]


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "1" if value else "0"
    return "" if value is None else str(value)


def _equal(actual: Any, wanted: Any) -> bool:
    if wanted is None:
        return actual is None
    if isinstance(actual, bool):
        return actual == (str(wanted).lower() in {"1", "true"})
    return actual is not None and _text(actual).casefold() == _text(wanted).casefold()


def _compare(actual: Any, wanted: Any) -> int | None:
    """Return the sign of actual - wanted; None when there is nothing to compare."""
    if actual is None or wanted is None:
        return None
    if isinstance(actual, int | float):
        left, right = float(actual), float(wanted)
        return (left > right) - (left < right)
    return (str(actual) > str(wanted)) - (str(actual) < str(wanted))


def _between(actual: Any, wanted: Any) -> bool:
    low, high = _listed(wanted)[:2]
    return _compare(actual, low) in {0, 1} and _compare(actual, high) in {0, -1}


def _like(actual: Any, pattern: str) -> bool:
    text, wanted = _text(actual).casefold(), pattern.casefold()
    head, tail = wanted.startswith("%"), wanted.endswith("%")
    core = wanted.strip("%")
    if head and tail:
        return core in text
    if head:
        return text.endswith(core)
    return text.startswith(core) if tail else text == core


def _array(actual: Any) -> set[str]:
    return set(_texts(actual))


_SIMPLE: dict[str, Callable[[Any, Any], bool]] = {
    "equals": _equal,
    "notEquals": lambda actual, wanted: not _equal(actual, wanted),
    "on": lambda actual, wanted: _text(actual).startswith(_text(wanted)),
    "in": lambda actual, wanted: any(_equal(actual, entry) for entry in _listed(wanted)),
    "notIn": lambda actual, wanted: not any(_equal(actual, entry) for entry in _listed(wanted)),
    "isNull": lambda actual, _: actual is None,
    "isNotNull": lambda actual, _: actual is not None,
    "isTrue": lambda actual, _: actual is True,
    "isFalse": lambda actual, _: actual is not True,
    "like": lambda actual, wanted: _like(actual, str(wanted)),
    "notLike": lambda actual, wanted: not _like(actual, str(wanted)),
    "startsWith": lambda actual, wanted: _like(actual, f"{wanted}%"),
    "endsWith": lambda actual, wanted: _like(actual, f"%{wanted}"),
    "contains": lambda actual, wanted: _like(actual, f"%{wanted}%"),
    "notContains": lambda actual, wanted: not _like(actual, f"%{wanted}%"),
    "greaterThan": lambda actual, wanted: _compare(actual, wanted) == 1,
    "greaterThanOrEquals": lambda actual, wanted: _compare(actual, wanted) in {0, 1},
    "lessThan": lambda actual, wanted: _compare(actual, wanted) == -1,
    "lessThanOrEquals": lambda actual, wanted: _compare(actual, wanted) in {0, -1},
    "after": lambda actual, wanted: _compare(actual, wanted) == 1,
    "before": lambda actual, wanted: _compare(actual, wanted) == -1,
    "between": _between,
    "arrayAnyOf": lambda actual, wanted: bool(_array(actual) & set(_texts(wanted))),
    "arrayNoneOf": lambda actual, wanted: not _array(actual) & set(_texts(wanted)),
    "arrayAllOf": lambda actual, wanted: set(_texts(wanted)) <= _array(actual),
    "arrayIsEmpty": lambda actual, _: not _listed(actual),
    "arrayIsNotEmpty": lambda actual, _: bool(_listed(actual)),
}

_LINKED: dict[str, Callable[[list[str], list[str]], bool]] = {
    "linkedWith": lambda ids, wanted: bool(set(ids) & set(wanted)),
    "notLinkedWith": lambda ids, wanted: not set(ids) & set(wanted),
    "isLinked": lambda ids, _: bool(ids),
    "isNotLinked": lambda ids, _: not ids,
}

_STAMP = "%Y-%m-%d %H:%M:%S"
_RELATIVE: dict[str, Callable[[str, datetime, Any], bool]] = {
    "today": lambda actual, now, _: actual.startswith(now.strftime("%Y-%m-%d")),
    "past": lambda actual, now, _: bool(actual) and actual < now.strftime(_STAMP),
    "future": lambda actual, now, _: actual > now.strftime(_STAMP),
    "lastXDays": lambda actual, now, days: (
        (now - timedelta(days=int(days))).strftime(_STAMP) <= actual <= now.strftime(_STAMP)
    ),
}
