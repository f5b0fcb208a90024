"""The whole system as an operator runs it: every service its own process, on real Kafka and Redis."""

import asyncio
import base64
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from bitbylaw_common import topics
from bitbylaw_common.journal import JournalEntry
from bitbylaw_common.kafka.admin import admin
from bitbylaw_common.kafka.codec import partition_of
from bitbylaw_common.kafka.log import KafkaLog
from bitbylaw_common.runtime.dead_letters import DeadLetter, letters
from bitbylaw_common.runtime.ports import Record
from bitbylaw_devstack import GuardedProcess, Stack, last_lines

BIN = Path(sys.executable).parent
READY_SECONDS = 90.0
DIGEST_KEY = "a key that only tests use"


class Service:
    """One service's process; killed and started again under the same name."""

    def __init__(self, command: list[str], env: Mapping[str, str], folder: Path, name: str) -> None:
        self.name = name
        self.url = ""
        self.log = folder / f"{name}.log"
        self._command = command
        self._env = dict(env)
        self._folder = folder
        self._process: GuardedProcess | None = None

    async def start(self) -> None:
        """Start it and return once it says where it serves."""
        offset = self.log.stat().st_size if self.log.exists() else 0
        words = [f"{name}={value}" for name, value in self._env.items()]
        self._process = GuardedProcess(
            ["/usr/bin/env", *words, *self._command], log=self.log, folder=self._folder
        )
        await self._process.named()
        async with asyncio.timeout(READY_SECONDS):
            while not (serving := [x for x in self._lines(offset) if x["event"] == "serving"]):
                assert self._process.running, f"{self.name} ended:\n{last_lines(self.log)}"
                await asyncio.sleep(0.02)  # a log tells only who looks
        self.url = str(serving[0]["url"])

    async def ready(self, session: aiohttp.ClientSession) -> None:
        """Return once it is ready for traffic."""
        async with asyncio.timeout(READY_SECONDS):
            while True:
                async with session.get(f"{self.url}/readyz") as answer:
                    if answer.status == 200:
                        return
                assert self.running, f"{self.name} ended:\n{last_lines(self.log)}"
                await asyncio.sleep(0.05)

    def _lines(self, offset: int) -> list[dict[str, Any]]:
        with self.log.open("rb") as file:
            file.seek(offset)
            lines = file.read().decode().splitlines()
        return [json.loads(x) for x in lines if x.startswith("{") and x.endswith("}")]

    def lines(self) -> list[dict[str, Any]]:
        """Return what it logged so far."""
        return self._lines(0)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.running

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self._process.pid is not None
        return self._process.pid

    async def kill(self) -> None:
        """SIGKILL, and return when it is gone."""
        if self._process is not None:
            await self._process.kill()

    async def stop(self, limit_seconds: float = 20) -> int:
        """SIGTERM, and return its exit code."""
        assert self._process is not None
        await self._process.stop(limit_seconds)
        assert self._process.exit_code is not None
        return self._process.exit_code

    def resident_bytes(self) -> int:
        """Return its memory as the kernel counts it."""
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"{self.name} has no VmRSS")


