"""Every event that travels on a topic; each says "look at this", never "set this"."""

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
}
"""EspoCRM's entity types and the firm's words for them, as in the seed's routes and topics."""


class RunRequested(Event):
    """Somebody asks for one run now: an operator, a cron trigger, later a redrive or replay.

    Attributes:
        function_id: which declared trigger, as `GET /_console/functions` lists it.
        run_id: the id the asker was given, to find the run again in the journal.
        subject: the entity id; for a cron the function id itself.
        requested: the event to run with, as its JSON object; None for a cron.
        by: who asked, as a name an operator understands, never a person's data.
    """

    type: ClassVar[str] = "bitbylaw.run.requested"

    function_id: str
    run_id: str
    subject: str
    requested: dict[str, Any] | None = None
    by: str = "operator"

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
