"""Measures rows and writes the table: `python -m benchmarks [ROW ...]`; `make bench` calls it."""

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.results import to_json, to_markdown
from benchmarks.rig import BenchError, rig
from benchmarks.rows import ROWS
from benchmarks.sizes import FULL, TINY, Sizes
from bitbylaw_devstack import DevstackError
from bitbylaw_devstack.install import kafka_version

RESULTS = Path(__file__).with_name("results")


def main() -> int:
    """Return 0 when everything that was asked for is measured, 1 with a reason when not."""
    given = _options()
    sizes = TINY if given.tiny else FULL
    if given.repeats is not None:
        sizes = dataclasses.replace(sizes, repeats=given.repeats)
    # while a topic is new, every record's first try is told; it comes again by itself
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    given.output.mkdir(parents=True, exist_ok=True)
    failed = False
    for name in given.rows or ROWS:
        try:
            asyncio.run(_measure(name, sizes, given.output))
        except (BenchError, DevstackError) as why:
            print(f"{name} could not be measured: {why}", file=sys.stderr)
            failed = True
    _plot(given.output)
    return 1 if failed else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; default: all"
    )
    parser.add_argument("--repeats", type=int, help=f"turns of each side (default: {FULL.repeats})")
    parser.add_argument("--tiny", action="store_true", help="only see that everything works")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of tables and plot")
    given = parser.parse_args()
    unknown = [name for name in given.rows if name not in ROWS]
    if unknown:
        parser.error(f"no row is called {unknown[0]}; there are {', '.join(ROWS)}")
    return given


async def _measure(name: str, sizes: Sizes, folder: Path) -> None:
    """Measure one row, on a Kafka that holds nothing of the others, and write it down."""
    env = os.environ  # noqa: TID251 - a tool
    before = os.getloadavg()[0]
    async with rig(env.get("KAFKA_BOOTSTRAP_SERVERS"), env.get("REDIS_URL")) as place:
        row = await ROWS[name](place, sizes, _say(name))
    machine = {
        "Python": platform.python_version(),
        "aiokafka": version("aiokafka"),
        "aiohttp": version("aiohttp"),
        "Kafka": kafka_version(),
        "cores": os.cpu_count(),
        "load of the machine before": f"{before:.1f}",
        "after": f"{os.getloadavg()[0]:.1f}",
        "repeats": sizes.repeats,
    }
    data = json.dumps(to_json(row, machine), indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(f"{data}\n", "utf-8")
    table = to_markdown(row, machine)
    (folder / f"{name}.md").write_text(table, "utf-8")
    print(f"\n{table}", flush=True)


def _say(name: str) -> Any:
    began = time.monotonic()
    return lambda words: print(f"{time.monotonic() - began:7.1f} s  {name}: {words}", flush=True)


def _plot(folder: Path) -> None:
    """Draw every row that the folder holds, also those of earlier runs."""
    rows = [str(path) for name in ROWS if (path := folder / f"{name}.json").exists()]
    program = peers.ENVIRONMENT / "bin" / "python"
    if not rows or not program.exists():
        print(f"No plot: it takes a row and {peers.ENVIRONMENT.name} (make bench makes it)")
        return
    command = [str(program), "-m", "benchmarks.plot", *rows, "--to", str(folder / "results.svg")]
    subprocess.run(command, check=True, timeout=120, cwd=peers.ROOT)
    print(f"Written to {folder}: results.svg, and a table and JSON for each row")


if __name__ == "__main__":
    sys.exit(main())
