"""SQL of what is known of a person, and of its erasure."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx


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
        "where tenant_id = $1 and email = $2 order by created_at limit 100",
        tx.tenant_id,
        email,
    )


async def identities_of(tx: Tx, user_id: UUID) -> list[Row]:
    """Who the user is at identity providers."""
    return await tx.fetch("select * from find_identities($1)", user_id)


async def forget_billing_email(tx: Tx, email: str) -> bool:
    """Take an e-mail out of the record of the tenant in scope; whether it stood there."""
    forgotten = await tx.execute(
        "update tenant set billing_email = null where tenant_id = $1 and lower(billing_email) = $2",
        tx.tenant_id,
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
    await tx.execute("delete from invitation where email = $1", email)
    await tx.execute(
        "update user_account set email = null, name = null, email_digest = null, personal = null, "
        "password_hash = null, erased_at = $2 where user_id = $1",
        user_id,
        at,
    )
    await tx.execute("reset role")


async def unsealed_people(tx: Tx, limit: int) -> list[Row]:
    """Accounts that stand in the clear; as the maintenance role, held until commit."""
    return await tx.fetch(
        "select user_id, email, name from user_account where email is not null "
        "order by user_id limit $1 for update skip locked",
        limit,
    )


async def put_sealed(
    tx: Tx, user_id: UUID, *, digest: bytes, personal: bytes, wrapped: bytes, at: datetime
) -> None:
    """Put sealed data in place of what stands in the clear; as the maintenance role."""
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
        digest,
        personal,
    )
