"""Cron expressions with six fields, seconds first, in Europe/Berlin (pure)."""

import re
from bisect import bisect_left, bisect_right
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import MAXYEAR, MINYEAR, UTC, date, datetime, time, timedelta
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
_HORIZON_YEARS = 40
"""The 29th of February that is a certain weekday can be forty years away (2280 to 2320), the 31st
of December that is a Sunday eleven."""

_EVERY = re.compile(r"\*(?:/(\d+))?")
_DAY = timedelta(days=1)
_HOUR = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


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

    The two nights when the clock changes:

    - A fixed hour goes by the clock on the wall. A time that does not exist is due at the first
      instant after the gap, one that exists twice is due the first time only.
    - An hour of `*` or `*/n` goes by elapsed time: by the real hours since that day's midnight, of
      which there are 23 or 25. So `*/2` on the day of 25 hours is due at 00:00, 02:00 and then two
      real hours later at 03:00, last at 23:00 (hour 24), and never waits longer than two hours;
      and `0 */15 * * * *` is due every quarter of an hour throughout.

    Attributes:
        stride: the `n` of an hour field `*/n`, 1 for `*`; 0 where hours are fixed.
    """

    text: str
    seconds: tuple[int, ...] = field(repr=False)
    minutes: tuple[int, ...] = field(repr=False)
    hours: tuple[int, ...] = field(repr=False)
    days: tuple[int, ...] = field(repr=False)
    months: tuple[int, ...] = field(repr=False)
    weekdays: frozenset[int] = field(repr=False)
    stride: int = field(repr=False)

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
        every = _EVERY.fullmatch(parts[2])
        expression = cls(
            text,
            tuple(sorted(second)),
            tuple(sorted(minute)),
            tuple(sorted(hour)),
            tuple(sorted(day)),
            tuple(sorted(month)),
            frozenset(value % 7 for value in weekday),
            int(every[1] or 1) if every else 0,
        )
        if next(expression._dates(date(2000, 1, 1)), None) is None:
            raise DeclarationError(f"cron {text!r} names a day that never comes")
        return expression

    def next_after(self, instant: datetime) -> datetime:
        """Return the first instant later than `instant` at which it is due, in Europe/Berlin.

        Args:
            instant: zone-aware.
        """
        found = next(self.instants(instant), None)
        if found is None:
            raise DeclarationError(f"cron {self.text!r} is never due again")
        return found

    def instants(self, after: datetime) -> Iterator[datetime]:
        """Yield every instant later than `after`, in order, each once, in Europe/Berlin.

        Args:
            after: zone-aware.
        """
        latest = _in_utc(after)
        for day in self._dates(latest.astimezone(ZONE).date()):
            for begin, whole in self._hours(day):
                for due in self._later(begin, latest) if whole else (begin,):
                    # several times of a gap are one instant
                    if due > latest:
                        latest = due
                        yield due.astimezone(ZONE)

    def last_until(self, instant: datetime) -> datetime | None:
        """Return the last instant not later than `instant` at which it was due; None for never.

        Args:
            instant: zone-aware.
        """
        until = _in_utc(instant)
        for day in self._dates_back(until.astimezone(ZONE).date()):
            for begin, whole in reversed(self._hours(day)):
                if begin > until:
                    continue
                due = self._latest(begin, until) if whole else begin
                if due is not None:
                    return due.astimezone(ZONE)
        return None

    # Days --------------------------------------------------------------------------------------

    def _dates(self, first: date) -> Iterator[date]:
        for year in range(first.year, min(first.year + _HORIZON_YEARS, MAXYEAR) + 1):
            for month in self.months:
                if (year, month) >= (first.year, first.month):
                    yield from (day for day in self._of_month(year, month) if day >= first)

    def _dates_back(self, last: date) -> Iterator[date]:
        for year in range(last.year, max(last.year - _HORIZON_YEARS, MINYEAR) - 1, -1):
            for month in reversed(self.months):
                if (year, month) <= (last.year, last.month):
                    days = [day for day in self._of_month(year, month) if day <= last]
                    yield from reversed(days)

    def _of_month(self, year: int, month: int) -> Iterator[date]:
        length = monthrange(year, month)[1]
        for number in self.days:
            if number > length:
                return
            day = date(year, month, number)
            if day.isoweekday() % 7 in self.weekdays:
                yield day

    # Hours -------------------------------------------------------------------------------------

    def _hours(self, day: date) -> list[tuple[datetime, bool]]:
        """Return the day's hours in which it is due, in UTC and in order.

        Each is the begin of an hour with all minutes and seconds, or a single instant.
        """
        midnight = _midnight(day)
        length = round((_midnight(day + _DAY) - midnight) / _HOUR)
        if length == 24:
            return [(midnight + hour * _HOUR, True) for hour in self.hours]
        if self.stride:
            return [(midnight + hour * _HOUR, True) for hour in range(0, length, self.stride)]
        return [found for hour in self.hours for found in self._fixed(day, hour)]

    def _fixed(self, day: date, hour: int) -> list[tuple[datetime, bool]]:
        """Return what becomes of an hour by the wall on a day when the clock changes."""
        wall = datetime.combine(day, time(hour), ZONE)
        begin, end = wall.astimezone(UTC), (wall + _HOUR - _SECOND).astimezone(UTC)
        if _exists(wall) and end - begin == _HOUR - _SECOND:
            return [(begin, True)]
        times = [wall.replace(minute=m, second=s) for m in self.minutes for s in self.seconds]
        if not _exists(wall) and not _exists(wall + _HOUR - _SECOND):
            times = times[:1]  # all of the hour is gone: one run right after it
        return [(_instant(moment), False) for moment in times]

    # Minutes and seconds -------------------------------------------------------------------------

    def _later(self, begin: datetime, after: datetime) -> Iterator[datetime]:
        """Yield the instants of the hour that began at `begin` which are later than `after`."""
        if after - begin >= _HOUR:
            return
        first_minute, first_second = 0, 0
        if after >= begin:
            minute, second = divmod(int((after - begin).total_seconds()), 60)
            first_minute = bisect_left(self.minutes, minute)
            if first_minute < len(self.minutes) and self.minutes[first_minute] == minute:
                first_second = bisect_right(self.seconds, second)
        for minute in self.minutes[first_minute:]:
            for second in self.seconds[first_second:]:
                yield begin + timedelta(minutes=minute, seconds=second)
            first_second = 0

    def _latest(self, begin: datetime, until: datetime) -> datetime | None:
        """Return the hour's last instant not later than `until`, which is not before `begin`."""
        seconds = min(int((until - begin).total_seconds()), 3599)
        minute, second = divmod(seconds, 60)
        index = bisect_right(self.minutes, minute) - 1
        if index >= 0 and self.minutes[index] == minute:
            among = bisect_right(self.seconds, second) - 1
            if among >= 0:
                return begin + timedelta(minutes=minute, seconds=self.seconds[among])
            index -= 1
        if index < 0:
            return None
        return begin + timedelta(minutes=self.minutes[index], seconds=self.seconds[-1])


def _in_utc(instant: datetime) -> datetime:
    if instant.tzinfo is None:
        raise ValueError("an instant of a cron must be zone-aware")
    return instant.astimezone(UTC)


def _midnight(day: date) -> datetime:
    return datetime.combine(day, time(), ZONE).astimezone(UTC)


def _exists(wall: datetime) -> bool:
    back = wall.astimezone(UTC).astimezone(ZONE)
    return back.replace(tzinfo=None) == wall.replace(tzinfo=None)


def _instant(wall: datetime) -> datetime:
    """Return when that is by the wall, in UTC; the end of the gap where it does not exist."""
    due = wall.astimezone(UTC)
    return due if _exists(wall) else _end_of_gap(due)


def _end_of_gap(inside: datetime) -> datetime:
    """Return the transition that swallowed the wall-clock time which maps to `inside` (UTC)."""
    shifted = inside.astimezone(ZONE).utcoffset()
    moment = inside.replace(second=0, microsecond=0)
    while (moment - timedelta(minutes=1)).astimezone(ZONE).utcoffset() == shifted:
        moment -= timedelta(minutes=1)
    return moment
