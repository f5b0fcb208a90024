"""What `bbl lag` saw of a service, and what it answers: values, nothing decided."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.events import Command
from bitbylaw_common.kafka.admin import Group
from bitbylaw_common.runtime.status import Sighting, WorkerStatus

Verdict = Literal[
    "well",
    "slow",
    "still",
    "stuck",
    "upstream",
    "paused",
    "halted",
    "no_owner",
    "rebalancing",
]

# -- what was seen --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Head:
    """The record that holds a partition's watermark: the first without an acknowledged outcome.

    Attributes:
        at: when the broker took it, UTC.
        key: the id that it names.
    """

    offset: int
    at: datetime | None
    key: str


@dataclass(frozen=True, slots=True)
class Stretch:
    """One partition of a topic that the service works off.

    Attributes:
        step: the step that the topic starts; empty where nobody declared one.
        first: the offset of the watermark.
        end: the offset that the next record gets.
        finished: records beyond the watermark that are finished all the same.
        arrived, lately: records appended in the last minute, and in the last ten seconds.
        head: None where nothing waits, or the broker did not say in time.
    """

    topic: str
    number: int
    step: str
    first: int
    end: int
    finished: int = 0
    arrived: int = 0
    lately: int = 0
    head: Head | None = None

    @property
    def behind(self) -> int:
        """Records without an acknowledged outcome."""
        return max(0, self.end - self.first - self.finished)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that was seen of a service at one moment.

    Attributes:
        now: by the clock of whoever looks, UTC.
        stretches: all that it works off.
        workers: the last that was heard of each, good-byes included.
        commands: what stands in `control.commands`.
        notes: what could not be seen, in words.
    """

    service: str
    now: datetime
    group: Group
    stretches: tuple[Stretch, ...] = ()
    workers: tuple[Sighting, ...] = ()
    commands: tuple[Command, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def living(self) -> tuple[WorkerStatus, ...]:
        """The statuses of the workers that count as there.

        Of two that name the same partition the later one counts: the other was taken over from.
        """
        if not self.group.members:
            return ()
        there = sorted(
            (seen for seen in self.workers if seen.alive(self.now)), key=lambda seen: seen.at
        )
        found: list[WorkerStatus] = []
        taken: set[int] = set()
        for seen in reversed(there):
            if seen.status is not None and taken.isdisjoint(seen.status.partitions):
                taken.update(seen.status.partitions)
                found.append(seen.status)
        return tuple(sorted(found, key=lambda status: status.instance))


# -- what comes out -------------------------------------------------------------------------------


class Finding(BaseModel):
    """One thing that is not well, or that explains what is not.

    Attributes:
        words: what it is, in one or two sentences.
        command: the one command that helps next.
        since, until: UTC; None when nobody knows.
        step, entity, entity_id, system, by: what it is about; empty where it is about none.
        partitions: the numbers it is about; empty where it is about all or none.
        record: the record that holds the watermark, or else the one that the run answers:
            `topic:partition:offset`.
        waiting: how many records or keys wait behind it; None when nobody knows.
    """

    model_config = ConfigDict(frozen=True)

    verdict: Verdict
    words: str
    command: str
    since: datetime | None = None
    until: datetime | None = None
    step: str = ""
    entity: str = ""
    entity_id: str = ""
    system: str = ""
    by: str = ""
    partitions: tuple[int, ...] = ()
    record: str = ""
    waiting: int | None = None


class PartitionLag(BaseModel):
    """One partition in which records wait.

    Attributes:
        record: the one that holds the watermark, `topic:partition:offset`.
        key: the id that it names.
        since: when the broker took it, UTC.
        behind: records without an acknowledged outcome, this one among them.
        owner: the instance that works on it; empty when nobody does.
    """

    model_config = ConfigDict(frozen=True)

    topic: str
    partition: int
    step: str
    record: str
    key: str
    since: datetime | None
    behind: int
    owner: str


class WorkerLine(BaseModel):
    """One worker, as it was heard of last.

    Attributes:
        state: "working", "draining", "stopped" after its good-bye, "gone" without one.
        at: when it was heard of last, UTC.
    """

    model_config = ConfigDict(frozen=True)

    instance: str
    state: Literal["working", "draining", "stopped", "gone"]
    at: datetime
    code_version: str = ""
    partitions: tuple[int, ...] = ()
    running: int = 0
    ready: int = 0
    waiting: int = 0
    finished_per_second: float = 0.0
    p95_run_seconds: float | None = None
    loop_lag_seconds: float = 0.0


class ServiceLag(BaseModel):
    """How far a service is behind, and why.

    Attributes:
        verdict: of the first finding; "well" without one.
        words: the verdict in one sentence or two.
        command: what helps next; empty when all is well.
        findings: those that explain others first.
        behind: records without an acknowledged outcome.
        oldest: when the broker took the one that waits longest, UTC; None without one.
        behind_seconds: how long that has been; 0 when nothing waits.
        arrivals_per_second: by the broker's stamps, over the last ten seconds; over the last minute
            where it was less than one a second.
        finished_per_second: of all workers, likewise; None when none tells.
        drain_seconds: until nothing waits any more, at these rates; where as much arrives as is
            finished, until what waits now is worked off. None when never, or unknown.
        partitions: where records wait, most of them first.
        notes: what could not be seen, and what may come in useful.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    verdict: Verdict
    words: str
    command: str
    findings: tuple[Finding, ...]
    behind: int
    oldest: datetime | None
    behind_seconds: float
    arrivals_per_second: float
    finished_per_second: float | None
    drain_seconds: float | None
    partitions: tuple[PartitionLag, ...]
    workers: tuple[WorkerLine, ...]
    notes: tuple[str, ...]


class LagReport(BaseModel):
    """The answer of `bbl lag`.

    Attributes:
        at: when it was taken, UTC.
        unreachable: why Kafka could not be asked; then nothing else is known.
    """

    model_config = ConfigDict(frozen=True)

    at: datetime
    unreachable: str = ""
    services: tuple[ServiceLag, ...] = ()

    @property
    def well(self) -> bool:
        """Whether nothing was found."""
        return not self.unreachable and all(one.verdict == "well" for one in self.services)
