"""The judge is judged: the ledger sees what it must see, and survives what it must survive."""

import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from bitbylaw_common.runtime.ports import Position
from fire.commits import Commit, GroupNotes, read_note
from fire.ledger import Fact, History, Ledger
from fire.repeats import Repeats, judged

STEP = "Fire Order"


def start(pid: int, run: str, number: int = 0, *, attempt: int = 1, key: str = "k") -> Fact:
    return Fact("start", 1.0, pid, STEP, key, number, attempt, run)


def end(pid: int, run: str, number: int = 0, *, word: str = "done", key: str = "k") -> Fact:
    return Fact("end", 2.0, pid, STEP, key, number, 1, run, word)


def history(*facts: Fact) -> History:
    """Return what is made of these facts."""
    found = History(one_by_one=frozenset({STEP}))
    found.take(facts)
    return found


def test_two_runs_of_a_key_at_once_are_seen_with_their_processes() -> None:
    found = history(start(1, "a"), start(2, "b"), end(1, "a"), end(2, "b"))
    assert [(o.earlier.pid, o.later.pid) for o in found.overlaps] == [(1, 2)]
    assert "pid 1" in str(found.overlaps[0])


def test_runs_one_after_the_other_and_of_other_keys_are_no_overlap() -> None:
    found = history(
        start(1, "a"), start(1, "x", key="other"), end(1, "a"), start(2, "b", 1), end(2, "b", 1)
    )
    assert found.overlaps == []


def test_a_run_of_a_killed_process_is_over_once_its_death_is_confirmed() -> None:
    assert history(start(1, "a"), Fact("dead", 1.5, 1), start(2, "b")).overlaps == []
    assert len(history(start(1, "a"), start(2, "b"), Fact("dead", 1.5, 1)).overlaps) == 1


def test_a_frozen_run_may_be_overtaken_but_one_begun_after_the_freeze_may_not() -> None:
    frozen = (start(1, "a"), Fact("frozen", 1.2, 1), start(2, "b"))
    assert history(*frozen).overlaps == []
    assert len(history(*frozen, Fact("continued", 1.3, 1), start(1, "c")).overlaps) == 1


def test_a_record_that_begins_before_an_earlier_one_is_done_is_an_overtaking() -> None:
    failed = (start(1, "a", 0), end(1, "a", 0, word="retry"))
    assert len(history(*failed, start(1, "b", 1)).overtakings) == 1
    assert history(*failed, start(1, "b", 0), end(1, "b", 0), start(1, "c", 1)).overtakings == []
    assert len(history(start(1, "b", 1), end(1, "b", 1), start(1, "a", 0)).overtakings) == 1


def test_a_run_made_again_is_a_repeat_and_a_next_attempt_is_none() -> None:
    again = history(start(1, "a"), end(1, "a", word="retry"), start(1, "b"), end(1, "b"))
    assert [(one.run, two.run) for one, two in again.repeats()] == [("a", "b")]
    assert history(start(1, "a"), end(1, "a"), start(1, "b", attempt=2)).repeats() == []


def repeats_of(*commits: Commit, ended: float | None, died: float | None = None) -> Repeats:
    """Judge record 0 at offset 7, run by process 1 until second 2 and by process 2 in second 30."""
    death = [] if died is None else [Fact("dead", died, 1)]
    again = Fact("start", 30.0, 2, STEP, "k", 0, 1, "b")
    return judged(
        history(start(1, "a"), end(1, "a"), *death, again),
        {(STEP, "k"): {0: Position("t", 4, 7)}},
        {} if ended is None else {"a": ended},
        GroupNotes(commits, ()),
    )


def commit_of(offset: int, at: float) -> Commit:
    return Commit("t", 4, offset, "", at)


def test_a_repeat_is_explained_by_an_outcome_or_a_commit_that_never_came() -> None:
    assert repeats_of(ended=None).unfinished == 1
    assert repeats_of(commit_of(7, 6.0), ended=2.0).uncommitted == 1
    assert repeats_of(ended=2.0).uncommitted == 1


def test_a_commit_that_covers_a_record_or_leaves_it_out_long_after_its_end_is_wrong() -> None:
    assert len(repeats_of(commit_of(8, 6.0), ended=2.0).covered) == 1
    assert len(repeats_of(commit_of(7, 20.0), ended=2.0).forgotten) == 1
    assert len(repeats_of(commit_of(7, 20.0), ended=2.0, died=21.0).forgotten) == 1
    assert repeats_of(commit_of(7, 31.0), ended=2.0).wrong == ()


