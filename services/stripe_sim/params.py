"""What an endpoint takes: a small schema, and the reading of a request against it.

A schema is a dictionary of parameter name to type: `str`, `int`, `bool`, `Decimal`, a tuple of
strings (one of these), a dictionary (nested parameters), a list of one type (an array), `METADATA`,
`CREATED` (a time or a range of times), `ANY` (a hash or an array, taken as it is), or `Required(type)`.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from services.stripe_sim.errors import invalid, missing_parameter, unknown_parameter

TEXT_CHARACTERS_MAX = 5000
METADATA_KEYS_MAX = 50
METADATA_KEY_CHARACTERS_MAX = 40
METADATA_VALUE_CHARACTERS_MAX = 500
INTEGER_MAX = 99_999_999_999_999

METADATA = object()
CREATED = object()
ANY = object()

Schema = dict[str, Any]


@dataclass(frozen=True)
class Required:
    """Marks a parameter that must be sent."""

    inner: Any


LIST_PARAMS: Schema = {"limit": int, "starting_after": str, "ending_before": str}
"""The paging parameters of every list."""

AUTOMATIC_TAX: Schema = {"enabled": ("false",), "liability": ANY}
"""Stripe Tax is not simulated: asking for it is refused rather than answered without tax."""

ADDRESS: Schema = {
    "city": str,
    "country": str,
    "line1": str,
    "line2": str,
    "postal_code": str,
    "state": str,
}


def read(raw: dict[str, Any], schema: Schema) -> dict[str, Any]:
    """Return the typed parameters; an empty string becomes None, which unsets a field.

    Raises:
        ApiError: in Stripe's words, naming the parameter.
    """
    return _fields(raw, {**schema, "expand": [str]}, "")


def _fields(raw: dict[str, Any], schema: Schema, prefix: str) -> dict[str, Any]:
    unknown = [name for name in raw if name not in schema]
    if unknown:
        raise unknown_parameter(_path(prefix, unknown[0]))
    values = {}
    for name, kind in schema.items():
        path = _path(prefix, name)
        required = isinstance(kind, Required)
        if name not in raw:
            if required:
                raise missing_parameter(path)
            continue
        if required and raw[name] == "":
            raise invalid(
                f"You passed an empty string for '{path}'. We assume empty values are an attempt "
                f"to unset a parameter; however '{path}' cannot be unset. You should remove "
                f"'{path}' from your request or supply a non-empty value.",
                path,
                "parameter_invalid_empty",
            )
        values[name] = _value(raw[name], kind.inner if required else kind, path)
    return values


def _path(prefix: str, name: str) -> str:
    return f"{prefix}[{name}]" if prefix else name


def _value(raw: Any, kind: Any, path: str) -> Any:
    if kind is METADATA:
        return _metadata(raw, path)
    if kind is CREATED:
        return _created(raw, path)
    if raw == "":
        return [] if isinstance(kind, list) else None
    if kind is ANY:
        if isinstance(raw, str):
            raise invalid("Invalid object", path)
        return raw
    if isinstance(kind, dict | list):
        return _nested(raw, kind, path)
    if not isinstance(raw, str):
        raise invalid(f"Invalid {'string' if kind is str else 'value'}: {path}", path)
    return _scalar(raw, kind, path)


def _nested(raw: Any, kind: Any, path: str) -> Any:
    if isinstance(kind, dict):
        if not isinstance(raw, dict):
            raise invalid("Invalid object", path)
        return _fields(raw, kind, path)
    if not isinstance(raw, list):
        raise invalid("Invalid array", path)
    if "" in raw:
        raise invalid("Invalid array: an entry is empty", path, "parameter_invalid_empty")
    return [_value(item, kind[0], f"{path}[{place}]") for place, item in enumerate(raw)]


def _scalar(raw: str, kind: Any, path: str) -> Any:
    if kind is str:
        if len(raw) > TEXT_CHARACTERS_MAX:
            raise invalid(
                f"Invalid string: {path} must be at most {TEXT_CHARACTERS_MAX} characters",
                path,
                "parameter_invalid_string",
            )
        return raw
    if kind is int:
        return _integer(raw, path)
    if kind is bool:
        if raw not in ("true", "false"):
            raise invalid(f"Invalid boolean: {raw[:80]}", path)
        return raw == "true"
    if kind is Decimal:
        return _decimal(raw, path)
    if raw not in kind:
        options = ", ".join(kind[:-1]) + (f", or {kind[-1]}" if len(kind) > 1 else kind[0])
        raise invalid(f"Invalid {path}: must be one of {options}", path)
    return raw


def _integer(raw: str, path: str) -> int:
    digits = raw.removeprefix("-")
    if digits.isascii() and digits.isdigit() and len(digits) < 20 and int(digits) <= INTEGER_MAX:
        return int(raw)
    raise invalid(f"Invalid integer: {raw[:80]}", path, "parameter_invalid_integer")


def _decimal(raw: str, path: str) -> Decimal:
    try:
        number = Decimal(raw)
    except InvalidOperation:
        number = Decimal("NaN")
    if len(raw) > 40 or not number.is_finite() or abs(number) > INTEGER_MAX:
        raise invalid(f"Invalid decimal: {raw[:80]}", path)
    return number


def _metadata(raw: Any, path: str) -> dict[str, str] | None:
    """Return the pairs to merge (an empty value deletes its key), or None: delete all."""
    if raw == "":
        return None
    if isinstance(raw, list):
        raw = {str(place): item for place, item in enumerate(raw)}
    if not isinstance(raw, dict) or not all(isinstance(value, str) for value in raw.values()):
        raise invalid("Metadata must be a hash of strings", path)
    for name, value in raw.items():
        if len(name) > METADATA_KEY_CHARACTERS_MAX:
            raise invalid(
                f"Metadata keys can be at most {METADATA_KEY_CHARACTERS_MAX} characters", path
            )
        if len(value) > METADATA_VALUE_CHARACTERS_MAX:
            raise invalid(
                f"Metadata values can be at most {METADATA_VALUE_CHARACTERS_MAX} characters",
                f"{path}[{name}]",
            )
    if len(raw) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have at most {METADATA_KEYS_MAX} keys", path)
    return raw


def merge_metadata(current: dict[str, str], change: dict[str, str] | None) -> dict[str, str]:
    """Apply a metadata parameter: None clears, an empty value deletes its key.

    Raises:
        ApiError: the result has more keys than Stripe allows.
    """
    if change is None:
        return {}
    merged = {name: value for name, value in {**current, **change}.items() if value != ""}
    if len(merged) > METADATA_KEYS_MAX:
        raise invalid(f"Metadata can have at most {METADATA_KEYS_MAX} keys", "metadata")
    return merged


def _created(raw: Any, path: str) -> dict[str, int]:
    if isinstance(raw, str):
        return {"equal": _integer(raw, path)}
    if not isinstance(raw, dict):
        raise invalid("Invalid object", path)
    return {
        name: value
        for name, value in _fields(
            raw, {"gt": int, "gte": int, "lt": int, "lte": int}, path
        ).items()
        if value is not None
    }
