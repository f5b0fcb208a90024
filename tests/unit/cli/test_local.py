import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from typer.testing import CliRunner
from yarl import URL

from bitbylaw_cli import holder
from bitbylaw_cli.frontdoor import FrontDoor, rules_of
from bitbylaw_cli.holder import holder_of
from bitbylaw_cli.local import (
    APPS,
    SAMPLE_KEYS,
    LocalSystem,
    Options,
    apps_of,
    in_words,
    refuse_taken,
    until_signalled,
)
from bitbylaw_cli.main import build
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.services import Child, Sources, forget_highest, highest_kib, resident_kib
from bitbylaw_cli.simulated import office_of
from bitbylaw_cli.story import Story, Told, line_of
from bitbylaw_common import topics
from bitbylaw_common.journal import EffectFact, JournalEntry
from bitbylaw_common.runtime.ports import Record
from bitbylaw_simulators.advoware import Firm
from bitbylaw_simulators.espocrm import EspoCRM
from bitbylaw_simulators.xai import Xai

NOW = datetime(2026, 3, 9, 8, 0, tzinfo=UTC)


# -- who holds a port -----------------------------------------------------------------------------


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield listening.getsockname()[1]


def test_a_taken_port_is_refused_with_the_process_that_holds_it(taken: int) -> None:
    with pytest.raises(CommandError) as refused:
        refuse_taken(taken)

    assert refused.value.exit is Exit.REFUSED
    assert str(refused.value).count("\n") == 0
    assert f"port {taken} is held by process {os.getpid()} (" in str(refused.value)
    assert Path(sys.executable).name in str(refused.value)


def test_a_port_that_nobody_holds_has_no_holder(taken: int) -> None:
    assert holder_of(taken) is not None
    with socket.socket() as bound:  # bound, but nobody listens
        bound.bind(("127.0.0.1", 0))
        assert holder_of(bound.getsockname()[1]) is None


