"""The others: Confluent's Parallel Consumer in Java, FastStream and Faust in an environment of theirs."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bitbylaw_devstack import GuardedProcess, default_cache_dir, last_lines
from bitbylaw_devstack.process import until

ROOT = Path(__file__).resolve().parent.parent
SOURCES = Path(__file__).with_name("parallel_consumer")
ENVIRONMENT = ROOT / ".venv-bench"
BUILD_SECONDS = 300.0
PARALLEL_CONSUMER = "Parallel Consumer"
FASTSTREAM = "FastStream"
FAUST = "Faust"


class PeerMissing(Exception):  # noqa: N818 - it is left out, not broken
    """This one cannot run here; the text says what it would take."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every peer is told.

    Attributes:
        kafka: the broker's address.
        concurrency: how many runs at once.
        records: after this many the ledger is written.
    """

    kafka: str
    topic: str
    group: str
    concurrency: int
    records: int
    ledger: Path

    @property
    def words(self) -> tuple[str, ...]:
        """The job as the peers' arguments."""
        numbers = (str(self.concurrency), str(self.records))
        return (self.kafka, self.topic, self.group, *numbers, str(self.ledger))


@dataclass(frozen=True, slots=True)
class Peer:
    """One of the others.

    Attributes:
        name: as its makers write it.
        command: returns the command line for a job.
    """

    name: str
    command: Callable[[Job], list[str]]


async def parallel_consumer() -> Peer:
    """Return Confluent's Parallel Consumer; fetches and builds it the first time.

    Raises:
        PeerMissing: Maven or a JDK is missing, or the build failed.
    """
    maven, java = shutil.which("mvn"), shutil.which("java")
    if maven is None or java is None or shutil.which("javac") is None:
        raise PeerMissing(
            f"{PARALLEL_CONSUMER}: it takes Maven and a JDK "
            "(apt-get install maven openjdk-17-jdk-headless)"
        )
    home = default_cache_dir() / f"bench-parallel-consumer-{_digest()}"
    if not home.exists():
        await _build(maven, home)
    class_path = os.pathsep.join((f"{home}/jars/*", f"{home}/bench-parallel-consumer-1.jar"))
    quiet = "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn"
    start = (java, "-cp", class_path, quiet, "bitbylaw.BareParallelConsumer")
    return Peer(PARALLEL_CONSUMER, lambda job: [*start, *job.words])


def _digest() -> str:
    found = hashlib.sha256()
    for path in sorted(path for path in SOURCES.rglob("*") if path.suffix in (".xml", ".java")):
        found.update(path.read_bytes())
    return found.hexdigest()[:8]


async def _build(maven: str, home: Path) -> None:
    """Let Maven build in a folder beside, then give it its name."""
    home.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{home.name}-", dir=home.parent))
    try:
        shutil.copytree(SOURCES, work / "source")
        log = work / "maven.log"
        process = GuardedProcess(
            [
                *(maven, "--batch-mode", "--quiet", "--strict-checksums"),
                *("-f", str(work / "source" / "pom.xml")),
                *("package", "dependency:copy-dependencies", "-DincludeScope=runtime"),
                f"-DoutputDirectory={work / 'source' / 'target' / 'jars'}",
            ],
            log=log,
            folder=work,
        )
        try:
            in_time = await until(lambda: not process.running, BUILD_SECONDS)
        finally:
            await process.stop(5.0)
        if not in_time or process.exit_code != 0:
            raise PeerMissing(
                f"{PARALLEL_CONSUMER}: Maven could not build it:\n{last_lines(log, 6)}"
            )
        try:
            (work / "source" / "target").rename(home)
        except OSError:
            if not home.exists():  # another process may have been quicker
                raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


async def faststream() -> Peer:
    """Return FastStream.

    Raises:
        PeerMissing: the environment of the benchmarks does not hold it.
    """
    return await _module(FASTSTREAM, "faststream.kafka", "benchmarks.peer_faststream")


async def faust() -> Peer:
    """Return Faust.

    Raises:
        PeerMissing: the environment of the benchmarks does not hold it.
    """
    return await _module(FAUST, "faust", "benchmarks.peer_faust")


async def _module(name: str, package: str, module: str) -> Peer:
    program = ENVIRONMENT / "bin" / "python"
    asked = await asyncio.to_thread(_imports, program, package)
    if not asked:
        raise PeerMissing(f"{name}: {ENVIRONMENT.name} does not hold it (make bench makes it)")
    return Peer(name, lambda job: [str(program), "-m", module, *job.words])


def _imports(program: Path, package: str) -> bool:
    if not program.exists():
        return False
    found = subprocess.run(
        [str(program), "-c", f"import {package}"], capture_output=True, timeout=60, check=False
    )
    return found.returncode == 0
