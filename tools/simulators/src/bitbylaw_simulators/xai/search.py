"""Keyword search over stored text: enough to prove that a document became searchable (pure)."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

CHUNK_CHARS = 1000


def search(
    query: str, texts: Iterable[tuple[str, str, bytes, Mapping[str, str]]], limit: int
) -> list[dict[str, Any]]:
    """Return the best chunks for a query, best first.

    Args:
        query: words; a chunk scores by the share of them that it holds.
        texts: collection id, file id, bytes and fields of every searchable document.
        limit: how many chunks at most.
    """
    words = set(re.findall(r"\w+", query.lower()))
    found: list[dict[str, Any]] = []
    for collection_id, file_id, content, fields in texts:
        text = content.decode("utf-8", "replace")
        for number in range(0, max(1, len(text)), CHUNK_CHARS):
            chunk = text[number : number + CHUNK_CHARS]
            score = len(words & set(re.findall(r"\w+", chunk.lower()))) / max(1, len(words))
            if score > 0:
                found.append(
                    {
                        "file_id": file_id,
                        "chunk_id": f"{file_id}-{number // CHUNK_CHARS}",
                        "chunk_content": chunk,
                        "score": round(score, 4),
                        "collection_ids": [collection_id],
                        "fields": dict(fields),
                        "page_number": 1,
                    }
                )
    found.sort(key=lambda match: (-match["score"], match["chunk_id"]))
    return found[:limit]
