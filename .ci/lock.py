"""Writes the lock files, and says offline and at once whether one is stale.

    lock.py write [--upgrade]     resolve anew, keeping every pin that still fits
    lock.py check                 exit 1 when a lock does not fit its inputs

A lock's first line carries a digest of its inputs: whatever in the pyproject files can change the
answer of the resolver, and for a service's lock the lock that constrains it. So `check` needs no
network and takes no time; resolving again would need both, and would call a lock stale because
somebody else published something. The hashes in a lock guard the rest.
"""

import hashlib
import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = "3.11"
"""The lowest version that is supported: `--universal` resolves from it upwards."""
_DIGEST = re.compile(r"\A# inputs: ([0-9a-f]{64})$", re.MULTILINE)
_ADDRESS = re.compile(r"://|^-|^\s*(?:\.{0,2}/)|\bfile:", re.MULTILINE)


@dataclass(frozen=True)
class Lock:
    """One lock: where it is, what it resolves, and which lock narrows it.

    Attributes:
        path: from the root.
        source: the pyproject to resolve, from the root.
        groups: the dependency groups of it; none means the project itself.
        also: requirements beside it, such as what builds the image's own packages.
        within: the lock whose versions hold here too.
    """

    path: str
    source: str
    groups: tuple[str, ...] = ()
    also: tuple[str, ...] = ()
    within: str | None = None


WORK = Lock("requirements.lock", "pyproject.toml", groups=("dev",))


def locks() -> Iterator[Lock]:
    """Yield all locks, each after the one that constrains it."""
    yield WORK
    yield Lock("requirements-uv.lock", "pyproject.toml", groups=("bootstrap",))
    for project in sorted(ROOT.glob("services/*/pyproject.toml")):
        folder = project.parent.relative_to(ROOT).as_posix()
        yield Lock(
            f"{folder}/requirements.lock",
            f"{folder}/pyproject.toml",
            also=("hatchling",),
            within=WORK.path,
        )
    # Apart from ours, because a peer wants older releases than we do.
    yield Lock("benchmarks/requirements.lock", "benchmarks/pyproject.toml")
    # Installed together with the work's own lock, so it has to fit.
    yield Lock("mutation/requirements.lock", "mutation/pyproject.toml", within=WORK.path)


def ours() -> dict[str, dict[str, object]]:
    """Return the workspace's projects by name, each as its pyproject's `project` table."""
    root = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    patterns = root["tool"]["uv"]["workspace"]["members"]
    files = sorted(f for pattern in patterns for f in ROOT.glob(f"{pattern}/pyproject.toml"))
    projects = [tomllib.loads(file.read_text("utf-8"))["project"] for file in files]
    return {project["name"]: project for project in projects}


def digest(lock: Lock) -> str:
    """Return the digest of all that decides what is in the lock."""
    pyproject = tomllib.loads((ROOT / lock.source).read_text("utf-8"))
    project = pyproject["project"]
    wanted = {
        "requires-python": project["requires-python"],
        "dependencies": project.get("dependencies", []),
        "groups": {name: pyproject["dependency-groups"][name] for name in lock.groups},
        "also": lock.also,
        "python": PYTHON,
        "members": {
            name: [
                member.get("dependencies", []),
                member.get("optional-dependencies", {}),
                member["requires-python"],
            ]
            for name, member in ours().items()
        }
        if lock.groups != ("bootstrap",)
        else {},
        "within": (ROOT / lock.within).read_text("utf-8") if lock.within else None,
    }
    return hashlib.sha256(json.dumps(wanted, sort_keys=True).encode()).hexdigest()


def write(lock: Lock, *, upgrade: bool) -> None:
    """Resolve and write one lock; its pins stay where they still fit, unless upgraded."""
    command = [
        *(str(Path(sys.executable).with_name("uv")), "pip", "compile", "--quiet"),
        *("--universal", "--python-version", PYTHON, "--generate-hashes", "--no-header"),
        *(word for name in ours() for word in ("--no-emit-package", name)),
        *(word for group in lock.groups for word in ("--group", group)),
        *(("--constraints", lock.within) if lock.within else ()),
        *(("--upgrade",) if upgrade else ()),
        *(lock.source, "--output-file", lock.path),
        *(("-",) if lock.also else ()),
    ]
    subprocess.run(command, cwd=ROOT, check=True, input="\n".join(lock.also).encode())
    path = ROOT / lock.path
    body = path.read_text("utf-8").split("\n# The following packages were excluded")[0]
    body = _DIGEST.sub("", body).lstrip()
    path.write_text(f"# inputs: {digest(lock)}\n{body.rstrip()}\n", "utf-8")


def problem(lock: Lock) -> str | None:
    """Return what is wrong with a lock; None when it is good."""
    path = ROOT / lock.path
    if not path.exists():
        return f"{lock.path} is missing: run make lock"
    text = path.read_text("utf-8")
    found = _DIGEST.match(text)
    if found is None or found[1] != digest(lock):
        return f"{lock.path} is stale, its inputs changed: run make lock"
    if _ADDRESS.search(text):
        return f"{lock.path} records an address or a path: run make lock"
    return None


def main(arguments: list[str]) -> int:
    """Do as the module says; return the exit code."""
    match arguments:
        case ["write", *options]:
            for lock in locks():
                write(lock, upgrade="--upgrade" in options)
                print(f"wrote {lock.path}")
        case ["check"]:
            problems = [found for lock in locks() if (found := problem(lock)) is not None]
            print("\n".join(problems) or "all locks fit")
            return 1 if problems else 0
        case _:
            print(__doc__)
            return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
