"""What `bbl up` does and shows: a system that starts, does the main job, and ends."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from rich.console import Console
from rich.live import Live
from rich.text import Text

from bitbylaw_advoware_proxy import app as advoware_proxy
from bitbylaw_cli.connection import StackFile, read_env_file
from bitbylaw_cli.local import APPS, LocalSystem, Options, apps_of
from bitbylaw_cli.main_job import MainJob, announced_documents, job_table, watching
from bitbylaw_cli.output import as_json, out, table
from bitbylaw_cli.story import Story
from bitbylaw_common.journal import JournalEntry
from bitbylaw_devstack import Progress

SEED_CURL = (
    "curl -X POST {url}/vmh/webhook/document/create -H 'Content-Type: application/json' "
    '-d \'[{{"id": "test123", "entityType": "CDokumente"}}]\''
)


@dataclass(frozen=True, slots=True)
class Up:
    """What `bbl up --json` answers once everything runs.

    Attributes:
        seconds: from the start to ready, without downloads.
        download_seconds: what was fetched once for this machine.
        stages: how long each stage took.
        job: how the sample documents went; None with real systems.
        stack: what `stack.json` tells.
    """

    seconds: float
    download_seconds: float
    stages: Mapping[str, float]
    stack: StackFile
    job: MainJob | None = None


@dataclass(frozen=True, slots=True)
class UpPlan:
    """What `bbl up --env FILE --plan` answers: what would run, and what it would write to."""

    services: tuple[str, ...]
    url: str
    kafka: str
    espocrm: str
    xai: str
    advoware: str


def show_plan(options: Options, *, json: bool) -> None:
    """Show what `bbl up` would run, and what it would write to."""
    env = {} if options.env_file is None else read_env_file(options.env_file)
    simulated = "a simulator on this machine"
    planned = UpPlan(
        tuple(app.name for app in (apps_of(env) if env else APPS)),
        f"http://127.0.0.1:{options.port}",
        env.get("KAFKA_BOOTSTRAP_SERVERS") or "a Kafka on this machine",
        simulated if not env else env.get("ESPOCRM_API_BASE_URL", "not set"),
        simulated if not env else env.get("XAI_FILES_URL", "https://api.x.ai"),
        simulated if not env else env.get("ADVOWARE_API_BASE_URL", "as its configurator says"),
    )
    if json:
        print(as_json(planned))
        return
    rows = [
        ("services", ", ".join(planned.services)),
        ("webhooks at", planned.url),
        ("Kafka", planned.kafka),
        ("reads and writes EspoCRM", planned.espocrm),
        ("reads and writes xAI", planned.xai),
        ("reads and writes Advoware", planned.advoware),
    ]
    out().print(table(("would run", ""), rows))


async def serve(options: Options, showing: "Showing") -> None:
    """Run the system until cancelled, and show what it does.

    Raises:
        CommandError: it could not start, or something of it ended by itself.
    """
    kept = options.keep and (options.state_dir / "simulators").exists()
    system = LocalSystem(options, showing.stage)
    async with system.running():
        seconds = monotonic() - showing.began - system.download_seconds
        showing.ready(system, seconds)
        async with watching(system, showing.run_ended) as story:
            watch = asyncio.ensure_future(system.watch())
            try:
                job = asyncio.ensure_future(showing.main_job(system, story, kept=kept))
                await asyncio.wait([watch, job], return_when=asyncio.FIRST_COMPLETED)
                if not job.done():
                    job.cancel()
                    await asyncio.wait([job])
                else:
                    showing.addresses(system, seconds, job.result())
                await watch
            finally:
                watch.cancel()
                await asyncio.wait([watch])


@dataclass
class Showing:
    """What the terminal shows of a system that starts, works and ends.

    Attributes:
        console: where to; standard error while standard output carries JSON.
        json: whether one JSON object is the answer.
    """

    console: Console
    json: bool
    began: float = field(default_factory=monotonic)
    names: dict[str, str] = field(default_factory=dict)
    _live: Live | None = None
    _job_over: bool = False
    _end_began: float | None = None

    def begin(self, options: Options) -> None:
        """Say what starts, and where its state is."""
        how = "processes of their own" if options.processes else "this process"
        kept = "kept" if options.keep else "begun anew"
        self.console.print(
            Text(
                f"BitByLaw on this machine: services in {how}, state in {options.state_dir} {kept}"
            )
        )

    def stage(self, progress: Progress) -> None:
        """Show a stage: its beginning where it takes long, its end with its seconds."""
        if progress.seconds is not None:
            self.console.print(Text(f"  {progress.text:<58}{progress.seconds:6.1f} s"))
        elif progress.stage in ("download", "class archive", "reload"):
            self.console.print(Text(f"  {progress.text}"), soft_wrap=True)

    def ready(self, system: LocalSystem, seconds: float) -> None:
        """Say that everything runs, and after how long."""
        apart = system.download_seconds
        downloads = f", downloads of {apart:.1f} s apart" if apart else ""
        self.console.print(Text(f"Ready after {seconds:.1f} s{downloads}", style="bold"))
        if system.accepts_unsigned:
            why = "INGEST_UNSIGNED=accept" if system.simulated else "no ESPOCRM_WEBHOOK_SECRETS"
            self.console.print(f"Webhooks are accepted unsigned, from this machine only ({why}).")
        self.console.print()

    async def main_job(self, system: LocalSystem, story: Story, *, kept: bool) -> MainJob | None:
        """Show the sample documents on their way; None with real systems."""
        simulated = system.simulated
        if simulated is None:
            self._job_over = True
            return None
        office = await simulated.office()
        self.names = {one.id: one.name for one in office.documents.values()}
        heading = (
            "Kept documents, looked at again" if kept else "Sample documents, from EspoCRM to xAI"
        )
        self.console.print(Text(heading, style="bold"))
        with Live(console=self.console, auto_refresh=False, transient=True) as live:
            job = await announced_documents(
                system,
                story,
                kept=kept,
                on_change=lambda lines: live.update(
                    job_table(lines, office.collection_names), refresh=self.console.is_terminal
                ),
            )
            live.update(Text(""))
        self.console.print(job_table(job.lines, office.collection_names))
        ended = sum(line.finished for line in job.lines)
        verdict = f"{ended} of {len(job.lines)} documents finished in {job.seconds:.1f} s"
        self.console.print(Text(verdict, style="bold green" if job.finished else "bold red"))
        if job.echoes:
            self.console.print(
                f"EspoCRM's webhooks about our own write-backs: {job.echoes} runs, "
                f"{job.echo_writes} writes"
            )
        if not job.finished:
            self.console.print(Text("  what is open: bbl waiting; bbl logs --level warning"))
        self.console.print()
        self._job_over = True
        return job

    def addresses(self, system: LocalSystem, seconds: float, job: MainJob | None) -> None:
        """Show where everything is, and what to do next."""
        facts = system.facts()
        if self.json:
            print(
                as_json(Up(seconds, system.download_seconds, system.stages, facts, job)), flush=True
            )
        simulated = system.simulated
        crm, xai, advoware = (
            (
                system.env["ESPOCRM_API_BASE_URL"],
                system.env.get("XAI_FILES_URL", "https://api.x.ai"),
                system.env.get("ADVOWARE_API_BASE_URL", "as its configurator says"),
            )
            if simulated is None
            else (simulated.told.espocrm, simulated.told.xai, simulated.told.advoware)
        )
        face = "" if simulated is None else "  (simulated; see /_sim/state)"
        rows = [
            ("ingest", f"{system.url}/vmh/webhook/document/create"),
            *(
                [("proxy", f"{system.url}/advoware/proxy?endpoint=employees")]
                if advoware_proxy.app in apps_of(system.env)
                else []
            ),
            ("control", f"{system.url}/_console/functions  /healthz  /readyz  /metrics"),
            ("EspoCRM", f"{crm}{face}"),
            ("xAI", f"{xai}{face}"),
            ("Advoware", f"{advoware}{face}"),
            ("Kafka", facts.kafka),
            ("Redis", facts.redis or "as the file says"),
            ("logs", f"{_short(facts.logs)}/*.log   (bbl logs --follow)"),
            ("all of it", _short(str(Path(facts.state_dir) / "stack.json"))),
        ]
        self.console.print(table(("", "where"), rows))
        self.console.print()
        if job is not None and job.lines:
            self.console.print(
                Text(f"next: bbl why document {job.lines[0].document}"), soft_wrap=True
            )
            self.console.print(Text(f"or:   {SEED_CURL.format(url=system.url)}"), soft_wrap=True)
        self.console.print(Text("Ctrl-C ends everything. Runs from here on:", style="bold"))

    def run_ended(self, run: JournalEntry) -> None:
        """Show a run that ended after the table was done."""
        if not self._job_over:
            return
        at = (run.ended or run.began).astimezone().strftime("%H:%M:%S")
        took = round(((run.ended or run.began) - run.began).total_seconds() * 1000)
        name = self.names.get(run.entity_id, run.entity_id)
        words = f"{run.rule}; {run.summary}" if run.rule else run.summary
        self.console.print(Text(f"{at}  {name}  {run.outcome}  {words}  {took} ms"), soft_wrap=True)

    def ending(self) -> None:
        """Say that the end was asked for."""
        self._end_began = monotonic()
        self.console.print(Text("\nEnding: what runs is finished first; once more ends at once"))

    def ended(self) -> None:
        """Say that everything has ended."""
        if self._end_began is not None:
            took = monotonic() - self._end_began
            self.console.print(Text(f"Ended after {took:.1f} s; nothing is left running."))


def _short(path: str) -> str:
    """Return a path as seen from here, where that is shorter."""
    try:
        return str(Path(path).relative_to(Path.cwd()))
    except ValueError:
        return path
