"""Reads `multipart/form-data` without copying the parts."""

import mmap
import re
from dataclasses import dataclass
from urllib.parse import unquote


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a form.

    Attributes:
        name: of the form field.
        filename: as the sender named the file, None for a plain value.
        content_type: as said, None when not said.
        start: where the content begins in the body.
        end: where it ends, exclusive.
    """

    name: str
    filename: str | None
    content_type: str | None
    start: int
    end: int


def parts(view: bytes | mmap.mmap, content_type: str) -> list[Part]:
    """Return the parts in their order.

    Raises:
        ValueError: the body is not a complete multipart form.
    """
    boundary = _boundary(content_type)
    first = b"--" + boundary
    if view[: len(first)] != first:
        raise ValueError("the body does not begin with its boundary")
    found: list[Part] = []
    at = len(first)
    while view[at : at + 2] == b"\r\n":
        head_end = view.find(b"\r\n\r\n", at)
        if head_end < 0:
            raise ValueError("a part has no end of headers")
        content = head_end + 4
        end = view.find(b"\r\n" + first, content)
        if end < 0:
            raise ValueError("the last boundary is missing")
        found.append(_part(bytes(view[at + 2 : head_end]), content, end))
        at = end + 2 + len(first)
    if view[at : at + 2] != b"--":
        raise ValueError("the form is not closed")
    return found


def _boundary(content_type: str) -> bytes:
    kind, _, rest = content_type.partition(";")
    found = re.search(r'boundary="?([^";]+)"?', rest)
    if kind.strip().lower() != "multipart/form-data" or found is None:
        raise ValueError("not multipart/form-data with a boundary")
    return found.group(1).encode()


def _part(head: bytes, start: int, end: int) -> Part:
    # raw UTF-8 in names is what browsers send
    headers: dict[str, str] = {}
    for line in head.decode("utf-8", "replace").split("\r\n"):
        header, _, text = line.partition(":")
        headers[header.strip().lower()] = text.strip()
    disposition = headers.get("content-disposition", "")
    name = _parameter(disposition, "name")
    if name is None:
        raise ValueError("a part has no name")
    return Part(name, _filename(disposition), headers.get("content-type"), start, end)


def _parameter(disposition: str, name: str) -> str | None:
    found = re.search(rf'(?:^|[;\s]){name}="((?:[^"\\]|\\.)*)"', disposition)
    if found is not None:
        return re.sub(r'\\(["\\])', r"\1", found.group(1)).replace("%22", '"')
    bare = re.search(rf"(?:^|[;\s]){name}=([^;\s\"]+)", disposition)
    return bare.group(1) if bare else None


def _filename(disposition: str) -> str | None:
    extended = re.search(r"filename\*=(?:UTF-8|utf-8)''([^;\s]+)", disposition)
    if extended is not None:
        return unquote(extended.group(1))
    return _parameter(disposition, "filename")
