"""Kafka's topics beside the catalogue: what differs, and bringing it in line."""

from pydantic import BaseModel, ConfigDict

from bitbylaw_common.kafka.admin import Admin, TopicChange
from bitbylaw_common.topics import catalogue


class TopicPlan(BaseModel):
    """What stands, or stood, between Kafka's topics and the catalogue.

    Attributes:
        declared: how many topics the catalogue has.
        changes: empty when all are as declared; those of kind "refuse" are never carried out.
        written: the others are carried out; else this is the plan.
    """

    model_config = ConfigDict(frozen=True)

    declared: int
    changes: tuple[TopicChange, ...]
    written: bool

    @property
    def refused(self) -> int:
        """How many differences a person must look at."""
        return sum(change.kind == "refuse" for change in self.changes)


async def planned(kafka: Admin) -> TopicPlan:
    """Return what differs.

    Raises:
        LogUnavailableError: Kafka cannot be asked.
    """
    wanted = list(catalogue())
    changes = await kafka.plan(wanted)
    return TopicPlan(declared=len(wanted), changes=tuple(changes), written=False)


async def applied(kafka: Admin, *, replication: int | None = None) -> TopicPlan:
    """Create and configure what differs, and return it; may be repeated.

    Args:
        replication: of new topics; by default three, or as many as there are brokers.

    Raises:
        LogUnavailableError: Kafka cannot be asked, or refused a change.
    """
    wanted = list(catalogue())
    changes = await kafka.apply(wanted, replication=replication)
    return TopicPlan(declared=len(wanted), changes=tuple(changes), written=True)
