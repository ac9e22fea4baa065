"""SQL of users, members, sessions and failed sign-ins.

Users and sessions are read through exact look-ups only: the service's role sees no list of them.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from libs.db.pool import Row, Tx
from services.tenants import personal


async def insert_user(
    tx: Tx, user_id: UUID, email: str, name: str | None, password_hash: str | None, at: datetime
) -> bool:
    """Enter a user, with e-mail and name sealed; False when the e-mail is another's.

    No conflict target: naming one would need the right to read the rows.
    """
    if await find_account(tx, email) is not None:
        return False
    keys = personal.keys()
    wrapped = keys.new_key(user_id)
    entered = await tx.execute(
        "insert into user_account (user_id, email_digest, personal, password_hash, created_at) "
        "values ($1, $2, $3, $4, $5) on conflict do nothing",
        user_id,
        keys.digest(email),
        keys.seal(personal.of_account(email, name), wrapped, user_id),
        password_hash,
        at,
    )
    if entered == 1:
        await tx.execute(
            "insert into person_key (user_id, wrapped, created_at) values ($1, $2, $3)",
            user_id,
            wrapped,
            at,
        )
    return entered == 1


async def find_account(tx: Tx, email: str) -> Row | None:
    """The user with exactly this e-mail (lower case).

    With the hash of its newest password, and whether anybody has vouched for the e-mail.
    """
    digest = personal.keys().digest(email)
    row = await tx.fetchrow("select * from find_sealed_account($1, $2)", digest, email)
    return None if row is None else personal.opened(row)


async def find_user(tx: Tx, user_id: UUID) -> Row | None:
    """A user by id; of one that was erased nothing but the id is left."""
    row = await tx.fetchrow("select * from find_person($1)", user_id)
    return None if row is None else personal.opened(row)


async def rename(tx: Tx, user_id: UUID, email: str, name: str | None) -> None:
    """Seal another name for a user; nothing of one that was erased meanwhile."""
    row = await tx.fetchrow("select * from find_person($1)", user_id)
    if row is None or row["wrapped"] is None:
        return
    sealed = personal.keys().seal(personal.of_account(email, name), bytes(row["wrapped"]), user_id)
    await tx.execute(f"set local role sluice_{tx.service}_maintenance")
    await tx.execute("update user_account set personal = $2 where user_id = $1", user_id, sealed)
    await tx.execute("reset role")


async def insert_password(
    tx: Tx, password_id: UUID, user_id: UUID, password_hash: str | None, at: datetime
) -> None:
    """Give a user another password; None takes the one there is."""
    await tx.execute(
        "insert into user_password (user_id, password_id, password_hash, set_at) "
        "values ($1, $2, $3, $4)",
        user_id,
        password_id,
        password_hash,
        at,
    )


async def insert_email_proof(tx: Tx, user_id: UUID, at: datetime) -> None:
    """Remember that somebody has vouched for the user's e-mail."""
    await tx.execute(
        "insert into user_email_proof (user_id, proved_at) values ($1, $2) on conflict do nothing",
        user_id,
        at,
    )


async def insert_member(
    tx: Tx, user_id: UUID, role: str, at: datetime, permissions: Sequence[str] = ()
) -> bool:
    """Make a user a member of the tenant in scope; False when it is one."""
    entered = await tx.execute(
        "insert into member (tenant_id, user_id, role, permissions, created_at) "
        "values ($1, $2, $3, $4, $5) on conflict do nothing",
        tx.tenant_id,
        user_id,
        role,
        list(permissions),
        at,
    )
    return entered == 1


async def memberships(tx: Tx, user_id: UUID) -> list[Row]:
    """Tenant, role and further permissions of each membership, the oldest (the primary) first."""
    return await tx.fetch("select tenant_id, role, permissions from find_places($1)", user_id)


async def insert_session(
    tx: Tx,
    session_id: UUID,
    token_hash: bytes,
    user_id: UUID,
    at: datetime,
    expires_at: datetime,
    address: str | None,
) -> None:
    """Enter a session; of its cookie only the hash."""
    await tx.execute(
        "insert into session (session_id, token_hash, user_id, created_at, expires_at, address) "
        "values ($1, $2, $3, $4, $5, $6)",
        session_id,
        token_hash,
        user_id,
        at,
        expires_at,
        address,
    )


async def list_sessions(tx: Tx, user_id: UUID) -> list[Row]:
    """The user's sessions that were not ended, the newest first; some may have expired."""
    return await tx.fetch("select * from find_sessions($1)", user_id)


