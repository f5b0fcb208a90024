"""Cron expressions, held against a clock that looks at every minute."""

import random
import timeit
from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta
from functools import cache
from itertools import islice

import pytest

from bitbylaw_common.cron import ZONE, CronExpression
from bitbylaw_common.errors import DeclarationError

SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)
AT_MOST = 100
"""Instants of one expression that are compared; a denser one is cut there."""


def berlin(text: str, *, fold: int = 0) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZONE, fold=fold)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def dues(text: str, after: datetime, count: int) -> list[str]:
    """Return the next instants, as the clock in Berlin shows them."""
    expression, found = CronExpression.parse(text), []
    for _ in range(count):
        after = expression.next_after(after)
        found.append(after.strftime("%d. %H:%M:%S %Z"))
    return found


@pytest.mark.parametrize(
    ("text", "after", "due"),
    [
        ("0 */15 * * * *", "2026-03-02 09:00:00", "2026-03-02 09:15:00"),
        ("0 */15 * * * *", "2026-03-02 09:14:59", "2026-03-02 09:15:00"),
        ("0 0 */6 * * *", "2026-03-02 09:00:00", "2026-03-02 12:00:00"),
        ("0 0 2 * * *", "2026-03-02 02:00:00", "2026-03-03 02:00:00"),
        ("0 0 2 * * *", "2026-03-02 01:59:59", "2026-03-02 02:00:00"),
        ("0 30 9 * * 1-5", "2026-03-06 09:30:00", "2026-03-09 09:30:00"),
        ("0 0 0 1 1 *", "2026-03-02 09:00:00", "2027-01-01 00:00:00"),
        ("0 0 0 29 2 *", "2026-03-02 09:00:00", "2028-02-29 00:00:00"),
        ("0 0 0 31 * *", "2026-04-01 00:00:00", "2026-05-31 00:00:00"),
        ("10,50 5 8 * * *", "2026-03-02 08:05:10", "2026-03-02 08:05:50"),
        ("0 10/20 8 * * *", "2026-03-02 08:10:00", "2026-03-02 08:30:00"),
        ("0 10-30/10 8 * * *", "2026-03-02 08:30:00", "2026-03-03 08:10:00"),
        ("0 0 8 13 * 5", "2026-03-01 00:00:00", "2026-03-13 08:00:00"),
        ("59 59 23 31 12 *", "2026-12-31 23:59:58", "2026-12-31 23:59:59"),
    ],
)
def test_an_ordinary_day_has_its_instants(text: str, after: str, due: str) -> None:
    assert CronExpression.parse(text).next_after(berlin(after)) == berlin(due)


@pytest.mark.parametrize("sunday", ["0", "7"])
def test_sunday_is_the_first_day_and_the_seventh(sunday: str) -> None:
    found = CronExpression.parse(f"0 0 6 * * {sunday}").next_after(berlin("2026-03-02 00:00"))
    assert found == berlin("2026-03-08 06:00")


def test_the_instant_is_the_same_whatever_zone_it_is_asked_in() -> None:
    expression = CronExpression.parse("0 0 2 * * *")
    there = utc("2026-07-01 00:30")
    assert expression.next_after(there) == expression.next_after(there.astimezone(ZONE))
    assert expression.next_after(there).tzinfo is ZONE


@pytest.mark.parametrize(
    ("text", "after", "due"),
    [
        ("0 0 0 31 12 0", "2035-01-01", "2045-12-31"),
        ("0 0 0 29 2 1", "2017-01-01", "2044-02-29"),
        ("0 0 0 29 2 0", "2280-03-01", "2320-02-29"),
    ],
)
def test_a_rare_day_comes_however_many_years_away(text: str, after: str, due: str) -> None:
    assert CronExpression.parse(text).next_after(berlin(after)) == berlin(due)


# The night of 2026-03-29: 02:00 to 03:00 does not exist.


def test_a_fixed_time_inside_the_gap_is_due_once_right_after_it() -> None:
    assert dues("0 30 2 * * *", berlin("2026-03-28 03:00"), 2) == [
        "29. 03:00:00 CEST",
        "30. 02:30:00 CEST",
    ]


def test_many_fixed_times_inside_the_gap_are_one_run() -> None:
    assert dues("0 */15 2,3 * * *", berlin("2026-03-29 01:00"), 4) == [
        "29. 03:00:00 CEST",
        "29. 03:15:00 CEST",
        "29. 03:30:00 CEST",
        "29. 03:45:00 CEST",
    ]


