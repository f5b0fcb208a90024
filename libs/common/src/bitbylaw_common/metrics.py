"""Every metric of the system, one constant each; nothing else may name a metric.

Labels come from small closed sets: names out of declarations (service, step, topic, route,
operation) or the words listed beside the metric. Never an id, never a value of a record.
"""

import platform
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_RUN_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 150)
_ANSWER_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_DELAY_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600)
_LAG_SECONDS = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 5)

REGISTRY = CollectorRegistry()
# a birth date per series doubles the page and nobody asks for it
disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it untyped
ProcessCollector(registry=REGISTRY)

_declared: dict[str, frozenset[str]] = {}
_metrics: list[Counter | Gauge | Histogram] = []


def _counter(name: str, text: str, *labels: str) -> Counter:
    _declared[name] = frozenset(labels)
    _metrics.append(made := Counter(name, text, labels, registry=REGISTRY))
    return made


def _gauge(name: str, text: str, *labels: str) -> Gauge:
    _declared[name] = frozenset(labels)
    _metrics.append(made := Gauge(name, text, labels, registry=REGISTRY))
    return made


def _histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
    _declared[f"{name}_count"] = _declared[f"{name}_sum"] = frozenset(labels)
    _metrics.append(made := Histogram(name, text, labels, buckets=buckets, registry=REGISTRY))
    return made


# fmt: off
# -- runs: what becomes of records, and how fast? -------------------------------------------------
# outcome: done skipped wait retry rejected bug
STEP_RUNS = _counter("bitbylaw_step_runs_total", "Runs by how they ended", "service", "step", "outcome")
# handler and lock, without the records written afterwards
STEP_SECONDS = _histogram("bitbylaw_step_seconds", "How long runs took", _RUN_SECONDS, "service", "step")
# unix seconds of the last done or skipped: the freshness of a cron or a sync
STEP_SUCCESS_AT = _gauge("bitbylaw_step_success_timestamp_seconds", "Last run that ended well", "service", "step")
# attempt: the one that failed, 1 to 6
RETRIES = _counter("bitbylaw_retries_total", "Retries planned", "service", "step", "attempt")
# how much a hot key is spared
RECORDS_COALESCED = _counter("bitbylaw_records_coalesced_total", "Records answered by another's run", "service", "step")
# 1 from the halt to the resume
STEP_HALTED = _gauge("bitbylaw_step_halted", "Whether a step is halted", "service", "step")
# 1 while an operator wants no run of it
STEP_PAUSED = _gauge("bitbylaw_step_paused", "Whether a step is paused", "service", "step")
# effect: upload delete detach overwrite record; 1 from the trip to the release: alert on it
BRAKE_ENGAGED = _gauge("bitbylaw_brake_engaged", "Whether a kind of effect is held back", "service", "effect")
BRAKE_TRIPS = _counter("bitbylaw_brake_trips_total", "Times that a budget was exceeded", "service", "effect")
# each look of a record that waits counts again
BRAKE_HELD = _counter("bitbylaw_brake_held_total", "Runs held back", "service", "effect")
# most runs rejected, over many keys, none ended well; at most once a minute while that lasts
REJECTED_SURGES = _counter("bitbylaw_rejected_surges_total", "Times that rejections prevailed", "service", "step")
# error: name of the error class, or Rejected, Deadline, Bug, Undecodable
DEAD_LETTERS = _counter("bitbylaw_dead_letters_total", "Records given up", "service", "error")
# source: event, base, schedule, control
UNDECODABLE = _counter("bitbylaw_undecodable_records_total", "Records whose bytes do not fit", "service", "source")
# phase: intent end
JOURNAL_RECORDS = _counter("bitbylaw_journal_records_total", "Journal records written", "service", "phase")
# facts and reasons shortened because Kafka would refuse the record
JOURNAL_CUT = _counter("bitbylaw_journal_cut_total", "Journal records shortened", "service")

