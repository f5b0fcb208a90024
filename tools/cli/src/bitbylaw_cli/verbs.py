"""What programs may rely on: every verb of `bbl`, what it answers with --json, and how it ends."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bitbylaw_cli.advoware_access import CallAnswer, CallPlan, TokenReport
from bitbylaw_cli.auditing import Audit
from bitbylaw_cli.braking import BrakedList, Released
from bitbylaw_cli.checkup import Checkup
from bitbylaw_cli.chronicle import Story
from bitbylaw_cli.covering import Coverage
from bitbylaw_cli.crons import CronHistory, CronStandList, Triggered
from bitbylaw_cli.demonstration import Demo
from bitbylaw_cli.environment_names import Names
from bitbylaw_cli.fleet_functions import Functions
from bitbylaw_cli.held import Held, HeldList
from bitbylaw_cli.held import Release as EntryRelease
from bitbylaw_cli.lag_model import LagReport
from bitbylaw_cli.letters import IssueList, Letter, LetterList, Redrive, RedriveList
from bitbylaw_cli.log_lines import LogLine
from bitbylaw_cli.output import Exit
from bitbylaw_cli.pausing import Change, StandList
from bitbylaw_cli.record_locks import LockList
from bitbylaw_cli.record_locks import Release as LockRelease
from bitbylaw_cli.reference_model import Reference, ReferenceFiles
from bitbylaw_cli.replaying import Cancellation, Replay, ReplayList
from bitbylaw_cli.showing import Up, UpPlan
from bitbylaw_cli.syncing import SyncPlan
from bitbylaw_cli.tailing import Tailed, TailedList
from bitbylaw_cli.topic_page import TopicRow
from bitbylaw_cli.topic_plan import TopicPlan
from bitbylaw_cli.waits import WaitingList
from bitbylaw_cli.webhook_records import WebhookPlan


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb.

    Attributes:
        words: as it is typed, without `bbl`.
        answers: the types that --json answers with, one of them at a time.
        line: what each line is while it follows something; None where it never does.
        writes: it changes something that outlives it, so it has --plan and --yes.
        finding: when it ends with 1; empty where it never does.
        asks: what must answer, or it ends with 3; empty where it asks nobody.
        refused: when it ends with 4; empty where it never does.
    """

    words: str
    answers: tuple[Any, ...]
    line: Any = None
    writes: bool = False
    finding: str = ""
    asks: str = ""
    refused: str = ""

    @property
    def exits(self) -> frozenset[Exit]:
        """Every code that it ends with, but for 130 after Ctrl-C."""
        never = {
            Exit.FINDING: not self.finding,
            Exit.UNREACHABLE: not self.asks,
            Exit.REFUSED: not self.refused,
        }
        return frozenset(code for code in Exit if not never.get(code, False))


_KAFKA = "Kafka"
_BROKER_ACKNOWLEDGES = "Kafka, which must also acknowledge"
_SIDES = "Kafka, which must also acknowledge; with --plan EspoCRM and xAI"

