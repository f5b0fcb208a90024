"""Finds what no commit should carry: `hygiene.py [FILE...]`, all files that git knows by default.

Trailing blanks, a missing or doubled end of line at the end, carriage returns, marks of an
unfinished merge, private keys, files above 1 MiB. Exit code 1 when it found something.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_LARGEST_BYTES = 1024 * 1024
_RULES = {
    "trailing blanks": re.compile(rb"[ \t]+$", re.MULTILINE),
    "a carriage return": re.compile(rb"\r"),
    "a mark of an unfinished merge": re.compile(rb"^(?:<{7}|>{7}) ", re.MULTILINE),
    "a private key": re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY" + rb"-----"),
}


def findings(file: Path) -> Iterator[str]:
    """Yield what is wrong with one file, as `path:line: what`."""
    content = file.read_bytes()
    if len(content) > _LARGEST_BYTES:
        yield f"{file}: larger than 1 MiB"
    if b"\0" in content or file.suffix in {".svg", ".pdf", ".png"}:
        return
    for what, pattern in _RULES.items():
        for hit in pattern.finditer(content):
            line = content.count(b"\n", 0, hit.start()) + 1
            yield f"{file}:{line}: {what}"
    if content and (not content.endswith(b"\n") or content.endswith(b"\n\n")):
        yield f"{file}: must end with exactly one end of line"


def known_files() -> list[Path]:
    """Return what git tracks or would add, as far as it exists."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],  # noqa: S607 - git is where it is
        check=True,
        capture_output=True,
    ).stdout.decode()
    return [Path(name) for name in listed.split("\0") if name]


def main(names: list[str]) -> int:
    """Print the findings of the named or all files; return the exit code."""
    files = [Path(name) for name in names] or known_files()
    found = [line for file in files if file.is_file() for line in findings(file)]
    print("\n".join(found) or f"{len(files)} files are clean")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
