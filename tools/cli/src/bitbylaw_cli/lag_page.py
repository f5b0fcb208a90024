"""How `bbl lag` shows its answer in a terminal, the verdict first."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from bitbylaw_cli import lag_words as say
from bitbylaw_cli.lag_model import LagReport, PartitionLag, ServiceLag, Verdict, WorkerLine
from bitbylaw_cli.output import table
from bitbylaw_cli.records import span

PARTITIONS_SHOWN = 6

_COLOURS: dict[Verdict, str] = {"well": "green", "slow": "yellow", "paused": "yellow"}
_WORST = "red"


def rendered(report: LagReport) -> Iterator[RenderableType]:
    """Yield the answer for people."""
    if report.unreachable:
        yield Text(report.unreachable, style=_WORST)
        return
    for number, service in enumerate(report.services):
        if number:
            yield ""
        yield from _service(report, service)


def _service(report: LagReport, service: ServiceLag) -> Iterator[RenderableType]:
    yield Text.assemble(
        (service.service, "bold"),
        "  ",
        (_name(service.verdict), f"bold {_colour(service.verdict)}"),
    )
    yield _indented(Text(service.words))
    if service.command:
        yield _indented(Text.assemble(("next: ", "dim"), (service.command, "bold cyan")))
    for finding in service.findings[1:]:
        yield ""
        yield _indented(
            Text.assemble(
                ("also ", "dim"),
                (_name(finding.verdict), _colour(finding.verdict)),
                ": ",
                finding.words,
            )
        )
        yield _indented(Text.assemble(("next: ", "dim"), (finding.command, "cyan")))
    if service.verdict not in ("well", "slow", "still"):  # those two say it themselves
        yield ""
        yield _indented(Text(_pace(report, service), style="dim"))
    if service.partitions and service.verdict != "well":
        yield ""
        yield _indented(_partitions(report, service.partitions[:PARTITIONS_SHOWN]))
        left = len(service.partitions) - PARTITIONS_SHOWN
        if left > 0:
            more = f"and {say.counted(left, 'partition')} with less (--json names all)"
            yield _indented(Text(more, style="dim"))
    if service.workers and service.verdict != "well":
        yield ""
        yield _indented(_workers(report, service.workers))
    for note in service.notes:
        yield _indented(Text(f"note: {note}", style="yellow"))


def _name(verdict: Verdict) -> str:
    return {"well": "all well", "no_owner": "no owner", "still": "standing still"}.get(
        verdict, verdict
    )


def _colour(verdict: Verdict) -> str:
    return _COLOURS.get(verdict, _WORST)


def _indented(part: RenderableType) -> RenderableType:
    return Padding(part, (0, 0, 0, 2), expand=False)


def _pace(report: LagReport, service: ServiceLag) -> str:
    words = say.sentence(say.counted(service.behind, "record", "wait"))
    if service.oldest is not None:
        words += f", the oldest {say.since(service.oldest, report.at)}"
    finished = service.finished_per_second
    words += f"; {say.rate(service.arrivals_per_second)} in, "
    words += "nobody tells how many out" if finished is None else f"{say.rate(finished)} out"
    if not service.behind or service.drain_seconds is None:
        return f"{words}."
    return f"{words}; worked off in {say.about(service.drain_seconds)}."


def _partitions(report: LagReport, found: tuple[PartitionLag, ...]) -> RenderableType:
    return table(
        ("record at the watermark", "id", "waits", "behind", "owner"),
        [
            (
                one.record,
                one.key,
                None if one.since is None else span(report.at - one.since),
                one.behind,
                one.owner,
            )
            for one in found
        ],
        right=("behind",),
    )


def _workers(report: LagReport, workers: tuple[WorkerLine, ...]) -> RenderableType:
    return table(
        ("worker", "state", "heard", "partitions", "run", "ready", "out", "p95 of a run"),
        [
            (
                one.instance,
                one.state,
                f"{span(report.at - one.at)} ago",
                _numbers(one.partitions),
                one.running,
                one.ready,
                say.rate(one.finished_per_second),
                None if one.p95_run_seconds is None else say.duration(one.p95_run_seconds),
            )
            if one.state in ("working", "draining")
            else (one.instance, one.state, f"{span(report.at - one.at)} ago", *[None] * 5)
            for one in workers
        ],
        right=("run", "ready"),
    )


def _numbers(partitions: tuple[int, ...]) -> str:
    """Return `0-5, 8`."""
    runs: list[list[int]] = []
    for number in partitions:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
