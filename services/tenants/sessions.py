"""Sessions of the console, and the assertions that speak for them.

A session is a random cookie, stored as its SHA-256. Services never see it: the console changes it for
an assertion of 60 seconds that names user, tenant, mode and permissions.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.crypto import tokens
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import new_id, parse_uuid, public_id
from libs.messaging.outbox import emit
from services.tenants import people, sealing, snapshot, store_keys, store_members, store_tenants
from services.tenants import store_people as store
from services.tenants.roles import Role, permissions_of

TOKEN_BYTES = 32
TOKEN_LENGTH_MAX = 100
ASSERTION_SECONDS = tokens.LIFE_SECONDS_MAX


class NoSessionError(Exception):
    """The cookie belongs to no session that is valid now."""


class UnknownSessionError(Exception):
    """The user has no such session, or it is over."""


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
    """A tenant of the user's, with its place there; `extra` is what it may beyond its role."""

    tenant_id: UUID
    slug: str
    name: str
    tenant_type: str
    status: str
    role: Role
    is_primary: bool
    extra: frozenset[str] = frozenset()


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


async def begin(
    tx: Tx, user_id: UUID, now: datetime, hours: int, address: str | None = None
) -> tuple[str, datetime]:
    """Begin a session: the cookie's value, never seen again, and when the session ends."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = now + timedelta(hours=hours)
    await store.insert_session(tx, new_id(), hash_token(token), user_id, now, expires_at, address)
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
    await _end(tx, session.user_id, [session.session_id], now)


async def end_one(tx: Tx, user_id: UUID, session_id: UUID, now: datetime) -> None:
    """End a session of the user's.

    Raises:
        UnknownSessionError: it is another's, is over, or never was.
    """
    if session_id not in {row["session_id"] for row in await list_all(tx, user_id, now)}:
        raise UnknownSessionError
    await _end(tx, user_id, [session_id], now)


async def end_all(tx: Tx, user_id: UUID, now: datetime, *, but: UUID | None = None) -> int:
    """End all sessions of a user, or all but one; how many that were.

    Whoever locks a tenant of the user's before calls `lock_homes` instead: one order of locks.
    """
    await lock_homes(tx, user_id)
    rows = await store.list_sessions(tx, user_id)
    ended = [row["session_id"] for row in rows if row["session_id"] != but]
    await _end(tx, user_id, ended, now)
    return len(ended)


async def list_all(tx: Tx, user_id: UUID, now: datetime) -> list[Row]:
    """The user's sessions that are valid now, the newest first."""
    return [row for row in await store.list_sessions(tx, user_id) if row["expires_at"] > now]


async def note_use(tx: Tx, session: Session, now: datetime) -> None:
    """Remember when the session was used, to the quarter of an hour: no more is of use to anybody."""
    quarter = now.replace(minute=now.minute - now.minute % 15, second=0, microsecond=0)
    await store.note_session_use(tx, session.session_id, quarter)


async def lock_homes(tx: Tx, user_id: UUID, *besides: UUID) -> tuple[UUID, ...]:
    """Lock the tenants of a user, and others that the transaction changes, in their one order.

    Two transactions that lock the same tenants then wait for each other and never both at once. A
    transaction that has locked one of them already has chosen its order: it calls this first.
    """
    here = tx.scope
    homes = {home.tenant_id for home in await people.memberships(tx, user_id)}
    for tenant_id in sorted(homes | set(besides)):
        await tx.enter(Scope((tenant_id,), None))
        await store_tenants.lock_tenant(tx)
    await tx.enter(here)
    return tuple(sorted(homes))


