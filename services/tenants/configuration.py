"""A tenant's configuration: namespaces of JSON values, checked, versioned, told to every service."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.configuration import CUSTOM_NAMESPACE, NAMESPACES, FeesConfiguration
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from services.tenants import fees, plain_json, snapshot, store_tenants
from services.tenants import store_configuration as store

NAMESPACE_BYTES_MAX = 16 * 1024
TENANT_BYTES_MAX = 64 * 1024
"""All namespaces together: they travel in the tenant's record, which stays under 256 KiB."""
CUSTOM_MAX = 20


class UnknownNamespaceError(Exception):
    """There is no such namespace."""


class InvalidValuesError(Exception):
    """Values that the namespace does not take: where, and what they should be."""

    def __init__(self, problems: list[tuple[str, str]]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{place}: {detail}" for place, detail in problems))


class ConfigurationTooLargeError(Exception):
    """The tenant's configuration as a whole would be too large."""


class VersionNeededError(Exception):
    """The namespace is set; the change must say which version it changes."""


class ChangedMeanwhileError(Exception):
    """The namespace has another version than the one to be changed."""


@dataclass(frozen=True)
class Change:
    """New values of a namespace.

    Attributes:
        values: replace what the tenant had set, all of it.
        expected: the version they replace, 0 where nothing was set; None names none.
        any_version: they replace whatever there is.
    """

    namespace: str
    values: Mapping[str, Any]
    expected: int | None
    actor: str
    any_version: bool = False


def check_namespace(namespace: str) -> None:
    """Refuse a name that is no namespace.

    Raises:
        UnknownNamespaceError.
    """
    if namespace not in NAMESPACES and not CUSTOM_NAMESPACE.fullmatch(namespace):
        raise UnknownNamespaceError


def is_operator_only(namespace: str) -> bool:
    """Whether only the platform sets this namespace."""
    model = NAMESPACES.get(namespace)
    return model is not None and model.operator_only


def checked(namespace: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """The values as they are stored: those that were sent, in their normal form.

    Raises:
        InvalidValuesError.
    """
    try:
        plain_json.check(values, emails=namespace in NAMESPACES)
    except plain_json.UnfitValueError as error:
        raise InvalidValuesError([(error.place, error.detail)]) from None
    model = NAMESPACES.get(namespace)
    plain = dict(values)
    if model is not None:
        try:
            read = model.model_validate_json(json.dumps(values), strict=True)
        except ValidationError as error:
            raise InvalidValuesError(_problems(error)) from None
        plain = read.model_dump(mode="json", exclude_unset=True)
    if _size(plain) > NAMESPACE_BYTES_MAX:
        raise InvalidValuesError([("values", f"Must be at most {NAMESPACE_BYTES_MAX} bytes.")])
    return plain


async def change(tx: Tx, wanted: Change, at: datetime) -> Row:
    """Replace what the tenant in scope has set in a namespace; its current version.

    Values that are the same make no new version.

    Raises:
        UnknownNamespaceError, InvalidValuesError, VersionNeededError, ChangedMeanwhileError,
        ConfigurationTooLargeError: nothing was changed.
    """
    check_namespace(wanted.namespace)
    values = checked(wanted.namespace, wanted.values)
    await store_tenants.lock_tenant(tx)
    current = await store.find_current(tx, wanted.namespace)
    version = 0 if current is None else current["version"]
    if not wanted.any_version:
        if wanted.expected is None and version > 0:
            raise VersionNeededError
        if wanted.expected not in (None, version):
            raise ChangedMeanwhileError
    before: Mapping[str, Any] = {} if current is None else current["content"]
    if current is not None and before == values:
        return current
    await _check_total(tx, wanted.namespace, values)
    await store.insert_version(tx, wanted.namespace, version + 1, values, wanted.actor, at)
    if wanted.namespace == FeesConfiguration.namespace:
        await fees.copy(tx, at)
    emit(
        tx,
        ConfigurationChanged(
            action="configuration.changed",
            actor=wanted.actor,
            object_id=wanted.namespace,
            before={"version": version} | _shown(wanted.namespace, before, values),
            after={"version": version + 1} | _shown(wanted.namespace, values, before),
        ),
        effective_at=at,
    )
    await snapshot.publish(tx, at)
    changed = await store.find_current(tx, wanted.namespace)
    assert changed is not None, "it was just entered"
    return changed


async def find(tx: Tx, namespace: str) -> Row | None:
    """What the tenant in scope has set in a namespace; None: nothing yet.

    Raises:
        UnknownNamespaceError.
    """
    check_namespace(namespace)
    return await store.find_current(tx, namespace)


async def list_set(tx: Tx) -> list[Row]:
    """The current version of every namespace that the tenant in scope has ever set."""
    return await store.read_current(tx)


async def list_versions(tx: Tx, namespace: str, before: int | None, limit: int) -> list[Row]:
    """What the tenant in scope had set in a namespace, the newest version first.

    Raises:
        UnknownNamespaceError.
    """
    check_namespace(namespace)
    return await store.list_versions(tx, namespace, before, limit)


async def _check_total(tx: Tx, namespace: str, values: Mapping[str, Any]) -> None:
    kept = {row["namespace"]: row["content"] for row in await store.read_current(tx)}
    kept[namespace] = values
    custom = [name for name, content in kept.items() if name not in NAMESPACES and content]
    if len(custom) > CUSTOM_MAX or sum(map(_size, kept.values())) > TENANT_BYTES_MAX:
        raise ConfigurationTooLargeError


def _size(values: Mapping[str, Any]) -> int:
    return len(json.dumps(values, ensure_ascii=False).encode())


def _problems(error: ValidationError) -> list[tuple[str, str]]:
    return [
        (
            ".".join(["values", *(str(part) for part in found["loc"])])
            if found["type"] != "extra_forbidden"
            else "values",
            "There is no such setting in this namespace."
            if found["type"] == "extra_forbidden"
            else found["msg"].removeprefix("Value error, "),
        )
        for found in error.errors(include_input=False, include_url=False)
    ]


def _shown(
    namespace: str, values: Mapping[str, Any], other: Mapping[str, Any]
) -> dict[str, str | int | bool | None]:
    """What changed, for the audit log; of free JSON the names only, for nobody knows what it holds."""
    names = sorted(n for n in values.keys() | other.keys() if values.get(n) != other.get(n))
    if namespace not in NAMESPACES:
        return {"changed": " ".join(names)[:500]}
    return {name: _text(values.get(name)) for name in names}


def _text(value: Any) -> str | int | bool | None:
    if value is None or isinstance(value, str | int | bool):
        return value
    return json.dumps(value, ensure_ascii=False)[:500]
