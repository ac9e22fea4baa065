"""Invitations: a link that makes whoever holds it, and is who it was made for, a member.

The token has 256 random bits, is shown to its maker once and stored as its hash. It is used once,
within seven days, by the user of the e-mail it was made for: signed in, or with that user's password,
or, where the e-mail has no user yet, with a new one. Whoever made it must still have what it gives
when it is accepted.

The maker hands the link over, so a link proves nothing about an e-mail: it never gives a password to
an account that exists. The exception are links that an operator was given for the owner of a new
tenant (`vouched`): they let an owner without a password, or one whose e-mail nobody has vouched for
yet, choose one.
"""

import hashlib
import secrets
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.tenants import authority, members, people, sessions, store_tenants, teams
from services.tenants import store_invitations as store
from services.tenants import store_people as people_store
from services.tenants.roles import Role, permissions_of

TOKEN_BYTES = 32
TOKEN_LENGTH_MAX = 100
LIFE = timedelta(days=7)
OPEN_MAX = 200
"""Invitations of one tenant that wait to be accepted."""

Need = Literal["password", "proof"]
"""What the holder must show: a password to set, or to be the user (signed in, or the password)."""


class NotOpenError(Exception):
    """There is no such invitation, or it was used, withdrawn, outlived, or its maker's rights were."""


class AlreadyMemberError(Exception):
    """The e-mail's user is a member already."""


class TooManyInvitationsError(Exception):
    """`OPEN_MAX` invitations wait to be accepted."""


class NotProvedError(Exception):
    """Nobody has shown to be the user of the e-mail."""


@dataclass(frozen=True)
class Made:
    """An invitation that was just made; `token` is never seen again."""

    row: Row
    token: str = field(repr=False)


@dataclass(frozen=True)
class Entered:
    """What became of a member that an operator entered.

    Attributes:
        user_id: the member; None while it must open the link first.
        made: the link with which it chooses a password; None where it has one.
    """

    user_id: UUID | None
    made: Made | None


@dataclass(frozen=True)
class Offer:
    """An invitation as its token finds it, with the account of its e-mail."""

    email: str
    role: Role
    need: Need
    user_id: UUID | None
    password_hash: str | None = field(repr=False)


@dataclass(frozen=True)
class Proof:
    """What was shown: whose session it is, or whose password was right, and a password to set."""

    user_id: UUID | None = None
    name: str | None = None
    new_password_hash: str | None = field(default=None, repr=False)


def hash_token(token: str) -> bytes:
    """What is stored of a token; it has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()


async def make(
    tx: Tx, email: str, role: Role, permissions: frozenset[str], *, actor: str, at: datetime
) -> Made:
    """Invite somebody into the tenant in scope; an earlier invitation of the e-mail is void.

    Raises:
        authority.BeyondAuthorityError, AlreadyMemberError, TooManyInvitationsError.
    """
    await store_tenants.lock_tenant(tx)
    extra = permissions - permissions_of(role)
    await authority.require(tx, actor, at, (role, extra))
    known = await people_store.find_account(tx, email)
    if known is not None and await members.find(tx, known["user_id"]) is not None:
        raise AlreadyMemberError
    return await _enter(tx, email, role, extra, vouched=False, actor=actor, at=at)


async def make_for_owner(tx: Tx, email: str, actor: str, at: datetime) -> Made:
    """An operator's link for the owner of the tenant in scope to choose a password with."""
    return await _enter(tx, email, "owner", frozenset(), vouched=True, actor=actor, at=at)