async def _end(tx: Tx, user_id: UUID, session_ids: Sequence[UUID], now: datetime) -> None:
    homes = await lock_homes(tx, user_id)
    ended = await store.end_sessions(tx, session_ids, now)
    if not ended:
        return
    here = tx.scope
    for tenant_id in homes:
        await tx.enter(Scope((tenant_id,), None))
        tenant = await store_tenants.read_tenant(tx)
        assert tenant is not None, "it is locked"
        await store.insert_revocations(tx, ended, user_id, tenant["version"] + 1, now)
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
        _home(known[each.tenant_id], each, is_primary=place == 0)
        for place, each in enumerate(memberships)
    )
    operator = any(home.tenant_id == PLATFORM_TENANT_ID for home in homes)
    return Person(user_id, user["email"], user["name"], operator, homes)


def _home(row: Row, place: people.Membership, *, is_primary: bool) -> Home:
    return Home(
        tenant_id=row["tenant_id"],
        slug=row["slug"],
        name=row["name"],
        tenant_type=row["type"],
        status=row["status"],
        role=place.role,
        is_primary=is_primary,
        extra=place.extra,
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
    private_key: bytes,
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
    home, tenant_version, platform_version = await _place(tx, who, choose(who.homes, reference))
    issued_at = now.replace(microsecond=0)
    permissions = permissions_of(home.role, home.extra)
    claims = tokens.Claims(
        user_id=who.user_id,
        tenant_id=home.tenant_id,
        mode=mode,
        role=home.role,
        permissions=permissions,
        session_id=session.session_id,
        operator=platform_version is not None,
        issued_at=issued_at,
        expires_at=min(
            issued_at + timedelta(seconds=ASSERTION_SECONDS),
            session.expires_at.replace(microsecond=0) + timedelta(seconds=1),
        ),
        tenant_version=tenant_version,
        platform_version=platform_version or 0,
    )
    text = tokens.sign(claims, private_key)
    return Assertion(text, claims.expires_at, home, mode, permissions)


async def signing_key(database: Database, sealer: sealing.Sealer) -> bytes:
    """The platform's private key that signs assertions and heads of the audit log.

    Never inside a transaction: see `sealing`.
    """
    async with database.tenant(PLATFORM_TENANT_ID, None) as tx:
        (row, *_) = await store_keys.signing_keys(tx)
    place = signing_key_place(row["key_id"])
    return await sealer.open(PLATFORM_TENANT_ID, row["private_key_sealed"], place)


def signing_key_place(key_id: str) -> sealing.Place:
    """Where the private part of a signing key stands."""
    return sealing.Place("signing_key", "private_key", key_id)


async def _place(tx: Tx, who: Person, home: Home) -> tuple[Home, int, int | None]:
    """The place as it is now, with the version of the tenant's record, and of the platform's.

    Both are seen at one moment: rights that are lost later are lost with a later version. The last is
    None where the user is no operator.
    """
    here = tx.scope
    await tx.enter(Scope(tuple({home.tenant_id, PLATFORM_TENANT_ID}), None))
    found = {row["tenant_id"]: row for row in await store_members.places(tx, who.user_id)}
    await tx.enter(here)
    row = found.get(home.tenant_id)
    if row is None:
        raise NotAMemberError
    platform = found.get(PLATFORM_TENANT_ID)
    now_home = replace(home, role=row["role"], extra=frozenset(row["permissions"]))
    return now_home, row["version"], None if platform is None else platform["version"]


async def note(
    tx: Tx,
    who: Person | None,
    *,
    kind: str,
    severity: str,
    path: str,
    address: str,
    left_out: int | None = None,
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
            left_out=left_out,
        ),
    )
    await tx.enter(here)


async def note_of_user(tx: Tx, user_id: UUID, *, kind: str, path: str, address: str) -> None:
    """Record what a person did of its own account, at its primary tenant."""
    who = await person(tx, user_id)
    await note(tx, who, kind=kind, severity="info", path=path, address=address)


async def note_failure(tx: Tx, *, path: str, address: str) -> None:
    """Recorded at the platform whoever was meant, so that the time taken tells nothing."""
    await note(tx, None, kind="sign_in_failed", severity="warning", path=path, address=address)
