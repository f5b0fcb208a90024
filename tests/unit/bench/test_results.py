"""How bars are judged and shown."""

import json

import pytest
from benchmarks.results import Bar, Case, Metric, Row, quantile, to_json, to_markdown

RATE = Metric("rate", "posts/s", 0)
WAIT = Metric("wait", "p99 ms")


def _case(*bars: Bar) -> Case:
    return Case("case", (RATE, WAIT), "rate", bars, "bare")


def _measured(case: Case, ours: list[float], bare: list[float], metric: str = "rate") -> Case:
    for value in ours:
        case.add("ours", {metric: value})
    for value in bare:
        case.add("bare", {metric: value})
    return case


@pytest.mark.parametrize(
    ("bar", "ours", "bare", "median", "met"),
    [
        (Bar("rate", 0.9, at_least=True), [90, 80, 95], [100, 100, 100], 0.9, True),
        (Bar("rate", 0.9, at_least=True), [90, 80, 85], [100, 100, 100], 0.85, False),
        (Bar("rate", 1.2), [12, 20, 11], [10, 10, 10], 1.2, True),
        (Bar("rate", 1.2), [13, 20, 11], [10, 10, 10], 1.3, False),
        (Bar("rate", 0, "value"), [0, 0, 0], [], 0, True),
        (Bar("rate", 0, "value"), [0, 1, 1], [], 1, False),
    ],
)
def test_a_bar_is_judged_by_the_median_of_the_repeats(
    bar: Bar, ours: list[float], bare: list[float], median: float, met: bool
) -> None:
    (verdict,) = _measured(_case(bar), ours, bare).verdicts()

    assert verdict.median == pytest.approx(median)
    assert verdict.met is met


def test_ratios_are_of_the_same_repeat() -> None:
    # given a machine that is ten times slower in the second repeat
    case = _measured(_case(Bar("rate", 1.2)), [11, 110, 11], [10, 100, 10])

    (verdict,) = case.verdicts()

    assert verdict.values == pytest.approx((1.1, 1.1, 1.1))


def test_without_the_reference_nothing_is_judged() -> None:
    assert _measured(_case(Bar("rate", 1.2)), [10], []).verdicts() == []


def test_a_reference_below_zero_has_no_multiple() -> None:
    case = _measured(_case(Bar("wait", 1.5)), [2, 3], [-1, 2], "wait")

    (verdict,) = case.verdicts()

    assert verdict.values == (1.5,)


def test_the_table_shows_medians_spreads_and_whether_a_bar_is_met() -> None:
    row = Row("row", "A row", "How.", [_measured(_case(Bar("rate", 1.2)), [1300], [1000])])
    row.cases[0].add("ours", {"rate": 1500})
    row.left_out.append("a peer: it takes Java")

    table = to_markdown(row, {"Python": "3.11"})

    assert "| ours | 1,400 (1,300-1,500) |" in table
    assert "posts/s: 1.30x of bare, bar at most 1.2x: **not met**" in table
    assert "- Left out: a peer: it takes Java" in table
    assert "p99 ms" not in table


def test_a_bar_may_name_another_side_to_compare_with() -> None:
    bars = (Bar("rate", 1.2), Bar("rate", 1.2, reference="barer"))
    case = Case("case", _case().metrics, "rate", bars, "bare")
    _measured(case, [1200], [1000]).add("barer", {"rate": 800})

    table = to_markdown(Row("row", "A row", "How.", [case]), {})

    assert "posts/s: 1.20x of bare, bar at most 1.2x: met" in table
    assert "posts/s: 1.50x of barer, bar at most 1.2x: **not met**" in table


def test_the_json_holds_every_repeat() -> None:
    row = Row("row", "A row", "How.", [_measured(_case(Bar("rate", 1.2)), [11, 13], [10, 10])])

    found = json.loads(json.dumps(to_json(row, {"cores": 2})))

    (case,) = found["cases"]
    assert case["measured"]["ours"] == [{"rate": 11}, {"rate": 13}]
    assert case["bars"][0]["values"] == pytest.approx([1.1, 1.3])


@pytest.mark.parametrize(
    ("share", "expected"), [(0.5, 50), (0.99, 99), (0.995, 100), (1.0, 100), (0.0, 1)]
)
def test_a_quantile_is_a_value_that_was_measured(share: float, expected: int) -> None:
    assert quantile([float(n) for n in range(100, 0, -1)], share) == expected


def test_nothing_has_no_quantile() -> None:
    with pytest.raises(ValueError, match="no value"):
        quantile([], 0.5)
