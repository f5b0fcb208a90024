"""Both sides get the same work, and the references stay small and strangers to us."""

import ast
import re
from pathlib import Path

import pytest
from benchmarks import things, webhooks
from benchmarks.outside import Outside, Run
from benchmarks.rows.killed import Kill, count, finished

from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.runtime.offsets import Offsets
from bitbylaw_ingest.domain.reading import read
from bitbylaw_ingest.domain.signature import Verified, verify

ROOT = Path(__file__).resolve().parents[3]
BARE = sorted((ROOT / "benchmarks").glob("bare_*.py"))
JAVA = sorted((ROOT / "benchmarks" / "parallel_consumer").rglob("*.java"))
PEERS = sorted((ROOT / "benchmarks").glob("peer_*.py"))
SECOND = 1_000_000_000


@pytest.mark.parametrize("path", [*BARE, *JAVA, *PEERS], ids=lambda path: path.name)
def test_a_reference_is_at_most_80_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= 80


@pytest.mark.parametrize("path", [*BARE, *PEERS], ids=lambda path: path.name)
def test_a_reference_uses_nothing_of_ours(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    imported = [
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]

    assert not [name for name in imported if name.startswith("bitbylaw")]


def test_the_peers_run_on_the_same_aiokafka_as_we_do() -> None:
    pins = [
        re.search(r"^aiokafka==(\S+)", (ROOT / lock).read_text("utf-8"), re.MULTILINE)
        for lock in ("requirements.lock", "benchmarks/requirements.lock")
    ]

    assert pins[0] is not None
    assert pins[1] is not None
    assert pins[0][1] == pins[1][1]


def test_the_work_is_the_same_each_time() -> None:
    first, second = (things.even(50, keys=5, most_ms=5) for _ in range(2))

    assert first == second
    assert {event.sleep_ms for event in first} == {0, 1, 2, 3, 4, 5}
    assert [event.number for event in first] == list(range(50))


def test_the_work_of_one_partition_lies_in_one_partition() -> None:
    assert {partition_of(e.key.encode()) for e in things.even(50, keys=5, most_ms=5)} == {0}


def test_skewed_keys_are_skewed() -> None:
    events = things.skewed(2_000, keys=100, exponent=0.7, sleep_ms=1)
    often = [sum(e.thing == name for e in events) for name in things.names(100)]

    assert often[0] > 5 * max(1, often[-1])
    assert sum(often) == 2_000


@pytest.mark.parametrize("number", [0, 7, 19_999, 10**9])
def test_a_post_has_the_size_it_says_and_a_signature_that_ingest_believes(number: int) -> None:
    body = webhooks.body(number)

    headers = {"signature": webhooks.signature(body)}
    verified = verify(body, headers, {webhooks.WEBHOOK_ID: [webhooks.SECRET]})

    assert len(body) == webhooks.BODY_BYTES
    assert isinstance(verified, Verified)
    (item,) = read(body).items
    assert item.id == webhooks.entity_id(number)


def test_a_request_ends_with_its_body() -> None:
    head, _, body = webhooks.request(3, "127.0.0.1:80").partition(b"\r\n\r\n")

    assert body == webhooks.body(3)
    assert b"Content-Length: 1024" in head


def _run(at: int, number: int, began: float, ended: float | None, *, wrote: bool) -> Run:
    end = None if ended is None else int(ended * SECOND)
    return Run(at, number, int(began * SECOND), end, wrote)


def _kill(*committed: int) -> Kill:
    return Kill(at=10 * SECOND, committed=frozenset(committed))


@pytest.mark.parametrize(
    ("before", "kill", "left"),
    [
        pytest.param(_run(1, 0, 9.9, None, wrote=False), _kill(), "unfinished", id="in the middle"),
        pytest.param(_run(1, 0, 9.2, 9.5, wrote=True), _kill(1), "uncommitted", id="not committed"),
        pytest.param(_run(1, 0, 1.0, 1.5, wrote=True), _kill(0), "committed", id="committed"),
    ],
)
def test_a_run_again_is_told_apart_by_what_the_kill_left(
    before: Run, kill: Kill, left: str
) -> None:
    again = _run(2, 0, 11, 11.1, wrote=before.ended is None)

    found = count([before, again], [kill], records=1)

    assert found["again"] == found[left] == 1
    assert (found["writes_again"], found["lost"]) == (0, 0)


def test_a_run_again_that_no_kill_explains_counts_as_committed() -> None:
    runs = [_run(1, 0, 1, 2, wrote=True), _run(2, 0, 3, 4, wrote=False)]

    assert count(runs, [_kill()], records=1)["committed"] == 1


def test_a_commit_calls_finished_what_is_below_it_and_what_its_metadata_leaves_out() -> None:
    # given a partition whose records 2 and 5 are unfinished, and one without metadata
    offsets = Offsets()
    for offset in range(7):
        assert offsets.delivered(offset)
    for offset in (0, 1, 3, 4, 6):
        offsets.finished(offset)
    commit = offsets.commit()
    assert commit is not None

    commits = {0: (commit.offset, commit.metadata), 3: (2, "")}
    places = {0: [10, 11, 12, 13, 14, 15, 16], 3: [20, 21, 22]}

    assert finished(commits, places) == {10, 11, 13, 14, 16, 20, 21}


def test_a_second_write_and_a_lost_record_are_counted() -> None:
    runs = [_run(1, 0, 9, 9.5, wrote=True), _run(2, 0, 11, 12, wrote=True)]

    found = count(runs, [_kill()], records=2)

    assert (found["writes_again"], found["lost"]) == (1, 1)


def test_the_outside_remembers_what_was_written_and_who_was_killed(tmp_path: Path) -> None:
    outside = Outside.open(tmp_path / "outside")
    done = outside.begin(4)
    outside.write(done, "thing", 4)
    outside.end(done)
    outside.begin(5)
    outside.close()

    again = Outside.open(tmp_path / "outside")
    first, second = again.runs()

    assert again.holds("thing", 4)
    assert not again.holds("thing", 5)
    assert (first.wrote, first.ended is not None) == (True, True)
    assert (second.wrote, second.ended) == (False, None)
    assert again.handled() == 1
    again.close()
