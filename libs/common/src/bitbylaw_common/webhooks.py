"""The webhooks that EspoCRM posts to us: all nine, and nothing about them anywhere else (pure)."""

from dataclasses import dataclass

from bitbylaw_common import topics
from bitbylaw_common.events import ENTITIES, Action, EntityChanged
from bitbylaw_common.topics import Topic


@dataclass(frozen=True, slots=True)
class Webhook:
    """One of EspoCRM's webhooks: neither its body nor its headers say what it is about.

    Attributes:
        entity_type: EspoCRM's name of the entity.
        action: what happened to it.
        topic: where its events go.
    """

    entity_type: str
    action: Action
    topic: Topic[EntityChanged]

    @property
    def entity(self) -> str:
        """The firm's word for the entity, as it stands in routes and topics."""
        return ENTITIES[self.entity_type]

    @property
    def event(self) -> str:
        """What it is registered for in EspoCRM: "CDokumente.update"."""
        return f"{self.entity_type}.{self.action}"

    @property
    def route(self) -> str:
        """The path it is posted to."""
        return f"/vmh/webhook/{self.entity}/{self.action}"

    @property
    def name(self) -> str:
        """The name of the step that takes it."""
        return f"VMH Webhook {self.entity.title()} {self.action.title()}"


WEBHOOKS: tuple[Webhook, ...] = (
    Webhook("CBeteiligte", "create", topics.BETEILIGTE_CREATE),
    Webhook("CBeteiligte", "update", topics.BETEILIGTE_UPDATE),
    Webhook("CBeteiligte", "delete", topics.BETEILIGTE_DELETE),
    Webhook("CBankverbindungen", "create", topics.BANKVERBINDUNGEN_CREATE),
    Webhook("CBankverbindungen", "update", topics.BANKVERBINDUNGEN_UPDATE),
    Webhook("CBankverbindungen", "delete", topics.BANKVERBINDUNGEN_DELETE),
    Webhook("CDokumente", "create", topics.DOCUMENT_CREATE),
    Webhook("CDokumente", "update", topics.DOCUMENT_UPDATE),
    Webhook("CDokumente", "delete", topics.DOCUMENT_DELETE),
)
"""ingest has a route for each, `bbl espocrm webhooks` registers them, a daily cron looks for them."""
