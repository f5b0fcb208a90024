"""What is typed, and what must come of it: every verb with every code that it ends with."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from bitbylaw_cli.output import Exit
from bitbylaw_cli.verbs import VERBS


class Stage(IntEnum):
    """What the real system holds; a scene only ever goes on to a later one."""

    ALONE = 0
    """There is no system: whatever is typed must end without one."""
    EMPTY = 1
    """Kafka has no topic."""
    CROOKED = 2
    """One topic has too few partitions."""
    SHORT = 3
    """One topic is missing."""
    WELL = 4
    """Nothing failed, every cron is on time."""
    TROUBLED = 5
    """Dead letters, a late cron, held webhooks, replays under way."""


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that is typed.

    Attributes:
        verb: which verb it is.
        words: what follows it, as in a shell; `{name}` stands for what the scene calls so.
        says: of an error: what is wrong, where, and what to do, as its one line says it.
        told: words of the answer, which must not be an empty one.
        given: what the scene puts there just before.
        beside: what the scene lets live beside it.
        writes: the system is another one after it; otherwise it must be the same.
        lines: each line of the answer is a document.
        as_json: by default wherever an answer is to come.
        typed: how the verb is typed, where that is not its name.
    """

    verb: str
    words: str
    exit: Exit
    says: tuple[str, str, str] | tuple[()] = ()
    told: tuple[str, ...] = ()
    stage: Stage = Stage.TROUBLED
    given: str = ""
    beside: str = ""
    writes: bool = False
    lines: bool = False
    as_json: bool | None = None
    typed: str = ""
    env: Mapping[str, str] = field(default_factory=dict)

    @property
    def json(self) -> bool:
        """Whether it is typed with --json."""
        return self.exit in (Exit.OK, Exit.FINDING) if self.as_json is None else self.as_json

    @property
    def quiet(self) -> bool:
        """Whether it may be typed beside others: it finds what is there, and leaves it so."""
        return not (self.given or self.beside or self.writes)

    def command(self, names: Mapping[str, str]) -> list[str]:
        """Return what is typed, where the scene calls things so."""
        words = [word.format_map(names) for word in shlex.split(self.words)]
        return [*(self.typed or self.verb).split(), *words, *(["--json"] if self.json else [])]

    def __str__(self) -> str:
        """Return the case as a test names it."""
        return f"{self.exit.name.lower()}: {self.typed or self.verb} {self.words}".strip()


OK, FINDING, USAGE, UNREACHABLE, REFUSED = Exit

_SERVICE = "document-sync"
_STEP = "'Document Sync'"
_SWEEP = "'steps::Document Sweep::trigger::0'"

TYPICAL: dict[str, str] = {
    "up": "--env real.env --port 0",
    "demo": "",
    "doctor": "",
    "why": "document d-well",
    "waiting": "",
    "coverage": "",
    "audit documents": "",
    "sync document": "d-well",
    "plan documents": "d-well",
    "apply documents": "d-well d-lost",
    "lag": "",
    "pause": f"{_SERVICE} {_STEP} --reason audit",
    "resume": f"{_SERVICE} {_STEP}",
    "paused": "",
    "brake show": "",
    "brake release": _SERVICE,
    "cron list": "",
    "cron history": _SWEEP,
    "cron trigger": _SWEEP,
    "dlq list": _SERVICE,
    "dlq issues": _SERVICE,
    "dlq show": f"{_SERVICE} d-lost",
    "dlq redrive": f"{_SERVICE} d-lost",
    "replay run": "vmh.document.update",
    "replay list": "",
    "replay cancel": "0123456789",
    "quarantine list": "",
    "quarantine show": "q-readable",
    "quarantine release": "q-readable",
    "quarantine drop": "q-readable",
    "locks": "",
    "locks release": "document d-locked",
    "advoware token": "",
    "advoware call": "DELETE Termine --query frnr=7",
    "functions": "",
    "topics plan": "",
    "topics apply": "",
    "topics docs": "",
    "espocrm webhooks plan": "--env real.env",
    "espocrm webhooks apply": "--env real.env --url https://hooks.example",
    "tail": "vmh.document.update",
    "logs": "",
    "env": "",
    "schema cli": "--into docs",
}
"""Words with which a verb could do its work."""

