"""Random ids that need to be told apart, not kept secret."""

import os
from random import Random

# One system call an id is what a secret needs; the ids of events, runs and spans are made several
# times a record, and need only never meet.
_random = Random(os.urandom(64))  # noqa: S311 - no secret
os.register_at_fork(after_in_child=lambda: _random.seed(os.urandom(64)))


def hex_digits(count: int) -> str:
    """Return `count` random hex digits, lower case."""
    return f"{_random.getrandbits(4 * count):0{count}x}"


def new_run_id() -> str:
    """Return a fresh id of a run: 32 hex digits."""
    return hex_digits(32)


def new_event_id() -> str:
    """Return a fresh event id, in the form of a version 4 UUID."""
    digits = hex_digits(30)
    return f"{digits[:8]}-{digits[8:12]}-4{digits[12:15]}-a{digits[15:18]}-{digits[18:]}"
