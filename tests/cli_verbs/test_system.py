"""Every verb beside a real Kafka and Redis: what it answers, how it ends, and what it leaves alone."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from bitbylaw_devstack import Stack
from cli_verbs.answers import asked_for, check, furnish
from cli_verbs.cases import SYSTEM, Case, Stage
from cli_verbs.scene import CONTROL_KEY, Scene
from cli_verbs.scene import scene as a_scene
from cli_verbs.typist import Typed, bbl

CASES = sorted(SYSTEM, key=lambda case: (case.stage, not case.quiet))
"""Within a stage first what leaves it as it is."""
AT_ONCE = 4

pytestmark = [
    pytest.mark.kafka,
    pytest.mark.timeout(300),
    pytest.mark.asyncio(loop_scope="module"),
]


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of a case, what it called things, and whether the system is another one since."""

    typed: Typed
    names: Mapping[str, str]
    changed: bool


class Office:
    """Types cases beside a scene; those that leave it as it is side by side.

    Args:
        wanted: the cases that are going to be asked for.
    """

    def __init__(self, scene: Scene, wanted: set[int], folders: pytest.TempPathFactory) -> None:
        self._scene = scene
        self._wanted = sorted(wanted)
        self._folders = folders
        self._ended: dict[int, Ended] = {}
        self._hands = asyncio.Semaphore(AT_ONCE)

    async def type(self, number: int) -> Ended:
        """Return what comes of a case."""
        case = CASES[number]
        await self._scene.become(case.stage)
        if not case.quiet:
            return await self._alone(case)
        if number not in self._ended:
            await self._side_by_side(case.stage)
        return self._ended[number]

    async def _alone(self, case: Case) -> Ended:
        await self._scene.give(case.given)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(self._scene.tidy)
            beside = await opened.enter_async_context(self._scene.beside(case.beside))
            before = await self._scene.world()
            typed, names = await self._typed(case, beside)
            return Ended(typed, names, await self._scene.world() != before)

    async def _side_by_side(self, stage: Stage) -> None:
        """Type all that leave the stage as it is; if one does not, all have to answer for it."""
        numbers = [n for n in self._wanted if CASES[n].quiet and CASES[n].stage == stage]
        before = await self._scene.world()
        ended = await asyncio.gather(*(self._typed(CASES[n], {}) for n in numbers))
        changed = await self._scene.world() != before
        for number, (typed, names) in zip(numbers, ended, strict=True):
            self._ended[number] = Ended(typed, names, changed)

    async def _typed(
        self, case: Case, beside: Mapping[str, str]
    ) -> tuple[Typed, Mapping[str, str]]:
        names = {"fresh": "fresh.bin", **self._scene.names, **beside}
        env = self._scene.env | {"BBL_CONTROL_KEY": CONTROL_KEY} | dict(case.env)
        folder: Path = furnish(self._folders.mktemp("folder"))
        async with self._hands:
            words = case.command(names)
            return await asyncio.to_thread(bbl, *words, env=env, folder=folder), names


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def office(
    request: pytest.FixtureRequest, stack: Stack, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Office]:
    """Give an office beside a system that is brought from nothing to trouble."""
    wanted = asked_for(request)
    async with a_scene(stack.kafka.bootstrap_servers, stack.redis.url) as scene:
        yield Office(scene, wanted, tmp_path_factory)


@pytest.mark.parametrize(
    "case", range(len(CASES)), ids=[f"{number} {case}" for number, case in enumerate(CASES)]
)
async def test_a_verb_answers_and_writes_only_where_it_should(case: int, office: Office) -> None:
    ended = await office.type(case)
    check(CASES[case], ended.typed, ended.names)
    assert ended.changed == CASES[case].writes
