"""Quirks: doubtful or changeable manners of an outside system, each a named switch."""

from collections.abc import Mapping
from dataclasses import Field, field, fields, replace
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

SimQuirks = TypeVar("SimQuirks")


def quirk(default: Any, text: str, certainty: str) -> Any:
    """Declare one switch: its default, what it does, and how sure we are that it is so."""
    return field(default=default, metadata={"text": text, "certainty": certainty})


def described(quirks: Any) -> list[dict[str, Any]]:
    """Return every switch with its value, default, meaning and certainty."""
    return [
        {
            "name": entry.name,
            "value": getattr(quirks, entry.name),
            "default": entry.default,
            "certainty": entry.metadata["certainty"],
            "text": entry.metadata["text"],
        }
        for entry in fields(quirks)
    ]


def switched(quirks: SimQuirks, values: Mapping[str, Any]) -> SimQuirks:
    """Return the quirks with some switched over.

    Raises:
        ValueError: a name is unknown or a value has another type than the default.
    """
    known: dict[str, Field[Any]] = {entry.name: entry for entry in fields(quirks)}  # type: ignore[arg-type]  # every caller passes a dataclass
    hints = get_type_hints(type(quirks))
    checked: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"unknown quirk {name!r}; there are: {', '.join(sorted(known))}")
        checked[name] = _fitting(name, hints[name], value)
    return replace(quirks, **checked)  # type: ignore[type-var]  # every caller passes a dataclass


def table(quirks: Any) -> str:
    """Return the switches as the rows of a Markdown table, as the README keeps them."""
    rows = ["| switch | default | certainty | meaning |", "| --- | --- | --- | --- |"]
    rows += [
        f"| `{entry['name']}` | `{shown(entry['default'])}` | {entry['certainty']} | {entry['text']} |"
        for entry in described(quirks)
    ]
    return "\n".join(rows)


def shown(value: Any) -> str:
    """Return a default as pages write it."""
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value)


def _fitting(name: str, hint: Any, value: Any) -> Any:
    options = get_args(hint)
    if get_origin(hint) is tuple:
        if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
            raise ValueError(f"{name} takes a list of texts")
        return tuple(value)
    if options:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"{name} takes one of {', '.join(map(repr, options))}")
        return value
    if hint is float and type(value) in {int, float}:
        return float(value)
    if type(value) is not hint:
        raise ValueError(f"{name} takes {hint.__name__}, not {type(value).__name__}")
    return value
