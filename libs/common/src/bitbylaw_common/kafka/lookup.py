"""Asking for a coordinator while no broker is known."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from aiokafka.errors import NodeNotReadyError


class Client(Protocol):
    """What of aiokafka's client is used here."""

    coordinator_lookup: Callable[[Any, str], Awaitable[int]]

    def get_random_node(self) -> int | None:
        """Return the id of a broker that is known; None while there is none."""


def asks_again(client: Client) -> None:
    """Let a client whose first broker knew of none ask again, within the limits of its caller.

    A broker that just began, or goes on after it stood still, answers with an empty list for a
    moment. aiokafka asserts that this cannot be, which ends the task that asked.
    """
    lookup = client.coordinator_lookup

    async def coordinator_lookup(kind: Any, key: str) -> int:
        if client.get_random_node() is None:
            raise NodeNotReadyError("no broker is known yet")
        return await lookup(kind, key)

    client.coordinator_lookup = coordinator_lookup