async def note_session_use(tx: Tx, session_id: UUID, used_at: datetime) -> None:
    """Remember that a session was used; once for each value of `used_at`."""
    await tx.execute(
        "insert into session_use (session_id, used_at) values ($1, $2) on conflict do nothing",
        session_id,
        used_at,
    )


async def find_session(tx: Tx, token_hash: bytes) -> Row | None:
    """The session of a cookie, unless it was ended; it may have expired."""
    return await tx.fetchrow("select * from find_session($1)", token_hash)


async def end_sessions(tx: Tx, session_ids: Sequence[UUID], at: datetime) -> list[UUID]:
    """End sessions; those that were not ended before."""
    return [
        session_id
        for session_id in sorted(session_ids)
        if await tx.execute(
            "insert into session_end (session_id, ended_at) values ($1, $2) on conflict do nothing",
            session_id,
            at,
        )
    ]


async def insert_revocations(
    tx: Tx, session_ids: Sequence[UUID], user_id: UUID, version: int, at: datetime
) -> None:
    """Have the tenant's record tell with its next version that sessions have ended."""
    await tx.execute(
        "insert into session_revocation (tenant_id, session_id, user_id, version, revoked_at) "
        "select $1, s, $3, $4, $5 from unnest($2::uuid[]) s on conflict do nothing",
        tx.tenant_id,
        list(session_ids),
        user_id,
        version,
        at,
    )


async def revoked_sessions(tx: Tx, limit: int) -> list[UUID]:
    """Sessions of the tenant's members that ended last."""
    rows = await tx.fetch(
        "select session_id from session_revocation where tenant_id = $1 "
        "order by revoked_at desc, session_id limit $2",
        tx.tenant_id,
        limit,
    )
    return [row["session_id"] for row in rows]


async def revoked_beyond(tx: Tx, limit: int) -> list[Row]:
    """Whose sessions ended before those that `revoked_sessions` names, and with which version."""
    return await tx.fetch(
        """
        select user_id, max(version) as version from (
            select user_id, version from session_revocation where tenant_id = $1
            order by revoked_at desc, session_id offset $2) as older
        where user_id is not null and version is not null group by user_id
        """,
        tx.tenant_id,
        limit,
    )


async def count_attempt(
    tx: Tx, kind: str, digest: bytes, at: datetime, window_start: datetime
) -> Row:
    """Count a sign-in as failed until it succeeds; a window that is over begins anew."""
    row = await tx.fetchrow(
        """
        insert into sign_in_failure as f (kind, digest, failures, window_started_at)
        values ($1, $2, 1, $3)
        on conflict (kind, digest) do update set
            failures = case when f.window_started_at <= $4 then 1 else f.failures + 1 end,
            window_started_at = case when f.window_started_at <= $4 then $3
                else f.window_started_at end
        returning failures, window_started_at
        """,
        kind,
        digest,
        at,
        window_start,
    )
    assert row is not None, "an upsert returns its row"
    return row


async def forgive_attempt(tx: Tx, kind: str, digest: bytes) -> None:
    """Take back one counted attempt: it succeeded."""
    await tx.execute(
        "update sign_in_failure set failures = greatest(failures - 1, 0) "
        "where kind = $1 and digest = $2",
        kind,
        digest,
    )


async def forget_attempts(tx: Tx, kind: str, digest: bytes) -> None:
    """Forget every counted attempt."""
    await tx.execute("delete from sign_in_failure where kind = $1 and digest = $2", kind, digest)


async def prune(
    tx: Tx,
    *,
    assertions_before: datetime,
    now: datetime,
    failures_before: datetime,
    invitations_before: datetime,
) -> None:
    """Delete what has no meaning any more; as the maintenance role, a bounded number at once."""
    for table, condition, moment in (
        ("session_revocation", "revoked_at < $1", assertions_before),
        ("member_revocation", "revoked_at < $1", assertions_before),
        ("oidc_sign_in", "expires_at < $1", now),
        ("invitation", "expires_at < $1", invitations_before),
        ("session", "expires_at < $1", now),
        ("sign_in_failure", "window_started_at < $1", failures_before),
        ("idempotency_key", "created_at < $1", failures_before),
    ):
        await tx.execute(
            f"delete from {table} where ctid in "  # noqa: S608 - constants only
            f"(select ctid from {table} where {condition} limit 1000)",
            moment,
        )
    await tx.execute(
        """
        delete from user_password where ctid in (
            select old.ctid from user_password old where exists (
                select from user_password newer where newer.user_id = old.user_id
                  and (newer.set_at, newer.password_id) > (old.set_at, old.password_id))
            limit 1000)
        """
    )