def test_every_quarter_of_an_hour_goes_on_through_the_gap() -> None:
    assert dues("0 */15 * * * *", berlin("2026-03-29 01:30"), 3) == [
        "29. 01:45:00 CET",
        "29. 03:00:00 CEST",
        "29. 03:15:00 CEST",
    ]


# The night of 2026-10-25: 02:00 to 03:00 exists twice.


def test_a_fixed_time_that_exists_twice_is_due_the_first_time_only() -> None:
    assert dues("0 30 2 * * *", berlin("2026-10-25 00:00"), 2) == [
        "25. 02:30:00 CEST",
        "26. 02:30:00 CET",
    ]
    between = berlin("2026-10-25 02:15", fold=1)
    assert CronExpression.parse("0 30 2 * * *").next_after(between) == berlin("2026-10-26 02:30")


def test_every_quarter_of_an_hour_goes_on_through_the_hour_that_comes_twice() -> None:
    assert dues("0 */15 * * * *", berlin("2026-10-25 02:30"), 6) == [
        "25. 02:45:00 CEST",
        "25. 02:00:00 CET",
        "25. 02:15:00 CET",
        "25. 02:30:00 CET",
        "25. 02:45:00 CET",
        "25. 03:00:00 CET",
    ]


def test_every_second_hour_goes_by_real_hours_on_the_day_of_25_hours() -> None:
    assert dues("0 0 */2 * * *", berlin("2026-10-24 22:30"), 5) == [
        "25. 00:00:00 CEST",
        "25. 02:00:00 CEST",
        "25. 03:00:00 CET",
        "25. 05:00:00 CET",
        "25. 07:00:00 CET",
    ]
    assert dues("0 0 */2 * * *", berlin("2026-10-25 20:30"), 3) == [
        "25. 21:00:00 CET",
        "25. 23:00:00 CET",
        "26. 00:00:00 CET",
    ]


def test_every_second_hour_goes_by_real_hours_on_the_day_of_23_hours() -> None:
    assert dues("0 0 */2 * * *", berlin("2026-03-28 23:30"), 4) == [
        "29. 00:00:00 CET",
        "29. 03:00:00 CEST",
        "29. 05:00:00 CEST",
        "29. 07:00:00 CEST",
    ]


def test_hours_that_are_listed_are_fixed_even_where_a_star_is_among_them() -> None:
    assert dues("0 0 */2,1 * * *", berlin("2026-10-25 01:30"), 2) == [
        "25. 02:00:00 CEST",
        "25. 04:00:00 CET",
    ]


