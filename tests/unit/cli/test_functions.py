import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from pydantic import TypeAdapter
from typer.testing import CliRunner

from bitbylaw_cli.commands import functions as command
from bitbylaw_cli.connection import Environment
from bitbylaw_cli.fleet_functions import Functions, functions
from bitbylaw_cli.main import build
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.runtime.control import functions_of
from bitbylaw_document_sync.app import app as document_sync
from bitbylaw_ingest.app import app as ingest

DECLARED = (*functions_of(ingest, owner="a"), *functions_of(document_sync, owner="a"))


@asynccontextmanager
async def service(status: int, body: object, key: str = "") -> AsyncIterator[str]:
    async def answer(request: web.Request) -> web.Response:
        if request.headers.get("apikey", "") != key:
            return web.json_response({}, status=401)
        return web.json_response(body, status=status)

    app = web.Application()
    app.router.add_get("/_console/functions", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


BODY = {"functions": [info.model_dump(mode="json") for info in reversed(DECLARED)]}


async def test_a_service_tells_the_fleet_s_functions_in_order() -> None:
    async with service(200, BODY) as url:
        found = await functions(Environment({}, "a test"), url)

    assert len(found.functions) == len(DECLARED)
    assert found.functions[0].service == "document-sync"
    assert found.source == f"{url}/_console/functions"


async def test_the_control_key_is_shown_and_a_missing_one_is_named() -> None:
    async with service(200, BODY, key="a key of the control routes") as url:
        with_key = Environment({"BBL_CONTROL_KEY": "a key of the control routes"}, "a test")
        assert (await functions(with_key, url)).functions
        with pytest.raises(CommandError, match="BBL_CONTROL_KEY") as refused:
            await functions(Environment({}, "a test"), url)

    assert refused.value.exit is Exit.REFUSED


@pytest.mark.parametrize("body", [{"functions": [{"name": "half"}]}, ["no object"]])
async def test_an_answer_that_is_not_ours_is_unreachable(body: object) -> None:
    async with service(200, body) as url:
        with pytest.raises(CommandError) as refused:
            await functions(Environment({}, "a test"), url)

    assert refused.value.exit is Exit.UNREACHABLE


def test_a_service_that_is_away_ends_the_command_in_one_line() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}"
        told = CliRunner().invoke(build(), ["functions", "--url", url])

    assert told.exit_code == Exit.UNREACHABLE
    assert told.stderr.count("\n") == 1
    assert url in told.stderr


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> Callable[[list[str]], str]:
    async def known(env: Environment, url: str | None) -> Functions:
        return Functions(f"the topic of {env.source}, {url}", DECLARED)

    monkeypatch.setattr(command, "fleet_functions", known)

    def invoke(arguments: list[str]) -> str:
        told = CliRunner().invoke(build(), ["functions", *arguments])
        assert told.exit_code == 0
        return told.output

    return invoke


def test_json_is_the_result(answered: Callable[[list[str]], str]) -> None:
    output = answered(["--json", "--service", "document-sync"])

    found = TypeAdapter(Functions).validate_json(output)
    assert {info.service for info in found.functions} == {"document-sync"}
    assert json.loads(output)["functions"][0]["trigger"]["type"] == "queue"


def test_the_table_says_what_starts_each_function(answered: Callable[[list[str]], str]) -> None:
    output = answered([])

    assert "POST /vmh/webhook/document/create" in output
    assert "topic vmh.document.sync_check" in output
    assert f"{len(DECLARED)} functions" in output