# -- consuming: does it take, move and commit? ----------------------------------------------------
RECORDS_CONSUMED = _counter("bitbylaw_records_consumed_total", "Records taken", "service", "topic")
RECORDS_IN_FLIGHT = _gauge("bitbylaw_records_in_flight", "Records taken, not finished", "service")
BYTES_IN_FLIGHT = _gauge("bitbylaw_records_in_flight_bytes", "Their size in memory", "service")
# unix seconds; also set when there was nothing to take
PROGRESS_AT = _gauge("bitbylaw_consumer_progress_timestamp_seconds", "Last time the consumer moved", "service")
# result: done failed refused (another member owns the partition)
COMMITS = _counter("bitbylaw_commits_total", "Offset commits", "service", "result")
# reason: refused (by the group) unknown (a write, or the lease, was not certain; taken over anew)
PARTITIONS_LOST = _counter("bitbylaw_partitions_lost_total", "Partitions lost without a rebalance", "service", "reason")
# there is more to read, it may be read, and nothing is: at 40 s the process is unhealthy
FETCH_STUCK_SECONDS = _gauge("bitbylaw_fetch_stuck_seconds", "For how long a partition was not read on", "service")
LANES_RUNNING = _gauge("bitbylaw_lanes_running", "Keys being worked on", "service")
# what autoscaling goes by; keys that a pause, a halt or an open circuit holds back are not among them
LANES_READY = _gauge("bitbylaw_lanes_ready", "Keys that wait for a free place", "service")

# -- schedule: what waits for its time, and does it start in time? --------------------------------
# kind: retry wait tick dead (given up a moment ago; its echo is told from news)
SCHEDULE_ENTRIES = _gauge("bitbylaw_schedule_entries", "Entries that wait to be due", "service", "kind")
DUE_DELAY_SECONDS = _histogram("bitbylaw_due_delay_seconds", "From due to started", _DELAY_SECONDS, "service", "kind")
# a cron's freshness: 0 until its next instant is due, then growing until that has an end
CRON_OVERDUE_SECONDS = _gauge("bitbylaw_cron_overdue_seconds", "How long an instant of a cron waits for its end", "service", "step")
# by the policy of the cron one newer run answers them, or none
CRON_MISSED = _counter("bitbylaw_cron_missed_total", "Instants of a cron that did not run", "service", "step")

# -- coverage: is anything missed that no webhook told? --------------------------------------------
# state: new waiting overdue (nothing stands for it: alert) "given up" (a dead letter does)
COVERAGE_GAPS = _gauge("bitbylaw_coverage_gaps", "Records not in line, by what stands for them", "service", "entity", "state")
# unix seconds; every change before was seen: alert when it is older than half an hour
COVERAGE_COMPLETE_AT = _gauge("bitbylaw_coverage_complete_timestamp_seconds", "Until when changes are covered", "service", "entity")
# lists that could not be read, and whose records nobody covers therefore: alert
COVERAGE_UNREAD = _gauge("bitbylaw_coverage_unread_lists", "Lists that could not be read", "service", "entity")
# unix seconds; alert when it is older than 26 hours
COMPARISON_COMPLETE_AT = _gauge("bitbylaw_comparison_complete_timestamp_seconds", "When the last full comparison began", "service", "entity")
# standing: in_sync pending conflict duplicate excluded orphan (a file that is nobody's)
COMPARISON_RECORDS = _gauge("bitbylaw_comparison_records", "Records by how the last full comparison found them", "service", "entity", "standing")
# found_by: coverage comparison; each is a change that no webhook told, or that failed since
SYNC_CHECKS = _counter("bitbylaw_sync_checks_total", "Records told to be looked at", "service", "entity", "found_by")

# -- outside systems: do they answer? -------------------------------------------------------------
# count with `outside_request`; status: 1xx to 5xx, none (no answer)
OUTSIDE_REQUESTS = _counter("bitbylaw_outside_requests_total", "Calls", "system", "operation", "status")
OUTSIDE_SECONDS = _histogram("bitbylaw_outside_request_seconds", "How long calls took", _RUN_SECONDS, "system", "operation")
# 1 while steps that need the system do not start
CIRCUIT_OPEN = _gauge("bitbylaw_circuit_open", "Whether calls are held back", "system")
CIRCUIT_OPENINGS = _counter("bitbylaw_circuit_openings_total", "Times that a circuit opened", "system")
# result: answered failed
CIRCUIT_PROBES = _counter("bitbylaw_circuit_probes_total", "Probes of held back systems", "system", "result")
# cause: circuit (open) patience (it sent a 429) rate (no room in time); nothing was sent
CALLS_HELD_BACK = _counter("bitbylaw_calls_held_back_total", "Calls not sent, to spare a system", "system", "cause")
# priority: interactive sync; only of calls with a rate limit
RATE_WAIT_SECONDS = _histogram("bitbylaw_rate_wait_seconds", "Wait for the rate limit", _DELAY_SECONDS, "system", "priority")
# Redis did not answer: each process counts alone, so together they may be faster
RATE_STORE_DOWN = _counter("bitbylaw_rate_store_down_total", "Calls limited without the others", "system")

