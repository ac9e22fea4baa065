"""Secrets and personal data taken out of whatever is about to leave the process as a log or trace.

Two nets: by the name of a field (`api_key`, `password`, …), and by the look of a text (Stripe and
Sluice keys, bearer tokens, passwords in addresses, card numbers, e-mail addresses). A miss is a
leak and a false hit only an uglier line, so both lean towards taking out.
"""

import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

REDACTED = "[redacted]"
DEPTH_MAX = 8
ITEMS_MAX = 100
TEXT_LENGTH_MAX = 8_000

_WORD = re.compile(r"[A-Z]?[a-z0-9]+|[A-Z]+")
_SECRET_WORDS = frozenset(
    {
        "assertion",
        "authorization",
        "cookie",
        "credential",
        "credentials",
        "cvc",
        "cvv",
        "dsn",
        "passphrase",
        "passwd",
        "password",
        "pepper",
        "secret",
        "secrets",
        "token",
        "tokens",
    }
)
_SECRET_PAIRS = frozenset(
    {
        ("api", "key"),
        ("apikey",),
        ("account", "number"),
        ("card", "number"),
        ("data", "key"),
        ("master", "key"),
        ("master", "keys"),
        ("operator", "key"),
        ("private", "key"),
        ("signing", "key"),
        ("stripe", "signature"),
    }
)
# What is said *about* a secret is not secret: `secret_version`, `api_key_prefix`.
_HARMLESS_ENDINGS = frozenset(
    {
        "at",
        "bytes",
        "count",
        "days",
        "fingerprint",
        "hash",
        "id",
        "ids",
        "kind",
        "last4",
        "minutes",
        "name",
        "prefix",
        "seconds",
        "status",
        "type",
        "used",
        "version",
    }
)

_UUID = r"(?<![0-9A-Za-z])[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?![0-9A-Za-z])"
_SECRETS = re.compile(
    rf"""
      (?P<keep>{_UUID})
    | (?P<stripe>\b(?:sk|rk)_(?:live|test)_|\bwhsec_)[A-Za-z0-9+/=_]+
    | (?P<sluice>\bslk_(?:live|test)_[A-Za-z0-9]{{0,12}})[A-Za-z0-9_]*
    | (?P<assertion>\bsla1\.)[A-Za-z0-9_.=-]+
    | (?P<jwt>\beyJ)[A-Za-z0-9_=-]+\.[A-Za-z0-9_=-]+\.?[A-Za-z0-9_=-]*
    | (?P<scheme>\b(?:[Bb]earer|[Bb]asic)\s+)[^\s,;"']+
    | (?P<user>://[^\s/:@]*:)[^\s/]+(?=@)
    | (?P<pair>\b(?:password|passwd|secret|token|api_key|pepper|client_secret)["']?\s*[=:]\s*["']?)
      [^\s,;&"']+
    | (?P<card>(?<![0-9A-Za-z])[0-9](?:[ -]?[0-9]){{12,18}}(?![0-9A-Za-z]))
    | (?P<email>[A-Za-z0-9._%+-]{{1,64}}@[A-Za-z0-9-]{{1,63}}(?:\.[A-Za-z0-9-]{{1,63}})+)
    """,
    re.VERBOSE,
)
_KEPT_LEADS = ("stripe", "sluice", "assertion", "jwt", "scheme", "user", "pair")


def is_luhn(digits: str) -> bool:
    """Whether the digits carry the check digit of a payment card (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = int(digit) * (2 if place % 2 else 1)
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def redact_text(text: str) -> str:
    """The text without what looks like a secret, a card number or an e-mail address."""
    return _SECRETS.sub(_replacement, text[:TEXT_LENGTH_MAX])


def _replacement(match: re.Match[str]) -> str:
    kind = match.lastgroup or ""
    found = match[0]
    if kind in _KEPT_LEADS:
        return f"{match[kind]}{REDACTED}"
    if kind == "card":
        digits = re.sub(r"[ -]", "", found)
        return "[card]" if is_luhn(digits) else found
    return "[email]" if kind == "email" else found


def is_secret_name(name: str) -> bool:
    """Whether a field of this name holds a secret: `stripe_secret_key`, `X-API-Key`, `apiKey`."""
    words = [word.lower() for word in _WORD.findall(name)]
    if not words or words[-1] in _HARMLESS_ENDINGS:
        return False
    pairs = pairwise(words)
    return any(word in _SECRET_WORDS or (word,) in _SECRET_PAIRS for word in words) or any(
        pair in _SECRET_PAIRS for pair in pairs
    )


def redact(value: Any, *, depth: int = 0) -> Any:
    """The value as plain JSON data with every secret taken out, cut to a bounded size."""
    if value is None or isinstance(value, bool | float):
        return value
    if isinstance(value, int):
        text = str(value) if abs(value) < 10**30 else ""
        return value if text and redact_text(text) == text else "[card]"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"[{len(value)} bytes]"
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        return _redact_container(value, depth)
    return redact_text(value if isinstance(value, str) else _text_of(value))


def _redact_container(value: Any, depth: int) -> Any:
    if depth >= DEPTH_MAX:
        return "[too deep]"
    if isinstance(value, Mapping):
        return redact_fields(value, depth=depth)
    items = list(value)
    shown = [redact(item, depth=depth + 1) for item in items[:ITEMS_MAX]]
    return [*shown, f"[{len(items) - ITEMS_MAX} more]"] if len(items) > ITEMS_MAX else shown


def redact_fields(fields: Mapping[Any, Any], *, depth: int = 0) -> dict[str, Any]:
    """`redact` for the fields of a log event: by name as well as by look."""
    shown: dict[str, Any] = {}
    for name, value in list(fields.items())[:ITEMS_MAX]:
        text = redact_text(str(name))
        # That a secret is absent, or whether there is one, may be known.
        holds_secret = (
            value is not None and not isinstance(value, bool) and is_secret_name(str(name))
        )
        shown[text] = REDACTED if holds_secret else redact(value, depth=depth + 1)
    return shown


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception:  # noqa: BLE001 - a broken __str__ must not break the log
        return f"[{type(value).__name__}]"