@pytest.mark.parametrize("stride", range(1, 24))
@pytest.mark.parametrize("night", ["2026-03-27", "2026-10-23"])
def test_every_n_hours_never_waits_longer_than_n_real_hours(stride: int, night: str) -> None:
    expression, after = CronExpression.parse(f"0 0 */{stride} * * *"), utc(night)
    for _ in range(5 * 24 // stride):
        due = next_in_utc(expression, after)
        assert timedelta() < due - after <= timedelta(hours=stride)
        after = due


SEED = ["0 */15 * * * *", "0 0 */6 * * *", "0 0 2 * * *", "0 30 9 * * 1-5"]


@pytest.mark.parametrize("text", [*SEED, "*/7 * 2 * * *", "0 30 2,3 * * *"])
@pytest.mark.parametrize("night", ["2026-03-29", "2026-10-25"])
def test_both_nights_agree_with_a_clock_that_looks_at_every_second(text: str, night: str) -> None:
    first = berlin(night).astimezone(UTC)
    second, minute, hour, _, _, weekday = text.split()
    wanted: list[datetime] = []
    midnight, highest = first, berlin(night).replace(tzinfo=None) - timedelta(seconds=1)
    for n in range(35 * 3600):
        now = first + timedelta(seconds=n)
        wall = now.astimezone(ZONE).replace(tzinfo=None)
        if wall.time() == time():
            midnight = now
        real = (now - midnight) // timedelta(hours=1)
        every = hour.startswith("*")
        walls = [wall]
        if not every:  # what the wall shows for the first time: in the gap, a whole hour at once
            ahead = int((wall - highest).total_seconds())
            walls = [highest + timedelta(seconds=k + 1) for k in range(ahead)]
        highest = max(highest, wall)
        if any(
            fits(second, shown.second, 0, 59)
            and fits(minute, shown.minute, 0, 59)
            and fits(hour, real if every else shown.hour, 0, 24 if every else 23)
            and fits(weekday, shown.isoweekday(), 0, 7)
            for shown in walls
        ):
            wanted.append(now)
    expression = CronExpression.parse(text)
    found = [
        due.astimezone(UTC) for due in islice(expression.instants(first - SECOND), len(wanted))
    ]
    assert found == wanted
    assert next_in_utc(expression, wanted[-1]) >= first + timedelta(hours=35)


def test_an_instant_late_in_a_day_is_found_as_fast_as_an_early_one() -> None:
    def seconds(expression: CronExpression, after: datetime) -> float:
        return min(timeit.repeat(lambda: expression.next_after(after), number=20, repeat=5))

    for text in ("* * * * * *", "* * 0-23 * * *"):
        expression = CronExpression.parse(text)
        for day in ("2026-06-10", "2026-03-29", "2026-10-25"):
            early = seconds(expression, berlin(f"{day} 00:00:01"))
            late = seconds(expression, berlin(f"{day} 23:59:57"))
            assert late < 20 * early, (text, day, early, late)


@cache
def _split(text: str) -> list[str]:
    return text.split()


@cache
def fits(part: str, value: int, low: int, high: int) -> bool:
    """Say whether a field admits a value, by trying it: nothing here is the code under test."""
    for one in part.split(","):
        span, _, stride = one.partition("/")
        bounds = [low, high] if span == "*" else [int(word) for word in span.split("-")]
        first, last = bounds[0], bounds[-1] if span == "*" or "-" in span or not stride else high
        if first <= value <= last and (value - first) % int(stride or 1) == 0:
            return True
    return False


class SlowClock:
    """A reference that knows no shortcut: it looks at every minute of a span, one by one."""

    def __init__(self, first: datetime, days: int) -> None:
        self.first = first
        begin = first - timedelta(days=2)
        self.minutes = [begin + n * MINUTE for n in range((days + 2) * 24 * 60)]
        self.walls = [minute.astimezone(ZONE).replace(tzinfo=None) for minute in self.minutes]

    def dues(self, text: str) -> list[datetime]:
        hour = text.split()[2]
        every = hour == "*" or (hour.startswith("*/") and "," not in hour)
        found = self._by_real_hours(text) if every else self._by_the_wall(text)
        return [due for due in found if due >= self.first]

    def _by_real_hours(self, text: str) -> Iterator[datetime]:
        midnight, latest = self.minutes[0], self.walls[0]
        for minute, wall in zip(self.minutes, self.walls, strict=True):
            if wall.date() != latest.date():
                midnight = minute
            latest = wall
            hours = (minute - midnight) // timedelta(hours=1)
            yield from self._at(text, minute, wall, hours)

    def _by_the_wall(self, text: str) -> Iterator[datetime]:
        latest = self.walls[0] - MINUTE
        for minute, wall in zip(self.minutes, self.walls, strict=True):
            skipped = latest + MINUTE
            swallowed = False
            while skipped < wall:
                swallowed = swallowed or any(
                    True for _ in self._at(text, minute, skipped, skipped.hour)
                )
                skipped += MINUTE
            if swallowed:
                yield minute
            if wall > latest:
                latest = wall
                yield from (
                    due
                    for due in self._at(text, minute, wall, wall.hour)
                    if not swallowed or due > minute
                )

    @staticmethod
    def _at(text: str, minute: datetime, wall: datetime, hour: int) -> Iterator[datetime]:
        second, minutes, hours, day, month, weekday = _split(text)
        if (
            fits(minutes, wall.minute, 0, 59)
            and fits(hours, hour, 0, 24 if hours.startswith("*") else 23)
            and fits(day, wall.day, 1, 31)
            and fits(month, wall.month, 1, 12)
            and any(
                fits(weekday, number, 0, 7) for number in (wall.isoweekday() % 7, wall.isoweekday())
            )
        ):
            yield from (minute + timedelta(seconds=n) for n in range(60) if fits(second, n, 0, 59))


def next_in_utc(expression: CronExpression, after: datetime) -> datetime:
    # Python calls an instant of the doubled hour unequal to the same one in another zone.
    return expression.next_after(after).astimezone(UTC)


def last_in_utc(expression: CronExpression, until: datetime) -> datetime | None:
    found = expression.last_until(until)
    return None if found is None else found.astimezone(UTC)


def a_field(chance: random.Random, low: int, high: int, *, dense: float) -> str:
    if chance.random() < dense:
        return "*"
    first = chance.randint(low, high)
    last = chance.randint(first, high)
    stride = chance.randint(1, max(1, (high - low) // 2))
    return chance.choice(
        [
            str(first),
            f"{first}-{last}",
            f"*/{stride}",
            f"{first}/{stride}",
            f"{first}-{last}/{stride}",
            f"{first},{last}",
            f"{last},{first}-{last}",
        ]
    )


def an_expression(chance: random.Random) -> str:
    hour = chance.choice(["2", "1-3", "2,3", "*", "*/2", a_field(chance, 0, 23, dense=0.2)])
    return " ".join(
        [
            chance.choice(["0", "0", "30", "0,59", "*/20"]),
            a_field(chance, 0, 59, dense=0.1),
            hour,
            chance.choice(["*", "*", a_field(chance, 24, 31, dense=0)]),
            chance.choice(["*", "*", "3,10", "1-11"]),
            chance.choice(["*", "*", "0", "7", "6,7", "1-5"]),
        ]
    )


@pytest.mark.parametrize(
    "night", ["2026-03-26", "2026-10-22", "2027-03-25", "2026-06-10"], ids=lambda text: text
)
def test_every_expression_agrees_with_a_clock_that_looks_at_every_minute(night: str) -> None:
    chance = random.Random(night)
    first = utc(night)
    clock = SlowClock(first, days=6)
    last = clock.minutes[-1] + timedelta(seconds=59)
    for _ in range(60):
        text = an_expression(chance)
        expression = CronExpression.parse(text)
        wanted = clock.dues(text)
        assert wanted == sorted(set(wanted))

        # all of them, one after the other
        found: list[datetime] = []
        instant = first - timedelta(seconds=1)
        while len(found) < AT_MOST and (instant := next_in_utc(expression, instant)) <= last:
            found.append(instant)
        assert found == wanted[:AT_MOST], text

        # backwards, from the last
        back = last
        for due in reversed(wanted[-AT_MOST:]):
            assert last_in_utc(expression, back) == due, text
            back = due - timedelta(microseconds=1)

        # and from anywhere in between
        for _ in range(5):
            after = first + timedelta(seconds=chance.randrange(5 * 86_400))
            expected = next((due for due in wanted if due > after), None)
            due = next_in_utc(expression, after)
            assert due == expected if expected is not None else due > last, f"{text} after {after}"
            earlier = next((due for due in reversed(wanted) if due <= after), None)
            before = last_in_utc(expression, after)
            assert before == earlier if earlier is not None else before is None or before < first


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("*/15 * * * *", "has 5 fields; six are needed, seconds first"),
        ("", "has 0 fields"),
        ("0 0 0 * * * *", "has 7 fields"),
        ("60 * * * * *", "second field '60': '60' is outside 0 to 59"),
        ("0 60 * * * *", "minute field"),
        ("0 0 24 * * *", "hour field '24': '24' is outside 0 to 23"),
        ("0 0 0 0 * *", "day field '0': '0' is outside 1 to 31"),
        ("0 0 0 * 13 *", "month field"),
        ("0 0 0 * * 8", "weekday field '8': '8' is outside 0 to 7"),
        ("0 5-3 * * * *", "'5-3' is outside 0 to 59"),
        ("0 */0 * * * *", "the step '0' is no positive number"),
        ("0 */x * * * *", "the step 'x' is no positive number"),
        ("0 1,,2 * * * *", "'' is no number, range or *"),
        ("0 -1 * * * *", "'-1' is no number, range or *"),
        ("0 1- * * * *", "'1-' is no number, range or *"),
        ("0 0 0 * JAN *", "'JAN' is no number, range or *"),
        ("0 0 0 31 2 *", "names a day that never comes"),
        ("0 0 0 31 4,6,9,11 *", "names a day that never comes"),
    ],
)
def test_what_cannot_be_is_refused_with_the_reason(text: str, said: str) -> None:
    with pytest.raises(DeclarationError) as refused:
        CronExpression.parse(text)
    assert said in str(refused.value)


def test_no_text_does_anything_but_parse_or_be_refused() -> None:
    chance = random.Random(3)
    instant = utc("2026-03-02 09:00")
    fates = {"parsed": 0, "refused": 0}
    for _ in range(3_000):
        text = list(an_expression(chance))
        for _ in range(chance.randint(0, 3)):
            text[chance.randrange(len(text))] = chance.choice("0123457*/-, x²")
        try:
            expression = CronExpression.parse("".join(text))
        except DeclarationError:
            fates["refused"] += 1
            continue
        fates["parsed"] += 1
        assert expression.next_after(instant) > instant
    assert min(fates.values()) > 300, fates


def test_an_instant_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone-aware"):
        CronExpression.parse("0 0 2 * * *").next_after(datetime(2026, 3, 2))  # noqa: DTZ001 - that is the point