async def enter_member(
    tx: Tx, email: str, role: Role, permissions: frozenset[str], *, actor: str, at: datetime
) -> Entered:
    """Enter a member by an operator's word, with a link for whoever has no password yet.

    Entered again while that is so, it gets another link: the one before is void. An account that
    somebody opened under an e-mail which nobody has vouched for becomes a member by the link only.

    Raises:
        authority.BeyondAuthorityError, AlreadyMemberError, members.TooManyMembersError,
            people.TooManyTenantsError: nothing was done.
    """
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    place = (role, permissions - permissions_of(role))
    await authority.require(tx, actor, at, place)
    account = await people_store.find_account(tx, email)
    is_settled = await people.is_settled(tx, email)
    user_id: UUID | None = None
    if account is None or account["email_proved"] or account["password_hash"] is None:
        user_id = await people.ensure_user(tx, email, at)
        known = await members.find(tx, user_id)
        if known is not None and (is_settled or _place(known) != place):
            raise AlreadyMemberError
        if known is None:
            await people.refuse_too_many(tx, user_id)
            await members.add(tx, user_id, *place, at)
            await teams.join_everyone(tx, tenant, user_id, at)
            members.tell_added(tx, user_id, place, actor, at)
    made = None
    if not is_settled:
        made = await _enter(tx, email, *place, vouched=True, actor=actor, at=at)
    return Entered(user_id, made)


async def _enter(
    tx: Tx,
    email: str,
    role: Role,
    extra: frozenset[str],
    *,
    vouched: bool,
    actor: str,
    at: datetime,
) -> Made:
    await store.revoke_earlier(tx, email, at)
    if await store.count_open(tx, at) >= OPEN_MAX:
        raise TooManyInvitationsError
    token = secrets.token_urlsafe(TOKEN_BYTES)
    row = await store.insert_invitation(
        tx,
        invitation_id=new_id(),
        token_hash=hash_token(token),
        email=email,
        role=role,
        permissions=sorted(extra),
        vouched=vouched,
        created_by=actor,
        at=at,
        expires_at=at + LIFE,
    )
    after = members.place_fields(role, extra)
    _tell(tx, "invitation.created", row["invitation_id"], actor, at, after=after)
    return Made(row, token)


async def withdraw(tx: Tx, invitation_id: UUID, actor: str, at: datetime) -> None:
    """Void an invitation.

    Raises:
        NotOpenError: it is over already, or never was.
        authority.BeyondAuthorityError: it gives more than the actor has.
    """
    await store_tenants.lock_tenant(tx)
    row = await store.lock_invitation(tx, invitation_id)
    if row is None or not _is_open(row, at):
        raise NotOpenError
    await authority.require(tx, actor, at, _place(row))
    await store.revoke(tx, invitation_id, at)
    before = members.place_fields(*_place(row))
    _tell(tx, "invitation.withdrawn", invitation_id, actor, at, before=before)


async def look(tx: Tx, token: str, now: datetime) -> Offer:
    """The invitation of a token, and what its user must show.

    Raises:
        NotOpenError: whatever the reason, it cannot be accepted.
    """
    row = await _find(tx, token, now)
    account = await people_store.find_account(tx, row["email"])
    return Offer(
        email=row["email"],
        role=row["role"],
        need=_need(row, account),
        user_id=None if account is None else account["user_id"],
        password_hash=None if account is None else account["password_hash"],
    )


async def accept(tx: Tx, token: str, proof: Proof, at: datetime) -> UUID:
    """Use an invitation up: its user is a member from now on; the user.

    Args:
        tx: committed whole, or nothing was done.
        token: as its holder showed it.
        proof: what was shown.
        at: now.

    Raises:
        NotOpenError: somebody was faster, or its maker may not give this any more.
        NotProvedError: nobody has shown to be the user of the e-mail.
        members.TooManyMembersError, people.TooManyTenantsError: nothing was done.
    """
    here = tx.scope
    found = await store.find_by_token(tx, hash_token(token))
    if found is None:
        raise NotOpenError
    await tx.enter(Scope((found["tenant_id"],), None))
    tenant = await _lock_tenants(tx, found["invitation_id"])
    row = await store.lock_invitation(tx, found["invitation_id"])
    if row is None or not _is_open(row, at):
        raise NotOpenError
    place = _place(row)
    maker = await authority.find(tx, row["created_by"], at)
    if maker is None or not maker.covers(*place):
        raise NotOpenError
    user_id = await _user(tx, row, proof, at)
    await store.accept(tx, row["invitation_id"], user_id, at)
    if await members.find(tx, user_id) is None:
        await people.refuse_too_many(tx, user_id)
        await members.add(tx, user_id, *place, at)
        await teams.join_everyone(tx, tenant, user_id, at)
    after = {"user": public_id("user", user_id), **members.place_fields(*place)}
    actor = public_id("user", user_id)
    _tell(tx, "invitation.accepted", row["invitation_id"], actor, at, after=after)
    await tx.enter(here)
    return user_id


