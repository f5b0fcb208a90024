"""What a run writes about itself to `sync.journal`; one record per run."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

EffectResult = Literal["done", "failed", "unknown"]
Phase = Literal["intent", "end"]


class EffectFact(BaseModel):
    """One write to the outside, or the attempt.

    Attributes:
        system: who was written to.
        method: what was done.
        target: ids only.
        fields: field names with digests, or with values where the field is harmless.
        result: "unknown" when the run was cancelled or no answer came.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    system: str
    method: str
    target: str = ""
    fields: Mapping[str, str] = Field(default_factory=dict)
    result: EffectResult = "done"


class JournalEntry(BaseModel):
    """The record of one run, or of its intent before its first effect.

    Attributes:
        phase: "intent" is written with the base before the first effect; a run with an intent
            and no "end" was interrupted.
        entity, entity_id: what it was about.
        outcome: "done", "skipped", "wait", "retry", "rejected", "bug"; None for an intent.
        answers: how many records this run answered (coalesced ones included).
        saw: the digest of the snapshot it decided on.
        rule, reason: the decision in a short name and in words.
        conflicts: ids of what the run told on `sync.conflicts` before it overwrote a value.
        due: when the record is looked at again, if it is.
        instant: of a cron's run: the instant that it was for; None for a run by hand.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    phase: Phase
    service: str
    step: str
    entity: str
    entity_id: str
    run_id: str
    event_id: str
    event_type: str = ""
    action: str = ""
    trace_id: str = ""
    code_version: str = ""
    worker: str = ""
    attempt: int = 1
    answers: int = 1
    began: datetime
    ended: datetime | None = None
    outcome: str | None = None
    summary: str = ""
    error: str = ""
    rule: str = ""
    reason: str = ""
    saw: str = ""
    effects: tuple[EffectFact, ...] = ()
    conflicts: tuple[str, ...] = ()
    due: datetime | None = None
    instant: datetime | None = None
    origin: str = ""

    @property
    def key(self) -> bytes:
        """The record's key: `{entity}:{id}`."""
        return f"{self.entity}:{self.entity_id}".encode()


class RunFacts:
    """Collects the facts of one run while it goes on."""

    def __init__(self) -> None:
        self.rule = ""
        self.reason = ""
        self.seen = ""
        self.effects: list[EffectFact] = []
        self.conflicts: list[str] = []

    def decided(self, rule: str, reason: str) -> None:
        """Note the decision; a later one in the same run replaces it."""
        self.rule, self.reason = rule, reason

    @contextmanager
    def effect(
        self, system: str, method: str, *, target: str, fields: Mapping[str, str]
    ) -> Iterator[None]:
        """Record the write in the block: done, failed, or unknown where no answer came."""
        result: EffectResult = "unknown"
        try:
            yield
            result = "done"
        except Exception as error:
            result = "unknown" if getattr(error, "ambiguous", False) else "failed"
            raise
        finally:
            self.effects.append(
                EffectFact(
                    system=system, method=method, target=target, fields=fields, result=result
                )
            )
