"""Kill the worker in the middle of its effects, again and again; count at the simulators alone."""

import asyncio
import contextlib
import random
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import pytest

from bitbylaw_common.clock import SystemClock
from bitbylaw_common.runtime.hosts.kafka_host import MEASURE_SECONDS
from bitbylaw_devstack import Stack
from system import System, running

SEEDS = (11, 23, 37, 59, 71)
PROGRESS = "bitbylaw_consumer_progress"
KILLING = ("attach", "update", "upload")
AT_A_TIME = 40
"""Events that people cause before they look whether the worker is there."""

AT_ONCE_SECONDS = 0.05
"""A kill so soon after an effect comes before its answer, and before anything is written of it."""


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        lanes: runs that must have been under way at once, at their height.
        soon: kills that must have come within `AT_ONCE_SECONDS` after an effect.
    """

    documents: int
    events: int
    kills: int
    lanes: int
    soon: int


SMALL, FULL = Size(60, 500, 5, lanes=5, soon=0), Size(200, 2_000, 20, lanes=20, soon=10)


class Office:
    """People at work in EspoCRM: what they did last is what must hold in the end."""

    def __init__(self, system: System, seed: int, documents: int) -> None:
        self.system = system
        self.documents = documents
        self.random = random.Random(seed)
        self.shas: dict[str, str] = {}
        self.collections: list[tuple[str, str]] = []
        self.links: dict[str, set[str]] = {}
        self.versions: Counter[str] = Counter()
        self.deleted: set[str] = set()
        self.events = 0

    async def open(self) -> None:
        self.collections = [await self.system.collection(f"Akte {n}") for n in range(4)]

    async def something(self) -> None:
        """Do one edit and tell ingest."""
        living = sorted(set(self.links) - self.deleted)
        if len(self.links) < self.documents and (not living or self.random.random() < 0.3):
            await self._new()
        else:
            document = self.random.choice(living)
            deed = self.random.choices(
                [self._change, self._move, self._again, self._delete],
                weights=[4, 3, 3, 0.3 if len(living) > self.documents // 2 else 0],
            )[0]
            await deed(document)
        self.events += 1

    def _content(self, document: str) -> bytes:
        self.versions[document] += 1
        filler = self.random.randbytes(self.random.randrange(200, 60_000))
        return f"{document} version {self.versions[document]}\n".encode() + filler

    async def _new(self) -> None:
        number = len(self.links)
        content = self._content(f"new{number}")
        made = await self.system.edit(
            action="create", name=f"Schriftsatz {number}.pdf", content=content
        )
        document = str(made["id"])
        self.shas[document] = sha256(content).hexdigest()
        self.links[document] = set()
        await self._link(
            document, self.random.sample(self.collections, self.random.randrange(1, 3))
        )
        await self.system.webhook("create", document)

    async def _link(self, document: str, chosen: list[tuple[str, str]]) -> None:
        for collection, knowledge in chosen:
            await self.system.edit(action="link", id=document, knowledge=knowledge)
            self.links[document].add(collection)

    async def _change(self, document: str) -> None:
        content = self._content(document)
        await self.system.edit(action="replace_file", id=document, content=content)
        self.shas[document] = sha256(content).hexdigest()
        await self.system.webhook("update", document)

    async def _move(self, document: str) -> None:
        chosen = self.random.choice(self.collections)
        if chosen[0] in self.links[document]:
            await self.system.edit(action="unlink", id=document, knowledge=chosen[1])
            self.links[document].discard(chosen[0])
        else:
            await self._link(document, [chosen])
        await self.system.webhook("update", document)

    async def _again(self, document: str) -> None:
        await self.system.webhook(self.random.choice(["create", "update"]), document)

    async def _delete(self, document: str) -> None:
        await self.system.edit(action="delete", id=document)
        self.deleted.add(document)
        await self.system.webhook("delete", document)


@dataclass
class Killings:
    """What was measured of the kills.

    Attributes:
        after: seconds from the news of an effect to the kill, for the kills that waited for one.
        lanes: how many runs were under way at each kill, as the worker said last.
        height: how many were under way at most.
        alive: set while the worker is ready.
    """

    after: list[float] = field(default_factory=list)
    lanes: list[int] = field(default_factory=list)
    height: int = 0
    now: int = 0
    alive: asyncio.Event = field(default_factory=asyncio.Event)


async def killer(system: System, seed: int, kills: int, found: Killings) -> None:
    """Kill the worker so often: three of five times at once after an effect, else at any moment."""
    chance = random.Random(seed * 7)
    found.alive.set()
    for number in range(kills):
        await asyncio.sleep(chance.uniform(0.2, 1.2))
        if number % 5 < 3:
            began = await _effect(system, chance.choice(KILLING))
            await asyncio.sleep(chance.uniform(0, 0.5 * AT_ONCE_SECONDS))
            found.after.append(time.monotonic() - began)
        found.lanes.append(found.now)
        found.alive.clear()
        await system.worker.kill()
        await system.worker.start()
        await system.worker.ready(system.session)
        found.alive.set()


async def _effect(system: System, wanted: str) -> float:
    """Return when the news of the next such effect came."""
    side = "espocrm" if wanted == "update" else "xai"
    last = await _last(system, side)
    while True:
        fresh = await system.calls(side, last, wait=1)
        last = fresh[-1]["number"] if fresh else last
        if any(call["effect"] == wanted for call in fresh):
            return time.monotonic()


async def _last(system: System, side: str) -> int:
    url = f"{system.simulators[side]}/_sim/requests"
    async with system.session.get(url, params={"since": 1 << 40}) as answer:
        return int((await answer.json())["last"])


@contextlib.asynccontextmanager
async def watched(system: System, found: Killings) -> AsyncIterator[None]:
    """Count the runs under way while the block lasts."""

    async def watch() -> None:
        while True:
            try:
                found.now = int((await _series(system))["bitbylaw_lanes_running"])
            except (aiohttp.ClientError, OSError):
                found.now = 0  # it is dead just now
            found.height = max(found.height, found.now)
            await asyncio.sleep(0.1)

    watching = asyncio.create_task(watch())
    try:
        yield
    finally:
        watching.cancel()
        await asyncio.wait({watching})


UNBRAKED = {
    f"DOCUMENT_BRAKE_{kind}": "100/100000"
    for kind in ("UPLOADS", "DELETES", "DETACHES", "OVERWRITES", "RECORDS")
}
"""A busy office replaces more files in these minutes than the brake lets go in an hour; what it holds
back would wait for an operator, and never come to rest."""


async def at_rest(system: System) -> bool:
    """Whether nothing is fetched late, runs, or waits for its time."""
    async with system.session.get(f"{system.worker.url}/_console/functions") as answer:
        functions = (await answer.json())["functions"]
    own = [f for f in functions if f["service"] == "document-sync" and f["lag"] is not None]
    if not own or any(f["lag"] for f in own):
        return False
    # What was fetched just now is delivered in the round that is under way, and counted when the
    # worker measures itself next.
    counted = SystemClock().now().timestamp() + 4 * MEASURE_SECONDS
    async with asyncio.timeout(60):
        while (found := await _series(system))[PROGRESS] < counted:  # noqa: ASYNC110 - a page is polled
            await asyncio.sleep(0.1)
    return not any(value for name, value in found.items() if name != PROGRESS)


async def _series(system: System) -> Mapping[str, float]:
    async with system.session.get(f"{system.worker.url}/metrics") as answer:
        lines = (await answer.text()).splitlines()
    found: defaultdict[str, float] = defaultdict(float)
    for line in lines:
        for name in (
            PROGRESS,
            "bitbylaw_lanes_running",
            "bitbylaw_lanes_ready",
            "bitbylaw_schedule_entries",
            "bitbylaw_records_in_flight",
        ):
            # the next instant of a cron always waits
            if line.startswith(name) and 'kind="tick"' not in line:
                found[name] += float(line.rpartition(" ")[2])
    return found


async def _slow(system: System) -> None:
    """Let effects be answered late, so that a kill finds many of them without an answer."""
    for side, operations in (("xai", ("upload", "attach", "detach")), ("espocrm", ("update",))):
        faults = [
            {
                "match": {"operation": operation},
                "kind": "latency",
                "times": None,
                "seed": number,
                "params": {"seconds": 0.1, "jitter": 0.3, "when": "after"},
            }
            for number, operation in enumerate(operations)
        ]
        url = f"{system.simulators[side]}/_sim/faults"
        async with system.session.post(url, json=faults) as answer:
            assert answer.status == 200, await answer.text()


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", SEEDS)
async def test_kills_in_the_middle_of_effects_cost_no_upload_and_no_membership(
    stack: Stack, tmp_path: Path, seed: int, pytestconfig: pytest.Config
) -> None:
    size = FULL if pytestconfig.getoption("--full-kills", default=False) else SMALL
    found = Killings()
    async with running(stack, tmp_path, env={"XAI_SETTLE_SECONDS": "4", **UNBRAKED}) as system:
        office = Office(system, seed, size.documents)
        await office.open()
        await _slow(system)
        async with watched(system, found):
            killing = asyncio.create_task(killer(system, seed, size.kills, found))
            while office.events < size.events or not killing.done():
                assert office.events < 4 * size.events, "the killer waits for what does not come"
                for _ in range(AT_A_TIME):
                    await office.something()
                # What came while the worker was dead is worked on at once, and no more than that.
                waiting = asyncio.create_task(found.alive.wait())
                await asyncio.wait({killing, waiting}, return_when=asyncio.FIRST_COMPLETED)
                waiting.cancel()
            await killing
        await system.until(lambda: at_rest(system), seconds=240, every=0.5)
        uploads = await _holds(system, office)
    soon = sum(after <= AT_ONCE_SECONDS for after in found.after)
    print(  # noqa: T201 - what was measured
        f"seed {seed}: {office.events} events, {len(office.links)} documents, {uploads} uploads, "
        f"{size.kills} kills, {soon} of them within 50 ms after an effect; lanes busy: "
        f"{found.height} at most, {median(found.lanes):.0f} at a kill (median)"
    )
    assert len(office.links) == size.documents
    assert soon >= size.soon
    assert found.height >= size.lanes


async def _holds(system: System, office: Office) -> int:
    """Compare what people wanted with what xAI logged; return how many uploads there were."""
    calls = await system.effects("xai")
    uploads = Counter(call["content"] for call in calls if call["effect"] == "upload")
    assert [sha for sha, times in uploads.items() if times > 1] == []
    wanted: dict[str, list[str]] = {collection: [] for collection, _ in office.collections}
    for document, links in office.links.items():
        for collection in links if document not in office.deleted else ():
            wanted[collection].append(office.shas[document])
    held = _memberships(calls)
    for collection, shas in wanted.items():
        assert sorted(held.get(collection, ())) == sorted(shas), collection

    # and the log told the truth, and EspoCRM knows
    crm, xai = await system.state("espocrm"), await system.state("xai")
    content = {file["id"]: file["sha256"] for file in xai["files"]}
    for entry in xai["collections"]:
        files = [content[document["file_id"]] for document in entry["documents"]]
        assert sorted(files) == sorted(wanted[entry["id"]])
    for document, links in office.links.items():
        values = crm["tables"]["CDokumente"][document]["values"]
        if links and document not in office.deleted:
            assert content[values["xaiId"]] == office.shas[document]
            assert sorted(values["xaiCollections"]) == sorted(links)
            assert values["fileStatus"] == "synced"
    assert [letter.reason for letter in await system.dead_letters()] == []
    return uploads.total()


def _memberships(calls: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Return what each collection holds after the logged effects, as SHA-256 of the contents."""
    content: dict[str, str] = {}
    members: defaultdict[str, set[str]] = defaultdict(set)
    for call in calls:
        collection, _, file = str(call["target"]).rpartition("/")
        match call["effect"]:
            case "upload":
                content[file] = call["content"]
            case "attach":
                members[collection].add(file)
            case "detach":
                members[collection].discard(file)
            case "delete_file":
                for files in members.values():
                    files.discard(file)
    return {collection: [content[file] for file in files] for collection, files in members.items()}
