"""What an API key may carry: never more than its maker could give now.

The one rule of it, looked at three times, always in the tables and under the lock of the tenant:
when a key is made, when it is rotated (`require`), and when its maker is removed, loses a role or a
permission, or is erased (`revoke_beyond`).

A person may give the permissions it has. A key may give its own scopes, in its own mode, while it is
valid and may manage members. An operator may give all. Whoever rotates a key is the maker of the key
that takes its place: that is how an owner takes over a key that must outlive its maker. What a key
has made counts as made by whoever made that key: it ends when that key does at the latest
(`end_within`), and is revoked with it (`revoke_made_by`).
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.envelope import Mode
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.tenants import authority, store_keys

MANAGE = "members:manage"
"""Without it nobody makes or rotates a key."""
REASON = "Its maker may not do this any more."
REASON_MAKER_REVOKED = "The key that made it was revoked."


async def require(
    tx: Tx, actor: str, scopes: Iterable[str], mode: Mode, now: datetime, *, operator: bool = False
) -> None:
    """Let the actor give these scopes to a key of this mode.

    Raises:
        authority.BeyondAuthorityError: it may not, or not any more.
    """
    given = await authority.find_giver(tx, actor, mode, now)
    wanted = [MANAGE, *scopes]
    if given is None or (operator and given is not authority.OWNERS):
        raise authority.BeyondAuthorityError
    if not all(given.has(scope) for scope in wanted):
        raise authority.BeyondAuthorityError


async def end_within(tx: Tx, actor: str, wanted: datetime | None, now: datetime) -> datetime | None:
    """The end of a key that the actor makes: as wanted, but never after the actor's own end."""
    own = await authority.find_end(tx, actor, now)
    return min((each for each in (wanted, own) if each is not None), default=None)


async def revoke_made_by(tx: Tx, key_id: UUID, actor: str, now: datetime) -> bool:
    """Revoke the keys in the tenant in scope that a key made, or they did, and so on; whether any was.

    The caller has locked the tenant, and publishes the tenant's record.
    """
    made = await store_keys.keys_made_by(tx, public_id("api_key", key_id), now)
    for key in made:
        await _revoke(tx, key, REASON_MAKER_REVOKED, actor, now)
    return bool(made)


async def revoke_beyond(tx: Tx, maker: UUID, actor: str, now: datetime) -> None:
    """Revoke what a person's keys in the tenant in scope carry beyond what the person has left.

    The caller has locked the tenant, has made the change, and publishes the tenant's record.

    Args:
        maker: the person who lost something.
        actor: who took it.
    """
    left = await authority.find_giving_user(tx, maker)
    for key in await store_keys.keys_made_by(tx, public_id("user", maker), now):
        if not _is_within(key, left):
            await _revoke(tx, key, REASON, actor, now)


def _is_within(key: Row, left: authority.Authority | None) -> bool:
    if left is None or (key["operator"] and left is not authority.OWNERS):
        return False
    return all(left.has(scope) for scope in key["scopes"])


async def _revoke(tx: Tx, key: Row, reason: str, actor: str, now: datetime) -> None:
    if not await store_keys.revoke_api_key(tx, key["key_id"], reason, now):
        return
    emit(
        tx,
        ConfigurationChanged(
            action="api_key.revoked",
            actor=actor,
            object_id=public_id("api_key", key["key_id"]),
            before={"name": key["name"], "prefix": key["prefix"], "created_by": key["created_by"]},
            after={"reason": reason},
        ),
        effective_at=now,
    )
