"""Keeps one child and ends it when its owner goes, however the owner goes.

Run as a script, so that it needs nothing but the standard library and starts in some ten
milliseconds: `guard.py GRACE_SECONDS COMMAND...`.

- Standard input is a pipe whose other end only the owner holds: its end, or another parent than at
  the start, means that the owner is gone. The child gets SIGTERM then, and SIGKILL after the grace.
- Standard output carries one line, the child's pid. The child writes to standard error.
- SIGTERM is passed on. The exit code is the child's; 128 + n if signal n ended it.

Should the guard itself be killed, Linux kills the child: the guard has one thread, so the parent
death signal, which is bound to the thread that forked, cannot come too early.
"""

import ctypes
import os
import select
import signal
import sys
import time

_PR_SET_PDEATHSIG = 1
_LOOK_SECONDS = 0.5


def _become(command: list[str], guard: int) -> None:
    """Turn the forked copy into the command; it does not come back."""
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != guard:
            os._exit(1)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    try:
        os.execvp(command[0], command)  # noqa: S606 - the command is the owner's own
    except OSError as refused:
        os.write(2, f"{command[0]} cannot be run: {refused.strerror}\n".encode())
        os._exit(127)


def _ended(child: int) -> int | None:
    """Return the exit code as a shell would name it; None while the child lives."""
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0:
        return None
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def main(arguments: list[str]) -> int:
    """Run the command until it ends or the owner goes; return its exit code."""
    grace, command = float(arguments[0]), arguments[1:]
    owner, guard = os.getppid(), os.getpid()
    wake, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.set_wakeup_fd(waker, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
    # until the copy has laid down our handler: there `child` is 0, which would mean a whole group
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child == 0:
        _become(command, guard)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})

    watched, deadline = [0, wake], None
    try:
        os.write(1, f"{child}\n".encode())
    except BrokenPipeError:
        watched = [wake]
    while (code := _ended(child)) is None:
        readable = select.select(watched, [], [], _LOOK_SECONDS)[0]
        if wake in readable:
            os.read(wake, 4096)
        gone = (0 in readable and not os.read(0, 1)) or os.getppid() != owner
        if deadline is None and (gone or 0 not in watched):
            watched, deadline = [wake], time.monotonic() + grace
            os.kill(child, signal.SIGTERM)
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
