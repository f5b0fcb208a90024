"""Every verb where no system is: wrong usage, what nobody answers, and what needs nobody."""

import socket
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitbylaw_cli.output import Exit
from cli_verbs.answers import asked_for, check, furnish
from cli_verbs.cases import ALONE, away, missing_files, undecided, unknown_options
from cli_verbs.typist import Typed, bbl, bbl_here

CASES = (*away(), *undecided(), *unknown_options(), *missing_files(), *ALONE)
WAITING = {
    number
    for number, case in enumerate(CASES)
    if case.exit is Exit.UNREACHABLE or (case.verb in ("lag", "doctor") and not case.says)
}
"""Most of their time they wait for a broker that does not come, and need no processor."""
AT_ONCE = 16
GIVEN_UP_SECONDS = 10.0
TRIES = 3
"""What takes longer may have been kept from the processor by others; three times in a row it is not."""

pytestmark = pytest.mark.timeout(300)

_NOBODY = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "REDIS_URL": "redis://127.0.0.1:1/0",
    "COLUMNS": "200",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a case, and whether it left other files than it found."""

    typed: Typed
    changed: bool


@pytest.fixture(scope="module")
def held() -> Iterator[int]:
    """Hold a port."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        bound.listen()
        yield int(bound.getsockname()[1])


@pytest.fixture(scope="module")
def names(held: int) -> Mapping[str, str]:
    """Say what cases call things."""
    return {"held": str(held)}


@pytest.fixture(scope="module")
def endings(
    request: pytest.FixtureRequest,
    names: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Mapping[int, Future[Ended]]]:
    """Type every case that is going to be asked for and that waits, side by side."""
    wanted = asked_for(request)
    with ThreadPoolExecutor(AT_ONCE) as hands:
        yield {
            number: hands.submit(_typed, bbl, number, names, tmp_path_factory.mktemp("folder"))
            for number in sorted(wanted & WAITING)
        }


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[f"{number} {case}" for number, case in enumerate(CASES)]
)
def test_a_verb_ends_as_it_should_where_no_system_is(
    case: int, endings: Mapping[int, Future[Ended]], names: Mapping[str, str], tmp_path: Path
) -> None:
    waited = endings.get(case)
    ended = _typed(bbl_here, case, names, tmp_path) if waited is None else waited.result()
    check(CASES[case], ended.typed, names)
    if CASES[case].exit is not Exit.UNREACHABLE:  # `bbl up` has made its state folder by then
        assert ended.changed == CASES[case].writes


def test_a_broker_that_is_not_there_is_given_up_in_ten_seconds(tmp_path: Path) -> None:
    # what a command takes on this machine that asks nobody comes on top
    usual = bbl("waiting", "--help", env=_NOBODY, folder=tmp_path).seconds
    tries = (bbl("waiting", env=_NOBODY, folder=tmp_path).seconds for _ in range(TRIES))
    assert any(seconds < usual + GIVEN_UP_SECONDS for seconds in tries)


def _typed(way: Callable[..., Typed], number: int, names: Mapping[str, str], folder: Path) -> Ended:
    before = _files(furnish(folder))
    case = CASES[number]
    typed = way(*case.command(names), env=_NOBODY | dict(case.env), folder=folder)
    return Ended(typed, _files(folder) != before)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
