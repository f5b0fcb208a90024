"""The reference of the proxy: aiohttp and aiokafka, a key and a trail, nothing of ours."""

import argparse
import asyncio
import hashlib
import hmac
import json
import time
import uuid

from aiohttp import ClientSession, TCPConnector, web
from aiokafka import AIOKafkaProducer
from yarl import URL

PIECE_BYTES = 256 * 1024


async def serve(given: argparse.Namespace) -> None:
    """Pass calls on until the process is ended."""
    producer = AIOKafkaProducer(
        bootstrap_servers=given.kafka, acks="all", enable_idempotence=True, linger_ms=0
    )
    if not given.plain:
        await producer.start()
    digest = hashlib.sha256(given.key.encode()).digest()
    session = ClientSession(connector=TCPConnector(limit=0))

    async def note(request: web.Request, endpoint: str, status: int, began: float) -> None:
        call = uuid.uuid4().hex
        event = {"v": 1, "request_id": call, "method": request.method, "whole": True} | {
            "endpoint": endpoint,
            "status": status,
            "duration_ms": round((time.monotonic() - began) * 1000),
            "caller": "bench",
        }
        await producer.send(given.topic, json.dumps(event).encode(), key=b"bench")

    async def pass_on(request: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        shown = hashlib.sha256(request.headers.get("apikey", "").encode()).digest()
        if not hmac.compare_digest(digest, shown):
            return web.json_response({"error": "Unauthorized"}, status=401)
        parts = request.raw_path.partition("?")[2].split("&")
        (named,) = [part for part in parts if part.startswith("endpoint=")]
        endpoint = f"api/v1/advonet/{named.removeprefix('endpoint=')}"
        query = "&".join(part for part in parts if part is not named)
        url = URL(f"{given.upstream}/{endpoint}?{query}", encoded=True)
        token = {"Authorization": "Bearer bench"}
        body = request.content if request.can_read_body else None
        async with session.request(request.method, url, headers=token, data=body) as answer:
            ours = web.StreamResponse(status=answer.status)
            ours.content_type = "application/json"
            if answer.content_length is not None:
                ours.content_length = answer.content_length + 12
            await ours.prepare(request)
            await ours.write(b'{"result": ')
            async for piece in answer.content.iter_chunked(PIECE_BYTES):
                await ours.write(piece)
            await ours.write_eof(b"}")
        if not given.plain:
            await note(request, endpoint, answer.status, began)
        return ours

    app = web.Application()
    app.router.add_route("*", "/advoware/proxy", pass_on)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(json.dumps({"event": "serving", "url": url}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for word in ("kafka", "topic", "upstream", "key"):
        parser.add_argument(word)
    parser.add_argument("--plain", action="store_true", help="no trail")
    asyncio.run(serve(parser.parse_args()))
