"""What happens to documents while one watches: their events and their runs, as Kafka tells them."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from pydantic import ValidationError

from bitbylaw_common import topics
from bitbylaw_common.errors import LogUnavailableError
from bitbylaw_common.journal import EffectFact, JournalEntry
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.ports import Record
from bitbylaw_common.topics import PARTITIONS

ENTITY = "document"
_EVENTS = frozenset(topic.name for topic in topics.DOCUMENT)
_AGAIN_SECONDS = 1.0


_ENDS = (frozenset({"done", "rejected"}), frozenset({"skipped"}))
"""How a way comes to its end: rather with something done than without."""


@dataclass
class Told:
    """What is known of one document.

    Attributes:
        received: when each of its events was stored.
        intents: runs that began to write, without their ends.
        runs: finished runs, in the order in which they ended.
    """

    received: list[datetime] = field(default_factory=list)
    intents: list[JournalEntry] = field(default_factory=list)
    runs: list[JournalEntry] = field(default_factory=list)

    @property
    def answered(self) -> bool:
        """Whether a run answered everything that came in, and none waits for something.

        One that became due counts as an answer, too, so the numbers alone do not tell: what answers
        the last word began after it.
        """
        if not self.received or not self.runs or self.waits:
            return False
        answers = sum(run.answers for run in self.runs)
        last = max(run.began for run in self.runs)
        return answers >= len(self.received) and last >= max(self.received)

    @property
    def waits(self) -> bool:
        """Whether the last run waits, as for xAI to make a file searchable."""
        return bool(self.runs) and self.runs[-1].outcome == "wait"

    @property
    def way(self) -> list[JournalEntry]:
        """The runs until the first that came to its end, those before it that waited included."""
        for ends in _ENDS:
            for at, run in enumerate(self.runs, start=1):
                if run.outcome in ends:
                    return self.runs[:at]
        return list(self.runs)

    def runs_since(self, instant: datetime) -> list[JournalEntry]:
        """Return the finished runs that began at `instant` or later."""
        return [run for run in self.runs if run.began >= instant]


class Story:
    """Follows the events and the journal of documents.

    Args:
        since: what happened earlier is passed over.
        on_run: is told of each finished run.
    """

    def __init__(
        self, since: datetime, on_run: Callable[[JournalEntry], None] = lambda _: None
    ) -> None:
        self._since = since
        self._on_run = on_run
        self._grown = asyncio.Event()
        names = [*_EVENTS, topics.JOURNAL.name]
        self._next = {(name, number): 0 for name in names for number in range(PARTITIONS)}
        self.documents: dict[str, Told] = {}

    async def follow(self, log: KafkaLog) -> None:
        """Read on until cancelled; a broker that is away is asked again."""
        while True:
            try:
                async for record in log.follow(dict(self._next)):
                    self.learn(record)
            except LogUnavailableError:
                await asyncio.sleep(_AGAIN_SECONDS)

    async def catch_up(self, log: KafkaLog) -> None:
        """Return once everything is known that Kafka holds now.

        Raises:
            LogUnavailableError: the broker cannot be asked.
        """
        async for record in log.read(dict(self._next)):
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Take in one record; what is known, older, unreadable or foreign is passed over."""
        place = (record.topic, record.partition)
        if record.offset < self._next.get(place, 0):
            return
        self._next[place] = record.offset + 1
        if record.key is None or record.value is None:
            return
        if record.time is not None and record.time < self._since:
            return
        key = record.key.decode(errors="replace")
        if record.topic in _EVENTS:
            self._of(key).received.append(record.time or self._since)
        else:
            entity, _, document = key.partition(":")
            entry = _entry(record.value)
            if entity != ENTITY or entry is None:
                return
            told = self._of(document)
            if entry.phase == "intent":
                told.intents.append(entry)
            else:
                told.intents = [one for one in told.intents if one.run_id != entry.run_id]
                told.runs.append(entry)
                self._on_run(entry)
        grown, self._grown = self._grown, asyncio.Event()
        grown.set()

    async def until(self, condition: Callable[[], bool], seconds: float) -> bool:
        """Return True once the condition holds, False when it did not within `seconds`."""
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True

    def answered(self, documents: Iterable[str]) -> bool:
        """Say whether a run answered everything that came in for each of the documents."""
        return all(
            document in self.documents and self.documents[document].answered
            for document in documents
        )

    def of(self, document: str) -> Told:
        """Return what is known of a document; of an unknown one nothing."""
        return self.documents.get(document, Told())

    def _of(self, document: str) -> Told:
        return self.documents.setdefault(document, Told())


def _entry(value: bytes) -> JournalEntry | None:
    try:
        return JournalEntry.model_validate_json(value)
    except ValidationError:
        return None


@dataclass(frozen=True, slots=True)
class Line:
    """One document's way, as the table of `bbl up` shows it.

    Attributes:
        received: when its first webhook was stored.
        uploaded: whether its file was uploaded in this run.
        attached: ids of the collections it was attached to.
        written_back: the fields that EspoCRM was told.
        ms: from the webhook's storing to the end of the run.
        state: "waiting for its webhook", "received", "working", or the run's outcome.
    """

    document: str
    name: str
    received: datetime | None = None
    uploaded: bool = False
    attached: tuple[str, ...] = ()
    written_back: tuple[str, ...] = ()
    rule: str = ""
    reason: str = ""
    state: str = "waiting for its webhook"
    ms: int | None = None

    @property
    def finished(self) -> bool:
        """Whether nothing more is expected for now."""
        return self.state in ("done", "skipped", "rejected")


def line_of(document: str, name: str, told: Told) -> Line:
    """Return a document's line: of its runs until the first that came to its end, or how far it is."""
    if not told.received and not told.runs:
        return Line(document, name)
    received = told.received[0] if told.received else None
    if not told.runs:
        state = "working" if told.intents else "received"
        return Line(document, name, received=received, state=state)
    way = told.way
    run, ended = way[-1], way[-1].ended
    took = None if received is None or ended is None else (ended - received).total_seconds()
    return Line(
        document,
        name,
        received=received,
        uploaded=any(effects(one, "upload_file") for one in way),
        attached=tuple(
            fact.target.partition("/")[0]
            for one in way
            for fact in effects(one, "add_to_collection")
        ),
        written_back=tuple(
            sorted(
                {
                    name
                    for one in way
                    for fact in effects(one, "update_entity")
                    for name in fact.fields
                }
            )
        ),
        rule=way[0].rule,
        reason=way[0].reason or way[0].summary,
        state=run.outcome or "done",
        ms=None if took is None else max(0, round(took * 1000)),
    )


def effects(run: JournalEntry, method: str) -> list[EffectFact]:
    """Return the run's effects of one kind that happened."""
    return [fact for fact in run.effects if fact.method == method and fact.result == "done"]


def writes(run: JournalEntry) -> Mapping[str, int]:
    """Return how often the run did what, by method."""
    counts: dict[str, int] = {}
    for fact in run.effects:
        if fact.result == "done":
            counts[fact.method] = counts.get(fact.method, 0) + 1
    return counts
