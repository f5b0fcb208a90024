"""Every event that travels on a topic; each says "look at this", never "set this"."""

from datetime import datetime
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field


class Event(BaseModel):
    """A fact worth looking at. Frozen, versioned; fields it does not know are kept.

    Class attributes:
        type: the CloudEvents `ce_type`, stable for ever.
        version: raised by one with every compatible change of the fields.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    type: ClassVar[str]
    version: ClassVar[int] = 1

    @property
    def key(self) -> str:
        """The id that decides the partition, and under which records stay in order."""
        raise TypeError(f"{type(self).__name__} names no key, so it cannot be published")

    @property
    def entity(self) -> str:
        """What kind of thing `key` names, as the firm says it: "document", "beteiligte"."""
        raise TypeError(f"{type(self).__name__} names no entity, so it cannot be published")


Action = Literal["create", "update", "delete", "sync_check"]


class EntityChanged(Event):
    """Something about this EspoCRM record changed, or may have: look at it.

    Attributes:
        entity_type: EspoCRM's name of the entity, such as "CDokumente".
        entity_id: EspoCRM's id, opaque, at most 36 characters.
        action: what the source said happened; a handler loads the record and judges itself.
        changed: names of the attributes the webhook listed, never their values.
        source: who noticed: "webhook", "coverage", "operator".
    """

    type: ClassVar[str] = "bitbylaw.entity.changed"

    entity_type: str
    entity_id: str = Field(min_length=1, max_length=64)
    action: Action
    changed: tuple[str, ...] = ()
    source: str = "webhook"

    @property
    def key(self) -> str:
        """The record's id."""
        return self.entity_id

    @property
    def entity(self) -> str:
        """The firm's word for the entity type."""
        return ENTITIES.get(self.entity_type, self.entity_type.lower())


ENTITIES: dict[str, str] = {
    "CDokumente": "document",
    "CBeteiligte": "beteiligte",
    "CBankverbindungen": "bankverbindungen",
    "CAIKnowledge": "aiknowledge",
}
"""EspoCRM's entity types and the firm's words for them, as in the seed's routes and topics."""


class RunRequested(Event):
    """Somebody asks for one run now: an operator, a cron trigger, a redrive or a replay.

    Attributes:
        function_id: which declared trigger, as `GET /_console/functions` lists it.
        run_id: the id the asker was given, to find the run again in the journal.
        subject: the entity id; for a cron the function id itself.
        requested: the event to run with, as its JSON object; None for a cron.
        by: who asked, as a name an operator understands, never a person's data.
        topic: where the event came from, when it did not come from somebody's hand: it is run as
            one of that topic, whichever number the step's trigger for it has by then.
        origin: `topic:partition:offset` of the record, or of the dead letter, that is run again.
        number, of: its place among the requests of one redrive or replay, from 1; 0 when alone.
    """

    type: ClassVar[str] = "bitbylaw.run.requested"

    function_id: str
    run_id: str
    subject: str
    requested: dict[str, Any] | None = None
    by: str = "operator"
    topic: str = ""
    origin: str = ""
    number: int = 0
    of: int = 0

    @property
    def key(self) -> str:
        """What the run is about."""
        return self.subject

    @property
    def entity(self) -> str:
        """A run is looked up by its function, so the kind is fixed."""
        return "run"


class Quarantined(Event):
    """A webhook's body, or one item of it, that was authentic but could not be read.

    Personal: `raw` is what the CRM sent. It lives in `ingest.quarantine` only.

    Attributes:
        quarantine_id: names the entry for `bbl quarantine`.
        route: the path it was posted to.
        webhook_id: the EspoCRM webhook that signed it; empty when unsigned posts are accepted.
        reason: why it could not be read, without any of its content.
        raw: the exact bytes, base64.
        item: index in the array when one item is meant, else None.
    """

    type: ClassVar[str] = "bitbylaw.webhook.quarantined"

    quarantine_id: str
    route: str
    webhook_id: str
    reason: str
    raw: str
    item: int | None = None

    @property
    def key(self) -> str:
        """The entry's own id."""
        return self.quarantine_id

    @property
    def entity(self) -> str:
        """Quarantine entries are their own kind."""
        return "quarantine"


class QuarantineResolved(Event):
    """Somebody decided about a quarantine entry; it lies behind the entry on the same topic.

    Attributes:
        quarantine_id: which entry; a later entry of the same id is open again.
        how: "reread" found it readable now, "ids" took the records an operator named, "dropped"
            left it.
        events: how many events that published.
        by: who decided, as a name an operator understands.
    """

    type: ClassVar[str] = "bitbylaw.webhook.quarantine.resolved"

    quarantine_id: str
    how: Literal["reread", "ids", "dropped"]
    events: int = 0
    by: str = "operator"

    @property
    def key(self) -> str:
        """The entry's id, so that it lies in the entry's partition."""
        return self.quarantine_id

    @property
    def entity(self) -> str:
        """Quarantine entries are their own kind."""
        return "quarantine"


