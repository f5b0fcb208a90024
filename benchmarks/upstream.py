"""What both proxies ask: gives tokens, and answers every other call with the same JSON at once."""

import asyncio
import json

from aiohttp import web

ROWS = json.dumps(
    [{"betNr": 100_000 + n, "name": f"Muster {n}", "vorname": "Erika", "rowId": "x" * 40} for n in range(40)]
).encode()  # fmt: skip
"""About four kilobytes, as a list of parties."""


async def serve() -> None:
    """Answer until the process is ended."""

    async def token(request: web.Request) -> web.Response:
        return web.json_response({"access_token": "bench" * 8, "expires_in": 3600})

    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.Response(body=ROWS, content_type="application/json")

    app = web.Application()
    app.router.add_post("/security/api/v1/Token", token)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    print(json.dumps({"event": "serving", "url": url}), flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve())
