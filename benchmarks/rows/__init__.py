"""The rows: each measures one of the numbers to reach, beside its reference, in turns."""

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.results import Row
from benchmarks.rig import Rig
from benchmarks.rows import ingest, killed, lanes, latency, proxy, skewed, stack
from benchmarks.sizes import Sizes

Say = Callable[[str], None]
Measure = Callable[[Rig, Sizes, Say], Awaitable[Row]]

ROWS: Mapping[str, Measure] = {
    "ingest": ingest.measure,
    "lanes": lanes.measure,
    "skewed": skewed.measure,
    "latency": latency.measure,
    "proxy": proxy.measure,
    "killed": killed.measure,
    "stack": stack.measure,
}
