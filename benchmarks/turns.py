"""Turns: every side does the same work, one after the other, as often as asked: A B A B."""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.results import Case, Values
from benchmarks.sizes import Sizes

Say = Callable[[str], None]
Turn = Callable[[], Awaitable[Values]]


async def take(case: Case, sides: Mapping[str, Turn], sizes: Sizes, say: Say) -> None:
    """Let the sides have their turns and note in `case` what each measured."""
    words = {metric.key: metric.words for metric in case.metrics}[case.show]
    for repeat in range(1, sizes.repeats + 1):
        for name, turn in sides.items():
            values = await turn()
            case.add(name, values)
            say(
                f"{case.name}, {repeat} of {sizes.repeats}, {name}: {values[case.show]:,.2f} {words}"
            )
