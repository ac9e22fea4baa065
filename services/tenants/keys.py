"""API keys: made, shown once, rotated, revoked. Stored are the look-up prefix and an HMAC."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.crypto import apikeys
from libs.db.pool import Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import key_rights, snapshot, store_tenants
from services.tenants import store_keys as store

KEYS_MAX = 200
"""Valid keys of a tenant: they all travel in its record."""


class TooManyKeysError(Exception):
    """The tenant has `KEYS_MAX` valid keys."""


class NotLiveError(Exception):
    """The tenant has not gone live, so it has no live keys."""


class KeyReplacedError(Exception):
    """The key was rotated before; its successor is the one to rotate."""


class KeyEndedError(Exception):
    """The key was revoked or has expired."""


@dataclass(frozen=True)
class NewKey:
    """What is asked for: a name for people, the mode, and what the key may do."""

    name: str
    mode: Mode
    scopes: frozenset[str]
    expires_at: datetime | None
    created_by: str
    operator: bool = False
    replaces: UUID | None = None


@dataclass(frozen=True)
class MadeKey:
    """A key that was just made; `secret` is the whole key and is never seen again."""

    row: Row
    secret: str = field(repr=False)


async def make(tx: Tx, new: NewKey, pepper: bytes, at: datetime) -> MadeKey:
    """Make a key for the tenant in scope, valid everywhere within two seconds.

    A key that a key makes ends with its maker at the latest.

    Raises:
        TooManyKeysError: revoke one first.
        NotLiveError: a live key of a tenant that has not gone live.
        authority.BeyondAuthorityError: its maker may not give it, or not any more.
    """
    await store_tenants.lock_tenant(tx)
    await key_rights.require(tx, new.created_by, new.scopes, new.mode, at)
    ends_at = await key_rights.end_within(tx, new.created_by, new.expires_at, at)
    return await _make(tx, replace(new, expires_at=ends_at), pepper, at)


async def _make(tx: Tx, new: NewKey, pepper: bytes, at: datetime) -> MadeKey:
    tenant = await store_tenants.read_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    if new.mode == "live" and tenant["live_since"] is None:
        raise NotLiveError
    if await store.count_keys(tx, at) >= KEYS_MAX:
        raise TooManyKeysError
    made = apikeys.generate(new.mode)
    row = await enter(tx, new, made.key, pepper, at)
    await snapshot.publish(tx, at)
    return MadeKey(row, made.key)


async def rotate(
    tx: Tx, key_id: UUID, overlap: timedelta, actor: str, pepper: bytes, at: datetime
) -> MadeKey:
    """Make the successor of a key; for the time of the overlap both are valid.

    It may do the same, and lasts as long as the old one did from its making to its end; where a key
    rotates, not longer than that key.

    Raises:
        KeyReplacedError, KeyEndedError, NotLiveError, TooManyKeysError,
        authority.BeyondAuthorityError: nothing was done.
    """
    await store_tenants.lock_tenant(tx)
    old = await store.find_api_key(tx, key_id)
    assert old is not None, "the caller has seen it"
    if old["replaced_by"] is not None:
        raise KeyReplacedError
    if old["revoked_at"] is not None or (old["expires_at"] and old["expires_at"] <= at):
        raise KeyEndedError
    scopes: list[str] = old["scopes"]
    await key_rights.require(tx, actor, scopes, old["mode"], at, operator=old["operator"])
    life = old["expires_at"] - old["created_at"] if old["expires_at"] else None
    new = NewKey(
        name=old["name"],
        mode=old["mode"],
        scopes=frozenset(scopes),
        expires_at=await key_rights.end_within(tx, actor, at + life if life else None, at),
        created_by=actor,
        operator=old["operator"],
        replaces=key_id,
    )
    ends_at = await store.end_api_key(tx, key_id, at + overlap)
    made = await _make(tx, new, pepper, at)
    emit(
        tx,
        ConfigurationChanged(
            action="api_key.rotated",
            actor=actor,
            object_id=public_id("api_key", key_id),
            before={"prefix": old["prefix"], "expires_at": _text(old["expires_at"])},
            after={
                "replaced_by": public_id("api_key", made.row["key_id"]),
                "expires_at": _text(ends_at),
            },
        ),
        effective_at=at,
    )
    return made


async def enter(tx: Tx, new: NewKey, key: str, pepper: bytes, at: datetime) -> Row:
    """Enter a key whose text is known; whoever enters it publishes the tenant's record."""
    parsed = apikeys.parse(key)
    assert parsed is not None, "the key is well formed"
    row = await store.insert_api_key(
        tx,
        key_id=new_id(),
        mode=new.mode,
        prefix=parsed.prefix,
        key_hash=apikeys.hash_key(key, pepper),
        name=new.name,
        scopes=sorted(new.scopes),
        operator=new.operator,
        expires_at=new.expires_at,
        created_by=new.created_by,
        at=at,
        replaces=new.replaces,
    )
    emit(
        tx,
        ConfigurationChanged(
            action="api_key.created",
            actor=new.created_by,
            object_id=public_id("api_key", row["key_id"]),
            after={
                "name": new.name,
                "mode": new.mode,
                "scopes": " ".join(sorted(new.scopes)),
                "prefix": parsed.prefix,
                "expires_at": _text(new.expires_at),
            },
        ),
        effective_at=at,
    )
    return row


async def revoke(tx: Tx, row: Row, reason: str | None, actor: str, at: datetime) -> None:
    """Revoke a key and what it made, everywhere within two seconds; nothing where that was done."""
    await store_tenants.lock_tenant(tx)
    revoked = await store.revoke_api_key(tx, row["key_id"], reason, at)
    if revoked:
        _tell_revoked(tx, row, reason, actor, at)
    if await key_rights.revoke_made_by(tx, row["key_id"], actor, at) or revoked:
        await snapshot.publish(tx, at)


def _tell_revoked(tx: Tx, row: Row, reason: str | None, actor: str, at: datetime) -> None:
    emit(
        tx,
        ConfigurationChanged(
            action="api_key.revoked",
            actor=actor,
            object_id=public_id("api_key", row["key_id"]),
            before={"name": row["name"], "prefix": row["prefix"]},
            after={"reason": reason},
        ),
        effective_at=at,
    )


async def find(tx: Tx, key_id: UUID) -> Row | None:
    """A key of the tenant in scope."""
    return await store.find_api_key(tx, key_id)


async def list_all(
    tx: Tx, modes: list[str], after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The keys of the tenant in scope, oldest first."""
    return await store.list_api_keys(tx, modes, after, limit)


def _text(at: datetime | None) -> str | None:
    return at.isoformat() if at else None
