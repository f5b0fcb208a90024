import os
import socket
from pathlib import Path

import pytest

from bitbylaw_cli import connection
from bitbylaw_cli.connection import (
    Environment,
    ProcessFacts,
    StackFile,
    environment,
    open_admin,
    open_log,
    read_env_file,
    running_stack,
)
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_common.errors import SettingsError


def stack_in(folder: Path, *, pid: int | None = None, env_file: str = "") -> StackFile:
    stack = StackFile(
        pid=os.getpid() if pid is None else pid,
        command="bbl up",
        started="2026-03-09T08:00:00+00:00",
        state_dir=str(folder / ".devstack"),
        logs=str(folder / ".devstack/logs"),
        ingest="http://127.0.0.1:3111",
        kafka="127.0.0.1:9092",
        redis="redis://127.0.0.1:6379/0",
        env={"KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092"},
        env_file=env_file,
        processes={"kafka": ProcessFacts(pid=1)},
    )
    (folder / ".devstack").mkdir()
    (folder / ".devstack/stack.json").write_text(stack.model_dump_json(), "utf-8")
    return stack


def test_a_named_file_comes_before_everything_else(tmp_path: Path) -> None:
    stack_in(tmp_path)
    file = tmp_path / "real.env"
    file.write_text("KAFKA_BOOTSTRAP_SERVERS=kafka:9092\n", "utf-8")

    found = environment(file, process={"KAFKA_BOOTSTRAP_SERVERS": "other:1"}, folder=tmp_path)

    assert found.values == {"KAFKA_BOOTSTRAP_SERVERS": "kafka:9092"}
    assert found.source == str(file)


def test_the_process_environment_comes_before_the_local_system(tmp_path: Path) -> None:
    stack_in(tmp_path)

    found = environment(process={"KAFKA_BOOTSTRAP_SERVERS": "other:1"}, folder=tmp_path)

    assert found.values["KAFKA_BOOTSTRAP_SERVERS"] == "other:1"
    assert found.source == "the environment"


def test_the_local_system_is_found_from_a_folder_below(tmp_path: Path) -> None:
    stack_in(tmp_path)
    below = tmp_path / "libs" / "common"
    below.mkdir(parents=True)

    found = environment(process={"PATH": "/bin", "REDIS_HOST": "elsewhere"}, folder=below)

    assert found.values == {"PATH": "/bin", "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:9092"}


def test_a_system_whose_process_is_gone_is_none(tmp_path: Path) -> None:
    stack_in(tmp_path, pid=2**22 + 1)

    assert running_stack(tmp_path) is None
    assert environment(process={"A": "b"}, folder=tmp_path) == Environment(
        {"A": "b"}, "the environment"
    )


def test_a_torn_stack_file_is_none(tmp_path: Path) -> None:
    stack_in(tmp_path)
    (tmp_path / ".devstack/stack.json").write_text('{"pid": 1', "utf-8")

    assert running_stack(tmp_path) is None


def test_of_a_real_system_the_secrets_come_from_its_file(tmp_path: Path) -> None:
    file = tmp_path / "real.env"
    file.write_text("ESPOCRM_API_KEY=geheim\n", "utf-8")
    stack_in(tmp_path, env_file=str(file))

    found = environment(process={}, folder=tmp_path)

    assert found.values["ESPOCRM_API_KEY"] == "geheim"
    assert found.values["KAFKA_BOOTSTRAP_SERVERS"] == "127.0.0.1:9092"


def test_an_env_file_is_read_with_quotes_exports_and_comments(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text(
        "# a comment\n\nexport A=1\nB = two words # not this\nC='x # y'\nD=\"a=b\"\n"
        "E=a#b\nF=\nG=#nothing\n",
        "utf-8",
    )

    assert read_env_file(file) == {
        "A": "1",
        "B": "two words",
        "C": "x # y",
        "D": "a=b",
        "E": "a#b",
        "F": "",
        "G": "",
    }


@pytest.mark.parametrize("line", ["no equals sign", "KEY='geheimes Wort", "1A=geheim"])
def test_a_line_that_is_none_is_named_by_number_and_its_value_is_not_shown(
    line: str, tmp_path: Path
) -> None:
    file = tmp_path / ".env"
    file.write_text(f"A=1\n{line}\n", "utf-8")

    with pytest.raises(CommandError) as refused:
        read_env_file(file)

    assert refused.value.exit is Exit.USAGE
    assert f"{file}:2" in str(refused.value)
    assert "geheim" not in str(refused.value)


def test_a_file_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(CommandError) as refused:
        environment(tmp_path / "none.env")

    assert refused.value.exit is Exit.USAGE
    assert "none.env" in str(refused.value)


async def test_a_kafka_that_does_not_answer_is_unreachable_and_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "CONNECT_SECONDS", 0.3)
    with socket.socket() as held:  # bound, never listening: nobody else can answer there
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        env = Environment({"KAFKA_BOOTSTRAP_SERVERS": f"127.0.0.1:{port}"}, "a test")

        with pytest.raises(CommandError) as by_admin:
            async with open_admin(env):
                pytest.fail("nothing answers there")
        with pytest.raises(CommandError) as by_log:
            async with open_log(env):
                pytest.fail("nothing answers there")

    for refused in (by_admin, by_log):
        assert refused.value.exit is Exit.UNREACHABLE
        assert f"127.0.0.1:{port} (from a test)" in str(refused.value)


async def test_without_an_address_of_kafka_the_setting_is_named() -> None:
    with pytest.raises(SettingsError, match="KAFKA_BOOTSTRAP_SERVERS"):
        async with open_log(Environment({}, "a test")):
            pytest.fail("there is no address")
