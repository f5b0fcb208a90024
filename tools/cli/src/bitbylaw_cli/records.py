"""What every look into the topics shares: places, keys, instants in words, files for raw bytes."""

import difflib
import os
import re
from collections.abc import AsyncIterator, Collection, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Protocol

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import CONSUMERS, PARTITIONS, catalogue

OWNERS = frozenset(topic.owner for topic in catalogue())
"""Whoever answers for a topic: every service, whether it ran here or not."""

_ENTITY_KEY = re.compile(r"[a-z_]+:(?!:)(.+)")


class Reads(Protocol):
    """The half of a `Log` that looking takes."""

    def read(self, starts: Mapping[tuple[str, int], int]) -> AsyncIterator[Record]:
        """See `Log.read`."""
        ...


def places(
    names: Iterable[str], partitions: Iterable[int] = range(PARTITIONS)
) -> dict[tuple[str, int], int]:
    """Return these partitions of these topics, each from its beginning, for `Log.read`."""
    numbers = list(partitions)
    return {(name, number): 0 for name in names for number in numbers}


def subject_of(key: str) -> str:
    """Return the id that decides the partition of a record with this key.

    Keys are an id, `{entity}:{id}`, or `{step}|{entity}|{id}`.
    """
    if key.count("|") >= 2:
        return key.split("|", 2)[2]
    entity_key = _ENTITY_KEY.fullmatch(key)
    return key if entity_key is None else entity_key[1]


def home_of(key: str) -> int:
    """Return the partition, the same on every topic, of what this key names."""
    return partition_of(subject_of(key).encode())


def names(record: Record, key: str) -> bool:
    """Say whether the record has this key, or one that names this id."""
    if record.key is None:
        return False
    held = record.key.decode(errors="replace")
    return held == key or subject_of(held) == key


def consumer(service: str) -> str:
    """Return `service` if it is one that keeps a schedule and dead letters.

    Raises:
        CommandError: it is none; the text names the nearest.
    """
    return one_of(service, CONSUMERS, "consuming service")


def one_of(name: str, known: Collection[str], what: str) -> str:
    """Return `name` if it is one of those.

    Args:
        known: at least one name.
        what: of what they are the names, as in "no service is called so".

    Raises:
        CommandError: it is none; the text names the nearest.
    """
    if name in known:
        return name
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    raise CommandError(
        Exit.USAGE,
        f"no {what} is called {name!r}; the nearest is {near[0]!r} "
        f"(there are: {', '.join(sorted(known))})",
    )


def place(record: Record) -> str:
    """Return `topic:partition:offset`, as origins are written."""
    return f"{record.topic}:{record.partition}:{record.offset}"


def instant(moment: datetime | None) -> str:
    """Return the instant as people compare it with logs: UTC, to the second."""
    if moment is None:
        return ""
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def span(length: timedelta) -> str:
    """Return how long that is, in its one or two largest units: `2 h 5 min`."""
    seconds = int(abs(length.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86_400
    if minutes < 60:
        return f"{minutes} min"
    if hours < 24:
        rest = minutes % 60
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    rest = hours % 24
    return f"{days} d {rest} h" if rest else f"{days} d"


def relative(moment: datetime, now: datetime) -> str:
    """Return `in 3 min`, `3 min ago`, or `now`."""
    apart = moment - now
    if abs(apart) < timedelta(seconds=1):
        return "now"
    return f"in {span(apart)}" if apart > timedelta() else f"{span(apart)} ago"


def keep(raw: bytes, target: Path) -> None:
    """Write personal bytes to a new file that only its owner may read.

    Raises:
        CommandError: there is such a file already, or it cannot be written.
    """
    try:
        handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(
            Exit.REFUSED, f"{target} is there already; name a file that is not"
        ) from None
    except OSError as unwritable:
        raise CommandError(
            Exit.REFUSED, f"{target} cannot be written: {unwritable.strerror}"
        ) from None
    with os.fdopen(handle, "wb") as file:
        file.write(raw)
