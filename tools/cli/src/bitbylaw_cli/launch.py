"""Becomes a command with an environment of its own, which nobody sees in a process list.

Run as a script by `services.py`: `launch.py DESCRIPTOR COMMAND...`. The descriptor holds the
environment as a JSON object. It imports the standard library only, so that it costs little.
"""

import json
import os
import sys


def main(arguments: list[str]) -> int:
    """Become the command; come back only if it cannot be run."""
    descriptor, command = int(arguments[0]), arguments[1:]
    with os.fdopen(descriptor, "rb") as handed:
        handed.seek(0)
        env = json.load(handed)
    try:
        os.execve(command[0], command, env)  # noqa: S606 - the command is the owner's own
    except OSError as refused:
        print(f"{command[0]} cannot be run: {refused.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
