"""Asking a server one thing, to know that it is ready."""

import asyncio

from bitbylaw_devstack.ports import HOST

_LIMIT_SECONDS = 2.0


async def exchange(port: int, question: bytes, size: int) -> bytes | None:
    """Send a question and return the first `size` bytes of the answer.

    Returns:
        None when nothing listens, or no such answer came within two seconds.
    """
    try:
        async with asyncio.timeout(_LIMIT_SECONDS):
            reader, writer = await asyncio.open_connection(HOST, port)
            try:
                writer.write(question)
                return await reader.readexactly(size)
            finally:
                writer.close()
                await writer.wait_closed()
    except (OSError, asyncio.IncompleteReadError):
        return None
