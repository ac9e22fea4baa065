"""SQL of invitations."""

from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.tenants import personal


async def find_by_token(tx: Tx, token_hash: bytes) -> Row | None:
    """Tenant and id of the invitation with this token, whatever the scope."""
    return await tx.fetchrow("select * from find_invitation($1)", token_hash)


async def find_invitation(tx: Tx, invitation_id: UUID) -> Row | None:
    """An invitation of the tenant in scope, not locked."""
    row = await tx.fetchrow(
        "select * from invitation where tenant_id = $1 and invitation_id = $2",
        tx.tenant_id,
        invitation_id,
    )
    return None if row is None else personal.invited(row)


async def lock_invitation(tx: Tx, invitation_id: UUID) -> Row | None:
    """An invitation of the tenant in scope, held until commit."""
    row = await tx.fetchrow(
        "select * from invitation where tenant_id = $1 and invitation_id = $2 for update",
        tx.tenant_id,
        invitation_id,
    )
    return None if row is None else personal.invited(row)


async def insert_invitation(
    tx: Tx,
    *,
    invitation_id: UUID,
    token_hash: bytes,
    email: str,
    role: str,
    permissions: list[str],
    vouched: bool,
    created_by: str,
    at: datetime,
    expires_at: datetime,
) -> Row:
    """Enter an invitation, with its e-mail sealed; of its token only the hash."""
    sealed = personal.seal_email(email, invitation_id)
    row = await tx.fetchrow(
        """
        insert into invitation (tenant_id, invitation_id, token_hash, email_digest, personal,
            wrapped, role, permissions, vouched, created_by, created_at, expires_at)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) returning *
        """,
        tx.tenant_id,
        invitation_id,
        token_hash,
        sealed.digest,
        sealed.personal,
        sealed.wrapped,
        role,
        permissions,
        vouched,
        created_by,
        at,
        expires_at,
    )
    assert row is not None, "an insert returns its row"
    return personal.invited(row)


async def list_open(
    tx: Tx, now: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The invitations of the tenant in scope that can still be accepted, the oldest first."""
    at, invitation_id = after or (None, None)
    rows = await tx.fetch(
        """
        select * from invitation
        where tenant_id = $1 and accepted_at is null and revoked_at is null and expires_at > $2
          and ($3::timestamptz is null or (created_at, invitation_id) > ($3, $4::uuid))
        order by created_at, invitation_id limit $5
        """,
        tx.tenant_id,
        now,
        at,
        invitation_id,
        limit,
    )
    return [personal.invited(row) for row in rows]


async def count_open(tx: Tx, now: datetime) -> int:
    """How many invitations of the tenant in scope can still be accepted."""
    found: int = await tx.fetchval(
        "select count(*) from invitation where tenant_id = $1 and accepted_at is null "
        "and revoked_at is null and expires_at > $2",
        tx.tenant_id,
        now,
    )
    return found


async def revoke_earlier(tx: Tx, email: str, at: datetime) -> None:
    """Void what was sent to this e-mail before."""
    await tx.execute(
        "update invitation set revoked_at = $4 where tenant_id = $1 "
        "and (email_digest = $2 or email = $3) and accepted_at is null and revoked_at is null",
        tx.tenant_id,
        personal.keys().digest(email),
        email,
        at,
    )


async def revoke_of_maker(tx: Tx, actor: str, at: datetime) -> None:
    """Void what somebody invited who is no member any more."""
    await tx.execute(
        "update invitation set revoked_at = $3 where tenant_id = $1 and created_by = $2 "
        "and accepted_at is null and revoked_at is null",
        tx.tenant_id,
        actor,
        at,
    )


async def revoke(tx: Tx, invitation_id: UUID, at: datetime) -> bool:
    """Void an invitation; False when it is over already."""
    revoked = await tx.execute(
        "update invitation set revoked_at = $3 where tenant_id = $1 and invitation_id = $2 "
        "and accepted_at is null and revoked_at is null",
        tx.tenant_id,
        invitation_id,
        at,
    )
    return revoked == 1


async def accept(tx: Tx, invitation_id: UUID, user_id: UUID, at: datetime) -> None:
    """Use an invitation up."""
    await tx.execute(
        "update invitation set accepted_at = $3, accepted_by = $4 "
        "where tenant_id = $1 and invitation_id = $2",
        tx.tenant_id,
        invitation_id,
        at,
        user_id,
    )
