"""What somebody may do to other members: nobody gives, takes or touches what is beyond themselves.

Read from the tables in the transaction that does it, under the lock of the tenant, and not from what
the caller's assertion says: rights that were lost a moment ago are lost here already.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.ids import InvalidIdError, parse_public_id
from services.tenants import people, store_keys, store_tenants
from services.tenants.roles import RANK, SCOPES, Role, permissions_of

INCLUDES: Mapping[str, frozenset[str]] = {
    "billing:read": frozenset({"billing:manage"}),
    "usage:read": frozenset({"billing:read", "billing:manage"}),
    "ledger:read": frozenset({"billing:manage", "ledger:post"}),
}
"""Permissions that larger ones contain, as the gate reads them (`libs.web.auth.IMPLIED`)."""


class BeyondAuthorityError(Exception):
    """The actor has less than what it would give, take or touch."""


@dataclass(frozen=True)
class Authority:
    """The role and the permissions that an actor acts with.

    A key acts as an admin with its scopes, but not among the platform's people, and a test key not
    among those of a tenant that is live. An operator acts as an owner of any tenant but the
    platform's own, where its membership there says what it may.
    """

    role: Role
    permissions: frozenset[str]

    def covers(self, role: Role, extra: frozenset[str]) -> bool:
        """Whether a place with this role and these further permissions is within the actor's own."""
        if RANK[role] > RANK[self.role]:
            return False
        return all(self.has(permission) for permission in permissions_of(role, extra))

    def has(self, permission: str) -> bool:
        """Whether the actor has the permission, directly or by a larger one."""
        return permission in self.permissions or bool(
            INCLUDES.get(permission, frozenset()) & self.permissions
        )


OWNERS = Authority("owner", frozenset(SCOPES))


async def find(tx: Tx, actor: str, now: datetime) -> Authority | None:
    """The authority of an actor in the tenant in scope; None where it has none any more."""
    try:
        if actor.startswith("usr_"):
            return await _of_user(tx, parse_public_id("user", actor))
        return await _of_key(tx, parse_public_id("api_key", actor), now)
    except InvalidIdError:
        return None


async def find_giver(tx: Tx, actor: str, mode: str, now: datetime) -> Authority | None:
    """The authority that an actor gives keys of this mode from; None where it has none any more.

    An operator gives keys of every tenant, the platform's own too. A key gives keys of its own mode,
    also where it has no say among people.
    """
    if not actor.startswith("key_"):
        return await find_giving_user(tx, parse_public_id("user", actor))
    row = await _valid_key(tx, parse_public_id("api_key", actor), now)
    if row is None or row["operator"]:
        return None if row is None else OWNERS
    return Authority("admin", frozenset(row["scopes"])) if row["mode"] == mode else None


async def find_end(tx: Tx, actor: str, now: datetime) -> datetime | None:
    """When an actor that is a key ends; None: it is none, or is no key that ends."""
    if not actor.startswith("key_"):
        return None
    row = await _valid_key(tx, parse_public_id("api_key", actor), now)
    return None if row is None else row["expires_at"]


async def find_giving_user(tx: Tx, user_id: UUID) -> Authority | None:
    """The authority that a person gives keys from; None where it has none any more."""
    places = {each.tenant_id: each for each in await people.memberships(tx, user_id)}
    if PLATFORM_TENANT_ID in places:
        return OWNERS
    here = places.get(tx.tenant_id)
    return None if here is None else Authority(here.role, here.all_permissions)


async def require(
    tx: Tx, actor: str, now: datetime, *places: tuple[Role, frozenset[str]]
) -> Authority:
    """The actor's authority, which covers all these places.

    Raises:
        BeyondAuthorityError: it does not.
    """
    found = await find(tx, actor, now)
    if found is None or not all(found.covers(role, extra) for role, extra in places):
        raise BeyondAuthorityError
    return found


async def _of_user(tx: Tx, user_id: UUID) -> Authority | None:
    places = {each.tenant_id: each for each in await people.memberships(tx, user_id)}
    if PLATFORM_TENANT_ID in places and tx.tenant_id != PLATFORM_TENANT_ID:
        return OWNERS
    here = places.get(tx.tenant_id)
    return None if here is None else Authority(here.role, here.all_permissions)


async def _of_key(tx: Tx, key_id: UUID, now: datetime) -> Authority | None:
    row = await _valid_key(tx, key_id, now)
    if row is None:
        return None
    if row["operator"]:
        return OWNERS
    if tx.tenant_id == PLATFORM_TENANT_ID:
        # Whoever joins the platform is an operator: only an operator opens that door.
        return None
    tenant = await store_tenants.read_tenant(tx)
    if row["mode"] == "test" and tenant is not None and tenant["live_since"] is not None:
        # People hold their place in both modes, so a test key would reach into live mode.
        return None
    return Authority("admin", frozenset(row["scopes"]))


async def _valid_key(tx: Tx, key_id: UUID, now: datetime) -> Row | None:
    """A key of the tenant in scope, or an operator's, that is valid now."""
    row = await store_keys.find_api_key(tx, key_id)
    if row is None:
        here = tx.scope
        await tx.enter(Scope((PLATFORM_TENANT_ID,), here.mode))
        row = await store_keys.find_api_key(tx, key_id)
        await tx.enter(here)
        if row is None or not row["operator"]:
            return None
    if row["revoked_at"] is not None or (row["expires_at"] and row["expires_at"] <= now):
        return None
    return row
