"""The webhook edge over real sockets and a real Kafka: quarantine of a huge body, an outage."""

import asyncio
import base64
import hashlib
import hmac
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest

from bitbylaw_cli import chronicle, held
from bitbylaw_common import topics
from bitbylaw_common.clock import SystemClock
from bitbylaw_devstack import Stack
from system import System, running

pytestmark = [pytest.mark.kafka, pytest.mark.slow, pytest.mark.timeout(300)]

WEBHOOK, SECRET = "65f0c1d2e3a4b5c6d", "0123456789abcdef0123456789abcdef"
SIGNED = {"INGEST_UNSIGNED": "reject", "ESPOCRM_WEBHOOK_SECRETS": f"{WEBHOOK}={SECRET}"}


def signature(body: bytes, webhook: str = WEBHOOK, secret: str = SECRET) -> dict[str, str]:
    """Return the header that EspoCRM 9 sends."""
    digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return {"Signature": base64.b64encode(f"{webhook}:{digest}".encode()).decode()}


async def post(
    system: System, body: bytes, headers: dict[str, str], path: str = "document/create"
) -> tuple[int, dict[str, Any]]:
    url = f"{system.ingest.url}/vmh/webhook/{path}"
    async with system.session.post(url, data=io.BytesIO(body), headers=headers) as answer:
        return answer.status, json.loads(await answer.read() or b"{}")


async def test_a_huge_authentic_body_that_cannot_be_read_comes_back_byte_for_byte_and_is_released(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env=SIGNED) as system:
        size = int(15.9 * 1024 * 1024)
        body = b'[{"id":"69a68b9cd4c01ad4c","text":"' + bytes(range(32, 127)) * (size // 95 + 1)
        body = body[:size]

        # a foreign hand is refused, and stores nothing
        status, _ = await post(system, body, signature(body, secret="f" * 32))
        assert status == 401
        assert (await held.held(system.log)).entries == ()

        # the CRM's own is stored with its exact bytes
        status, answer = await post(system, body, signature(body))
        assert (status, answer["status"], answer["event_ids"]) == (200, "received", [])
        (entry,) = (await held.held(system.log)).entries
        assert entry.quarantine_id in answer["quarantined"]
        _, content = await held.entry(system.log, entry.quarantine_id)
        assert held.raw_of(content) == body

        # and an operator who knows which record it was about lets it go on
        done = await held.release(
            system.log, SystemClock(), entry.quarantine_id, ids=["69a68b9cd4c01ad4c"], write=True
        )
        assert done.written
        assert (await held.held(system.log)).entries == ()

        async def looked_at() -> bool:
            return [e.outcome for e in await system.journal("69a68b9cd4c01ad4c")] == ["skipped"]

        await system.until(looked_at)


async def test_every_post_answered_200_is_in_the_topic_after_an_outage_and_the_others_say_503(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path) as system:
        accepted: set[str] = set()
        slowest = 0.0
        refused = 0
        before = system.ingest.resident_bytes()

        async def one(number: int) -> None:
            nonlocal slowest, refused
            filler = "x" * 200_000
            body = json.dumps([{"id": f"outage{number:04}", "text": filler}]).encode()
            began = time.monotonic()
            status, answer = await post(system, body, {}, "beteiligte/update")
            slowest = max(slowest, time.monotonic() - began)
            if status == 200:
                accepted.update(answer["event_ids"])
            else:
                assert status == 503, answer
                refused += 1

        await asyncio.gather(*(one(n) for n in range(50)))
        assert len(accepted) == 50
        usual, slowest = slowest, 0.0
        await stack.kafka.kill()
        try:
            for batch in range(4):
                await asyncio.gather(*(one(100 + batch * 100 + n) for n in range(100)))
        finally:
            await stack.kafka.start()
        grown = system.ingest.resident_bytes() - before
        assert refused >= 390
        assert slowest < 5.0 + 2 * usual, (
            "of twice as many this machine takes its usual time on top"
        )
        assert grown < 128 * 1024 * 1024

        async def answers_again() -> bool:
            url = f"{system.ingest.url}/vmh/webhook/beteiligte/update"
            async with system.session.post(url, json=[{"id": "again"}]) as answer:
                if answer.status == 200:
                    accepted.update((await answer.json())["event_ids"])
                return answer.status == 200

        await system.until(answers_again)
        stored = {
            record.headers["ce_id"]
            for record in await system.records(topics.BETEILIGTE_UPDATE.name)
        }
        assert accepted <= stored


async def test_why_of_a_document_killed_in_the_middle_shows_both_runs_the_rule_and_one_upload(
    stack: Stack, tmp_path: Path
) -> None:
    async with running(stack, tmp_path, env={"XAI_SETTLE_SECONDS": "5"}) as system:
        _, knowledge = await system.collection("Akte")
        made = await system.edit(action="create", name="Klage.pdf", content=b"Klage Version 1\n")
        document = str(made["id"])
        await system.edit(action="link", id=document, knowledge=knowledge)

        # given a worker that dies while the answer to its upload is on its way
        fault = {
            "match": {"operation": "upload"},
            "kind": "latency",
            "times": 1,
            "params": {"seconds": 3, "when": "after"},
        }
        url = f"{system.simulators['xai']}/_sim/faults"
        async with system.session.post(url, json=[fault]) as answer:
            assert answer.status == 200
        last = len(await system.calls("xai"))
        await system.webhook("create", document)
        while not any(c["effect"] == "upload" for c in await system.calls("xai", last, wait=2)):
            pass
        await system.worker.kill()
        await system.worker.start()

        async def ended() -> bool:
            return "done" in [entry.outcome for entry in await system.journal(document)]

        await system.until(ended)

        # then the story tells of both
        story = await chronicle.why(system.log, "document", document, SystemClock().now())
        assert story.state == "in line", story.verdict
        kinds = [moment.kind for moment in story.moments]
        assert kinds.count("interrupted") == 1, kinds
        interrupted = next(m for m in story.moments if m.kind == "interrupted")
        runs = [m for m in story.moments if m.kind == "run"]
        outcomes = [m.run.outcome for m in runs if m.run is not None]
        # xAI may take its time until the document can be found; nothing else is tried again
        assert outcomes[-1] == "done"
        assert set(outcomes[:-1]) <= {"wait"}
        finished = runs[-1]
        assert interrupted.run_id != finished.run_id
        assert finished.run is not None
        assert finished.run.rule
        uploads = [c for c in await system.effects("xai") if c["effect"] == "upload"]
        assert len(uploads) == 1
