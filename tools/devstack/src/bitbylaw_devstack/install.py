"""Brings Kafka onto the machine, once: its jars by Maven, then an archive of its classes."""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

from bitbylaw_devstack.distribution import Java, KafkaDistribution, find_java
from bitbylaw_devstack.errors import DevstackError, DownloadError, MissingToolError
from bitbylaw_devstack.kafka import KafkaBroker
from bitbylaw_devstack.ports import free_port
from bitbylaw_devstack.process import GuardedProcess, last_lines, until
from bitbylaw_devstack.progress import OnEvent, Progress, told

_POM = Path(__file__).with_name("pom.xml")
_DOWNLOAD_SECONDS = 600.0


def default_cache_dir() -> Path:
    """Return the folder for downloads: `bitbylaw` below XDG_CACHE_HOME or ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME")  # noqa: TID251 - a tool for the machine it runs on
    return (Path(base) if base else Path.home() / ".cache") / "bitbylaw"


def kafka_version() -> str:
    """Return the version that the shipped pom pins."""
    found = re.search(r"<kafka\.version>([^<]+)<", _POM.read_text("utf-8"))
    if found is None:
        raise DownloadError(f"{_POM} names no kafka.version")
    return found[1]


def missing_tools(cache_dir: Path) -> list[str]:
    """Return one line per program that must be installed before Kafka can run; empty when none."""
    wanted = [find_java] if _home(cache_dir).exists() else [find_java, _find_maven]
    missing = []
    for find in wanted:
        try:
            find()
        except MissingToolError as lacking:
            missing.append(str(lacking))
    return missing


async def install_kafka(cache_dir: Path, on_event: OnEvent) -> KafkaDistribution:
    """Return Kafka; downloads it first if the cache does not hold it yet.

    Safe in several processes at once: one does the work, the others wait for it. What stands in
    the cache is whole, whenever a process was killed.

    Raises:
        MissingToolError: Java or Maven is missing.
        DownloadError: Maven failed, or took longer than ten minutes.
    """
    java = await asyncio.to_thread(find_java)
    home = _home(cache_dir)
    if not home.exists():
        maven = _find_maven()
        async with _alone(cache_dir / f"{home.name}.lock"):
            if not home.exists():
                version = kafka_version()
                begin = f"Downloading Apache Kafka {version} with Maven (43 MiB, once)"
                with told(on_event, "download", begin, f"Downloaded Apache Kafka {version}"):
                    await _download(maven, home)
    kafka = KafkaDistribution(kafka_version(), tuple(sorted((home / "jars").glob("*.jar"))), java)
    archive = home / _archive_name(java)
    if not archive.exists():
        async with _alone(cache_dir / f"{home.name}.lock"):
            if not archive.exists():
                await _try_archive(kafka, archive, on_event)
    return replace(kafka, archive=archive if archive.stat().st_size else None)


def _home(cache_dir: Path) -> Path:
    """Return the folder of the pinned jars; another pom is another folder."""
    digest = hashlib.sha256(_POM.read_bytes()).hexdigest()[:8]
    return cache_dir / f"kafka-{kafka_version()}-{digest}"


def _archive_name(java: Java) -> str:
    return f"classes-{re.sub(r'[^0-9A-Za-z.+-]', '_', java.version)}.jsa"


def _find_maven() -> Path:
    program = shutil.which("mvn")
    if program is None:
        raise MissingToolError(
            f"Maven is missing: install it to fetch Apache Kafka {kafka_version()} once "
            "(apt-get install maven, brew install maven)"
        )
    return Path(program)


@asynccontextmanager
async def _alone(path: Path) -> AsyncIterator[None]:
    """Hold a file's lock for the block; the kernel gives it up for a process that is killed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:

        def taken() -> bool:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            return True

        if not await until(taken, _DOWNLOAD_SECONDS):
            raise DownloadError(
                f"another process has been preparing Kafka in {path.parent} for "
                f"{_DOWNLOAD_SECONDS:.0f} s: end it and try again"
            )
        yield


def _publish(made: Path, final: Path) -> None:
    """Give what is complete its name in one step; nothing made becomes an empty file."""
    if not made.exists():
        made.touch()
    made.rename(final)


async def _download(maven: Path, home: Path) -> None:
    """Let Maven copy the jars into a folder beside, then give it its name."""
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        shutil.copy(_POM, work / "pom.xml")
        log = work / "maven.log"
        process = GuardedProcess(
            [
                *(str(maven), "--batch-mode", "--quiet", "--strict-checksums"),
                *("-f", str(work / "pom.xml"), "dependency:copy-dependencies"),
                *("-DincludeScope=runtime", f"-DoutputDirectory={work / 'jars'}"),
            ],
            log=log,
            folder=work,
        )
        try:
            in_time = await until(lambda: not process.running, _DOWNLOAD_SECONDS)
        finally:
            await process.stop(5.0)
        if not in_time or process.exit_code != 0 or not any((work / "jars").glob("kafka_*.jar")):
            what = "failed" if in_time else f"took longer than {_DOWNLOAD_SECONDS:.0f} s"
            raise DownloadError(
                f"Maven {what} while fetching Apache Kafka {kafka_version()}: check the network "
                f"and Maven's settings, then try again. Its last lines:\n{last_lines(log, 6)}"
            )
        _publish(work, home)
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def _try_archive(kafka: KafkaDistribution, archive: Path, on_event: OnEvent) -> None:
    """Run a broker once that records its classes; an empty archive says that it cannot be had."""
    work = Path(tempfile.mkdtemp(prefix=".archive-", dir=archive.parent))
    begin, done = "Preparing a faster start for Kafka (once)", "Prepared a faster start for Kafka"
    made = work / archive.name
    folder, log = work / "kafka", work / "kafka.log"
    folder.mkdir()
    try:
        with told(on_event, "class archive", begin, done):
            await KafkaBroker(kafka, folder=folder, log=log).prepare(free_port())
            broker = KafkaBroker(replace(kafka, recording=made), folder=folder, log=log)
            try:
                await broker.start()
            finally:
                await broker.stop()
            _publish(made, archive)
    except DevstackError as refused:
        reason = str(refused).splitlines()[0]
        on_event(Progress("class archive", f"Kafka will start slower: {reason}", 0.0))
        _publish(made, archive)
    finally:
        shutil.rmtree(work, ignore_errors=True)