_KAFKA_AWAY = ("Kafka does not answer", "127.0.0.1:1", "bbl doctor")
_ESPOCRM_AWAY = ("EspoCRM does not answer", "127.0.0.1:1", "bbl doctor")
_REDIS_AWAY = ("Redis does not answer", "127.0.0.1:1", "bbl doctor")
_ADVOWARE_AWAY = ("Advoware does not answer", "127.0.0.1:1", "bbl doctor")
_ADVOWARE = {
    "ADVOWARE_CONFIGURATOR_URL": "http://127.0.0.1:1/AdvonetConfigurator/api/Url",
    "ADVOWARE_APP_ID": "app-123",
    "ADVOWARE_API_KEY": "Z2VoZWltZXIgc2NobHVlc3NlbA==",
    "ADVOWARE_KANZLEI": "kanzlei-7",
    "ADVOWARE_DATABASE": "muster",
    "ADVOWARE_USER": "SB",
    "ADVOWARE_PASSWORD": "geheimes-kennwort",
}
"""Names of an Advoware of which nothing answers."""
_AWAY = {"locks": _REDIS_AWAY, "advoware": _ADVOWARE_AWAY, "espocrm": _ESPOCRM_AWAY}


def away() -> Iterator[Case]:
    """Yield a case of each verb that asks a system, where nothing listens."""
    for one in VERBS:
        if not one.asks:
            continue
        words = f"{TYPICAL[one.words]}{' --yes' if one.writes else ''}"
        says = _AWAY.get(one.words.partition(" ")[0], _KAFKA_AWAY)
        env = _ADVOWARE if says is _ADVOWARE_AWAY else {}
        yield Case(one.words, words, UNREACHABLE, says, stage=Stage.ALONE, env=env)
    for words, more in (
        ("tail", "vmh.document.update --follow"),
        ("topics apply", "--plan"),
        ("dlq redrive", f"{_SERVICE} --plan"),
        ("replay run", "vmh.document.update --plan"),
    ):
        yield Case(words, more, UNREACHABLE, _KAFKA_AWAY, stage=Stage.ALONE)
    yield Case(
        "functions",
        "--url http://127.0.0.1:1",
        UNREACHABLE,
        ("no service answers", "http://127.0.0.1:1/_console/functions", "--url"),
        stage=Stage.ALONE,
    )


def undecided() -> Iterator[Case]:
    """Yield each verb that writes, asked for neither --plan nor --yes, and for both."""
    for one in VERBS:
        if one.writes:
            typical = TYPICAL[one.words]
            says = ("this writes", "--plan", "--yes")
            yield Case(one.words, typical, USAGE, says, stage=Stage.ALONE)
            says = ("exclude each other", "--plan", "--yes")
            yield Case(one.words, f"{typical} --plan --yes", USAGE, says, stage=Stage.ALONE)


def unknown_options() -> Iterator[Case]:
    """Yield each verb with an option that it does not have."""
    for one in VERBS:
        says = ("No such option: --nosuch", f"bbl {one.words}", "-h")
        yield Case(one.words, "--nosuch", USAGE, says, stage=Stage.ALONE)


def missing_files() -> Iterator[Case]:
    """Yield verbs whose file of settings is not there."""
    says = ("No such file", "nowhere.env", "--env")
    for words in ("doctor", "why document d1", "waiting", "lag", "locks", "topics plan", "env"):
        name, _, more = words.partition(" document")
        more = f"document{more}" if more else ""
        yield Case(name, f"{more} --env nowhere.env", USAGE, says, stage=Stage.ALONE)


_NO_SERVICE = ("called 'document-snyc'", "nearest is 'document-sync'", "there are")