class ProxyAnswered(Event):
    """The Advoware proxy answered a caller; never what was asked with, nor what came back.

    Attributes:
        request_id: as the caller was told it in `x-request-id`.
        method: of the request.
        endpoint: the path at Advoware, prefix included, without a query; empty when the caller named
            none that may be asked for.
        status: as answered; 499 when the caller went away before.
        duration_ms: from the request to the end of the answer.
        caller: the name of the key's owner.
        whole: the answer was sent to its end.
    """

    type: ClassVar[str] = "bitbylaw.advoware.proxy.answered"

    request_id: str
    method: str
    endpoint: str
    status: int
    duration_ms: int
    caller: str
    whole: bool = True

    @property
    def key(self) -> str:
        """The caller: what one program did stays in order, and is found in one place."""
        return self.caller

    @property
    def entity(self) -> str:
        """Who calls; the calls themselves are nobody's record."""
        return "caller"


class Command(Event):
    """A state that somebody wants, on `control.commands`: the last record of its key holds.

    A tombstone withdraws it. A reader passes over kinds that it does not know, and leaves them.

    Attributes:
        kind: which command it is; part of the value, because a key alone does not tell.
        since: from when it holds, UTC.
        by: who wants it: an instance of a service, or a name an operator understands; never a
            person's data.
        reason: in words, without values of a record.
    """

    type: ClassVar[str] = "bitbylaw.command"

    kind: str
    since: datetime
    by: str = "operator"
    reason: str = ""

    @property
    def entity(self) -> str:
        """Commands are their own kind."""
        return "command"


class StepPaused(Command):
    """An operator wants no run of this step to start, whatever version of the service runs.

    Attributes:
        step: its name; empty for every step of the service that takes records.
    """

    type: ClassVar[str] = "bitbylaw.step.paused"

    kind: Literal["paused"] = "paused"
    service: str = Field(min_length=1)
    step: str = ""

    @property
    def key(self) -> str:
        """The step, or the service with an empty step."""
        return f"{self.service}|{self.step}"


class StepHalted(Command):
    """A worker found that this step fails on everything: none of its version starts a run.

    Attributes:
        code_version: of the code that failed. Another version is not meant by it, and has a key of its
            own, so that versions side by side never erase each other's word.
    """

    type: ClassVar[str] = "bitbylaw.step.halted"

    kind: Literal["halted"] = "halted"
    service: str = Field(min_length=1)
    step: str = Field(min_length=1)
    code_version: str

    @property
    def key(self) -> str:
        """The step and the version."""
        return f"{self.service}|{self.step}|{self.code_version}"


class ReplayCancelled(Command):
    """An operator wants no more runs of this replay; what it asked for is skipped."""

    type: ClassVar[str] = "bitbylaw.replay.cancelled"

    kind: Literal["replay_cancelled"] = "replay_cancelled"
    replay_id: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """The replay."""
        return f"replay|{self.replay_id}"


class BrakeTripped(Command):
    """A worker found that a sync changes more than its budget allows: that kind of effect waits.

    Attributes:
        effect: which kind, such as "delete"; see `sync.brake`.
    """

    type: ClassVar[str] = "bitbylaw.brake.tripped"

    kind: Literal["braked"] = "braked"
    service: str = Field(min_length=1)
    effect: str = Field(min_length=1)

    @property
    def key(self) -> str:
        """The service and the kind of effect; a release takes the trip's place."""
        return f"brake|{self.service}|{self.effect}"


class BrakeReleased(Command):
    """An operator lets what the brake holds back go on; the budget counts from zero again.

    Attributes:
        extra: how much may happen beyond the budget, by all members together: what waited.
        until: from then on only the budget counts.
    """

    type: ClassVar[str] = "bitbylaw.brake.released"

    kind: Literal["brake_released"] = "brake_released"
    service: str = Field(min_length=1)
    effect: str = Field(min_length=1)
    extra: int = Field(ge=0)
    until: datetime

    @property
    def key(self) -> str:
        """As of the trip that it ends."""
        return f"brake|{self.service}|{self.effect}"


class FieldConflict(Event):
    """Both values of a field that two sides changed, written before one of them is overwritten.

    Personal: the values are in the clear. It lives in `sync.conflicts` only.

    Attributes:
        conflict_id: the same for the same record, field and values, however often it is told.
        service: whose sync noted it.
        entity_type, entity_id: the record, as `EntityChanged` names it.
        field: the field's name on the side that is written to.
        ours: what is written.
        theirs: what stood there; empty for nothing.
        rule: which rule chose, in words.
        run_id: the run, as in the journal.
    """

    type: ClassVar[str] = "bitbylaw.sync.conflict"

    conflict_id: str
    service: str
    entity_type: str
    entity_id: str = Field(min_length=1, max_length=64)
    field: str
    ours: str
    theirs: str
    rule: str
    run_id: str

    @property
    def key(self) -> str:
        """The record's id."""
        return self.entity_id

    @property
    def entity(self) -> str:
        """The firm's word for the entity type."""
        return ENTITIES.get(self.entity_type, self.entity_type.lower())
