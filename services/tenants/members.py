"""Members of a tenant: changed and removed by those who have at least what they take or give.

A tenant never loses its last owner: said here in words, and held by the database (requirement T2).
"""

from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Row, Tx
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.tenants import authority, key_rights, snapshot, store_invitations, store_tenants
from services.tenants import store_members as store
from services.tenants import store_people as people_store
from services.tenants.roles import RANK, Role, permissions_of

MEMBERS_MAX = 1_000


class UnknownMemberError(Exception):
    """The user is not a member of the tenant."""


class LastOwnerError(Exception):
    """The tenant would be left without an owner."""


class SelfPromotionError(Exception):
    """Somebody would give themselves more than they have."""


class TooManyMembersError(Exception):
    """The tenant has `MEMBERS_MAX` members."""


async def change(
    tx: Tx,
    user_id: UUID,
    *,
    role: Role | None,
    permissions: frozenset[str] | None,
    actor: str,
    at: datetime,
) -> Row:
    """Give a member another role, other further permissions, or both; the member as it is then.

    Raises:
        UnknownMemberError, authority.BeyondAuthorityError, SelfPromotionError, LastOwnerError:
            nothing was changed.
    """
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    member = await _find(tx, user_id)
    had = _place(member)
    new_role: Role = had[0] if role is None else role
    # What the role brings by itself is not kept beside it.
    extra = (had[1] if permissions is None else permissions) - permissions_of(new_role)
    gets = (new_role, extra)
    await authority.require(tx, actor, at, had, gets)
    if gets == had:
        return member
    if actor == public_id("user", user_id) and not _is_less(had, gets):
        raise SelfPromotionError
    if had[0] == "owner" and gets[0] != "owner":
        await _refuse_last_owner(tx)
    await store.set_place(tx, user_id, new_role, sorted(extra))
    _tell(tx, "member.changed", user_id, actor, at, before=had, after=gets)
    if _has_lost(had, gets):
        await key_rights.revoke_beyond(tx, user_id, actor, at)
        await _revoke(tx, user_id, tenant["version"] + 1, at)
    elif gets[0] == "owner":
        await snapshot.publish(tx, at)
    return await _find(tx, user_id)


async def remove(tx: Tx, user_id: UUID, *, actor: str, at: datetime) -> None:
    """Remove a member; assertions made before are refused everywhere within two seconds.

    What it invited is void, and what was sent to it: no link leads back in. Keys it made end too.

    Raises:
        UnknownMemberError, authority.BeyondAuthorityError, LastOwnerError: nothing was changed.
    """
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    member = await _find(tx, user_id)
    had = _place(member)
    await authority.require(tx, actor, at, had)
    if had[0] == "owner":
        await _refuse_last_owner(tx)
    await store.delete_member(tx, user_id)
    await store_invitations.revoke_of_maker(tx, public_id("user", user_id), at)
    await store_invitations.revoke_earlier(tx, member["email"], at)
    _tell(tx, "member.removed", user_id, actor, at, before=had, after=None)
    await key_rights.revoke_beyond(tx, user_id, actor, at)
    await _revoke(tx, user_id, tenant["version"] + 1, at)


async def add(tx: Tx, user_id: UUID, role: Role, permissions: frozenset[str], at: datetime) -> bool:
    """Make a user a member of the tenant in scope; False when it is one, and stays as it is.

    Raises:
        TooManyMembersError: the tenant is full.
    """
    if await store.count_members(tx) >= MEMBERS_MAX:
        raise TooManyMembersError
    extra = sorted(permissions - permissions_of(role))
    added = await people_store.insert_member(tx, user_id, role, at, extra)
    if added and role == "owner":
        # The tenant's record names the first.
        await snapshot.publish(tx, at)
    return added


def tell_added(
    tx: Tx, user_id: UUID, place: tuple[Role, frozenset[str]], actor: str, at: datetime
) -> None:
    """Record that somebody was entered without an invitation of its own."""
    _tell(tx, "member.added", user_id, actor, at, before=None, after=place)


async def find(tx: Tx, user_id: UUID) -> Row | None:
    """A member of the tenant in scope."""
    return await store.find_member(tx, user_id)


async def list_all(tx: Tx, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """The members of the tenant in scope, the oldest first."""
    return await store.list_members(tx, after, limit)


async def _find(tx: Tx, user_id: UUID) -> Row:
    member = await store.find_member(tx, user_id)
    if member is None:
        raise UnknownMemberError
    return member


def _place(member: Row) -> tuple[Role, frozenset[str]]:
    return member["role"], frozenset(member["permissions"])


def _is_less(had: tuple[Role, frozenset[str]], gets: tuple[Role, frozenset[str]]) -> bool:
    return RANK[gets[0]] <= RANK[had[0]] and permissions_of(*gets) <= permissions_of(*had)


def _has_lost(had: tuple[Role, frozenset[str]], gets: tuple[Role, frozenset[str]]) -> bool:
    return RANK[gets[0]] < RANK[had[0]] or not permissions_of(*had) <= permissions_of(*gets)


async def _refuse_last_owner(tx: Tx) -> None:
    if await store.count_members(tx, "owner") <= 1:
        raise LastOwnerError


async def _revoke(tx: Tx, user_id: UUID, version: int, at: datetime) -> None:
    """Void the assertions that were made before the version that is published now."""
    await store.enter_revocation(tx, user_id, version, at)
    published = await snapshot.publish(tx, at)
    assert published == version, "the tenant's row is locked since its version was read"


def _tell(
    tx: Tx,
    action: str,
    user_id: UUID,
    actor: str,
    at: datetime,
    *,
    before: tuple[Role, frozenset[str]] | None,
    after: tuple[Role, frozenset[str]] | None,
) -> None:
    change = ConfigurationChanged(
        action=action,
        actor=actor,
        object_id=public_id("user", user_id),
        before=place_fields(*before) if before else None,
        after=place_fields(*after) if after else None,
    )
    emit(tx, change, effective_at=at)


def place_fields(role: Role, extra: frozenset[str]) -> dict[str, str | int | bool | None]:
    """A place as the audit log shows it."""
    return {"role": role, "permissions": " ".join(sorted(extra))}
