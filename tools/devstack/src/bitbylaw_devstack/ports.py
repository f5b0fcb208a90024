"""Free ports on the loopback interface."""

import random
import socket

HOST = "127.0.0.1"
_LOW, _HIGH = 20_000, 32_000
"""Below the range from which the kernel takes the near ends of connections (32768 on Linux, 49152
elsewhere): a port of that range may be taken while a server is down for a restart, and a client
that keeps trying to reach it there can connect to itself."""
_ATTEMPTS = 200


def is_free(port: int) -> bool:
    """Return whether a server could listen on this port now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """Return a port that is free now; another process may take it first, so try again then.

    Raises:
        OSError: none was found.
    """
    choice = random.SystemRandom()
    for _ in range(_ATTEMPTS):
        port = choice.randrange(_LOW, _HIGH)
        if is_free(port):
            return port
    raise OSError(f"no free port between {_LOW} and {_HIGH} on {HOST}")
