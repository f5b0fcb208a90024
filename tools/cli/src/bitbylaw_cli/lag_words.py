"""How `bbl lag` words instants, lengths, rates and counts (pure)."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from bitbylaw_cli.records import instant, span


def since(moment: datetime, now: datetime) -> str:
    """Return `since 09:00:00Z (8 min)`."""
    return f"since {clock(moment, now)} ({span(now - moment)})"


def at(moment: datetime, now: datetime) -> str:
    """Return `at 09:00:00Z (in 8 min)`, or `now`."""
    return "now" if moment <= now else f"at {clock(moment, now)} (in {span(moment - now)})"


def clock(moment: datetime, now: datetime) -> str:
    """Return the instant, without the day where that is today's, in UTC as logs have it."""
    day, _, time = instant(moment).partition(" ")
    return time if day == instant(now).partition(" ")[0] else f"{day} {time}"


def rate(per_second: float) -> str:
    """Return `40 a second`, or `12 a minute` where it is slower than one a second."""
    if per_second >= 10:
        return f"{per_second:.0f} a second"
    if per_second >= 1:
        return f"{per_second:.1f} a second"
    if per_second * 60 >= 1:
        return f"{per_second * 60:.0f} a minute"
    return "less than one a minute" if per_second > 0 else "none"


def about(seconds: float) -> str:
    """Return `about 3 min`."""
    return "less than a second" if seconds < 1 else f"about {span(timedelta(seconds=seconds))}"


def duration(seconds: float) -> str:
    """Return `40 ms`, `2.5 s` or `3 min`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 10 else span(timedelta(seconds=seconds))


def counted(count: int, noun: str, verb: str = "") -> str:
    """Return `no record waits`, `1 record waits`, `3 records wait`."""
    many = count > 1
    words = f"{count or 'no'} {noun}{'s' if many else ''}"
    return words if not verb else f"{words} {verb}{'' if many else 's'}"


def partitions(numbers: Iterable[int]) -> str:
    """Return `partitions 3, 4 and 5 are`, or `partition 3 is`."""
    ranked = [str(number) for number in sorted(numbers)]
    if len(ranked) == 1:
        return f"partition {ranked[0]} is"
    return f"partitions {', '.join(ranked[:-1])} and {ranked[-1]} are"


def sentence(words: str) -> str:
    """Return the words beginning with a capital."""
    return words[:1].upper() + words[1:]
