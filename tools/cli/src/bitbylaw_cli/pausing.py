"""What is paused and halted, and how an operator changes that: the commands of `control.commands`."""

import difflib
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict

from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, places
from bitbylaw_common import topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.events import Command, ReplayCancelled, StepHalted, StepPaused
from bitbylaw_common.runtime import commands
from bitbylaw_common.runtime.control import FunctionInfo
from bitbylaw_common.runtime.gates import resume_command
from bitbylaw_common.runtime.ports import Log
from bitbylaw_common.topics import CONSUMERS

SOURCE = "bbl"


class Stand(BaseModel):
    """One command that stands.

    Attributes:
        service, step: what it holds back; a step that is empty is every step of the service.
        code_version: the only one that a halt is for; empty where all are meant.
        replay_id: of a cancelled replay, else empty.
        ends_with: what an operator types to end it; empty where nothing ends it.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["paused", "halted", "replay_cancelled"]
    service: str = ""
    step: str = ""
    code_version: str = ""
    replay_id: str = ""
    since: datetime
    by: str
    reason: str
    ends_with: str = ""


class StandList(BaseModel):
    """Everything that stands, halts first.

    Attributes:
        unknown: commands of a kind that this version does not know; they are left alone.
        unreadable: keys whose last record cannot be read.
    """

    model_config = ConfigDict(frozen=True)

    entries: tuple[Stand, ...]
    unknown: int = 0
    unreadable: int = 0


class Change(BaseModel):
    """What a pause or a resume does, or did.

    Attributes:
        step: empty for all steps of the service.
        sets: what it makes stand.
        ends: what it withdraws.
        still: what holds the step back all the same.
        written: it is done; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    verb: Literal["pause", "resume"]
    service: str
    step: str
    sets: tuple[Stand, ...] = ()
    ends: tuple[Stand, ...] = ()
    still: tuple[Stand, ...] = ()
    written: bool


async def standing(log: Reads, service: str | None = None) -> StandList:
    """Return what stands; with `service` only what is about that.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    found = await _standing(log)
    shown = [shown_as(one) for one in found.commands]
    order = ("halted", "paused", "replay_cancelled")
    entries = sorted(
        (one for one in shown if one is not None and service in (None, one.service)),
        key=lambda one: (order.index(one.kind), one.service, one.step, one.since),
    )
    return StandList(entries=tuple(entries), unknown=found.unknown, unreadable=found.unreadable)


async def pause(
    log: Log,
    clock: Clock,
    functions: Sequence[FunctionInfo],
    service: str,
    step: str,
    *,
    reason: str,
    write: bool,
) -> Change:
    """Make a pause stand; one that stands with the same reason is left as it is.

    Args:
        functions: those of the fleet.
        step: empty for every step of the service, also those of a later version.
        write: False only says what would be done.

    Raises:
        CommandError: there is no such service or step, or it takes no records.
        LogUnavailableError: Kafka did not acknowledge; it is paused or not.
    """
    found = await _standing(log)
    _check(functions, found.commands, service, step, verb="pause")
    wanted = StepPaused(service=service, step=step, since=clock.now(), reason=reason)
    stands = {one.key: one for one in found.commands}.get(wanted.key)
    if isinstance(stands, StepPaused):
        wanted = wanted.model_copy(update={"since": stands.since})
        if stands.reason == reason:
            return Change(verb="pause", service=service, step=step, written=write)
    if write:
        await log.append([commands.encoded(wanted, clock, source=SOURCE)])
    return Change(verb="pause", service=service, step=step, sets=_shown([wanted]), written=write)


async def resume(
    log: Log,
    clock: Clock,
    functions: Sequence[FunctionInfo],
    service: str,
    step: str,
    *,
    write: bool,
) -> Change:
    """Withdraw pauses and halts, of every version; nothing is done where none stands.

    Args:
        functions: those of the fleet.
        step: empty for the pause of the whole service, and for those and the halts of its steps.
        write: False only says what would be done.

    Raises:
        CommandError: there is no such service or step.
        LogUnavailableError: Kafka did not acknowledge; some may be withdrawn.
    """
    found = await _standing(log)
    _check(functions, found.commands, service, step, verb="resume")
    about = [
        one
        for one in found.commands
        if isinstance(one, StepPaused | StepHalted) and one.service == service
    ]
    ends = [one for one in about if step in ("", one.step)]
    if write and ends:
        await log.append([commands.withdrawn(one.key, clock, source=SOURCE) for one in ends])
    return Change(
        verb="resume",
        service=service,
        step=step,
        ends=_shown(ends),
        still=_shown([one for one in about if step and not one.step]),
        written=write,
    )


def shown_as(command: Command) -> Stand | None:
    """Return a command as it is shown; None for a kind that is not shown."""
    said = {"since": command.since, "by": command.by, "reason": command.reason}
    match command:
        case StepPaused(service=service, step=step):
            return Stand(
                kind="paused",
                service=service,
                step=step,
                ends_with=resume_command(service, step),
                **said,
            )
        case StepHalted(service=service, step=step, code_version=version):
            return Stand(
                kind="halted",
                service=service,
                step=step,
                code_version=version,
                ends_with=resume_command(service, step),
                **said,
            )
        case ReplayCancelled(replay_id=replay_id):
            return Stand(kind="replay_cancelled", replay_id=replay_id, **said)
        case _:
            return None


def _shown(found: Sequence[Command]) -> tuple[Stand, ...]:
    return tuple(shown for one in found if (shown := shown_as(one)) is not None)


async def _standing(log: Reads) -> commands.Standing:
    return await commands.standing(log.read(places([topics.COMMANDS.name])))


def _check(
    functions: Sequence[FunctionInfo],
    stands: Sequence[Command],
    service: str,
    step: str,
    *,
    verb: Literal["pause", "resume"],
) -> None:
    """Return if there is such a service, and such a step of it.

    Raises:
        CommandError: there is not, or it is to be paused and takes no records.
    """
    held = [one for one in stands if isinstance(one, StepPaused | StepHalted)]
    services = {info.service for info in functions} | {one.service for one in held}
    _known(service, services | set(CONSUMERS), "service")
    own = [info for info in functions if info.service == service]
    working = {info.name for info in own if info.trigger.type != "http"}
    routes = {info.name for info in own} - working
    former = {one.step for one in held if one.service == service and one.step}
    if step:
        _known(step, working | routes | former, f"step of {service}")
    if verb == "resume":
        return
    if step in routes or (own and not working):
        what = f"{step} of {service}" if step else service
        raise CommandError(
            Exit.REFUSED,
            f"{what} answers requests and takes no records: whoever asks would get no answer, so "
            "it cannot be paused; pause the step that works on what it publishes",
        )


def _known(name: str, known: Collection[str], what: str) -> None:
    if name in known:
        return
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.0)
    if not near:
        raise CommandError(
            Exit.USAGE,
            f"no {what} is known yet, so there is no {name!r}; `bbl functions` lists what services "
            "declared when they started",
        )
    raise CommandError(
        Exit.USAGE,
        f"no {what} is called {name!r}; the nearest is {near[0]!r} (there are: "
        f"{', '.join(sorted(known))})",
    )
