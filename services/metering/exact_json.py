"""JSON whose numbers stay exactly what was written: fractions are Decimal, never float."""

import json
from decimal import Decimal, InvalidOperation
from typing import Any

EXPONENT_MAX = 64
DIGITS_MAX = 64


class InvalidNumberError(ValueError):
    """NaN, an infinity, or more digits or a larger exponent than any quantity has."""


class _NoNumber:
    """Stands where the text has no number worth the name, until somebody looks at that place."""


_NO_NUMBER = _NoNumber()


def _read_number(text: str) -> Decimal | _NoNumber:
    try:
        return Decimal(text)
    except InvalidOperation:
        return _NO_NUMBER


def _read_constant(text: str) -> _NoNumber:
    del text
    return _NO_NUMBER


_DECODER = json.JSONDecoder(parse_float=_read_number, parse_constant=_read_constant)
_ENCODER = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=True
)


def loads(text: str) -> Any:
    """Read a document. NaN and the like are noticed by `dumps`, where one event can be blamed.

    Raises:
        ValueError: not JSON, or an integer of thousands of digits.
        RecursionError: nested too deeply.
    """
    return _DECODER.decode(text)


def dumps(value: Any) -> str:
    """Write a document that `loads` reads back as the same values; names are sorted.

    Raises:
        InvalidNumberError: a number that is none, or is out of all proportion.
        RecursionError: nested too deeply.
    """
    try:
        return _ENCODER.encode(value)
    except TypeError:
        return _write(value)


def _write(value: Any) -> str:
    """Like the encoder, which does not know Decimal."""
    if isinstance(value, Decimal):
        if abs(value.adjusted()) > EXPONENT_MAX or len(value.as_tuple().digits) > DIGITS_MAX:
            raise InvalidNumberError("a number has too many digits")
        return str(value)
    if isinstance(value, dict):
        members = (
            f"{_ENCODER.encode(name)}:{_write(item)}" for name, item in sorted(value.items())
        )
        return "{" + ",".join(members) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_write(item) for item in value) + "]"
    if isinstance(value, _NoNumber):
        raise InvalidNumberError("a number is not finite")
    return _ENCODER.encode(value)
