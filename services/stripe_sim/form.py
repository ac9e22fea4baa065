"""What callers send, as nested dictionaries and lists of strings, within limits.

The v1 API takes Stripe's form encoding, `a[b][0][c]=v`; the v2 API takes JSON.
"""

import json
from typing import Any
from urllib.parse import unquote_plus

from services.stripe_sim.errors import invalid

BODY_BYTES_MAX = 1 << 20
PAIRS_MAX = 2000
DEPTH_MAX = 8
INDEX_MAX = 999


def parse(text: str) -> dict[str, Any]:
    """Parse a query string or form body.

    Values are strings; lists come from `a[]=v` and `a[0]=v`.

    Raises:
        ApiError: the text is malformed or beyond the limits; nothing is guessed.
    """
    root: dict[str, Any] = {}
    pairs = [piece for piece in text.split("&") if piece]
    if len(pairs) > PAIRS_MAX:
        raise invalid(f"Too many parameters: at most {PAIRS_MAX} are taken.")
    for pair in pairs:
        raw_name, _, raw_value = pair.partition("=")
        try:
            name = unquote_plus(raw_name, errors="strict")
            value = unquote_plus(raw_value, errors="strict")
        except UnicodeDecodeError:
            raise invalid("Invalid request: parameters must be valid UTF-8.") from None
        if "\x00" in name or "\x00" in value:
            raise invalid("Invalid request: parameters must not contain NUL.")
        _put(root, _segments(name), value, name)
    return {name: _lists(value) for name, value in root.items()}


def parse_json(body: bytes) -> dict[str, Any]:
    """Parse the JSON object of a v2 request; its scalars become the strings a form would hold.

    Raises:
        ApiError: it is no JSON object, or beyond the limits.
    """
    try:
        found = json.loads(body)
        if not isinstance(found, dict):
            raise invalid("Invalid request: the body must be a JSON object.")
        return {name: _as_text(value, 1) for name, value in found.items()}
    except (ValueError, RecursionError):
        raise invalid("Invalid request: the body must be JSON.") from None


def _as_text(value: Any, depth: int) -> Any:
    if depth > DEPTH_MAX:
        raise invalid(f"Too deep: at most {DEPTH_MAX} levels are taken.")
    if isinstance(value, dict):
        return {name: _as_text(inner, depth + 1) for name, inner in value.items()}
    if isinstance(value, list):
        return [_as_text(inner, depth + 1) for inner in value[: INDEX_MAX + 1]]
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    if "\x00" in text:
        raise invalid("Invalid request: parameters must not contain NUL.")
    return text


def _segments(name: str) -> list[str]:
    head, bracket, rest = name.partition("[")
    if not head:
        raise invalid(f"Invalid parameter name: {name}")
    if not bracket:
        return [head]
    if not rest.endswith("]"):
        raise invalid(f"Invalid parameter name: {name}")
    segments = [head, *rest[:-1].split("][")]
    if len(segments) > DEPTH_MAX:
        raise invalid(f"Parameters may nest {DEPTH_MAX} levels deep: {name[:80]}")
    return segments


def _put(root: dict[str, Any], segments: list[str], value: str, name: str) -> None:
    node = root
    for segment in segments[:-1]:
        inner = node.setdefault(_key(node, segment), {})
        if not isinstance(inner, dict):
            raise invalid(f"Invalid parameter: {name} is given both a value and fields.")
        node = inner
    last = _key(node, segments[-1])
    if isinstance(node.get(last), dict):
        raise invalid(f"Invalid parameter: {name} is given both a value and fields.")
    node[last] = value


def _key(node: dict[str, Any], segment: str) -> str:
    """Give an empty segment (`a[]`) the next free index."""
    return segment or str(len(node))


def _lists(value: Any) -> Any:
    """Turn dictionaries whose keys are all indexes into lists, in index order."""
    if not isinstance(value, dict):
        return value
    indexes = [key for key in value if key.isascii() and key.isdigit()]
    if value and len(indexes) == len(value):
        if any(len(index) > 3 or int(index) > INDEX_MAX for index in indexes):
            raise invalid(f"Invalid array: indexes go up to {INDEX_MAX}.")
        return [_lists(value[key]) for key in sorted(value, key=int)]
    return {key: _lists(inner) for key, inner in value.items()}
