"""What is known of a person, and its erasure (GDPR, articles 15, 17 and 20).

Erasing destroys the key that the person's data is sealed under, and everything that leads from an
e-mail to the person. Books, invoices and the audit log stay: they name the person by an id that says
nothing any more.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any
from uuid import UUID

import structlog

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import public_id
from libs.messaging.outbox import emit
from services.tenants import members, people, sessions, store_audit, store_people
from services.tenants import store_personal_data as store

log = structlog.get_logger()

AUDIT_ENTRIES_MAX = 1_000
SEALED_AT_ONCE_MAX = 500
PAGES_MAX = 20


class UnknownPersonError(Exception):
    """There is no such person, not here, or not any more."""


class BelongsElsewhereError(Exception):
    """The person is a member of another tenant too, which has no say here."""


async def export_whole(tx: Tx, user_id: UUID) -> dict[str, Any]:
    """Everything known of a person, for the person itself.

    Raises:
        UnknownPersonError: it was erased.
    """
    places = await people.memberships(tx, user_id)
    found = await _account(tx, user_id)
    rows = await store_people.list_sessions(tx, user_id)
    return found | {
        "identities": [dict(row) for row in await store.identities_of(tx, user_id)],
        "sessions": [
            {
                "created_at": row["created_at"],
                "expires_at": row["expires_at"],
                "last_used_at": row["used_at"],
                "remote_address": row["address"],
            }
            for row in rows
        ],
        "tenants": [
            await _place(tx, each, user_id, found["email"])
            for each in sorted(place.tenant_id for place in places)
        ],
    }


async def export_of_member(tx: Tx, user_id: UUID) -> dict[str, Any]:
    """What the tenant in scope knows of a member of its own.

    Raises:
        UnknownPersonError: it is no member.
    """
    if await members.find(tx, user_id) is None:
        raise UnknownPersonError
    found = await _account(tx, user_id)
    return found | {"tenants": [await _place(tx, tx.tenant_id, user_id, found["email"])]}


async def erase_member(tx: Tx, user_id: UUID, *, actor: str, at: datetime) -> None:
    """Erase a member of the tenant in scope who belongs to it alone.

    Raises:
        UnknownPersonError, BelongsElsewhereError, members.LastOwnerError,
        authority.BeyondAuthorityError: nothing was erased.
    """
    if await members.find(tx, user_id) is None:
        raise UnknownPersonError
    places = await people.memberships(tx, user_id)
    if {place.tenant_id for place in places} != {tx.tenant_id}:
        raise BelongsElsewhereError
    await erase(tx, user_id, actor=actor, at=at)


async def erase(tx: Tx, user_id: UUID, *, actor: str, at: datetime) -> None:
    """Erase a person everywhere; every tenant of the person's keeps an owner, or nothing happens.

    Raises:
        UnknownPersonError: erased already.
        members.LastOwnerError, authority.BeyondAuthorityError: nothing was erased.
    """
    email = (await _account(tx, user_id))["email"]
    here = tx.scope
    await sessions.end_all(tx, user_id, at)
    homes = sorted(place.tenant_id for place in await people.memberships(tx, user_id))
    for tenant_id in homes:
        await tx.enter(Scope((tenant_id,), None))
        await store.forget_billing_email(tx, email)
        await members.remove(tx, user_id, actor=actor, at=at)
    for tenant_id in homes or [PLATFORM_TENANT_ID]:
        await tx.enter(Scope((tenant_id,), None))
        change = ConfigurationChanged(
            action="person.erased", actor=actor, object_id=public_id("user", user_id)
        )
        emit(tx, change, effective_at=at)
    await tx.enter(here)
    await store.destroy(tx, user_id, email, at)


@dataclass(frozen=True)
class Unsealed:
    """A kind of rows that stood in the clear once: how they are found, and sealed."""

    what: str
    find: Callable[[Tx, UUID | None, int], Awaitable[list[Row]]]
    seal: Callable[[Tx, Row, datetime], Awaitable[None]]


UNSEALED = (
    Unsealed("account", store.unsealed_people, store.seal_person),
    Unsealed("invitation", store.unsealed_invitations, store.seal_invitation),
    Unsealed("tenant", store.unsealed_tenants, store.seal_tenant),
)


async def seal_some(database: Database, at: datetime) -> None:
    """Seal what stands in the clear from before, a page in each transaction.

    A row that cannot be sealed is told in the log, stays as it is, and holds nothing else up.
    """
    for kind in UNSEALED:
        after: UUID | None = None
        for _ in range(PAGES_MAX):
            async with database.maintenance() as tx:
                rows = await kind.find(tx, after, SEALED_AT_ONCE_MAX)
                for row in rows:
                    refused = await store.in_savepoint(tx, partial(kind.seal, tx, row, at))
                    if refused is not None:
                        log.error(
                            "personal_data_not_sealed",
                            what=kind.what,
                            row_id=str(row["row_id"]),
                            reason=type(refused).__name__,
                        )
            if len(rows) < SEALED_AT_ONCE_MAX:
                break
            after = rows[-1]["row_id"]


async def _account(tx: Tx, user_id: UUID) -> dict[str, Any]:
    user = await store_people.find_user(tx, user_id)
    if user is None or user["email"] is None:
        raise UnknownPersonError
    return {
        "user": public_id("user", user_id),
        "email": user["email"],
        "name": user["name"],
        "created_at": user["created_at"],
    }


async def _place(tx: Tx, tenant_id: UUID, user_id: UUID, email: str) -> dict[str, Any]:
    """What one tenant knows of the person."""
    here = tx.scope
    await tx.enter(Scope((tenant_id,), None))
    member = await members.find(tx, user_id)
    assert member is not None, "the person is a member of this tenant"
    wanted = store_audit.Wanted(actor=public_id("user", user_id))
    entries = await store_audit.list_entries(tx, wanted, None, AUDIT_ENTRIES_MAX)
    found = {
        "tenant_id": tenant_id,
        "role": member["role"],
        "permissions": sorted(member["permissions"]),
        "member_since": member["created_at"],
        "teams": [dict(row) for row in await store.teams_of(tx, user_id)],
        "invitations": [dict(row) for row in await store.invitations_to(tx, email)],
        "audit_entries": _shown(entries),
    }
    await tx.enter(here)
    return found


def _shown(entries: Sequence[Any]) -> list[dict[str, Any]]:
    return [
        {
            "occurred_at": row["occurred_at"],
            "action": row["action"],
            "object_id": row["object_id"],
            "remote_address": row["content"]["data"].get("remote_address"),
        }
        for row in entries
    ]
