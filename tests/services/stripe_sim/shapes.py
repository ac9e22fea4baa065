"""The SDK's own type annotations as the schema of what the sandbox answers."""

import inspect
import types
import typing
from decimal import Decimal
from typing import Any, ClassVar, ForwardRef, Literal, Union, get_args, get_origin

import stripe
from stripe._object_classes import get_object_class
from stripe._stripe_object import StripeObject, UntypedStripeObject


def complaints(value: dict[str, Any], where: str = "") -> list[str]:
    """Return what the SDK's class for an object does not declare, or declares and misses."""
    cls = get_object_class("V2" if value["object"].startswith("v2.") else "V1", value["object"])
    if cls is StripeObject:
        return [f"{where}: the SDK knows no object {value['object']!r}"]
    return _of_object(value, cls, where or cls.__name__)


def _annotations(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for each in reversed(cls.__mro__):
        if issubclass(each, StripeObject) and each is not StripeObject:
            found |= inspect.get_annotations(each)
    return {name: kind for name, kind in found.items() if get_origin(kind) is not ClassVar}


def _of_object(value: dict[str, Any], cls: type, where: str) -> list[str]:
    if issubclass(cls, UntypedStripeObject):
        return []
    if value.get("deleted"):
        return []
    declared = _annotations(cls)
    found = [f"{where}.{name}: not declared" for name in value if name not in declared]
    for name, kind in declared.items():
        path = f"{where}.{name}"
        if name in value:
            found += _of_value(value[name], kind, path)
        elif not _optional(kind):
            found.append(f"{path}: missing")
    return found


def _optional(kind: Any) -> bool:
    return type(None) in get_args(kind)


def _of_value(value: Any, kind: Any, where: str) -> list[str]:
    if kind is Any:
        return []
    choices = list(get_args(kind)) if get_origin(kind) in (Union, types.UnionType) else [kind]
    if value is None:
        return [] if type(None) in choices else [f"{where}: null, but declared {kind}"]
    attempts = [_as(value, choice, where) for choice in choices if choice is not type(None)]
    fits = [found for found in attempts if not found]
    return fits[0] if fits else max(attempts, key=len, default=[f"{where}: nothing fits"])


def _as(value: Any, kind: Any, where: str) -> list[str]:
    origin = get_origin(kind)
    if origin is None:
        return _as_plain(value, kind, where)
    if origin is Literal:
        return [] if value in get_args(kind) else [f"{where}: {value!r} is none of {kind}"]
    if origin is typing.Union:
        return _of_value(value, kind, where)
    if origin is list:
        return _as_list(value, get_args(kind)[0], where)
    if issubclass(origin, stripe.ListObject):
        return _as_list_object(value, get_args(kind)[0], where)
    return [] if isinstance(value, dict) else [f"{where}: no hash"]


def _as_list(value: Any, inner: Any, where: str) -> list[str]:
    if not isinstance(value, list):
        return [f"{where}: no list"]
    return [c for n, each in enumerate(value) for c in _of_value(each, inner, f"{where}[{n}]")]


def _as_list_object(value: Any, inner: Any, where: str) -> list[str]:
    if not isinstance(value, dict) or {"object", "data", "has_more", "url"} - set(value):
        return [f"{where}: no list object"]
    return [
        complaint
        for n, each in enumerate(value["data"])
        for complaint in _of_value(each, inner, f"{where}.data[{n}]")
    ]


def _as_plain(value: Any, kind: Any, where: str) -> list[str]:
    if isinstance(kind, ForwardRef | str):
        if not isinstance(value, dict):
            return [f"{where}: no object"]
        return complaints(value, where) if "object" in value else [f"{where}: untyped object"]
    if isinstance(kind, type) and issubclass(kind, StripeObject):
        if not isinstance(value, dict):
            return [f"{where}: no hash"]
        return _of_object(value, kind, where)
    expected = {Decimal: (str,), float: (int, float)}.get(kind, (kind,))
    return [] if type(value) in expected else [f"{where}: {value!r} is not {kind}"]