class System:
    """Simulators, ingest and document-sync as processes.

    Args:
        stack: Kafka and Redis.
        folder: logs and state.
        env: added to every service's environment.
    """

    def __init__(self, stack: Stack, folder: Path, env: Mapping[str, str]) -> None:
        self.stack = stack
        self.folder = folder
        self.connect = {"bootstrap_servers": stack.kafka.bootstrap_servers}
        self.log = KafkaLog(self.connect, service="test")
        self.simulators: dict[str, Any] = {}
        self._given = dict(env)
        self._first_letters: dict[int, int] = {}
        self._simulating: GuardedProcess | None = None
        self.session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        self.ingest = Service([], {}, folder, "ingest")
        self.worker = Service([], {}, folder, "document-sync")

    async def start(self, *quirks: str) -> None:
        """Start everything and return when it is ready."""
        async with admin(self.connect) as kafka:
            await kafka.apply(topics.catalogue())
        # The stack may have served another test: its letters are not ours.
        for letter in await self.records(topics.dlq("document-sync").name):
            self._first_letters[letter.partition] = letter.offset + 1
        await self.start_simulators(*quirks)
        self.ingest = Service(
            [str(BIN / "bitbylaw-ingest")], self.env("ingest"), self.folder, "ingest"
        )
        self.worker = Service(
            [str(BIN / "bitbylaw-document-sync")],
            self.env("document-sync-0"),
            self.folder,
            "document-sync",
        )
        await asyncio.gather(self.ingest.start(), self.worker.start())
        await asyncio.gather(self.ingest.ready(self.session), self.worker.ready(self.session))

    async def start_simulators(self, *quirks: str) -> None:
        """Start both simulators, empty."""
        log = self.folder / "simulators.log"
        options = [word for quirk in quirks for word in ("--quirk", quirk)]
        self._simulating = GuardedProcess(
            [str(BIN / "bitbylaw-simulators"), "--empty", *options], log=log, folder=self.folder
        )
        await self._simulating.named()
        async with asyncio.timeout(READY_SECONDS):
            while not (text := log.read_text() if log.exists() else "").startswith("{"):
                assert self._simulating.running, last_lines(log)
                await asyncio.sleep(0.02)
        self.simulators = json.loads(text.splitlines()[0])

    def env(self, instance: str) -> dict[str, str]:
        """Return one service's environment."""
        return {
            "PATH": "/usr/bin:/bin",
            "KAFKA_BOOTSTRAP_SERVERS": self.stack.kafka.bootstrap_servers,
            "REDIS_URL": self.stack.redis.url,
            "HTTP_PORT": "0",
            "BBL_INSTANCE": instance,
            "BBL_DIGEST_KEY": DIGEST_KEY,
            "BBL_DRAIN_SECONDS": "5",
            "LOG_LEVEL": "info",
            "ESPOCRM_API_BASE_URL": self.simulators["espocrm_api"],
            "ESPOCRM_API_KEY": self.simulators["espocrm_api_key"],
            "XAI_API_KEY": self.simulators["xai_api_key"],
            "XAI_MANAGEMENT_KEY": self.simulators["xai_management_key"],
            "XAI_FILES_URL": self.simulators["xai"],
            "XAI_MANAGEMENT_URL": self.simulators["xai"],
            "INGEST_UNSIGNED": "accept",
            **self._given,
        }

    async def stop(self) -> None:
        """End everything, whatever state it is in."""
        await asyncio.gather(self.ingest.kill(), self.worker.kill())
        if self._simulating is not None:
            await self._simulating.stop(5)
        await self.session.close()

    # What people do ---------------------------------------------------------------------------

    async def collection(self, name: str) -> tuple[str, str]:
        """Make a collection and its active knowledge base; return both ids."""
        async with self.session.post(
            f"{self.simulators['xai']}/v1/collections",
            json={"collection_name": name},
            headers={"Authorization": f"Bearer {self.simulators['xai_management_key']}"},
        ) as answer:
            answer.raise_for_status()
            collection = (await answer.json())["collection_id"]
        values = {"name": name, "datenbankId": collection, "aktivierungsstatus": "active"}
        made = await self.edit(action="create", entity="CAIKnowledge", values=values)
        return str(collection), str(made["id"])

    async def edit(self, **edit: Any) -> dict[str, Any]:
        """Make an edit in EspoCRM as a person does."""
        content = edit.pop("content", None)
        if content is not None:
            edit["content_base64"] = base64.b64encode(content).decode()
        async with self.session.post(
            f"{self.simulators['espocrm']}/_sim/edit", json=edit
        ) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    async def webhook(self, action: str, *ids: str, entity: str = "document") -> dict[str, Any]:
        """Tell ingest, as EspoCRM would; returns its answer."""
        url = f"{self.ingest.url}/vmh/webhook/{entity}/{action}"
        async with self.session.post(url, json=[{"id": one} for one in ids]) as answer:
            assert answer.status == 200, await answer.text()
            found: dict[str, Any] = await answer.json()
            return found

    # What is so -------------------------------------------------------------------------------

    async def state(self, system: str) -> dict[str, Any]:
        """Return everything a simulator holds."""
        async with self.session.get(f"{self.simulators[system]}/_sim/state") as answer:
            found: dict[str, Any] = await answer.json()
            return found

    async def calls(self, system: str, since: int = 0, wait: float = 0) -> list[dict[str, Any]]:
        """Return a simulator's log of calls after number `since`."""
        url = f"{self.simulators[system]}/_sim/requests"
        async with self.session.get(url, params={"since": since, "wait": wait}) as answer:
            found: list[dict[str, Any]] = (await answer.json())["requests"]
            return found

    async def effects(self, system: str) -> list[dict[str, Any]]:
        """Return the calls that changed something at a simulator, webhooks aside."""
        return [call for call in await self.calls(system) if call.get("effect")]

    async def records(self, topic: str, key: str | None = None) -> list[Record]:
        """Return a topic's records, or those of one key's partition."""
        numbers = range(topics.PARTITIONS) if key is None else [partition_of(key.encode())]
        return [r async for r in self.log.read({(topic, n): 0 for n in numbers})]

    async def journal(self, entity_id: str) -> list[JournalEntry]:
        """Return what the journal says about a record."""
        found = await self.records(topics.JOURNAL.name, entity_id)
        entries = [JournalEntry.model_validate_json(r.value) for r in found if r.value]
        return [entry for entry in entries if entry.entity_id == entity_id]

    async def dead_letters(self, service: str = "document-sync") -> list[DeadLetter]:
        """Return a service's dead letters."""
        found = await self.records(topics.dlq(service).name)
        return letters(
            r for r in found if r.value and r.offset >= self._first_letters.get(r.partition, 0)
        )

    async def until(
        self, condition: Callable[[], Any], *, seconds: float = 60, every: float = 0.1
    ) -> None:
        """Return once the awaitable condition is true."""
        async with asyncio.timeout(seconds):
            while not await condition():  # noqa: ASYNC110 - other processes tell only who asks
                await asyncio.sleep(every)


@asynccontextmanager
async def running(
    stack: Stack, folder: Path, *quirks: str, env: Mapping[str, str] | None = None
) -> AsyncIterator[System]:
    """Run the whole system while the block lasts."""
    async with AsyncExitStack() as opened:
        system = System(stack, folder, env or {})
        opened.push_async_callback(system.stop)
        await opened.enter_async_context(system.log)
        await system.start(*quirks)
        yield system
