"""The reference of ingest: aiohttp and aiokafka, signature and validation, nothing of ours."""

import argparse
import asyncio
import base64
import hashlib
import hmac
import json
import time
import uuid
from datetime import UTC, datetime

from aiohttp import web
from aiokafka import AIOKafkaProducer
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError


class Item(BaseModel):
    """One record in a post."""

    model_config = ConfigDict(extra="allow")
    id: str


ITEMS = TypeAdapter(list[Item])


async def serve(given: argparse.Namespace) -> None:
    """Answer posts until the process is ended."""
    producer = AIOKafkaProducer(
        bootstrap_servers=given.kafka, acks="all", enable_idempotence=True, linger_ms=0
    )
    await producer.start()
    secret = given.secret.encode()

    async def post(request: web.Request) -> web.Response:
        body = await request.read()
        proof = base64.b64decode(request.headers.get("Signature", "")).partition(b":")[2]
        expected = hmac.new(secret, body, hashlib.sha256).hexdigest().encode()
        if not hmac.compare_digest(proof, expected):
            return web.json_response({"error": "signature refused"}, status=401)
        try:
            items = ITEMS.validate_json(body)
        except ValidationError:
            return web.json_response({"error": "not readable"}, status=400)
        ids = [str(uuid.uuid4()) for _ in items]
        for item, event_id in zip(items, ids, strict=True):
            about = {"v": 1, "entity_type": "CDokumente", "entity_id": item.id, "action": "update"}
            event = {**about, "changed": list(item.model_extra or ()), "source": "webhook"}
            headers = [
                ("ce_specversion", b"1.0"),
                ("ce_id", event_id.encode()),
                ("ce_type", b"bitbylaw.entity.changed"),
                ("ce_source", b"/bitbylaw/ingest"),
                ("ce_subject", item.id.encode()),
                ("ce_time", datetime.fromtimestamp(time.time_ns() / 1e9, UTC).isoformat().encode()),
                ("content-type", b"application/json"),
            ]
            value, key = json.dumps(event).encode(), item.id.encode()
            await producer.send_and_wait(given.topic, value, key=key, headers=headers)
        return web.json_response({"status": "received", "event_ids": ids})

    app = web.Application()
    app.router.add_post(given.route, post)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(json.dumps({"event": "serving", "url": url}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("kafka", "topic", "route", "secret"):
        parser.add_argument(word)
    asyncio.run(serve(parser.parse_args()))
