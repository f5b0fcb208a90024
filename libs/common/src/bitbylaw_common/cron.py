"""Cron expressions with six fields, seconds first, in Europe/Berlin (pure)."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Self
from zoneinfo import ZoneInfo

from bitbylaw_common.errors import DeclarationError

ZONE = ZoneInfo("Europe/Berlin")
_FIELDS = (
    ("second", 0, 59),
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day", 1, 31),
    ("month", 1, 12),
    ("weekday", 0, 7),
)
_HORIZON_DAYS = 366 * 40
"""The 29th of February that is a certain weekday can be forty years away (2280 to 2320), the 31st
of December that is a Sunday eleven."""


def _values(text: str, name: str, low: int, high: int) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, stride = part.partition("/")
        if stride and not (stride.isdigit() and int(stride) > 0):
            raise ValueError(f"{name} field {text!r}: the step {stride!r} is no positive number")
        if span == "*":
            first, last = low, high
        else:
            begin, dash, end = span.partition("-")
            if not begin.isdigit() or (dash and not end.isdigit()):
                raise ValueError(f"{name} field {text!r}: {part!r} is no number, range or *")
            first = int(begin)
            last = int(end) if dash else (high if stride else first)
        if not (low <= first <= last <= high):
            raise ValueError(f"{name} field {text!r}: {part!r} is outside {low} to {high}")
        found.update(range(first, last + 1, int(stride) if stride else 1))
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class CronExpression:
    """An expression; day and weekday must both fit.

    On the two nights when the clock changes: a fixed time that does not exist is due at the first
    instant after the gap, one that exists twice is due once, and expressions whose hour is `*` or
    `*/n` go by elapsed time.
    """

    text: str
    seconds: tuple[int, ...] = field(repr=False)
    minutes: tuple[int, ...] = field(repr=False)
    hours: tuple[int, ...] = field(repr=False)
    days: frozenset[int] = field(repr=False)
    months: frozenset[int] = field(repr=False)
    weekdays: frozenset[int] = field(repr=False)
    elapsed: bool = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read an expression.

        Raises:
            DeclarationError: not six fields, a field out of range, or a day that never comes.
        """
        parts = text.split()
        if len(parts) != len(_FIELDS):
            raise DeclarationError(
                f"cron {text!r} has {len(parts)} fields; six are needed, seconds first, "
                "as in '0 */15 * * * *'"
            )
        try:
            second, minute, hour, day, month, weekday = (
                _values(part, *spec) for part, spec in zip(parts, _FIELDS, strict=True)
            )
        except ValueError as unfit:
            raise DeclarationError(f"cron {text!r}: {unfit}") from None
        expression = cls(
            text,
            tuple(sorted(second)),
            tuple(sorted(minute)),
            tuple(sorted(hour)),
            day,
            month,
            frozenset(value % 7 for value in weekday),
            parts[2].startswith("*"),
        )
        if next(expression._dates(date(2000, 1, 1)), None) is None:
            raise DeclarationError(f"cron {text!r} names a day that never comes")
        return expression

    def next_after(self, instant: datetime) -> datetime:
        """Return the first instant later than `instant` at which it is due, in Europe/Berlin.

        Args:
            instant: zone-aware.
        """
        if instant.tzinfo is None:
            raise ValueError("next_after needs a zone-aware instant")
        after = instant.astimezone(UTC)
        local = after.astimezone(ZONE)
        for day in self._dates(local.date() - timedelta(days=1)):
            for due in self._elapsed_on(day) if self.elapsed else self._fixed_on(day):
                if due > after:
                    return due.astimezone(ZONE)
        raise DeclarationError(f"cron {self.text!r} is never due again")

    def _dates(self, first: date) -> Iterator[date]:
        for ahead in range(_HORIZON_DAYS):
            day = first + timedelta(days=ahead)
            if (
                day.month in self.months
                and day.day in self.days
                and day.isoweekday() % 7 in self.weekdays
            ):
                yield day

    def _fixed_on(self, day: date) -> Iterator[datetime]:
        """Yield the day's instants in UTC: wall-clock times, each once."""
        for hour in self.hours:
            for minute in self.minutes:
                for second in self.seconds:
                    wall = datetime(day.year, day.month, day.day, hour, minute, second, tzinfo=ZONE)
                    due = wall.astimezone(UTC)
                    if due.astimezone(ZONE).replace(tzinfo=None) != wall.replace(tzinfo=None):
                        due = _end_of_gap(due)
                    yield due

    def _elapsed_on(self, day: date) -> Iterator[datetime]:
        """Yield the day's instants in UTC, going through its real hours (23, 24 or 25)."""
        hour = datetime(day.year, day.month, day.day, tzinfo=ZONE).astimezone(UTC)
        while (local := hour.astimezone(ZONE)).date() == day:
            if local.hour in self.hours:
                for minute in self.minutes:
                    for second in self.seconds:
                        yield hour + timedelta(minutes=minute, seconds=second)
            hour += timedelta(hours=1)


def _end_of_gap(inside: datetime) -> datetime:
    """Return the transition that swallowed the wall-clock time which maps to `inside` (UTC)."""
    shifted = inside.astimezone(ZONE).utcoffset()
    moment = inside.replace(second=0, microsecond=0)
    while (moment - timedelta(minutes=1)).astimezone(ZONE).utcoffset() == shifted:
        moment -= timedelta(minutes=1)
    return moment
