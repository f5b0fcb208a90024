import asyncio
import io
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr, ValidationError

from bitbylaw_common import logs, tracing
from bitbylaw_common.errors import Transient

SECRET = 'xai-"quoted"\\token-ü'


class FixedClock:
    def now(self) -> datetime:
        return datetime(2026, 3, 8, 12, 30, 15, 250_000, tzinfo=UTC)

    def monotonic(self) -> float:
        return 0.0

    async def sleep(self, seconds: float) -> None:
        raise AssertionError


class Written:
    """What the log wrote."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    def configure(
        self, manner: logs.Format = "json", level: logs.Level = "info", **how: Any
    ) -> None:
        logs.configure(manner, level, self.stream, clock=FixedClock(), **how)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]

    @property
    def line(self) -> dict[str, Any]:
        (only,) = self.lines
        return only


@pytest.fixture
def written() -> Iterator[Written]:
    yield Written()
    logs.configure("json", "warning", sys.stderr)


def test_a_line_is_one_object_with_the_run_it_belongs_to(written: Written) -> None:
    written.configure()
    logger = logs.step_logger(
        service="document-sync", step="Document Sync", entity="document", entity_id="1", run_id="r"
    )

    logger.info("uploaded", file_id="file_1", size_bytes=12)

    assert list(written.line.items()) == [
        ("time", "2026-03-08T12:30:15.250Z"),
        ("level", "info"),
        ("event", "uploaded"),
        ("service", "document-sync"),
        ("step", "Document Sync"),
        ("run_id", "r"),
        ("entity", "document"),
        ("entity_id", "1"),
        ("file_id", "file_1"),
        ("size_bytes", 12),
    ]


def test_lines_below_the_level_are_left_out(written: Written) -> None:
    written.configure(level="warning")
    logger = logs.step_logger()

    logger.debug("a")
    logger.info("b")
    logger.warning("c")
    logger.error("d")

    assert [line["level"] for line in written.lines] == ["warning", "error"]


def test_a_library_s_line_carries_the_run_and_the_trace_it_was_written_in(
    written: Written,
) -> None:
    written.configure()
    with tracing.use(tracing.new()) as trace, logs.bound(step="Document Sync", run_id="r"):
        logging.getLogger("some.library").info("connected to %s", "somewhere")

    assert written.line["event"] == "connected to somewhere"
    assert written.line["logger"] == "some.library"
    assert written.line["run_id"] == "r"
    assert written.line["trace_id"] == trace.trace_id


def test_chatty_libraries_are_heard_from_warning_on_and_at_debug(written: Written) -> None:
    written.configure()
    logging.getLogger("aiokafka.consumer").info("chatter")
    logging.getLogger("aiokafka.consumer").warning("lost the broker")
    assert [line["event"] for line in written.lines] == ["lost the broker"]

    written.configure(level="debug")
    logging.getLogger("aiokafka.consumer").info("chatter")
    assert written.lines[-1]["event"] == "chatter"


async def test_runs_at_the_same_time_do_not_mix_their_lines(written: Written) -> None:
    written.configure()

    async def run(number: int) -> None:
        with logs.bound(run_id=str(number)):
            await asyncio.sleep(0)
            logging.getLogger("library").info("%s", number)

    await asyncio.gather(*(run(number) for number in range(10)))

    assert len(written.lines) == 10
    assert all(line["run_id"] == line["event"] for line in written.lines)


@pytest.mark.parametrize("format", ["json", "console"])
def test_a_known_secret_never_reaches_the_stream(written: Written, format: logs.Format) -> None:  # noqa: A002 - as in logs
    written.configure(format, secrets=["first-secret"])
    logs.hide([SECRET])
    logger = logs.step_logger(service="x")

    logger.info(SECRET, header=f"Bearer {SECRET}", nested={"a": [f"<{SECRET}>"]})
    logging.getLogger("library").warning("key %s", SECRET)
    logger.error("failed", exc_info=KeyError(f"with first-secret and {SECRET}"))

    assert "token-ü" not in written.text
    assert "first-secret" not in written.text
    assert written.text.count("***") >= 6


@pytest.mark.parametrize(
    "name",
    ["password", "api_key", "apikey", "Authorization", "X-Signature", "redis_password", "secret",
     "access_token", "control_key", "Set-Cookie"],
)  # fmt: skip
def test_a_field_named_like_a_secret_loses_its_value(written: Written, name: str) -> None:
    written.configure()

    logs.step_logger().info("called", headers={name: "value-1"}, **{name: "value-2"})

    assert written.line[name] == "***"
    assert "value-" not in written.text


@pytest.mark.parametrize("name", ["key", "entity_id", "tokens_used", "secretary"])
def test_a_field_that_only_looks_a_little_like_one_keeps_it(written: Written, name: str) -> None:
    written.configure()

    logs.step_logger().info("called", **{name: "kept"})

    assert written.line[name] == "kept"


class Colour(Enum):
    RED = "red"


class Party(BaseModel):
    name: str


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (datetime(2026, 3, 8, 13, tzinfo=UTC), "2026-03-08T13:00:00.000Z"),
        (timedelta(minutes=1), 60.0),
        (b"Klage", "<5 bytes>"),
        (Colour.RED, "red"),
        ({"b", "a"}, ["a", "b"]),
        (("x", 1), ["x", 1]),
        (float("nan"), "nan"),
        (Path("a/b"), "a/b"),
        (SecretStr("s3cret-s3cret"), "<SecretStr>"),
        (Party(name="Schmidt"), "<Party>"),
        (Transient("xai", "upload_file"), "Transient: xai did not answer to upload_file"),
        (ValueError("no 'Schmidt' here"), "ValueError: no '…' here"),
        ({1: {2: {3: {4: {5: {6: {7: 8}}}}}}}, {"1": {"2": {"3": {"4": {"5": {"6": "<dict>"}}}}}}),
    ],
)
def test_what_is_not_made_for_logs_is_shown_by_its_kind(
    written: Written, value: object, shown: object
) -> None:
    written.configure()

    logs.step_logger().info("fact", value=value)

    assert written.line["value"] == shown


def test_a_traceback_shows_code_and_causes_but_no_values(written: Written) -> None:
    written.configure()
    client = "Schmidt"

    def parse() -> None:
        number = client
        try:
            int(number)
        except ValueError as error:
            raise LookupError(f"nobody is called '{client}'") from error

    try:
        parse()
    except LookupError as error:
        logs.step_logger().error("bug in a handler", exc_info=error)

    shown = written.line["exception"]
    assert "int(number)" in shown
    assert "ValueError: invalid literal for int() with base 10: '…'" in shown
    assert "was the direct cause of" in shown
    assert "LookupError: nobody is called '…'" in shown
    assert "Schmidt" not in written.text


def test_an_error_group_shows_all_its_parts(written: Written) -> None:
    written.configure()
    both = ExceptionGroup("both", [KeyError("betNr"), OSError(5, "Input/output error")])
    logs.step_logger().error("failed", exc_info=both)

    assert "KeyError: 'betNr'" in written.line["exception"]
    assert "OSError: [Errno 5] Input/output error" in written.line["exception"]


def test_a_value_that_did_not_validate_is_not_in_the_log(written: Written) -> None:
    written.configure()
    name = "Schmidt"
    try:
        Party.model_validate({"name": [name]})
    except ValidationError:
        logging.getLogger("library").exception("could not read")

    assert "1 errors in Party: name: string_type" in written.line["exception"]
    assert "Schmidt" not in written.text


def test_the_console_opens_a_run_with_a_banner_and_closes_it_with_a_sign(written: Written) -> None:
    written.configure("console", colour=False)
    logger = logs.step_logger(
        service="document-sync", step="Document Sync", entity="document", entity_id="69a6", run_id="abcdef0123"
    )  # fmt: skip

    logger.info(logs.RUN_STARTED, attempt=1)
    logger.info("downloaded", size_bytes=1024)
    logger.info("uploaded", file_id="file_1")
    logger.warning("no collections found")
    logger.error("upload failed", reason="too large")
    logger.info(logs.RUN_ENDED, outcome="done", summary="2 changes")

    about = "[Document Sync · document 69a6 · abcdef01]"
    assert written.text.splitlines() == [
        "=" * 80,
        "🔄 STEP STARTED: Document Sync",
        "=" * 80,
        "service    document-sync",
        "run id     abcdef0123",
        "entity     document",
        "entity id  69a6",
        "attempt    1",
        "=" * 80,
        f"12:30:15.250 📥 downloaded{' ' * 26} size_bytes=1024 {about}",
        f"12:30:15.250 ✅ uploaded{' ' * 28} file_id=file_1 {about}",
        f"12:30:15.250 ⚠️ no collections found{' ' * 16} {about}",
        f'12:30:15.250 ❌ upload failed{" " * 23} reason="too large" {about}',
        f'12:30:15.250 ✅ run ended{" " * 27} outcome=done summary="2 changes" {about}',
    ]


def test_colour_is_for_terminals_only(written: Written) -> None:
    written.configure("console")
    logs.step_logger().warning("careful")
    assert "\x1b[" not in written.text

    written.configure("console", colour=True)
    logs.step_logger().warning("careful")
    assert "\x1b[33m" in written.text


def test_a_line_break_in_a_value_cannot_forge_a_line(written: Written) -> None:
    forged = 'x\n{"level":"error","event":"forged"}'
    written.configure()
    logs.step_logger().info("fact", value=forged)
    assert written.line["value"] == forged

    written.configure("console")
    logs.step_logger().info("a\nb", value=forged)
    assert len(written.text.splitlines()) == 2


def test_a_stream_that_cannot_show_a_sign_still_gets_the_line() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii", newline="")
    try:
        logs.configure("console", "info", stream, clock=FixedClock(), colour=False)
        logs.step_logger().info("uploaded", name="Müller")
    finally:
        logs.configure("json", "warning", sys.stderr)

    assert raw.getvalue().startswith(b"12:30:15.250 ? uploaded")
    assert b"M?ller" in raw.getvalue()


class Full(io.StringIO):
    full = True

    def write(self, text: str, /) -> int:
        if self.full:
            raise OSError(28, "No space left on device")
        return super().write(text)


def test_a_log_that_cannot_be_written_ends_no_work_and_says_later_how_much_is_missing() -> None:
    stream = Full()
    try:
        logs.configure("json", "info", stream)
        logs.step_logger().info("one")
        logs.step_logger().info("two")
        stream.full = False
        logs.step_logger().info("three")
        logs.step_logger().info("four")
    finally:
        logs.configure("json", "warning", sys.stderr)

    third, fourth = (json.loads(line) for line in stream.getvalue().splitlines())
    assert third["lines_lost"] == 2
    assert "lines_lost" not in fourth


def test_configuring_twice_writes_each_line_once(written: Written) -> None:
    written.configure()
    written.configure()

    logging.getLogger("library").warning("once")

    assert len(written.lines) == 1


def test_half_a_character_costs_no_line(written: Written) -> None:
    """What a broken client sends in a name; JSON in UTF-8 has no spelling for it but an escape."""
    written.configure()
    logs.step_logger(service="ingest").info("said", words="M\ud83d")
    assert '"words":"M' in written.text
    assert written.line["event"] == "said"


def test_a_field_that_is_named_like_a_secret_stays_hidden_whatever_comes_with_it(
    written: Written,
) -> None:
    written.configure()
    logger = logs.step_logger(service="ingest")
    for fields in ({"api_key": "a", "n": 1}, {"n": 1, "api_key": None}, {"api_key": ["a"]}):
        logger.info("said", **fields)
    assert [line["api_key"] for line in written.lines] == [logs.HIDDEN] * 3
