"""SQL of what is known of a person, and of its erasure."""

from collections.abc import Awaitable, Callable
from datetime import datetime
from uuid import UUID

import asyncpg

from libs.db.pool import Row, Tx
from services.tenants import personal


async def teams_of(tx: Tx, user_id: UUID) -> list[Row]:
    """The teams of the tenant in scope that a user is in."""
    return await tx.fetch(
        "select t.name, j.joined_at from team_member j "
        "join team t on t.tenant_id = j.tenant_id and t.team_id = j.team_id "
        "where j.tenant_id = $1 and j.user_id = $2 order by j.joined_at",
        tx.tenant_id,
        user_id,
    )


async def invitations_to(tx: Tx, email: str) -> list[Row]:
    """Invitations of the tenant in scope to an e-mail."""
    return await tx.fetch(
        "select role, created_at, expires_at, accepted_at from invitation "
        "where tenant_id = $1 and (email_digest = $2 or email = $3) order by created_at limit 100",
        tx.tenant_id,
        personal.keys().digest(email),
        email,
    )


async def identities_of(tx: Tx, user_id: UUID) -> list[Row]:
    """Who the user is at identity providers."""
    return await tx.fetch("select * from find_identities($1)", user_id)


async def forget_billing_email(tx: Tx, email: str) -> bool:
    """Take an e-mail out of the record of the tenant in scope; whether it stood there."""
    forgotten = await tx.execute(
        "update tenant set billing_email = null, billing_email_digest = null, "
        "billing_personal = null, billing_wrapped = null "
        "where tenant_id = $1 and (billing_email_digest = $2 or lower(billing_email) = $3)",
        tx.tenant_id,
        personal.keys().digest(email),
        email,
    )
    return forgotten == 1


async def destroy(tx: Tx, user_id: UUID, email: str, at: datetime) -> None:
    """Destroy a person's key, digest and data, and all that says who it was.

    The id stays, for the audit log and the books name it; it says nothing any more.
    """
    await tx.execute(f"set local role sluice_{tx.service}_maintenance")
    for table in ("user_password", "user_email_proof", "user_identity", "session", "person_key"):
        await tx.execute(f"delete from {table} where user_id = $1", user_id)  # noqa: S608
    await tx.execute(
        "delete from invitation where email_digest = $1 or email = $2",
        personal.keys().digest(email),
        email,
    )
    await tx.execute(
        "update user_account set email = null, name = null, email_digest = null, personal = null, "
        "password_hash = null, erased_at = $2 where user_id = $1",
        user_id,
        at,
    )
    await tx.execute("reset role")


async def unsealed_people(tx: Tx, after: UUID | None, limit: int) -> list[Row]:
    """Accounts that stand in the clear; as the maintenance role, held until commit."""
    return await tx.fetch(
        "select user_id as row_id, user_id, email, name from user_account "
        "where email is not null and ($1::uuid is null or user_id > $1) "
        "order by user_id limit $2 for update skip locked",
        after,
        limit,
    )


async def unsealed_invitations(tx: Tx, after: UUID | None, limit: int) -> list[Row]:
    """Invitations whose e-mail stands in the clear; as the maintenance role, held until commit."""
    return await tx.fetch(
        "select invitation_id as row_id, tenant_id, email from invitation "
        "where email is not null and ($1::uuid is null or invitation_id > $1) "
        "order by invitation_id limit $2 for update skip locked",
        after,
        limit,
    )


async def unsealed_tenants(tx: Tx, after: UUID | None, limit: int) -> list[Row]:
    """Tenants whose billing e-mail stands in the clear; as the maintenance role, held until commit."""
    return await tx.fetch(
        "select tenant_id as row_id, billing_email from tenant "
        "where billing_email is not null and ($1::uuid is null or tenant_id > $1) "
        "order by tenant_id limit $2 for update skip locked",
        after,
        limit,
    )


async def seal_person(tx: Tx, row: Row, at: datetime) -> None:
    """Seal an account that stands in the clear; as the maintenance role."""
    keys, user_id = personal.keys(), row["user_id"]
    wrapped = keys.new_key(user_id)
    await tx.execute(
        "insert into person_key (user_id, wrapped, created_at) values ($1, $2, $3)",
        user_id,
        wrapped,
        at,
    )
    await tx.execute(
        "update user_account set email_digest = $2, personal = $3, email = null, name = null "
        "where user_id = $1",
        user_id,
        keys.digest(row["email"]),
        keys.seal(personal.of_account(row["email"], row["name"]), wrapped, user_id),
    )


async def seal_invitation(tx: Tx, row: Row, at: datetime) -> None:
    """Seal an invitation's e-mail; as the maintenance role.

    It is void where somebody was invited again meanwhile, by a process of the code after it.
    """
    sealed = personal.seal_email(row["email"], row["row_id"])
    await tx.execute(
        """
        update invitation i set email = null, email_digest = $3, personal = $4, wrapped = $5,
            revoked_at = coalesce(i.revoked_at, (
                select $6::timestamptz from invitation newer
                where newer.tenant_id = i.tenant_id and newer.email_digest = $3
                  and newer.accepted_at is null and newer.revoked_at is null
                  and i.accepted_at is null))
        where i.tenant_id = $1 and i.invitation_id = $2
        """,
        row["tenant_id"],
        row["row_id"],
        sealed.digest,
        sealed.personal,
        sealed.wrapped,
        at,
    )


async def seal_tenant(tx: Tx, row: Row, at: datetime) -> None:  # noqa: ARG001 - as the others
    """Seal a tenant's billing e-mail; as the maintenance role."""
    sealed = personal.seal_email(row["billing_email"], row["row_id"])
    await tx.execute(
        "update tenant set billing_email = null, billing_email_digest = $2, billing_personal = $3, "
        "billing_wrapped = $4 where tenant_id = $1",
        row["row_id"],
        sealed.digest,
        sealed.personal,
        sealed.wrapped,
    )


async def in_savepoint(tx: Tx, work: Callable[[], Awaitable[None]]) -> asyncpg.PostgresError | None:
    """Do the work in a savepoint; what the database refused it with, the rest of `tx` untouched."""
    try:
        async with tx.connection.transaction():
            await work()
    except asyncpg.IntegrityConstraintViolationError as error:
        return error
    return None
