"""What of JSON may be stored and told for ever: bounded, exact, no secrets, no personal data."""

import math
from collections.abc import Mapping
from typing import Any

from libs.observability.redaction import REDACTED, is_secret_name, redact_text

DEPTH_MAX = 8
ITEMS_MAX = 500
NAME_LENGTH_MAX = 100
TEXT_LENGTH_MAX = 2_000
INTEGER_MAX = 2**53 - 1
"""Beyond it programs that read JSON numbers as doubles see another number (RFC 8259, section 6)."""


class UnfitValueError(Exception):
    """A value that may not be stored: where it is, and what it should be."""

    def __init__(self, place: str, detail: str) -> None:
        self.place = place
        self.detail = detail
        super().__init__(f"{place}: {detail}")


def check(value: Any, place: str = "values", *, emails: bool, depth: int = 0) -> None:
    """Check a value and all it holds; e-mail addresses are taken only where `emails` says so.

    Raises:
        UnfitValueError: the first that is unfit.
    """
    if depth > DEPTH_MAX:
        raise UnfitValueError(place, f"Must be at most {DEPTH_MAX} levels deep.")
    if isinstance(value, Mapping):
        _check_size(len(value), place)
        for number, (name, inner) in enumerate(value.items()):
            _check_name(name, inner, f"{place}.{number}")
            check(inner, f"{place}.{name}", emails=emails, depth=depth + 1)
    elif isinstance(value, list | tuple):
        _check_size(len(value), place)
        for number, inner in enumerate(value):
            check(inner, f"{place}.{number}", emails=emails, depth=depth + 1)
    elif isinstance(value, str):
        _check_text(value, place, TEXT_LENGTH_MAX, emails=emails)
    elif isinstance(value, float) and not math.isfinite(value):
        raise UnfitValueError(place, "Must be a finite number.")
    elif isinstance(value, int) and abs(value) > INTEGER_MAX:
        raise UnfitValueError(place, f"Must be at most {INTEGER_MAX}; send it as text.")


def _check_size(items: int, place: str) -> None:
    if items > ITEMS_MAX:
        raise UnfitValueError(place, f"Must have at most {ITEMS_MAX} items.")


def _check_name(name: str, value: Any, place: str) -> None:
    """`place` counts, for a name that is unfit is not repeated in an answer."""
    if not name:
        raise UnfitValueError(place, "Must have a name.")
    _check_text(name, place, NAME_LENGTH_MAX, emails=False)
    if isinstance(value, str) and value and is_secret_name(name):
        raise UnfitValueError(place, "Has the name of a secret, and configuration is no secret.")


def _check_text(text: str, place: str, length_max: int, *, emails: bool) -> None:
    if len(text) > length_max:
        raise UnfitValueError(place, f"Must have at most {length_max} characters.")
    if any(char == "\x00" or "\ud800" <= char <= "\udfff" for char in text):
        raise UnfitValueError(place, "Must be text without NUL and without halves of characters.")
    redacted = redact_text(text)
    if REDACTED in redacted or "[card]" in redacted:
        raise UnfitValueError(place, "Looks like a secret, and configuration is told to everybody.")
    if "[email]" in redacted and not emails:
        raise UnfitValueError(
            place, "Holds an e-mail address, and personal data has no place here."
        )