def test_what_a_successor_commits_is_not_laid_to_the_dead() -> None:
    found = repeats_of(commit_of(7, 1.0), commit_of(7, 20.0), ended=2.0, died=3.0)
    assert (found.uncommitted, found.wrong) == (1, ())
    assert len(repeats_of(commit_of(8, 20.0), ended=2.0, died=3.0).covered) == 1


def test_what_raised_counts_as_not_ended_and_what_failed_as_not_well() -> None:
    found = history(start(1, "a"), end(1, "a", word="OwnershipLost"))
    assert (found.ended, found.finished) == ({}, 0)
    found = history(start(1, "a"), end(1, "a", word="retry"))
    assert (found.finished, found.unfinished) == (0, {(STEP, "k"): "retry"})
    found = history(start(1, "a"), end(1, "a"))
    assert (found.finished, found.unfinished) == (1, {})


def lines_of(path: Path, pid: int) -> int:
    return path.read_bytes().count(b"%d " % pid) if path.exists() else 0


def test_lines_of_many_processes_stay_whole_and_survive_their_writers(tmp_path: Path) -> None:
    # given four processes that write as fast as they can
    path = tmp_path / "ledger"
    program = (
        "import os, sys; from pathlib import Path; from fire.ledger import Ledger\n"
        "ledger = Ledger(Path(sys.argv[1])); print('ready', flush=True); n = 0\n"
        "while True:\n"
        "    ledger.note('start', step='s', key='k' * 200, number=n, run=f'{os.getpid()} {n}'); n += 1\n"
        "    ledger.note('end', step='s', key='k' * 200, number=n - 1, run=f'{os.getpid()} {n - 1}', word='done')"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}  # noqa: TID251 - the child's own
    writers = [
        subprocess.Popen(  # noqa: S603 - our own interpreter
            [sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE, env=env
        )
        for _ in range(4)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    while min(lines_of(path, writer.pid) for writer in writers) < 100:
        assert all(writer.poll() is None for writer in writers)

    # when they are killed in the middle of it
    for writer in writers:
        writer.send_signal(signal.SIGKILL)
        writer.wait(5)
        assert writer.stdout is not None
        writer.stdout.close()

    # then every line can be read, each writer's in its order, without a gap
    found = History(one_by_one=frozenset({"s"}))
    found.read(path)
    for writer in writers:
        numbers = [run.number for run in found.runs if run.pid == writer.pid]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > 10


def test_a_line_that_is_not_whole_yet_is_read_later(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ledger = Ledger(path)
    ledger.note("start", step=STEP, key="k", run="a", number=0, attempt=1)
    whole = path.read_bytes()
    found = History()
    path.write_bytes(whole + b'["end", 1')
    found.read(path)
    assert len(found.runs) == 1
    path.write_bytes(whole * 2)
    found.read(path)
    assert len(found.runs) == 2
    ledger.close()


def _text(word: str) -> bytes:
    return struct.pack(">h", len(word)) + word.encode()


@pytest.mark.parametrize(
    "metadata",
    [
        pytest.param(struct.pack(">i", -1) + _text("done: 7"), id="3"),
        pytest.param(struct.pack(">i", -1) + b"\x08done: 7", id="4"),
    ],
)
def test_the_broker_s_note_of_a_commit_is_read_in_either_form(
    metadata: bytes, request: pytest.FixtureRequest
) -> None:
    version = int(request.node.callspec.id)
    key = struct.pack(">h", 1) + _text("g") + _text("g.ordered") + struct.pack(">i", 4)
    value = struct.pack(">hq", version, 17) + metadata + struct.pack(">q", 1_700_000_000_500)
    assert read_note("g", key, value) == Commit("g.ordered", 4, 17, "done: 7", 1_700_000_000.5)
    assert read_note("other", key, value) is None
    assert read_note("g", key, None) is None


def test_the_broker_s_note_of_a_generation_is_read() -> None:
    key = struct.pack(">h", 2) + _text("g")
    value = struct.pack(">h", 3) + _text("consumer") + struct.pack(">i", 12) + b"and so on"
    assert read_note("g", key, value) == 12
