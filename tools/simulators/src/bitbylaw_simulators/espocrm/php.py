"""PHP's manners: how it writes JSON and reads query strings (pure)."""

import json
import re
from collections.abc import Iterable
from typing import Any


def php_json(value: Any) -> bytes:
    """Return `value` as `json_encode` writes it by default: escapes beyond ASCII, and slashes."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("/", "\\/").encode("ascii")


def php_query(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Return what `a[0][b]=c` means; objects whose keys are all numbers become lists."""
    tree: dict[str, Any] = {}
    for name, value in pairs:
        head, *inner = re.findall(r"^[^\[]+|\[([^\]]*)\]", name) or [name]
        keys = [name.partition("[")[0] if head == "" else head, *inner]
        node = tree
        for key, following in zip(keys, [*keys[1:], None], strict=True):
            slot = key or str(len(node))
            if following is None:
                node[slot] = value
            else:
                below = node.setdefault(slot, {})
                if not isinstance(below, dict):
                    raise ValueError(f"the parameter {name} contradicts another")
                node = below
    return {key: _listed(value) for key, value in tree.items()}


def _listed(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    values = {key: _listed(value) for key, value in node.items()}
    if values and all(key.isdigit() for key in values):
        return [values[key] for key in sorted(values, key=int)]
    return values
