"""Disorder and trouble: worlds by seed end in agreement, and then in silence."""

from pathlib import Path

import pytest

from document_worlds import DocumentWorld

SEEDS = Path(__file__).with_name("document_world_seeds.txt")


def known_seeds() -> list[int]:
    """Return the seeds that once showed something wrong."""
    lines = SEEDS.read_text("utf-8").splitlines()
    return [int(line.split()[0]) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("seed", known_seeds())
async def test_a_world_that_once_went_wrong_goes_right(seed: int) -> None:
    await DocumentWorld(seed).live()


@pytest.mark.timeout(180)  # seconds of a quiet processor; a busy one is no finding
async def test_whatever_happens_both_sides_agree_and_then_nothing_is_written(
    seeds: range,
) -> None:
    for seed in seeds:
        print(f"seed {seed}")  # noqa: T201 - a failing seed belongs into the file beside this one
        await DocumentWorld(seed).live()
