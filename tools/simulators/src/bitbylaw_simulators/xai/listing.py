"""Pages and filters of xAI's lists (pure)."""

import base64
import binascii
import json
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

Item = TypeVar("Item")

_COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">": operator.gt,
    ">=": operator.ge,
    "<": operator.lt,
    "<=": operator.le,
}


def page(
    items: Sequence[Item],
    key: Callable[[Item], tuple[Any, int]],
    *,
    descending: bool,
    limit: int,
    token: str | None,
) -> tuple[list[Item], str | None]:
    """Return one page and the token of the next, None after the last.

    The token names the last item shown, so what comes and goes between two pages neither skips
    nor repeats another item.

    Raises:
        ValueError: the token was not given by us.
    """
    ordered = sorted(items, key=key, reverse=descending)
    if token:
        last = _read(token)
        try:
            ordered = [
                item for item in ordered if (key(item) < last if descending else key(item) > last)
            ]
        except TypeError as error:
            raise ValueError("the pagination token belongs to another order") from error
    shown = ordered[:limit]
    more = len(ordered) > limit
    return shown, _write(key(shown[-1])) if more and shown else None


def matches(filter_text: str | None, values: Mapping[str, Any]) -> bool:
    """Return whether `values` fit a filter such as `status:X AND documents_count:>10`.

    Raises:
        ValueError: the filter cannot be read.
    """
    if not filter_text:
        return True
    return all(_term(term.strip(), values) for term in re.split(r"\s+AND\s+", filter_text))


def _term(term: str, values: Mapping[str, Any]) -> bool:
    found = re.fullmatch(r'([\w.]+)\s*(?::|=)\s*(!?)\s*(>=|<=|>|<|)\s*"?(.*?)"?', term)
    if found is None:
        raise ValueError(f"cannot read the filter {term!r}")
    name, negated, compare, wanted = found.groups()
    actual = values.get(name)
    if compare:
        fits = actual is not None and _COMPARE[compare](float(actual), float(wanted))
    elif name in {"name", "collection_name"} or name.startswith("fields."):
        fits = actual is not None and wanted.lower() in str(actual).lower()
    else:
        fits = str(actual) == wanted
    return fits != bool(negated)


def _write(key: tuple[Any, int]) -> str:
    return base64.urlsafe_b64encode(json.dumps(key).encode()).decode()


def _read(token: str) -> tuple[Any, int]:
    try:
        value, number = json.loads(base64.urlsafe_b64decode(token))
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError("the pagination token is not one of ours") from error
    return value, int(number)
