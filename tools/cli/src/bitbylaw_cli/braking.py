"""What the brakes hold back, since when and why; and letting it go on."""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.asking import SOURCE, gone_on_with
from bitbylaw_cli.crons import declared_functions
from bitbylaw_cli.records import Reads, one_of, places
from bitbylaw_cli.waits import folded
from bitbylaw_common import topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import BrakeReleased, BrakeTripped
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.ports import Log
from bitbylaw_common.runtime.schedule import ScheduleEntry
from bitbylaw_common.sync.brake import held_back, release_command
from bitbylaw_common.topics import CONSUMERS

LASTS = timedelta(hours=24)
"""How long a release allows more than the budget."""

TOGETHER = 500


class Braked(BaseModel):
    """One kind of effect that is held back, or that was let go on and still may do more.

    Attributes:
        effect: upload, delete, detach, overwrite, or record: anything at all.
        held: False once it was released; `until` then says how long `allowed` holds.
        records: how many records wait for it.
        waiting: how many such effects they wait with.
        allowed: how many a release lets happen beyond the budget.
        press: what an operator types to let it go on; empty where nothing is held.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    effect: str
    held: bool
    since: datetime
    by: str
    reason: str
    records: int
    waiting: int
    allowed: int = 0
    until: datetime | None = None
    press: str = ""


class BrakedList(BaseModel):
    """What the brakes hold back, and what was released within the last day.

    Attributes:
        unreadable: entries of the schedules that this version cannot read.
    """

    model_config = ConfigDict(frozen=True)

    entries: tuple[Braked, ...]
    unreadable: int = 0

    @property
    def held(self) -> bool:
        """Whether anything is held back."""
        return any(one.held for one in self.entries)


class Released(BaseModel):
    """What a release does, or did.

    Attributes:
        releases: what was held back.
        asked: how many records are looked at at once; the rest within hours, by themselves.
        until: from then on the budget alone counts.
        written: it is done; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    releases: tuple[Braked, ...]
    asked: int
    until: datetime | None
    written: bool


async def braked(log: Reads, clock: Clock, service: str | None = None) -> BrakedList:
    """Return what is held back; with `service` only of that.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    stands = await _standing(log, service)
    waits, unreadable = await _waiting(log, {one.service for one in stands})
    found = [_shown(one, waits[one.service]) for one in stands]
    now = clock.now()
    shown = [one for one in found if one.held or (one.until is not None and now < one.until)]
    shown.sort(key=lambda one: (not one.held, one.service, one.effect))
    return BrakedList(entries=tuple(shown), unreadable=unreadable)


async def release(log: Log, clock: Clock, service: str, effect: str, *, write: bool) -> Released:
    """Let what waits go on: allow it beyond the budget for a day, and ask for its runs.

    The budget counts from zero then; whatever goes beyond it and the allowance trips the brake again.

    Args:
        effect: empty for all kinds that are held back.
        write: False only says what would be done.

    Raises:
        CommandError: there is no such service.
        LogUnavailableError: Kafka did not acknowledge; it is released or not, and some of what
            waits was asked for or not.
    """
    one_of(service, CONSUMERS, "service")
    stands = [one for one in await _standing(log, service) if isinstance(one, BrakeTripped)]
    stands = [one for one in stands if effect in ("", one.effect)]
    if effect and not stands:
        return Released(service=service, releases=(), asked=0, until=None, written=write)
    waits, _ = await _waiting(log, {service})
    shown = tuple(_shown(one, waits[service]) for one in stands)
    now = clock.now()
    freed = {one.effect for one in stands}
    entries = [one for one in waits[service] if freed & held_back(one.reason).keys()]
    functions = await declared_functions(log) if entries else ()
    requests = [gone_on_with(functions, clock, service, entry) for entry in entries]
    asked = [one for one in requests if one is not None]
    if write and shown:
        await log.append(
            [
                commands.encoded(
                    BrakeReleased(
                        service=service,
                        effect=one.effect,
                        since=now,
                        reason=one.reason,
                        extra=one.waiting,
                        until=now + LASTS,
                    ),
                    clock,
                    source=SOURCE,
                )
                for one in shown
            ]
        )
        for start in range(0, len(asked), TOGETHER):
            await log.append(asked[start : start + TOGETHER])
    return Released(
        service=service,
        releases=shown,
        asked=len(asked),
        until=now + LASTS if shown else None,
        written=write,
    )


async def _standing(log: Reads, service: str | None) -> list[BrakeTripped | BrakeReleased]:
    found = await commands.standing(log.read(places([topics.COMMANDS.name])))
    return [
        one
        for one in found.commands
        if isinstance(one, BrakeTripped | BrakeReleased) and service in (None, one.service)
    ]


async def _waiting(
    log: Reads, services: Iterable[str]
) -> tuple[dict[str, list[ScheduleEntry]], int]:
    """Return what waits for a brake, by service, and how many entries cannot be read."""
    owners = {topics.schedule(service).name: service for service in services}
    waits: dict[str, list[ScheduleEntry]] = {service: [] for service in owners.values()}
    if not owners:
        return waits, 0
    entries, unreadable = await folded(log.read(places(owners)))
    for (topic, _), entry in entries.items():
        if entry.kind == "wait" and held_back(entry.reason):
            waits[owners[topic]].append(entry)
    return waits, unreadable


def _shown(command: BrakeTripped | BrakeReleased, waits: Sequence[ScheduleEntry]) -> Braked:
    counts = [held_back(entry.reason).get(command.effect, 0) for entry in waits]
    held = isinstance(command, BrakeTripped)
    return Braked(
        service=command.service,
        effect=command.effect,
        held=held,
        since=command.since,
        by=command.by,
        reason=command.reason,
        records=sum(count > 0 for count in counts),
        waiting=sum(counts),
        allowed=0 if isinstance(command, BrakeTripped) else command.extra,
        until=None if isinstance(command, BrakeTripped) else command.until,
        press=release_command(command.service, command.effect) if held else "",
    )
