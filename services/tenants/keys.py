"""API keys: made, shown once, revoked. Stored are the look-up prefix and an HMAC, nothing else."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.crypto import apikeys
from libs.db.pool import Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import snapshot, store_tenants
from services.tenants import store_keys as store

KEYS_MAX = 200
"""Keys of a tenant that are not revoked: they all travel in its record."""


class TooManyKeysError(Exception):
    """The tenant has `KEYS_MAX` keys that are not revoked."""


@dataclass(frozen=True)
class NewKey:
    """What is asked for: a name for people, the mode, and what the key may do."""

    name: str
    mode: Mode
    scopes: frozenset[str]
    expires_at: datetime | None
    created_by: str
    operator: bool = False


@dataclass(frozen=True)
class MadeKey:
    """A key that was just made; `secret` is the whole key and is never seen again."""

    row: Row
    secret: str = field(repr=False)


async def make(tx: Tx, new: NewKey, pepper: bytes, at: datetime) -> MadeKey:
    """Make a key for the tenant in scope, valid everywhere within two seconds.

    Raises:
        TooManyKeysError: revoke one first.
    """
    await store_tenants.lock_tenant(tx)
    if await store.count_keys(tx) >= KEYS_MAX:
        raise TooManyKeysError
    made = apikeys.generate(new.mode)
    row = await enter(tx, new, made.key, pepper, at)
    await snapshot.publish(tx, at)
    return MadeKey(row, made.key)


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
                "expires_at": new.expires_at.isoformat() if new.expires_at else None,
            },
        ),
        effective_at=at,
    )
    return row


async def revoke(tx: Tx, row: Row, actor: str, at: datetime) -> None:
    """Revoke a key, everywhere within two seconds; nothing where it was."""
    await store_tenants.lock_tenant(tx)
    if not await store.revoke_api_key(tx, row["key_id"], at):
        return
    emit(
        tx,
        ConfigurationChanged(
            action="api_key.revoked",
            actor=actor,
            object_id=public_id("api_key", row["key_id"]),
            before={"name": row["name"], "prefix": row["prefix"]},
        ),
        effective_at=at,
    )
    await snapshot.publish(tx, at)


async def find(tx: Tx, key_id: UUID) -> Row | None:
    """A key of the tenant in scope."""
    return await store.find_api_key(tx, key_id)


async def list_all(
    tx: Tx, modes: list[str], after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The keys of the tenant in scope, oldest first."""
    return await store.list_api_keys(tx, modes, after, limit)