# -- Advoware: does the one login of all processes work? ------------------------------------------
# result: granted refused (licence or credentials) failed; rises once an hour, however many processes
ADVOWARE_LOGINS = _counter("bitbylaw_advoware_logins_total", "Token requests", "result")
# from the Date of its answers; more than 5 s is logged, and corrected where a login needs it
ADVOWARE_CLOCK_SKEW_SECONDS = _gauge("bitbylaw_advoware_clock_skew_seconds", "How far Advoware's clock is ahead of ours")
# Redis did not answer: each process logs in by itself
TOKEN_STORE_DOWN = _counter("bitbylaw_token_store_down_total", "Looks for a token that Redis did not answer")

# -- Redis: do locks work? ------------------------------------------------------------------------
REDIS_UP = _gauge("bitbylaw_redis_up", "Whether Redis answered last time")
# entity: the lock's entity word; somebody outside the group held it
LOCK_WAITS = _counter("bitbylaw_lock_waits_total", "Runs put off for a lock", "entity")
# Redis did not answer; the log alone kept the order
LOCK_STORE_DOWN = _counter("bitbylaw_lock_store_down_total", "Runs without their lock", "entity")
# its time ran out while the process stood still or Redis was away, and another took it
LOCKS_LOST = _counter("bitbylaw_locks_lost_total", "Locks that changed hands during the run", "entity")

# -- Kafka: does it take what we write? -----------------------------------------------------------
KAFKA_APPEND_SECONDS = _histogram("bitbylaw_kafka_append_seconds", "From append to acknowledgement", _ANSWER_SECONDS)
# base and schedule, one transaction for all that waited meanwhile
STATE_WRITE_SECONDS = _histogram("bitbylaw_state_write_seconds", "How long a transaction took", _ANSWER_SECONDS)
# reason: fenced (another worker took over) unknown (no answer in time)
STATE_WRITE_FAILURES = _counter("bitbylaw_state_write_failures_total", "Transactions not committed", "reason")
# reason: refused late error
KAFKA_APPEND_FAILURES = _counter("bitbylaw_kafka_append_failures_total", "Appends not acknowledged", "reason")
KAFKA_BYTES_WAITING = _gauge("bitbylaw_kafka_waiting_bytes", "Bytes that wait for acknowledgement")

# -- webhooks: do they come in, and can they be read? ---------------------------------------------
# entity and action: as in the nine routes; a source that falls silent shows here
WEBHOOKS_RECEIVED = _counter("bitbylaw_webhooks_received_total", "Posts", "entity", "action")
# status: 200 401 413 503 500
WEBHOOK_ANSWERS = _counter("bitbylaw_webhook_answers_total", "Answers", "entity", "action", "status")
WEBHOOK_ITEMS = _counter("bitbylaw_webhook_items_total", "Objects published", "entity", "action")
# portion: body item
WEBHOOKS_QUARANTINED = _counter("bitbylaw_webhook_quarantined_total", "Put aside, unreadable", "entity", "action", "portion")
# published all the same; only counted
WEBHOOK_DUPLICATES = _counter("bitbylaw_webhook_duplicates_total", "Objects seen before", "entity", "action")
# fault: missing inactive elsewhere unbelieved duplicate other_user echoes; 1 while the daily check finds it
WEBHOOK_REGISTRATION_FAULTS = _gauge("bitbylaw_webhook_registration_faults", "Faults of the registrations in EspoCRM", "entity", "action", "fault")
# reason: unknown_webhook mismatch missing malformed
SIGNATURE_FAILURES = _counter("bitbylaw_webhook_signature_failures_total", "Posts refused", "reason")

# -- the Advoware proxy: who is turned away, and is there a trace of every call? -----------------
# reason: key scope rate, or why the endpoint was refused: missing twice oversized unreadable encoded absolute
# empty_segment dots character query
PROXY_REFUSED = _counter("bitbylaw_proxy_refused_total", "Calls turned away before Advoware", "reason")
# answered all the same, but Kafka did not take the event
PROXY_EVENTS_LOST = _counter("bitbylaw_proxy_events_lost_total", "Answers without an event")

# -- our HTTP side: does it answer? ---------------------------------------------------------------
# route: the declared path, or unknown; status: as sent, or 499 (the caller went away)
HTTP_REQUESTS = _counter("bitbylaw_http_requests_total", "Requests", "method", "route", "status")
HTTP_SECONDS = _histogram("bitbylaw_http_request_seconds", "From request to end of answer", _ANSWER_SECONDS, "method", "route")
HTTP_IN_FLIGHT = _gauge("bitbylaw_http_requests_in_flight", "Requests not answered yet")
HTTP_BODY_BYTES = _gauge("bitbylaw_http_body_bytes", "Bytes of request bodies in memory")

