import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from typer.testing import CliRunner

from bitbylaw_cli.log_lines import Filter, LogLine, ending, follow, parsed, read, worded
from bitbylaw_cli.main import build


def line(time: str, level: str, service: str, event: str, **fields: object) -> str:
    given = {"time": f"2026-03-09T08:00:{time}.000Z", "level": level, "event": event}
    return json.dumps({**given, "service": service, **fields}) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    logs = tmp_path / "state" / "logs"
    logs.mkdir(parents=True)
    (logs / "services.log").write_text(
        line("01", "info", "ingest", "stored")
        + line("03", "warning", "document-sync", "waiting", entity_id="65f0")
        + line("04", "error", "ingest+document-sync", "broke", exception="Traceback\nBoom"),
        "utf-8",
    )
    (logs / "simulators.log").write_text(line("02", "info", "espocrm", "asked"), "utf-8")
    (logs / "kafka.log").write_text("INFO started\n", "utf-8")
    (logs / "services.log.1").write_text(line("00", "error", "ingest", "earlier run"), "utf-8")
    return logs


def events(lines: list[LogLine]) -> list[str]:
    return [one.event for one in lines]


def test_lines_of_all_services_come_in_time_order_without_kafka_s(folder: Path) -> None:
    assert events(read(folder, Filter())) == ["stored", "asked", "waiting", "broke"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(service="document-sync"), ["waiting", "broke"]),
        (Filter(service="simulators"), ["asked"]),
        (Filter(service="kafka"), ["INFO started"]),
        (Filter(level="warning"), ["waiting", "broke"]),
        (Filter(grep="65F0"), ["waiting"]),
        (Filter(grep="boom"), ["broke"]),
    ],
)
def test_lines_are_chosen(wanted: Filter, found: list[str], folder: Path) -> None:
    assert events(read(folder, wanted)) == found


def test_a_line_that_is_no_json_is_an_event_as_it_stands() -> None:
    for text in ("plain words", "{torn", '["a list"]', '{"no": "event"}'):
        assert parsed("kafka", text) == LogLine("kafka", "", "info", "kafka", text, {})


def test_ids_of_runs_are_shortened_for_people_only() -> None:
    told = parsed("services", line("01", "info", "ingest", "ran", run_id="0123456789abcdef"))

    assert "run_id=01234567" in worded(told).plain
    assert "0123456789abcdef" not in worded(told).plain
    assert told.fields["run_id"] == "0123456789abcdef"


async def test_following_yields_what_is_written_and_survives_a_new_file(folder: Path) -> None:
    following = follow(folder, Filter(service="ingest"))
    first = asyncio.ensure_future(anext(following))
    await asyncio.sleep(0)  # it notes where the files end
    try:
        async with asyncio.timeout(10):
            await _written(folder / "services.log", "11", "appended", first)
            (folder / "services.log").unlink()
            second = asyncio.ensure_future(anext(following))
            (folder / "services.log").write_text(line("12", "info", "ingest", "anew"), "utf-8")
            assert (await second).event == "anew"
    finally:
        await _closed(following)


async def _written(path: Path, time: str, event: str, waiting: asyncio.Future[LogLine]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(line(time, "info", "ingest", event)[:20])
        file.flush()
        file.write(line(time, "info", "ingest", event)[20:])
    assert (await waiting).event == event


async def _closed(following: AsyncIterator[LogLine]) -> None:
    close = getattr(following, "aclose", None)
    assert close is not None
    await close()


def test_the_command_answers_as_json(folder: Path) -> None:
    told = CliRunner().invoke(
        build(), ["logs", "--state", str(folder.parent), "--json", "--count", "2"]
    )

    found = TypeAdapter(list[LogLine]).validate_json(told.output)
    assert told.exit_code == 0
    assert events(found) == ["waiting", "broke"]


def test_the_command_words_lines_for_people(folder: Path) -> None:
    told = CliRunner().invoke(build(), ["logs", "--state", str(folder.parent), "--grep", "65f0"])

    assert told.output == "08:00:03.000 document-sync  waiting entity_id=65f0\n"


def test_without_logs_the_command_says_who_writes_them(tmp_path: Path) -> None:
    told = CliRunner().invoke(build(), ["logs", "--state", str(tmp_path)])

    assert told.exit_code == 2
    assert "`bbl up` writes it" in told.stderr


def test_the_end_of_a_log_is_worded_and_bounded(folder: Path, tmp_path: Path) -> None:
    assert (
        ending(folder / "services.log", count=1)
        .splitlines()[0]
        .startswith("  08:00:04.000 ingest+document-sync broke")
    )
    assert ending(tmp_path / "none.log") == "  (its log is empty)"
