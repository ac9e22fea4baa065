"""JSON whose numbers stay exactly what was written: fractions are Decimal, never float.

A fast reader in C takes what is ordinary; whatever it refuses is judged by the standard library's, which
knows more forms (half characters, `NaN`) and says what is none at all. Where both read a text they
read the same.
"""

import json
from decimal import Decimal, InvalidOperation
from typing import Any, Never

import msgspec

EXPONENT_MAX = 64
DIGITS_MAX = 64
PLAIN_NUMBER_LENGTH_MAX = 24
"""A number so short and without an exponent is within both limits."""


class InvalidNumberError(ValueError):
    """NaN, an infinity, or more digits or a larger exponent than any quantity has."""


class _NoNumber:
    """Stands where the text has no number worth the name, until somebody looks at that place."""


class _OutOfProportion(Decimal):
    """A number that no quantity has; it can be read and compared, not written."""


_NO_NUMBER = _NoNumber()


def read_number(text: str) -> Decimal | _NoNumber:
    """The number that stands there, exactly."""
    try:
        number = Decimal(text)
    except InvalidOperation:
        return _NO_NUMBER
    if len(text) <= PLAIN_NUMBER_LENGTH_MAX and "e" not in text and "E" not in text:
        return number
    if abs(number.adjusted()) > EXPONENT_MAX or len(number.as_tuple().digits) > DIGITS_MAX:
        return _OutOfProportion(number)
    return number


def _read_constant(text: str) -> _NoNumber:
    del text
    return _NO_NUMBER


def _refuse(value: object) -> Never:
    if isinstance(value, _NoNumber):
        raise InvalidNumberError("a number is not finite")
    if isinstance(value, Decimal):
        raise InvalidNumberError("a number has too many digits")
    raise TypeError(f"{type(value).__name__} has no place in JSON")


_ORDINARY = msgspec.json.Decoder(float_hook=read_number)
_ANY = json.JSONDecoder(parse_float=read_number, parse_constant=_read_constant)
_ENCODER = msgspec.json.Encoder(enc_hook=_refuse, decimal_format="number", order="deterministic")


def loads(text: str) -> Any:
    """Read a document. NaN and the like are noticed by `dumps`, where one event can be blamed.

    Raises:
        ValueError: not JSON, or an integer of thousands of digits.
        RecursionError: nested too deeply.
    """
    try:
        return _ORDINARY.decode(text)
    except msgspec.DecodeError:
        return _ANY.decode(text)


def dumps(value: Any) -> bytes:
    """Write what `loads` has read, so that it reads back as the same values; names are sorted.

    Raises:
        InvalidNumberError: a number that is none, or is out of all proportion.
        UnicodeEncodeError: a text holds half a character.
        RecursionError: nested too deeply.
    """
    return _ENCODER.encode(value)
