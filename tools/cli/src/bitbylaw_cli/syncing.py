"""What a sync would do about documents, and asking it to do so now."""

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict, ValidationError

from bitbylaw_cli.asking import looked_at
from bitbylaw_cli.auditing import Audit
from bitbylaw_cli.crons import declared_functions
from bitbylaw_cli.output import CommandError, Exit
from bitbylaw_cli.records import Reads, places
from bitbylaw_common import topics
from bitbylaw_common.clock import Clock
from bitbylaw_common.errors import OutsideError
from bitbylaw_common.events import EntityChanged
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.runtime.ports import Log
from bitbylaw_document_sync.deps import Deps
from bitbylaw_document_sync.executor import ENTITY, SERVICE
from bitbylaw_document_sync.foreseeing import foresee
from bitbylaw_document_sync.steps.document_sync_event_step import document_sync

DOCUMENT = "document"
TOGETHER = 500


class Planned(BaseModel):
    """What a run about one record would do now, or that it was asked for.

    Attributes:
        rule, reason: as the journal would say; empty where nobody looked.
        actions: in words; empty where nothing would be changed.
        more: after these something new is seen, and the rest is planned then.
        overwrites: fields in which a person's value would be replaced, after it was told.
        ends: what would be waited for, or why it would be given up.
        error: why it cannot be told; a run would meet the same.
        run_id: of the run that was asked for.
    """

    model_config = ConfigDict(frozen=True)

    entity_id: str
    rule: str = ""
    reason: str = ""
    actions: tuple[str, ...] = ()
    more: bool = False
    overwrites: tuple[str, ...] = ()
    ends: str = ""
    error: str = ""
    run_id: str = ""

    @property
    def quiet(self) -> bool:
        """Whether nothing would be done, and nothing is wrong."""
        return not (self.actions or self.ends or self.error)


class SyncPlan(BaseModel):
    """What would be done about records, or was asked for.

    Attributes:
        written: the runs were asked for; else nothing was written.
    """

    model_config = ConfigDict(frozen=True)

    service: str
    entity: str
    records: tuple[Planned, ...]
    written: bool

    @property
    def quiet(self) -> bool:
        """Whether nothing would be done about any of them."""
        return all(one.quiet for one in self.records)


async def plan(
    log: Reads,
    deps: Deps,
    clock: Clock,
    ids: Sequence[str],
    *,
    part: Callable[[int], None] = lambda _number: None,
) -> SyncPlan:
    """Return what runs about these documents would do now; both sides are read, nothing written.

    Args:
        part: told how many are done.

    Raises:
        LogUnavailableError: Kafka cannot be read.
    """
    bases = await _bases(log, ids)
    found: list[Planned] = []
    for number, document_id in enumerate(ids, start=1):
        found.append(await _planned(document_id, deps, bases.get(document_id), clock))
        part(number)
    return SyncPlan(service=SERVICE, entity=DOCUMENT, records=tuple(found), written=False)


async def apply(log: Log, clock: Clock, ids: Sequence[str]) -> SyncPlan:
    """Ask for one run about each of these documents now.

    Raises:
        LogUnavailableError: Kafka did not acknowledge; some were asked for or not.
    """
    functions = await declared_functions(log)
    asked = [
        looked_at(functions, clock, document_sync.name, topics.DOCUMENT_SYNC_CHECK, _check(one))
        for one in ids
    ]
    for start in range(0, len(asked), TOGETHER):
        await log.append([request for _, request in asked[start : start + TOGETHER]])
    records = tuple(
        Planned(entity_id=one, run_id=run_id) for one, (run_id, _) in zip(ids, asked, strict=True)
    )
    return SyncPlan(service=SERVICE, entity=DOCUMENT, records=records, written=True)


def chosen(ids: Sequence[str], audit: str | None) -> tuple[str, ...]:
    """Return the ids that are meant, each once: those given, and what an audit found off.

    Args:
        audit: what `bbl audit documents --json` answered; None for no audit.

    Raises:
        CommandError: the text is no audit, or nothing is meant.
    """
    found = list(ids)
    if audit is not None:
        try:
            found += [one.entity_id for one in Audit.model_validate_json(audit).off]
        except ValidationError:
            raise CommandError(
                Exit.USAGE,
                "--audit names no answer of an audit: `bbl audit documents --json` writes one",
            ) from None
    if not found and audit is None:
        raise CommandError(Exit.USAGE, "name documents by their ids, or an audit with --audit FILE")
    return tuple(dict.fromkeys(found))


async def _planned(document_id: str, deps: Deps, base: bytes | None, clock: Clock) -> Planned:
    try:
        seen = await foresee(document_id, deps, base, clock.now())
    except OutsideError as error:
        return Planned(entity_id=document_id, error=str(error))
    return Planned(
        entity_id=document_id,
        rule=seen.rule,
        reason=seen.reason,
        actions=seen.actions,
        more=seen.more,
        overwrites=seen.overwrites,
        ends=seen.ends,
    )


async def _bases(log: Reads, ids: Sequence[str]) -> dict[str, bytes]:
    wanted = {f"{DOCUMENT}:{one}".encode(): one for one in ids}
    partitions = {partition_of(one.encode()) for one in ids}
    found: dict[str, bytes] = {}
    async for record in log.read(places([topics.base(SERVICE).name], partitions)):
        one = wanted.get(record.key or b"")
        if one is None:
            continue
        found.pop(one, None)
        if record.value is not None:
            found[one] = record.value
    return found


def _check(document_id: str) -> EntityChanged:
    return EntityChanged(
        entity_type=ENTITY, entity_id=document_id, action="sync_check", source="operator"
    )
