"""Kafka's jars and the Java that runs them."""

import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bitbylaw_devstack.errors import MissingToolError

_JAVA_AT_LEAST = 17
_JAVA_SECONDS = 20.0
_JVM = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Xshare:auto",
    "-Djava.awt.headless=true",
)
"""One collector thread and the first compiler only: half the start time of the defaults."""


@dataclass(frozen=True, slots=True)
class Java:
    """A Java that is new enough."""

    program: Path
    version: str


@dataclass(frozen=True, slots=True)
class KafkaDistribution:
    """All that it takes to run Kafka.

    Attributes:
        version: Kafka's own.
        jars: in the order of the class path.
        java: what runs them.
        archive: classes in the form that this Java maps into memory, which halves the start; None
            when there is none.
        recording: where a main class leaves such an archive when it ends, instead of using one.
    """

    version: str
    jars: tuple[Path, ...]
    java: Java
    archive: Path | None = None
    recording: Path | None = None

    def java_command(self, logging: Path, *words: str) -> list[str]:
        """Return a command line for a main class of Kafka.

        Args:
            logging: the log4j2 settings.
            words: main class and arguments.
        """
        if self.recording is not None:
            sharing = [f"-XX:ArchiveClassesAtExit={self.recording}"]
        else:
            sharing = [f"-XX:SharedArchiveFile={self.archive}"] if self.archive else []
        class_path = os.pathsep.join(map(str, self.jars))
        return [
            str(self.java.program),
            *_JVM,
            *sharing,
            f"-Dlog4j2.configurationFile={logging}",
            *("-cp", class_path),
            *words,
        ]


def find_java() -> Java:
    """Return the Java of JAVA_HOME, else the one on the path.

    Raises:
        MissingToolError: there is none, or it is older than 17.
    """
    home = os.environ.get("JAVA_HOME")  # noqa: TID251 - a tool for the machine it runs on
    program = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    advice = (
        f"install Java {_JAVA_AT_LEAST} or newer, which Kafka needs "
        "(apt-get install openjdk-17-jre-headless, brew install openjdk)"
    )
    if program is None:
        where = f"in JAVA_HOME={home}" if home else "on the path"
        raise MissingToolError(f"Java is missing {where}: {advice}")
    try:
        told_version = subprocess.run(
            [program, "-version"], capture_output=True, timeout=_JAVA_SECONDS, check=True
        ).stderr.decode("utf-8", "replace")
    except (OSError, subprocess.SubprocessError):
        raise MissingToolError(f"{program} does not run: {advice}") from None
    found = re.search(r'version "((\d+)[^"]*)"', told_version)
    if found is None or int(found[2]) < _JAVA_AT_LEAST:
        version = found[1] if found else "of unknown version"
        raise MissingToolError(f"{program} is Java {version}, too old: {advice}")
    return Java(Path(program), found[1])
