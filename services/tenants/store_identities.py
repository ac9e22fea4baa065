"""SQL of identities at a provider, and of sign-ins there that are under way."""

from datetime import datetime
from typing import cast
from uuid import UUID

from libs.db.pool import Tx


async def insert_sign_in(
    tx: Tx, state_hash: bytes, browser_hash: bytes, return_to: str, expires_at: datetime
) -> None:
    """Remember a sign-in that was begun."""
    await tx.execute(
        "insert into oidc_sign_in (state_hash, browser_hash, return_to, expires_at) "
        "values ($1, $2, $3, $4)",
        state_hash,
        browser_hash,
        return_to,
        expires_at,
    )


async def take_sign_in(tx: Tx, state_hash: bytes, browser_hash: bytes, now: datetime) -> str | None:
    """Use a sign-in up: where it leads; None when there is none, or not in this browser."""
    found = await tx.fetchval(
        "delete from oidc_sign_in where state_hash = $1 and browser_hash = $2 and expires_at > $3 "
        "returning return_to",
        state_hash,
        browser_hash,
        now,
    )
    return cast("str | None", found)


async def find_user(tx: Tx, issuer: str, subject: str) -> UUID | None:
    """The user who is this at the provider."""
    found = await tx.fetchval("select user_id from find_identity($1, $2)", issuer, subject)
    return cast("UUID | None", found)


async def has_identity(tx: Tx, user_id: UUID, issuer: str) -> bool:
    """Whether the user is known to be somebody at the provider."""
    return bool(await tx.fetchval("select has_identity($1, $2)", user_id, issuer))


async def insert_identity(tx: Tx, issuer: str, subject: str, user_id: UUID, at: datetime) -> bool:
    """Remember who a user is at the provider; False when one of the two is taken."""
    entered = await tx.execute(
        "insert into user_identity (issuer, subject, user_id, linked_at) values ($1, $2, $3, $4) "
        "on conflict do nothing",
        issuer,
        subject,
        user_id,
        at,
    )
    return entered == 1