VERBS: tuple[Verb, ...] = (
    Verb(
        "up",
        (Up, UpPlan),
        writes=True,
        finding="something of the system ended by itself",
        asks="the systems that the file of --env names",
        refused="a port is held, or a system runs in this folder already",
    ),
    Verb("demo", (Demo,), finding="a document is not where it should be"),
    Verb("doctor", (Checkup,), finding="a check found something; also where nothing answers"),
    Verb(
        "why",
        (Story,),
        finding="a run failed and is tried again, was interrupted, or the record was given up",
        asks=_KAFKA,
    ),
    Verb("waiting", (WaitingList,), asks=_KAFKA),
    Verb(
        "coverage",
        (Coverage,),
        finding="no tick or no comparison came to its end for too long, a list cannot be read, or "
        "records are not in line and nothing stands for them",
        asks=_KAFKA,
    ),
    Verb(
        "audit documents",
        (Audit,),
        finding="a record is not in line and nothing waits for it, only a person can mend one, a "
        "file at xAI is nobody's, or a list cannot be read",
        asks="Kafka, EspoCRM and xAI",
    ),
    Verb("sync document", (SyncPlan,), writes=True, asks=_SIDES),
    Verb(
        "plan documents",
        (SyncPlan,),
        finding="something would be done about a document, or what cannot be told",
        asks="Kafka, EspoCRM and xAI",
    ),
    Verb("apply documents", (SyncPlan,), writes=True, asks=_SIDES),
    Verb(
        "lag",
        (LagReport,),
        line=LagReport,
        finding="a service does not keep up; not with --watch",
        asks="Kafka; with --watch it says so and looks again",
    ),
    Verb(
        "pause",
        (Change,),
        writes=True,
        asks=_BROKER_ACKNOWLEDGES,
        refused="the step takes no records",
    ),
    Verb(
        "resume",
        (Change,),
        writes=True,
        finding="the step stays paused, because its whole service is",
        asks=_BROKER_ACKNOWLEDGES,
    ),
    Verb("paused", (StandList,), asks=_KAFKA),
    Verb("brake show", (BrakedList,), finding="something is held back", asks=_KAFKA),
    Verb("brake release", (Released,), writes=True, asks=_BROKER_ACKNOWLEDGES),
    Verb(
        "cron list",
        (CronStandList,),
        finding="a cron is late, failing, or known to no worker",
        asks=_KAFKA,
    ),
    Verb("cron history", (CronHistory,), asks=_KAFKA),
    Verb("cron trigger", (Triggered,), writes=True, asks=_BROKER_ACKNOWLEDGES),
    Verb("dlq list", (LetterList,), asks=_KAFKA),
    Verb(
        "dlq issues",
        (IssueList,),
        finding="a cause has letters that no good run resolved",
        asks=_KAFKA,
    ),
    Verb(
        "dlq show",
        (Letter,),
        asks=_KAFKA,
        refused="--raw without --personal, of a letter that keeps no bytes, or to a file that is "
        "there or cannot be written",
    ),
    Verb(
        "dlq redrive",
        (Redrive, RedriveList),
        writes=True,
        asks=_BROKER_ACKNOWLEDGES,
        refused="the letters were asked for before, or the letter has no event to run with",
    ),
    Verb(
        "replay run",
        (Replay,),
        writes=True,
        finding="it ended early, because it was cancelled or Kafka did not acknowledge; Ctrl-C "
        "ends it with 130",
        asks=_KAFKA,
        refused="the range holds more records than one replay may have",
    ),
    Verb("replay list", (ReplayList,), asks=_KAFKA),
    Verb(
        "replay cancel",
        (Cancellation,),
        writes=True,
        asks=_BROKER_ACKNOWLEDGES,
        refused="it is cancelled or done already",
    ),
    Verb("quarantine list", (HeldList,), asks=_KAFKA),
    Verb(
        "quarantine show",
        (Held,),
        asks=_KAFKA,
        refused="--raw names a file that is there or cannot be written",
    ),
    Verb(
        "quarantine release",
        (EntryRelease,),
        writes=True,
        asks=_BROKER_ACKNOWLEDGES,
        refused="it was decided already, or nothing in it can be read",
    ),
    Verb(
        "quarantine drop",
        (EntryRelease,),
        writes=True,
        asks=_BROKER_ACKNOWLEDGES,
        refused="it was decided already",
    ),
    Verb("locks", (LockList,), asks="Redis"),
    Verb(
        "locks release",
        (LockRelease,),
        writes=True,
        asks="Redis",
        refused="its holder is at work and --force is not given, or it changed hands meanwhile",
    ),
    Verb(
        "advoware token",
        (TokenReport,),
        finding="the login is refused",
        asks="Advoware",
        refused="its configurator does not know the firm",
    ),
    Verb(
        "advoware call",
        (CallAnswer, CallPlan),
        writes=True,
        finding="Advoware answers that it did not do it",
        asks="Advoware",
        refused="the login is refused, or --into names a file that is there or cannot be written",
    ),
    Verb(
        "functions",
        (Functions,),
        asks="Kafka; with --url that service",
        refused="the service asks for another key",
    ),
    Verb(
        "topics plan",
        (TopicPlan,),
        finding="a topic is missing or not as declared",
        asks=_KAFKA,
    ),
    Verb(
        "topics apply",
        (TopicPlan,),
        writes=True,
        finding="with --plan: a topic is missing or not as declared",
        asks=_BROKER_ACKNOWLEDGES,
        refused="a topic has another number of partitions; the others are brought in line",
    ),
    Verb("topics docs", (tuple[TopicRow, ...],)),
    Verb(
        "espocrm webhooks plan",
        (WebhookPlan,),
        finding="a webhook is missing, inactive, posts elsewhere, or is wrong in another way",
        asks="EspoCRM",
        refused="EspoCRM does not let our API user see webhooks",
    ),
    Verb(
        "espocrm webhooks apply",
        (WebhookPlan,),
        writes=True,
        finding="a webhook is not as it should be, with --yes afterwards",
        asks="EspoCRM",
        refused="EspoCRM refuses a webhook, or --secrets-file names a file that is there or "
        "cannot be written",
    ),
    Verb(
        "tail",
        (TailedList,),
        line=Tailed,
        asks=_KAFKA,
        refused="the topic may hold personal data and --personal is not given",
    ),
    Verb("logs", (list[LogLine],), line=LogLine),
    Verb("env", (Names,), finding="a name is set that looks like ours and is read by nobody"),
    Verb(
        "schema cli",
        (Reference, ReferenceFiles),
        writes=True,
        finding="with --into and --plan: a file differs",
        refused="a file cannot be read or written",
    ),
)
"""In the order of `bbl --help`; a test holds it equal to the commands, and types each of them."""


def verb(words: str) -> Verb:
    """Return the verb that is typed so.

    Raises:
        KeyError: there is none.
    """
    return {one.words: one for one in VERBS}[words]


def ends(of: Verb) -> Iterator[tuple[Exit, str]]:
    """Yield the codes that a verb ends with beside 0 and 2, and when."""
    for code, words in (
        (Exit.FINDING, of.finding),
        (Exit.UNREACHABLE, of.asks),
        (Exit.REFUSED, of.refused),
    ):
        if words:
            yield code, words
