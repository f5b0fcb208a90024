import ast
import itertools
import re
from pathlib import Path

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

import bitbylaw_common
from bitbylaw_common import metrics

OURS = {
    name: one
    for name, one in vars(metrics).items()
    if isinstance(
        one, prometheus_client.Counter | prometheus_client.Gauge | prometheus_client.Histogram
    )
}
IDS = re.compile(r"(^|_)(id|key|offset|partition|url|name|run|trace|file|error_text)($|_)")


def labels_of(metric: object) -> tuple[str, ...]:
    return tuple(getattr(metric, "_labelnames"))  # noqa: B009 - the library offers no public way


def families() -> dict[str, str]:
    page = metrics.render()[0].decode()
    return {
        family.name: family.documentation
        for family in text_string_to_metric_families(page)
        if not family.name.startswith("process_")
    }


def test_every_metric_is_named_as_the_house_names_them() -> None:
    kinds = {"total", "seconds", "bytes", "info"}

    assert len(families()) == len(OURS) >= 35
    for name, text in families().items():
        assert re.fullmatch(r"bitbylaw_[a-z]+(_[a-z]+)*", name), name
        assert text, name
    for constant, metric in OURS.items():
        full = str(getattr(metric, "_name")) + (  # noqa: B009 - as above
            "_total" if isinstance(metric, prometheus_client.Counter) else ""
        )
        if not isinstance(metric, prometheus_client.Gauge):
            assert full.rpartition("_")[2] in kinds, constant


def test_no_label_can_hold_an_id() -> None:
    for constant, metric in OURS.items():
        for label in labels_of(metric):
            assert not IDS.search(label), f"{constant} has the label {label}"


def test_every_metric_has_a_comment_or_a_heading_right_above_its_group() -> None:
    source = Path(metrics.__file__).read_text().splitlines()
    block = source[source.index("# fmt: off") : source.index("# fmt: on")]
    bare = [
        line.partition(" ")[0]
        for before, line in itertools.pairwise(block)
        if re.match(r"[A-Z_]+ = ", line) and not before
    ]

    assert bare == []


def test_nothing_else_imports_the_metrics_library() -> None:
    root = Path(bitbylaw_common.__file__).parents[4]
    guilty = [
        path.relative_to(root).as_posix()
        for folder in ("libs", "services", "tools")
        for path in (root / folder).rglob("src/**/*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus"))
        or (
            isinstance(node, ast.Import)
            and any(alias.name.startswith("prometheus") for alias in node.names)
        )
    ]

    assert set(guilty) == {"libs/common/src/bitbylaw_common/metrics.py"}


def test_the_page_shows_what_was_counted() -> None:
    labels = {"service": "test", "step": "Document Sync", "outcome": "done"}
    before = metrics.value("bitbylaw_step_runs_total", **labels)

    metrics.STEP_RUNS.labels("test", "Document Sync", "done").inc()

    page, content_type = metrics.render()
    assert metrics.value("bitbylaw_step_runs_total", **labels) == before + 1
    assert b'outcome="done",service="test",step="Document Sync"' in page
    assert b"_created" not in page
    assert content_type.startswith("text/plain; version=0.0.4")


def test_what_moves_at_every_record_is_on_the_page_whenever_it_is_read() -> None:
    name, labels = "bitbylaw_journal_records_total", {"service": "a-metrics-test", "phase": "end"}
    often = metrics.Often(metrics.JOURNAL_RECORDS.labels(*labels.values()))

    often.inc()
    often.inc(2)
    page = metrics.render()[0].decode()
    often.inc()

    assert 'bitbylaw_journal_records_total{phase="end",service="a-metrics-test"} 3.0' in page
    assert metrics.samples()[name, tuple(sorted(labels.items()))] == 4
    often.inc(3)
    assert metrics.value(name, **labels) == 7


@pytest.mark.parametrize(
    ("operation", "status", "counted"),
    [
        ("upload_file", "2xx", ("upload_file", "2xx")),
        ("get_entity", "none", ("get_entity", "none")),
        ("get_entity/69a68b9cd4c01ad4c", "5xx", ("other", "5xx")),
        ("Klage.pdf", "200", ("other", "none")),
    ],
)
def test_a_call_outside_is_counted_without_ids(
    operation: str, status: str, counted: tuple[str, str]
) -> None:
    labels = {"system": "test", "operation": counted[0], "status": counted[1]}
    before = metrics.value("bitbylaw_outside_requests_total", **labels)

    metrics.outside_request("test", operation, status, 0.2)

    assert metrics.value("bitbylaw_outside_requests_total", **labels) == before + 1


def test_a_class_of_status_is_its_hundreds() -> None:
    assert [metrics.status_class(status) for status in (204, 404, 503, None)] == [
        "2xx",
        "4xx",
        "5xx",
        "none",
    ]


def test_asking_for_a_metric_that_is_not_declared_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        metrics.value("bitbylaw_step_run_total")
    with pytest.raises(KeyError, match="has the labels"):
        metrics.value("bitbylaw_step_runs_total", service="test")


def test_the_build_tells_service_and_version() -> None:
    metrics.build_info("test", "1.2.3")

    assert b'service="test",version="1.2.3"' in metrics.render()[0]