def test_up_says_who_holds_the_port_before_it_starts_anything(
    taken: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    told = CliRunner().invoke(build(), ["up", "--port", str(taken)])

    assert told.exit_code == Exit.REFUSED
    assert f"process {os.getpid()}" in told.stderr
    assert not list(tmp_path.iterdir())


# -- real systems ---------------------------------------------------------------------------------

REAL = """
ESPOCRM_API_BASE_URL=https://crm.example.org/api/v1
ESPOCRM_API_KEY=geheimer-schluessel
XAI_API_KEY=xai-geheim
XAI_MANAGEMENT_KEY=xai-token-geheim
BBL_DIGEST_KEY=a key of sixteen bytes
"""


def test_real_systems_are_written_to_only_with_yes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(REAL, "utf-8")

    unasked = CliRunner().invoke(build(), ["up", "--env", ".env"])
    planned = CliRunner().invoke(build(), ["up", "--env", ".env", "--plan"])

    assert unasked.exit_code == Exit.USAGE
    assert "--plan" in unasked.stderr
    assert planned.exit_code == Exit.OK
    assert "https://crm.example.org/api/v1" in planned.output
    assert "geheim" not in planned.output
    assert not (tmp_path / ".devstack").exists()


def test_a_file_that_lacks_a_setting_starts_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text(REAL.replace("XAI_API_KEY", "XAI_API_KYE"), "utf-8")

    told = CliRunner().invoke(build(), ["up", "--env", ".env", "--yes", "--port", "0"])

    assert told.exit_code == Exit.USAGE
    assert "XAI_API_KEY is missing" in told.stderr
    assert not (tmp_path / ".devstack").exists()


def test_the_stack_file_of_real_systems_holds_no_secret(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(REAL, "utf-8")
    system = LocalSystem(Options(tmp_path / "state", env_file=file), lambda _: None)
    system.env = {
        "KAFKA_BOOTSTRAP_SERVERS": "kafka:9092",
        "ESPOCRM_API_BASE_URL": "https://crm.example.org/api/v1",
        "ESPOCRM_API_KEY": "geheim",
        "REDIS_URL": "redis://:geheim@redis/0",
    }

    text = system.facts().model_dump_json()

    assert "crm.example.org" in text
    assert system.facts().env_file == str(file)
    assert '"ESPOCRM_API_KEY"' not in text


# -- children -------------------------------------------------------------------------------------


async def become(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a process tells only who looks
            await asyncio.sleep(0.02)


async def test_a_child_has_its_own_environment_which_no_process_list_shows(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = "import os; print(sorted(os.environ.items()), flush=True); import time; time.sleep(30)"
    child = Child("a child", [sys.executable, "-c", code], {"XAI_API_KEY": "geheim"}, log)

    pid = await child.start()
    try:
        await become(lambda: "geheim" in log.read_text("utf-8"))
        assert child.pid == pid
        assert "geheim" not in (holder._command(Path(f"/proc/{pid}")))
        assert "PATH" not in log.read_text("utf-8")
    finally:
        await child.stop()

    assert not await asyncio.to_thread(Path(f"/proc/{pid}").exists)
    assert not child.died


async def test_the_death_of_a_child_is_told_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "child.log"
    code = "print('out of ink'); raise SystemExit(3)"
    child = Child("the printer", [sys.executable, "-c", code], {}, log)

    await child.start()
    await become(lambda: child.died)
    told = child.death()

    assert told.exit is Exit.FINDING
    assert "the printer ended by itself with exit code 3" in str(told)
    assert "out of ink" in str(told)


def test_a_changed_source_names_its_service_and_common_code_names_all(tmp_path: Path) -> None:
    folders = {"ingest": tmp_path / "a", "document-sync": tmp_path / "b"}
    for folder in folders.values():
        folder.mkdir()
        (folder / "app.py").write_text("1", "utf-8")
    sources = Sources(APPS, folders)

    assert sources.changed() == frozenset()
    (folders["ingest"] / "app.py").write_text("one", "utf-8")
    (folders["document-sync"] / "notes.txt").write_text("no source", "utf-8")
    assert sources.changed() == {"ingest"}
    assert sources.changed() == frozenset()
    (folders["document-sync"] / "new.py").touch()
    assert sources.changed() == {"document-sync"}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system has no /proc")
def test_memory_is_read_where_the_system_tells_it() -> None:
    pid = os.getpid()
    now = resident_kib(pid)

    assert now is not None
    assert now > 1_000
    if forget_highest(pid):
        assert (highest_kib(pid) or 0) >= now // 2
    assert resident_kib(2**22 + 1) is None


async def test_the_first_signal_ends_the_work_in_order() -> None:
    steps: list[str] = []

    async def work() -> str:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.Event().wait()
        finally:
            steps.append("cleaned up")
        return "never"

    result = await until_signalled(work(), lambda: steps.append("told"))

    assert result is None
    assert steps == ["told", "cleaned up"]


async def test_work_that_ends_by_itself_gives_its_result() -> None:
    async def work() -> str:
        return "done"

    assert await until_signalled(work(), lambda: None) == "done"


# -- the front door -------------------------------------------------------------------------------


@asynccontextmanager
async def backend(name: str, *, healthy: bool = True) -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.StreamResponse:
        if request.path in ("/healthz", "/readyz"):
            reasons = {"status": "stuck", "reasons": ["it is stuck"]}
            return web.json_response({} if healthy else reasons, status=200 if healthy else 503)
        size = 0
        async for piece in request.content.iter_any():
            size += len(piece)
        return web.json_response(
            {
                "service": name,
                "path": request.raw_path,
                "bytes": size,
                "type": request.headers.get("content-type", ""),
                "length": request.headers.get("content-length", ""),
            },
            status=202,
            headers={"x-backend": name},
        )

    app = web.Application(client_max_size=0)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@asynccontextmanager
async def door(addresses: dict[str, str]) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    async with (
        FrontDoor(APPS, addresses).listening("127.0.0.1", 0) as url,
        aiohttp.ClientSession() as session,
    ):
        yield url, session


NOWHERE = "http://127.0.0.1:9"


def test_the_front_door_knows_every_declared_route() -> None:
    declared = {
        (trigger.method, trigger.path)
        for app in APPS
        for s in app.steps
        for trigger in s.http_triggers
    }

    assert len(declared) >= 9
    rules = rules_of(APPS)
    assert len(rules) == len(declared)
    assert all(
        any(rule.method == method and rule.path.fullmatch(path) for rule in rules)
        for method, path in declared
    )


async def test_a_request_is_passed_on_as_it_is() -> None:
    body = os.urandom(900 * 1024)
    async with (
        backend("ingest") as ingest,
        door({"ingest": ingest, "document-sync": NOWHERE}) as (url, session),
        session.post(
            URL(f"{url}/vmh/webhook/document/create?a=%2F", encoded=True),
            data=body,
            headers={"content-type": "application/json"},
        ) as answer,
    ):
        told = await answer.json()

    assert answer.status == 202
    assert answer.headers["x-backend"] == "ingest"
    assert told == {
        "service": "ingest",
        "path": "/vmh/webhook/document/create?a=%2F",
        "bytes": len(body),
        "type": "application/json",
        "length": str(len(body)),
    }


async def test_a_service_that_is_away_is_503_so_that_the_sender_comes_again() -> None:
    async with (
        door({"ingest": NOWHERE, "document-sync": NOWHERE}) as (url, session),
        session.post(f"{url}/vmh/webhook/document/create", json=[]) as answer,
    ):
        assert answer.status == 503
        assert "ingest is away" in await answer.text()


async def test_a_route_that_nobody_declared_is_404() -> None:
    async with (
        backend("ingest") as ingest,
        door({"ingest": ingest}) as (url, session),
        session.get(f"{url}/nowhere") as answer,
    ):
        assert answer.status == 404


async def test_the_console_is_answered_by_whoever_lives() -> None:
    async with (
        backend("document-sync") as living,
        door({"ingest": NOWHERE, "document-sync": living}) as (url, session),
        session.get(f"{url}/_console/functions") as answer,
    ):
        assert (await answer.json())["service"] == "document-sync"


async def test_probes_tell_of_all_services() -> None:
    async with (
        backend("ingest") as well,
        backend("document-sync", healthy=False) as ill,
        door({"ingest": well, "document-sync": ill}) as (url, session),
        session.get(f"{url}/healthz") as answer,
    ):
        assert answer.status == 503
        assert (await answer.json())["reasons"] == ["document-sync: it is stuck"]
    async with (
        backend("ingest") as well,
        door({"ingest": well}) as (url, session),
        session.get(f"{url}/readyz") as answer,
    ):
        assert (answer.status, await answer.json()) == (200, {"status": "ready"})


async def test_metrics_come_from_one_service_or_all() -> None:
    async with (
        backend("ingest") as one,
        door({"ingest": one, "document-sync": NOWHERE}) as (url, session),
    ):
        async with session.get(f"{url}/metrics?service=document-sync") as answer:
            assert answer.status == 503
        async with session.get(f"{url}/metrics?service=none") as answer:
            assert answer.status == 404
        async with session.get(f"{url}/metrics") as answer:
            assert "# service document-sync (away)" in await answer.text()


# -- the story of documents -----------------------------------------------------------------------


def run_of(document: str, second: float, outcome: str | None, **more: object) -> JournalEntry:
    began = NOW + timedelta(seconds=second)
    values: dict[str, object] = {
        "phase": "intent" if outcome is None else "end",
        "service": "document-sync",
        "step": "Document Sync",
        "entity": "document",
        "entity_id": document,
        "run_id": f"run-{second}",
        "event_id": "e",
        "began": began,
        "ended": None if outcome is None else began + timedelta(milliseconds=100),
        "outcome": outcome,
    }
    return JournalEntry.model_validate(values | more)


def told(story: Story, offset: int, second: float, entry: JournalEntry | str) -> None:
    time = NOW + timedelta(seconds=second)
    if isinstance(entry, str):
        story.learn(
            Record(topics.DOCUMENT_CREATE.name, 0, offset, entry.encode(), b"{}", time=time)
        )
    else:
        value = entry.model_dump_json().encode()
        story.learn(Record(topics.JOURNAL.name, 0, offset, entry.key, value, time=time))


UPLOADED = (
    EffectFact(system="xai", method="upload_file", target="d1"),
    EffectFact(system="xai", method="add_to_collection", target="akte-1/file-1"),
    EffectFact(system="xai", method="add_to_collection", target="akte-2/file-1", result="failed"),
    EffectFact(system="espocrm", method="update_entity", target="d1", fields={"status": "synced"}),
)


def test_a_document_s_line_goes_from_received_to_done() -> None:
    story = Story(NOW)
    assert line_of("d1", "Klage.pdf", story.of("d1")).state == "waiting for its webhook"
    told(story, 0, 1, "d1")
    assert line_of("d1", "Klage.pdf", story.of("d1")).state == "received"
    told(story, 0, 1.1, run_of("d1", 1.1, None))
    assert line_of("d1", "Klage.pdf", story.of("d1")).state == "working"
    told(story, 1, 1.2, run_of("d1", 1.1, "done", rule="row 4", effects=UPLOADED))

    line = line_of("d1", "Klage.pdf", story.of("d1"))

    assert line.finished
    assert (line.state, line.uploaded, line.attached) == ("done", True, ("akte-1",))
    assert line.written_back == ("status",)
    assert line.ms == 200
    assert story.answered(["d1"])


def test_an_echo_does_not_hide_what_was_done() -> None:
    story = Story(NOW)
    told(story, 0, 1, "d1")
    told(story, 0, 2, run_of("d1", 1, "done", effects=UPLOADED))
    told(story, 1, 3, run_of("d1", 2, "skipped"))

    assert line_of("d1", "Klage.pdf", story.of("d1")).uploaded


def test_a_document_that_xai_still_indexes_is_under_way_and_its_line_tells_of_both_runs() -> None:
    story = Story(NOW)
    told(story, 0, 1, "d1")
    told(story, 0, 2, run_of("d1", 1, "wait", rule="row 4", effects=UPLOADED[:3]))
    assert not line_of("d1", "Klage.pdf", story.of("d1")).finished
    assert not story.answered(["d1"])
    told(story, 1, 4, run_of("d1", 3, "done", rule="row 5", effects=UPLOADED[3:]))

    line = line_of("d1", "Klage.pdf", story.of("d1"))

    assert line.finished
    assert (line.rule, line.uploaded, line.attached) == ("row 4", True, ("akte-1",))
    assert line.written_back == ("status",)
    assert story.answered(["d1"])


def test_what_happened_before_and_what_is_known_is_passed_over() -> None:
    story = Story(NOW)
    told(story, 0, -1, "d1")
    told(story, 1, 1, "d1")
    told(story, 1, 1, "d1")
    story.learn(Record(topics.JOURNAL.name, 0, 7, b"document:d1", b"{torn", time=NOW))
    story.learn(Record(topics.JOURNAL.name, 0, 8, b"beteiligte:b1", b"{}", time=NOW))

    assert len(story.of("d1").received) == 1
    assert list(story.documents) == ["d1"]


def test_a_document_is_answered_only_when_every_event_is() -> None:
    story = Story(NOW)
    told(story, 0, 1, "d1")
    told(story, 1, 1, "d1")
    told(story, 0, 2, run_of("d1", 1, "done"))
    assert not story.answered(["d1"])
    told(story, 1, 3, run_of("d1", 2, "skipped", answers=1))
    assert story.answered(["d1"])
    assert not story.answered(["d1", "d2"])


async def test_waiting_for_a_story_ends_with_the_condition_or_the_limit() -> None:
    story = Story(NOW)
    waiting = asyncio.ensure_future(story.until(lambda: "d1" in story.documents, 10))
    await asyncio.sleep(0)
    told(story, 0, 1, "d1")

    assert await waiting
    assert not await story.until(lambda: "d2" in story.documents, 0.05)


def test_a_retry_is_not_the_end() -> None:
    line = line_of("d1", "x", Told([NOW], [], [run_of("d1", 1, "retry", summary="xai is away")]))

    assert not line.finished
    assert (line.state, line.reason) == ("retry", "xai is away")


def test_the_sample_keys_are_those_that_the_simulators_accept() -> None:
    firm, xai = Firm(), Xai()

    assert {
        "ESPOCRM_API_KEY": EspoCRM().api_user.api_key,
        "XAI_API_KEY": xai.api_key,
        "XAI_MANAGEMENT_KEY": xai.management_key,
        "ADVOWARE_APP_ID": firm.app_id,
        "ADVOWARE_API_KEY": firm.api_key,
        "ADVOWARE_KANZLEI": firm.kanzlei,
        "ADVOWARE_DATABASE": firm.database,
        "ADVOWARE_USER": "SB",
        "ADVOWARE_PASSWORD": firm.passwords["SB"],
    } == SAMPLE_KEYS


# -- both sides, as the simulators tell -----------------------------------------------------------


@pytest.fixture
def sides() -> tuple[EspoCRM, Xai, Callable[[], str]]:
    crm, xai = EspoCRM(), Xai()
    akte = xai.add_collection("akte-1")
    document = crm.add_document("Klage.pdf", b"v1", collections=[akte])

    def differs() -> str:
        return office_of(crm.state(), xai.state()).differs(document)

    return crm, xai, differs


def test_agreement_means_the_same_bytes_in_the_wanted_places(
    sides: tuple[EspoCRM, Xai, Callable[[], str]],
) -> None:
    crm, xai, differs = sides
    document = next(one["id"] for one in crm.records("CDokumente"))
    collection = next(iter(xai.state()["collections"]))["id"]
    assert differs() == "its file is not at xAI"

    other = xai.add_file("Klage.pdf", b"v0")
    crm.edit(document, xaiId=other)
    assert differs() == "the bytes at xAI are others"

    right = xai.add_file("Klage.pdf", b"v1")
    crm.edit(document, xaiId=right)
    assert differs() == "in other collections than wanted"
    xai.attach(collection, right)
    assert differs() == ""

    crm.delete(document)
    assert differs() == "still in a collection"
    xai.detach(collection, right)
    assert differs() == ""


def test_the_proxy_runs_only_where_there_is_an_advoware_to_ask() -> None:
    assert [app.name for app in apps_of({"ADVOWARE_APP_ID": "x"})] == [app.name for app in APPS]
    assert [app.name for app in apps_of({"ADVOWARE_APP_ID": " "})] == ["ingest", "document-sync"]


def test_names_are_listed_as_one_says_them() -> None:
    assert [in_words(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
