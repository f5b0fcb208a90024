"""Types `bbl`: as a person does, in a process of its own forked from a prepared one, or right here."""

import multiprocessing
import os
import sys
import traceback
from collections.abc import Mapping
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from typer.testing import CliRunner

from bitbylaw_cli.main import build, main

WITHIN_SECONDS = 100.0
"""How long a command may take before it counts as hanging."""

_FORKING = multiprocessing.get_context("forkserver")
_FORKING.set_forkserver_preload(["__main__", "bitbylaw_cli.main", "bitbylaw_cli.verbs"])


@dataclass(frozen=True, slots=True)
class Typed:
    """What came of it: the exit code, both outputs, and how many seconds it took."""

    exit: int
    out: str
    err: str
    seconds: float


def bbl(*words: str, env: Mapping[str, str], folder: Path) -> Typed:
    """Type `bbl words...` in this folder, with this environment and nothing else in it.

    Raises:
        AssertionError: it did not end in time, and was killed.
    """
    here = {name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ}  # noqa: TID251 - the machine's
    with TemporaryDirectory() as outputs:
        files = (f"{outputs}/out", f"{outputs}/err", f"{outputs}/exit")
        child = _FORKING.Process(target=_typed, args=(words, here | dict(env), str(folder), files))
        began = monotonic()
        child.start()
        child.join(WITHIN_SECONDS)
        seconds = monotonic() - began
        if child.is_alive():
            child.kill()
            child.join()
            raise AssertionError(f"`bbl {' '.join(words)}` did not end in {WITHIN_SECONDS:g} s")
        # a parent of many threads may lose the status of a child, so that the child notes it
        out, err, code = (Path(file).read_text("utf-8") for file in files)
        return Typed(int(code), out, err, seconds)


def bbl_here(*words: str, env: Mapping[str, str], folder: Path) -> Typed:
    """Type it within this process: for what ends before it waits for anything."""
    began = monotonic()
    with chdir(folder):
        answer = CliRunner().invoke(build(), words, prog_name="bbl", env=dict(env))
    broken = answer.exception is not None and not isinstance(answer.exception, SystemExit)
    trace = "".join(traceback.format_exception(answer.exception)) if broken else ""
    return Typed(answer.exit_code, answer.stdout, answer.stderr + trace, monotonic() - began)


def _typed(
    words: tuple[str, ...], env: dict[str, str], folder: str, files: tuple[str, str, str]
) -> None:
    *outputs, noted = files
    for stream, file in zip((sys.stdout, sys.stderr), outputs, strict=True):
        stream.flush()
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT, 0o600), stream.fileno())
    os.chdir(folder)
    os.environ.clear()  # noqa: TID251 - the child's own
    os.environ.update(env)  # noqa: TID251 - likewise
    sys.argv = ["bbl", *words]
    try:
        main()
    except SystemExit as ended:
        Path(noted).write_text(str(ended.code or 0), "utf-8")
    except BaseException:
        Path(noted).write_text("-1", "utf-8")
        traceback.print_exc()
        raise
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