# -- the process ----------------------------------------------------------------------------------
# everything else waits as long as this
LOOP_LAG_SECONDS = _histogram("bitbylaw_loop_lag_seconds", "How late the loop woke a sleeper", _LAG_SECONDS)
# result: sent, failed (the collector did not take them), dropped (too many waited for it)
TRACE_SPANS = _counter("bitbylaw_trace_spans_total", "Spans by what became of them", "result")
# each at least two seconds long; the log names the task and the line
LOOP_BLOCKED = _counter("bitbylaw_loop_blocked_total", "Times the loop stood still")
# always 1; the labels tell
BUILD_INFO = _gauge("bitbylaw_build_info", "Which code runs", "service", "version", "python")
# fmt: on

_OPERATION = re.compile(r"[a-z][a-z0-9_]{0,47}")
_STATUS_CLASSES = frozenset({"1xx", "2xx", "3xx", "4xx", "5xx", "none"})


def build_info(service: str, version: str) -> None:
    """Tell which version of `service` runs in this process."""
    BUILD_INFO.labels(service, version, platform.python_version()).set(1)


def outside_request(system: str, operation: str, status: str, seconds: float) -> None:
    """Count one call to an outside system.

    Args:
        system: "espocrm", "xai", ...
        operation: what was asked, without ids; what could be an id counts as "other".
        status: the class, "2xx" to "5xx"; "none", or anything else, for no answer.
        seconds: from sending to the end of the answer.
    """
    requests, durations = _outside_series(system, operation, status)
    requests.inc()
    durations.observe(seconds)


@lru_cache(maxsize=1024)
def _outside_series(system: str, operation: str, status: str) -> tuple[Counter, Histogram]:
    operation = operation if _OPERATION.fullmatch(operation) else "other"
    known = status if status in _STATUS_CLASSES else "none"
    return (
        OUTSIDE_REQUESTS.labels(system, operation, known),
        OUTSIDE_SECONDS.labels(system, operation),
    )


class Often:
    """A counter's series that moves thousands of times a second: a plain number until it is read.

    Made once for each series, and moved by one event loop, on which metrics are read, too.
    """

    __slots__ = ("_moved", "_series")

    def __init__(self, series: Counter) -> None:
        self._series = series
        self._moved = 0
        _often.append(self)

    def inc(self, amount: int = 1) -> None:
        """Move it up."""
        self._moved += amount

    def settle(self) -> None:
        """Let the library's counter know."""
        if self._moved:
            self._series.inc(self._moved)
            self._moved = 0


_often: list[Often] = []


def _settle() -> None:
    for series in _often:
        series.settle()


class RunSeries(NamedTuple):
    """The series that every run of a step moves, looked up once."""

    runs: Often
    seconds: Histogram
    journals: Often
    success_at: Gauge


@lru_cache(maxsize=1024)
def run_series(service: str, step: str, outcome: str) -> RunSeries:
    """Return the series of a step's runs that end in `outcome`."""
    return RunSeries(
        Often(STEP_RUNS.labels(service, step, outcome)),
        STEP_SECONDS.labels(service, step),
        Often(JOURNAL_RECORDS.labels(service, "end")),
        STEP_SUCCESS_AT.labels(service, step),
    )


def status_class(status: int | None) -> str:
    """Return "2xx" for 204, "none" for no answer."""
    return "none" if status is None else f"{status // 100}xx"


def render() -> tuple[bytes, str]:
    """Return all metrics as Prometheus reads them, and the content type to send them with."""
    _settle()
    return generate_latest(REGISTRY), CONTENT_TYPE_PLAIN_0_0_4


def declared() -> Mapping[str, frozenset[str]]:
    """Return every metric's labels, by the name that `value` takes."""
    return dict(_declared)


def samples() -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Return where every declared series stands, by name and sorted labels: for tests."""
    _settle()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for metric in _metrics
        for family in metric.collect()
        for sample in family.samples
        if sample.name in _declared
    }


def value(name: str, **labels: str) -> float:
    """Return where a series stands, 0 while nothing counted: for tests and status pages.

    Args:
        name: as on the metrics page; a histogram by `{name}_count` or `{name}_sum`.
        **labels: all of the series' labels.

    Raises:
        KeyError: no such metric, or not its labels.
    """
    if _declared[name] != labels.keys():
        raise KeyError(f"{name} has the labels {sorted(_declared[name])}, not {sorted(labels)}")
    _settle()
    return REGISTRY.get_sample_value(name, labels) or 0.0
