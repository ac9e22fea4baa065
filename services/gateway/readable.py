"""Bodies of archived events in a form that an answer can carry; the archive keeps the bytes as they came."""

import json
import re
from typing import Any

from services.gateway.stripe_event import finite_number

DEPTH_MAX = 100
"""What writes answers, and readers in other languages, follow JSON a few hundred levels down at most."""

_MARKS = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[\[{]|[\]}]')
"""Texts, which may hold brackets of their own, and what opens and closes a level."""


def readable(payload: bytes) -> Any:
    """The JSON as it came, but for what no answer can carry.

    What is nested too deep stands as its text, half of a surrogate pair as a question mark, and a number
    too large as its text.
    """
    text = _shallow(payload.decode())
    found = json.loads(text, parse_float=finite_number)
    return json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))


def _shallow(text: str) -> str:
    """The same JSON, with each value that lies too deep as a text of itself."""
    parts: list[str] = []
    depth = written = begin = 0
    for mark in _MARKS.finditer(text):
        kind = mark[0]
        if kind in "[{":
            depth += 1
            if depth == DEPTH_MAX + 1:
                begin = mark.start()
        elif kind in "]}":
            if depth == DEPTH_MAX + 1:
                parts += text[written:begin], json.dumps(text[begin : mark.end()])
                written = mark.end()
            depth -= 1
    parts.append(text[written:])
    return "".join(parts)