ALONE: tuple[Case, ...] = (
    Case("up", "--plan", OK, told=("ingest", "document-sync"), stage=Stage.ALONE),
    Case(
        "up",
        "--port {held}",
        REFUSED,
        ("port", "is held by process", "--port"),
        stage=Stage.ALONE,
        beside="port",
    ),
    Case(
        "up",
        "--env nowhere.env --yes",
        USAGE,
        ("No such file", "nowhere.env", "--env"),
        stage=Stage.ALONE,
    ),
    Case(
        "demo",
        "--documents nowhere",
        USAGE,
        ("is no folder", "nowhere", "--documents takes"),
        stage=Stage.ALONE,
    ),
    Case("doctor", "", FINDING, told=("127.0.0.1:1", '"finding"'), stage=Stage.ALONE),
    Case(
        "why",
        "dokumnet d1",
        USAGE,
        ("'dokumnet'", "nearest is", "document"),
        stage=Stage.ALONE,
    ),
    Case("waiting", "document-snyc", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case("lag", "document-snyc", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case("brake show", "document-snyc", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case(
        "brake release",
        f"{_SERVICE} deletes --yes",
        USAGE,
        ("called 'deletes'", "nearest is 'delete'", "there are"),
        stage=Stage.ALONE,
    ),
    Case(
        "plan documents",
        "",
        USAGE,
        ("name documents", "by their ids", "--audit FILE"),
        stage=Stage.ALONE,
    ),
    Case(
        "apply documents",
        "--yes",
        USAGE,
        ("name documents", "by their ids", "--audit FILE"),
        stage=Stage.ALONE,
    ),
    Case("lag", "", UNREACHABLE, told=("127.0.0.1:1",), stage=Stage.ALONE, as_json=True),
    Case(
        "lag",
        "--watch --count 1",
        UNREACHABLE,
        told=("127.0.0.1:1",),
        stage=Stage.ALONE,
        lines=True,
        as_json=True,
    ),
    Case(
        "pause",
        f"{_SERVICE} --yes",
        USAGE,
        ("say why", "--reason", "TEXT"),
        stage=Stage.ALONE,
    ),
    Case("dlq list", "document-snyc", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case("dlq issues", "document-snyc", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case("dlq show", "document-snyc d1", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case(
        "dlq show",
        f"{_SERVICE} d1 --raw file",
        REFUSED,
        ("--raw writes bytes", "personal data", "add --personal"),
        stage=Stage.ALONE,
    ),
    Case("dlq redrive", "document-snyc --plan", USAGE, _NO_SERVICE, stage=Stage.ALONE),
    Case(
        "dlq redrive",
        f"{_SERVICE} d1 --issue 1 --plan",
        USAGE,
        ("not both", "one letter", "--issue"),
        stage=Stage.ALONE,
    ),
    Case(
        "replay run",
        "vmh.document.update --since yesterday --plan",
        USAGE,
        ("'yesterday' is no instant", "--since", "write 2026-"),
        stage=Stage.ALONE,
    ),
    Case(
        "replay run",
        "vmh.document.update --since 1h --until 2h --plan",
        USAGE,
        ("--since", "before", "--until"),
        stage=Stage.ALONE,
    ),
    Case(
        "quarantine release",
        "q1 --ids , --yes",
        USAGE,
        ("names no record", "--ids", "separated by commas"),
        stage=Stage.ALONE,
    ),
    Case(
        "tail",
        "vmh.document.updat",
        USAGE,
        ("no topic 'vmh.document.updat'", "nearest is 'vmh.document.update'", "bbl topics plan"),
        stage=Stage.ALONE,
    ),
    Case(
        "tail",
        "vmh.document.update --from 7",
        USAGE,
        ("an offset", "within one partition", "--partition"),
        stage=Stage.ALONE,
    ),
    Case(
        "tail",
        "ingest.quarantine",
        REFUSED,
        ("may hold personal data", "ingest.quarantine", "add --personal"),
        stage=Stage.ALONE,
    ),
    Case(
        "advoware call",
        "DELETE Termine --query frnr=7 --plan",
        OK,
        told=('"api/v1/advonet/Termine"', '"frnr"'),
        stage=Stage.ALONE,
        env=_ADVOWARE,
    ),
    Case(
        "advoware call",
        "GET Beteiligte?name=x",
        USAGE,
        ("is no path of a resource", "'Beteiligte?name=x'", "--query"),
        stage=Stage.ALONE,
        env=_ADVOWARE,
    ),
    Case(
        "advoware call",
        "FETCH employees",
        USAGE,
        ("no method 'FETCH'", "METHOD", "is one of GET"),
        stage=Stage.ALONE,
    ),
    Case(
        "advoware call",
        "GET employees --query limit",
        USAGE,
        ("is no pair", "--query 'limit'", "write name=value"),
        stage=Stage.ALONE,
    ),
    Case(
        "advoware call",
        "POST Termine --body nowhere.json --yes",
        USAGE,
        ("No such file", "nowhere.json", "--body takes"),
        stage=Stage.ALONE,
    ),
    Case(
        "advoware call",
        "GET employees --into real.env",
        REFUSED,
        ("is there already", "--into real.env", "name a file"),
        stage=Stage.ALONE,
        env=_ADVOWARE,
    ),
    Case("topics docs", "", OK, told=("vmh.document.update",), stage=Stage.ALONE),
    Case(
        "espocrm webhooks apply",
        "--env real.env --yes",
        USAGE,
        ("nobody said where EspoCRM reaches ingest", "ESPOCRM_WEBHOOK_BASE_URL", "--url"),
        stage=Stage.ALONE,
    ),
    Case(
        "espocrm webhooks apply",
        "--env real.env --url https://hooks.example --secrets-file real.env --yes",
        REFUSED,
        ("is there already", "real.env", "name a file"),
        stage=Stage.ALONE,
    ),
    Case(
        "espocrm webhooks plan",
        "--env real.env --url hooks.example",
        USAGE,
        ("is no address", "--url 'hooks.example'", "begins with http://"),
        stage=Stage.ALONE,
    ),
    Case("logs", "--state state", OK, told=('"stored"', "65f0"), stage=Stage.ALONE),
    Case(
        "logs",
        "--state nowhere",
        USAGE,
        ("does not exist", "nowhere/logs", "--state"),
        stage=Stage.ALONE,
    ),
    Case(
        "logs",
        "--state state --service ingset",
        USAGE,
        ("called 'ingset'", "nearest is 'ingest'", "there are"),
        stage=Stage.ALONE,
    ),
    Case("env", "", OK, told=("KAFKA_BOOTSTRAP_SERVERS", "127.0.0.1:1"), stage=Stage.ALONE),
    Case(
        "env",
        "",
        FINDING,
        told=("KAFKA_BOOTSTRAP_SERVER ",),
        stage=Stage.ALONE,
        env={"KAFKA_BOOTSTRAP_SERVER": "127.0.0.1:1"},
    ),
    Case(
        "env",
        "--group kafak",
        USAGE,
        ("called 'kafak'", "nearest is 'kafka'", "there are"),
        stage=Stage.ALONE,
    ),
    Case("schema cli", "", OK, told=('"verb": "dlq redrive"',), stage=Stage.ALONE),
    Case("schema cli", "--into made --plan", FINDING, told=('"create"',), stage=Stage.ALONE),
    Case(
        "schema cli",
        "--into made --yes",
        OK,
        told=('"create"', "cli/dlq-redrive.json"),
        stage=Stage.ALONE,
        writes=True,
    ),
    Case(
        "schema cli",
        "--into real.env --yes",
        REFUSED,
        ("File exists", "real.env", "--into takes a folder"),
        stage=Stage.ALONE,
    ),
    Case(
        "schema cli",
        "--yes",
        USAGE,
        ("--plan and --yes", "name their folder", "--into DIR"),
        stage=Stage.ALONE,
    ),
)

SYSTEM: tuple[Case, ...] = (
    # -- topics, from nothing to as declared
    Case("topics plan", "", FINDING, told=('"create"',), stage=Stage.EMPTY),
    Case("topics apply", "--plan", FINDING, told=('"create"',), stage=Stage.EMPTY),
    Case("lag", "", FINDING, told=("control.workers is missing",), stage=Stage.EMPTY),
    Case("topics plan", "", FINDING, told=('"refuse"',), stage=Stage.CROOKED),
    Case("topics apply", "--yes", REFUSED, stage=Stage.CROOKED, writes=True, as_json=True),
    Case("topics apply", "--yes", OK, told=('"create"',), stage=Stage.SHORT, writes=True),
    Case("topics apply", "--plan", OK, told=('"changes": []',), stage=Stage.WELL),
    Case("topics plan", "", OK, told=('"changes": []',), stage=Stage.WELL),
    # -- all is well
    Case("why", "document d-well", OK, told=('"in line"',), stage=Stage.WELL),
    Case("lag", "", OK, told=('"well"',), stage=Stage.WELL, beside="worker"),
    Case("cron list", "", OK, told=('"on time"',), stage=Stage.WELL),
    Case("dlq issues", _SERVICE, OK, told=('"issues": []',), stage=Stage.WELL),
    Case("paused", "", OK, told=('"entries": []',), stage=Stage.WELL),
    Case("quarantine list", "", OK, told=('"entries": []',), stage=Stage.WELL),
    Case("locks", "", OK, told=('"locks": []',), stage=Stage.WELL),
    Case("functions", "", OK, told=("steps::Document Sync::trigger::0",), stage=Stage.WELL),
    Case("doctor", "", FINDING, told=("answers at",), stage=Stage.WELL),
    # -- one record
    Case("why", "document d-lost", FINDING, told=('"dead"',)),
    Case("why", "document d-again", FINDING, told=('"failing"',)),
    Case("waiting", _SERVICE, OK, told=("d-again", '"retry"')),
    # -- covered, or not
    Case("coverage", "", FINDING, told=('"never"',), stage=Stage.WELL),
    Case("coverage", "", OK, told=('"covered"', "complete_until"), given="covered"),
    Case("coverage", "", FINDING, told=('"gaps"', "d-lost"), given="gap"),
    # -- behind, paused
    Case("lag", _SERVICE, FINDING, told=('"no_owner"',)),
    Case("lag", "--watch --count 2 --every 0.5", FINDING, told=('"no_owner"',), lines=True),
    Case("pause", f"{_SERVICE} {_STEP} --reason audit --plan", OK, told=('"paused"',)),
    Case("pause", f"{_SERVICE} {_STEP} --reason audit --yes", OK, writes=True),
    Case(
        "pause",
        "document-snyc --reason audit --yes",
        USAGE,
        ("called 'document-snyc'", "nearest is 'document-sync'", "there are"),
    ),
    Case(
        "pause",
        f"{_SERVICE} 'Document Snyc' --reason audit --yes",
        USAGE,
        ("called 'Document Snyc'", "nearest is 'Document Sync'", "step of document-sync"),
    ),
    Case(
        "pause",
        "ingest --reason audit --yes",
        REFUSED,
        ("cannot be paused", "ingest", "pause the step that works on"),
    ),
    Case("paused", _SERVICE, OK, told=('"paused"', "bbl resume"), given="paused_step"),
    Case("paused", "document-snyc", USAGE, _NO_SERVICE),
    # -- braked
    Case("brake show", "", OK, told=('"entries": []',), stage=Stage.WELL),
    Case("brake show", _SERVICE, FINDING, told=('"delete"', "bbl brake release"), given="braked"),
    Case("brake release", f"{_SERVICE} delete --plan", OK, told=('"asked": 1',), given="braked"),
    Case("brake release", f"{_SERVICE} --yes", OK, told=('"delete"',), given="braked", writes=True),
    # -- asked for
    Case("sync document", "d-well --yes", OK, told=('"run_id"',), writes=True),
    Case("apply documents", "d-well d-lost --yes", OK, told=("d-lost",), writes=True),
    Case("resume", f"{_SERVICE} {_STEP} --plan", OK, told=('"paused"',), given="paused_step"),
    Case("resume", f"{_SERVICE} {_STEP} --yes", OK, given="paused_step", writes=True),
    Case(
        "resume",
        f"{_SERVICE} {_STEP} --yes",
        FINDING,
        told=("audit", "bbl resume document-sync"),
        given="paused_service",
    ),
    Case("resume", f"{_SERVICE} --yes", OK, given="paused_service", writes=True),
    Case(
        "resume",
        "document-snyc --yes",
        USAGE,
        ("called 'document-snyc'", "nearest is 'document-sync'", "there are"),
    ),
    # -- crons
    Case("cron list", "", FINDING, told=('"late"',)),
    Case("cron history", _SWEEP, OK, told=("run-of-sweep",)),
    Case(
        "cron history",
        "'steps::Document Swep::trigger::0'",
        USAGE,
        ("no cron has the function id", "steps::Document Swep::", "steps::Document Sweep::"),
    ),
    Case("cron trigger", f"{_SWEEP} --plan", OK, told=("Document Sweep",)),
    Case("cron trigger", f"{_SWEEP} --yes", OK, told=("run_id",), writes=True),
    Case(
        "cron trigger",
        "'Document Sync' --yes",
        USAGE,
        ("'Document Sync'", "is started by", "not by a cron"),
    ),
    # -- dead letters
    Case("dlq list", _SERVICE, OK, told=("d-lost",)),
    Case("dlq list", f"{_SERVICE} --open", OK, told=('"resolved": 0',)),
    Case("dlq issues", _SERVICE, FINDING, told=("bbl dlq redrive",)),
    Case("dlq show", f"{_SERVICE} d-lost", OK, told=("CDokumente",)),
    Case("dlq show", f"{_SERVICE} {{unreadable}} --raw {{fresh}} --personal", OK, told=("7",)),
    Case(
        "dlq show",
        f"{_SERVICE} {{unreadable}} --raw real.env --personal",
        REFUSED,
        ("is there already", "real.env", "name a file"),
    ),
    Case(
        "dlq show",
        f"{_SERVICE} d-lost --raw file --personal",
        REFUSED,
        ("keeps no bytes", "document-sync.dlq", "see its event"),
    ),
    Case(
        "dlq show",
        f"{_SERVICE} d-none",
        USAGE,
        ("no dead letter for 'd-none'", "document-sync.dlq", "bbl dlq list document-sync"),
    ),
    Case("dlq redrive", f"{_SERVICE} d-lost --plan", OK, told=("d-lost",)),
    Case("dlq redrive", f"{_SERVICE} --issue 1 --plan", OK, told=('"redrives"', "d-")),
    Case("dlq redrive", f"{_SERVICE} d-lost --yes", OK, given="letter", writes=True),
    Case(
        "dlq redrive",
        f"{_SERVICE} d-asked --yes",
        REFUSED,
        ("asked for again already", "document-sync.dlq", "bbl why document d-asked"),
    ),
    Case(
        "dlq redrive",
        f"{_SERVICE} {{unreadable}} --yes",
        REFUSED,
        ("was unreadable", "document-sync.dlq", "bbl dlq show"),
    ),
    Case(
        "dlq redrive",
        f"{_SERVICE} --issue nonsense --yes",
        USAGE,
        ("fits 'nonsense'", "document-sync", "bbl dlq issues document-sync"),
    ),
    Case("dlq redrive", f"{_SERVICE} --yes", OK, told=("d-more",), given="more", writes=True),
    Case(
        "dlq redrive",
        f"{_SERVICE} --yes",
        REFUSED,
        ("were asked for before", "by operator", "bbl dlq issues document-sync"),
        given="all_asked",
    ),
    # -- replays
    Case("replay run", "vmh.document.update --plan", OK, told=('"count": 2',)),
    Case("replay run", "vmh.document.update --plan", OK, told=('"count": 2',), typed="replay"),
    Case("replay run", "vmh.document.update --yes", OK, told=('"sent": 2',), writes=True),
    Case(
        "replay run",
        "vmh.document.updat --plan",
        USAGE,
        ("no topic 'vmh.document.updat'", "nearest is 'vmh.document.update'", "bbl topics plan"),
    ),
    Case(
        "replay run",
        "vmh.document.update --service ingest --plan",
        USAGE,
        ("ingest does not take", "vmh.document.update", "document-sync does"),
    ),
    Case("replay list", "", OK, told=("r-under-way", '"cancelled"')),
    Case("replay cancel", "r-under-way --plan", OK, told=('"skipped": 1',)),
    Case("replay cancel", "r-under-way --yes", OK, writes=True),
    Case(
        "replay cancel",
        "r-called-off --yes",
        REFUSED,
        ("was cancelled already", "r-called-off", "by operator"),
    ),
    Case(
        "replay cancel",
        "r-under-wy --yes",
        USAGE,
        ("called 'r-under-wy'", "nearest is 'r-under-way'", "bbl replay list"),
    ),
    # -- held webhooks
    Case("quarantine list", "", OK, told=("q-readable", "q-broken")),
    Case("quarantine show", "q-readable", OK, told=('"open": true',)),
    Case("quarantine show", "q-readable --raw {fresh}", OK, told=("q-readable",)),
    Case(
        "quarantine show",
        "q-readable --raw real.env",
        REFUSED,
        ("is there already", "real.env", "name a file"),
    ),
    Case(
        "quarantine show",
        "q-none",
        USAGE,
        ("no entry 'q-none'", "ingest.quarantine", "bbl quarantine list"),
    ),
    Case("quarantine release", "q-readable --plan", OK, told=("d-held",)),
    Case("quarantine release", "q-readable --yes", OK, given="held", writes=True),
    Case("quarantine release", "q-broken --ids d1 --plan", OK, told=('"ids"',)),
    Case(
        "quarantine release",
        "q-broken --yes",
        REFUSED,
        ("still cannot be read", "q-broken", "bbl quarantine drop"),
    ),
    Case(
        "quarantine release",
        "q-none --yes",
        USAGE,
        ("no entry 'q-none'", "ingest.quarantine", "bbl quarantine list"),
    ),
    Case("quarantine drop", "q-broken --plan", OK, told=('"dropped"',)),
    Case("quarantine drop", "q-readable --yes", OK, given="held", writes=True),
    Case(
        "quarantine drop",
        "q-dropped --yes",
        REFUSED,
        ("was dropped already", "q-dropped", "open it anew"),
    ),
    Case(
        "quarantine drop",
        "q-none --yes",
        USAGE,
        ("no entry 'q-none'", "ingest.quarantine", "bbl quarantine list"),
    ),
    # -- locks
    Case("locks", "", OK, told=("d-locked",), given="lock_at_work"),
    Case("locks release", "document d-locked --plan", OK, given="lock_left", told=("false",)),
    Case("locks release", "document d-locked --yes", OK, given="lock_left", writes=True),
    Case(
        "locks release",
        "document d-locked --yes",
        REFUSED,
        ("is at work", "document d-locked", "--force"),
        given="lock_at_work",
    ),
    Case(
        "locks release",
        "document d-locked --force --yes",
        OK,
        given="lock_at_work",
        writes=True,
    ),
    Case(
        "locks release",
        "document d-none --yes",
        USAGE,
        ("nobody holds a lock", "document d-none", "bbl locks"),
    ),
    # -- the fleet, and what travels
    Case("functions", "--service ingest", OK, told=("/vmh/webhook/",)),
    Case(
        "functions",
        "--service ingset",
        USAGE,
        ("called 'ingset'", "nearest is 'ingest'", "there are"),
    ),
    Case("functions", "--url {service}", OK, told=("{service}",), beside="service"),
    Case(
        "functions",
        "--url {service}",
        REFUSED,
        ("asks for a key", "/_console/functions", "set BBL_CONTROL_KEY"),
        beside="service",
        env={"BBL_CONTROL_KEY": ""},
    ),
    Case("tail", "vmh.document.update --count 1", OK, told=("d-",)),
    Case("tail", "ingest.quarantine --personal", OK, told=("q-readable",)),
    Case(
        "tail",
        "vmh.document.update --follow --from beginning --count 2",
        OK,
        told=("d-",),
        lines=True,
    ),
)

ELSEWHERE: dict[tuple[str, Exit], str] = {
    ("up", OK): "tests/e2e/test_up.py::test_kept_documents_are_not_uploaded_again",
    ("up", FINDING): "tests/e2e/test_up.py::"
    "test_a_killed_service_comes_back_and_all_end_when_something_else_dies",
    ("demo", OK): "tests/e2e/test_demo.py::"
    "test_the_main_job_is_shown_and_checked_on_the_sample_world",
    ("demo", FINDING): "tests/cli_verbs/test_reference.py::"
    "test_a_demonstration_in_which_a_document_is_not_where_it_should_be_ends_with_1",
    ("doctor", OK): "tests/e2e/test_up.py::"
    "test_one_command_shows_the_main_job_and_leaves_nothing_running",
    ("advoware token", OK): "tests/cli_verbs/test_advoware.py::"
    "test_a_login_that_works_is_said_to_and_the_token_is_not_shown",
    ("advoware token", FINDING): "tests/cli_verbs/test_advoware.py::"
    "test_a_login_that_is_refused_is_a_finding_in_plain_words",
    ("advoware token", REFUSED): "tests/cli_verbs/test_advoware.py::"
    "test_a_firm_that_nobody_knows_is_refused",
    ("advoware call", OK): "tests/cli_verbs/test_advoware.py::"
    "test_what_writes_is_sent_with_yes_and_only_then",
    ("advoware call", FINDING): "tests/cli_verbs/test_advoware.py::"
    "test_a_call_that_was_not_done_is_a_finding_with_its_answer",
    ("audit documents", OK): "tests/unit/cli/test_audit.py::"
    "test_all_well_is_said_first_and_ends_with_0",
    ("audit documents", FINDING): "tests/unit/cli/test_audit.py::"
    "test_what_is_off_is_listed_and_ends_with_1",
    ("sync document", OK): "tests/unit/cli/test_syncing.py::"
    "test_a_plan_says_what_a_run_would_do_and_writes_nothing",
    ("apply documents", OK): "tests/unit/cli/test_syncing.py::"
    "test_a_plan_says_what_a_run_would_do_and_writes_nothing",
    ("plan documents", OK): "tests/unit/cli/test_syncing.py::"
    "test_a_plan_of_what_is_in_line_ends_with_0",
    ("plan documents", FINDING): "tests/unit/cli/test_syncing.py::"
    "test_a_plan_says_what_a_run_would_do_and_writes_nothing",
    ("espocrm webhooks plan", OK): "tests/unit/cli/test_espocrm_webhooks.py::"
    "test_apply_registers_the_nine_once_however_often_it_is_typed",
    ("espocrm webhooks plan", FINDING): "tests/unit/cli/test_espocrm_webhooks.py::"
    "test_plan_changes_nothing_and_ends_with_1_where_nothing_is_registered",
    ("espocrm webhooks plan", REFUSED): "tests/unit/cli/test_espocrm_webhooks.py::"
    "test_a_user_who_may_not_see_webhooks_is_told_which_right_is_missing",
    ("espocrm webhooks apply", OK): "tests/unit/cli/test_espocrm_webhooks.py::"
    "test_apply_registers_the_nine_once_however_often_it_is_typed",
    ("espocrm webhooks apply", FINDING): "tests/unit/cli/test_espocrm_webhooks.py::"
    "test_a_twin_is_switched_off_only_once_ingest_believes_the_other",
    ("replay run", FINDING): "tests/unit/cli/test_replay.py::"
    "test_a_kafka_that_goes_away_ends_it_with_what_was_acknowledged",
    ("replay run", REFUSED): "tests/unit/cli/test_replay.py::"
    "test_more_than_fits_in_memory_is_refused",
}
"""Ends that only a long run, or a system of another kind, comes to; and the test that goes there."""


def every_case() -> Iterator[Case]:
    """Yield all cases."""
    yield from away()
    yield from undecided()
    yield from unknown_options()
    yield from missing_files()
    yield from ALONE
    yield from SYSTEM
