"""Sessions of the console, and the assertions that speak for them.

A session is a random cookie, stored as its SHA-256. Services never see it: the console changes it for
an assertion of 60 seconds that names user, tenant, mode and permissions.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto import tokens
from libs.crypto.keyring import Keyring
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.ids import new_id, parse_uuid, public_id
from libs.messaging.outbox import emit
from services.tenants import people, sealing, snapshot, store_keys, store_tenants
from services.tenants import store_people as store
from services.tenants.roles import PERMISSIONS, Role

TOKEN_BYTES = 32
TOKEN_LENGTH_MAX = 100
ASSERTION_SECONDS = tokens.LIFE_SECONDS_MAX


class NoSessionError(Exception):
    """The cookie belongs to no session that is valid now."""


class NotAMemberError(Exception):
    """The user is not a member of the tenant asked for, or of any."""


@dataclass(frozen=True)
class Session:
    """A valid session."""

    session_id: UUID
    user_id: UUID
    expires_at: datetime


@dataclass(frozen=True)
class Home:
    """A tenant of the user's, with its place there."""

    tenant_id: UUID
    slug: str
    name: str
    tenant_type: str
    status: str
    role: Role
    is_primary: bool


@dataclass(frozen=True)
class Person:
    """Who is signed in.

    Attributes:
        operator: one of the platform's staff.
        homes: the tenants, the primary one first.
    """

    user_id: UUID
    email: str
    name: str | None
    operator: bool
    homes: tuple[Home, ...]


@dataclass(frozen=True)
class Assertion:
    """A signed assertion and what it says."""

    text: str = field(repr=False)
    expires_at: datetime
    home: Home
    mode: Mode
    permissions: frozenset[str]


def hash_token(token: str) -> bytes:
    """What is stored of a cookie; it has 256 random bits, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).digest()


async def begin(tx: Tx, user_id: UUID, now: datetime, hours: int) -> tuple[str, datetime]:
    """Begin a session: the cookie's value, never seen again, and when the session ends."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = now + timedelta(hours=hours)
    await store.insert_session(tx, new_id(), hash_token(token), user_id, now, expires_at)
    return token, expires_at


async def find(tx: Tx, token: str | None, now: datetime) -> Session:
    """The session of a cookie.

    Raises:
        NoSessionError: none, ended or expired.
    """
    if token is None or not 0 < len(token) <= TOKEN_LENGTH_MAX:
        raise NoSessionError
    row = await store.find_session(tx, hash_token(token))
    if row is None or row["expires_at"] <= now:
        raise NoSessionError
    return Session(row["session_id"], row["user_id"], row["expires_at"])


async def end(tx: Tx, session: Session, now: datetime) -> None:
    """End a session; assertions made from it stop being valid within two seconds."""
    if not await store.end_session(tx, session.session_id, now):
        return
    here = tx.scope
    homes = await people.memberships(tx, session.user_id)
    for tenant_id in sorted(home.tenant_id for home in homes):
        await tx.enter(Scope((tenant_id,), None))
        await store_tenants.lock_tenant(tx)
        await store.insert_revocation(tx, session.session_id, now)
        await snapshot.publish(tx, now)
    await tx.enter(here)


async def person(tx: Tx, user_id: UUID) -> Person:
    """A user with its tenants."""
    user = await store.find_user(tx, user_id)
    assert user is not None, "a session's user exists"
    memberships = await people.memberships(tx, user_id)
    here = tx.scope
    await tx.enter(Scope(tuple(each.tenant_id for each in memberships), None))
    rows = await store_tenants.read_names(tx, [each.tenant_id for each in memberships])
    await tx.enter(here)
    known = {row["tenant_id"]: row for row in rows}
    homes = tuple(
        _home(known[each.tenant_id], each.role, is_primary=place == 0)
        for place, each in enumerate(memberships)
    )
    operator = any(home.tenant_id == PLATFORM_TENANT_ID for home in homes)
    return Person(user_id, user["email"], user["name"], operator, homes)


def _home(row: Row, role: Role, *, is_primary: bool) -> Home:
    return Home(
        row["tenant_id"], row["slug"], row["name"], row["type"], row["status"], role, is_primary
    )


def choose(homes: Sequence[Home], reference: str | None) -> Home:
    """The tenant meant by an id or slug, or the primary one.

    Raises:
        NotAMemberError: it is not among the user's, or there is none.
    """
    if not homes:
        raise NotAMemberError
    if reference is None:
        return homes[0]
    wanted_id, slug = parse_uuid(reference), reference.lower()
    for home in homes:
        if home.slug == slug or home.tenant_id == wanted_id:
            return home
    raise NotAMemberError


async def assert_identity(
    tx: Tx,
    keyring: Keyring,
    session: Session,
    who: Person,
    *,
    reference: str | None,
    mode: Mode,
    now: datetime,
) -> Assertion:
    """Sign who is signed in, for one tenant and mode.

    An operator's assertion, too, is for a tenant it is a member of: it names any other tenant in
    `X-Tenant-ID`, which is recorded each time.

    Raises:
        NotAMemberError: see `choose`.
    """
    home = choose(who.homes, reference)
    issued_at = now.replace(microsecond=0)
    permissions = PERMISSIONS[home.role]
    claims = tokens.Claims(
        user_id=who.user_id,
        tenant_id=home.tenant_id,
        mode=mode,
        role=home.role,
        permissions=permissions,
        session_id=session.session_id,
        operator=who.operator,
        issued_at=issued_at,
        expires_at=min(
            issued_at + timedelta(seconds=ASSERTION_SECONDS),
            session.expires_at.replace(microsecond=0) + timedelta(seconds=1),
        ),
    )
    text = tokens.sign(claims, await signing_key(tx, keyring))
    return Assertion(text, claims.expires_at, home, mode, permissions)


async def signing_key(tx: Tx, keyring: Keyring) -> bytes:
    """The platform's private key that signs assertions and heads of the audit log."""
    here = tx.scope
    await tx.enter(Scope((PLATFORM_TENANT_ID,), None))
    (row, *_) = await store_keys.signing_keys(tx)
    private_key = await sealing.open_value(
        tx, keyring, row["private_key_sealed"], signing_key_place(row["key_id"])
    )
    await tx.enter(here)
    return private_key


def signing_key_place(key_id: str) -> sealing.Place:
    """Where the private part of a signing key stands."""
    return sealing.Place("signing_key", "private_key", key_id)


async def note(
    tx: Tx, who: Person | None, *, kind: str, severity: str, path: str, address: str
) -> None:
    """Record a sign-in or its failure: at the user's primary tenant, or the platform's."""
    home = who.homes[0].tenant_id if who is not None and who.homes else PLATFORM_TENANT_ID
    here = tx.scope
    await tx.enter(Scope((home,), None))
    emit(
        tx,
        SecurityEventRaised(
            kind=kind,
            severity="warning" if severity == "warning" else "info",
            actor=public_id("user", who.user_id) if who is not None else "anonymous",
            service=tx.service,
            method="POST",
            path=path,
            remote_address=address,
        ),
    )
    await tx.enter(here)