async def _lock_tenants(tx: Tx, invitation_id: UUID) -> Row | None:
    """Lock the tenant in scope, and with it those of the e-mail's user, whose sessions may end."""
    row = await store.find_invitation(tx, invitation_id)
    account = None if row is None else await people_store.find_account(tx, row["email"])
    if account is not None:
        await sessions.lock_homes(tx, account["user_id"], tx.tenant_id)
    return await store_tenants.lock_tenant(tx)


async def _user(tx: Tx, row: Row, proof: Proof, at: datetime) -> UUID:
    """The e-mail's user, entered where there is none; looked at anew, whatever was seen before."""
    account = await people_store.find_account(tx, row["email"])
    user_id: UUID = new_id() if account is None else account["user_id"]
    if account is None or proof.user_id != user_id:
        password_hash = proof.new_password_hash
        if password_hash is None or _need(row, account) == "proof":
            raise NotProvedError
        if account is None:
            entered = await people_store.insert_user(
                tx, user_id, row["email"], proof.name, password_hash, at
            )
            if not entered:
                raise NotProvedError
        else:
            await people_store.insert_password(tx, new_id(), user_id, password_hash, at)
            await people_store.rename(tx, user_id, row["email"], proof.name)
            # Whoever was signed in under an e-mail that nobody had vouched for is not its owner.
            await sessions.end_all(tx, user_id, at)
    if row["vouched"]:
        await people_store.insert_email_proof(tx, user_id, at)
    return user_id


def _need(row: Row, account: Row | None) -> Need:
    if account is None:
        return "password"
    is_settled = account["password_hash"] is not None and account["email_proved"]
    return "password" if row["vouched"] and not is_settled else "proof"


async def find(tx: Tx, invitation_id: UUID) -> Row | None:
    """An invitation of the tenant in scope."""
    return await store.lock_invitation(tx, invitation_id)


async def list_open(
    tx: Tx, now: datetime, after: tuple[datetime, UUID] | None, limit: int
) -> list[Row]:
    """The invitations of the tenant in scope that wait to be accepted, the oldest first."""
    return await store.list_open(tx, now, after, limit)


async def _find(tx: Tx, token: str, now: datetime) -> Row:
    if not 0 < len(token) <= TOKEN_LENGTH_MAX:
        raise NotOpenError
    found = await store.find_by_token(tx, hash_token(token))
    if found is None:
        raise NotOpenError
    here = tx.scope
    await tx.enter(Scope((found["tenant_id"],), None))
    row = await store.lock_invitation(tx, found["invitation_id"])
    await tx.enter(here)
    if row is None or not _is_open(row, now):
        raise NotOpenError
    return row


def _is_open(row: Row, now: datetime) -> bool:
    return (
        row["accepted_at"] is None and row["revoked_at"] is None and bool(row["expires_at"] > now)
    )


def _place(row: Row) -> tuple[Role, frozenset[str]]:
    return row["role"], frozenset(row["permissions"])


def _tell(
    tx: Tx,
    action: str,
    invitation_id: UUID,
    actor: str,
    at: datetime,
    *,
    before: dict[str, str | int | bool | None] | None = None,
    after: dict[str, str | int | bool | None] | None = None,
) -> None:
    change = ConfigurationChanged(
        action=action,
        actor=actor,
        object_id=public_id("invitation", invitation_id),
        before=before,
        after=after,
    )
    emit(tx, change, effective_at=at)
