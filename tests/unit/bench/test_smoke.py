"""Every program of the benchmarks runs and measures, in small; no time is judged."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks import peers
from benchmarks.results import OURS

ROOT = Path(__file__).resolve().parents[3]
LIMIT_SECONDS = 240
SIDES = {
    "ingest": {OURS, "bare aiohttp + aiokafka"},
    "lanes": {OURS, peers.PARALLEL_CONSUMER},
    "skewed": {OURS, peers.PARALLEL_CONSUMER},
    "latency": {OURS, "bare aiokafka loop", "the loop with a journal"},
    "proxy": {
        OURS,
        "bare aiohttp pass-through",
        "the same without its trail on Kafka",
    },
    "killed": {OURS},
    "stack": {OURS, "Kafka alone"},
}


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(LIMIT_SECONDS + 30)
@pytest.mark.parametrize("row", SIDES)
def test_a_row_measures_every_side(
    row: str, kafka_bootstrap: str, redis_url: str, tmp_path: Path
) -> None:
    addresses = (f"KAFKA_BOOTSTRAP_SERVERS={kafka_bootstrap}", f"REDIS_URL={redis_url}")
    command = (sys.executable, "-m", "benchmarks", row, "--tiny", "--output", str(tmp_path))
    ran = subprocess.run(  # noqa: S603 - our own program
        ["/usr/bin/env", *addresses, *command],
        cwd=ROOT,
        capture_output=True,
        timeout=LIMIT_SECONDS,
        check=False,
        text=True,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    found = json.loads((tmp_path / f"{row}.json").read_text("utf-8"))
    missing = {
        side for side in SIDES[row] if any(line.startswith(side) for line in found["left_out"])
    }
    for case in found["cases"]:
        assert set(case["measured"]) >= SIDES[row] - missing
        assert all(turn for turns in case["measured"].values() for turn in turns)
    assert found["title"] in (tmp_path / f"{row}.md").read_text("utf-8")


def test_a_row_that_does_not_exist_is_refused_by_name() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "benchmarks", "tokens"],
        cwd=ROOT,
        capture_output=True,
        timeout=30,
        check=False,
        text=True,
    )

    assert ran.returncode == 2
    assert "no row is called tokens" in ran.stderr
