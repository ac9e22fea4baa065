"""Who calls, for which tenant, and whether they may: one gate in front of every route.

Callers show an API key (`Authorization: Bearer` or `X-API-Key`) or the console's assertion
(Bearer). Both are checked offline against the local directory. `X-Tenant-ID` (alias
`X-Organization-ID`) picks among the caller's tenants; an operator may name any tenant, and each
time is recorded.
"""

from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from functools import partial
from typing import NoReturn
from uuid import UUID

from fastapi import Request

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID, ApiKeyRecord
from libs.crypto import apikeys, tokens
from libs.db.pool import Database
from libs.directory.local import WAIT_SECONDS, Directory, LookupKind, Tenant
from libs.ids import public_id
from libs.messaging.key_use import KEY_USES
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from libs.observability.remote import remote_address
from libs.web.alarms import OPERATOR_ACCESS, Alarms, Concerned
from libs.web.headers import credential, tenant_header
from libs.web.key_waits import KeyWaits
from libs.web.problems import (
    Forbidden,
    InvalidRequest,
    NotFound,
    NotLive,
    TenantForbidden,
    Unauthorized,
    Unavailable,
)

OPERATOR = "operator"
"""The permission that only the platform's staff has."""

ANYONE_SIGNED_IN = "signed_in"
"""Any valid key or assertion."""

OWNER = "owner"
"""The permission that only an owner has, as a person: no key carries it."""

EXPIRED = "This assertion has expired: one lasts 60 seconds. Ask `POST /api/v1/session/assertion` for another."
VOIDED = (
    "This assertion is void: its session was ended, or rights were taken since it was made. Ask "
    "`POST /api/v1/session/assertion` for another, or sign in again."
)
NOBODYS_HASH = bytes(32)

WRITE_WAITS = 64
WRITE_WAITS_PER_CALLER = 16
"""So many requests of a process wait for their caller's own write; others are told to come back."""

IMPLIED = {
    "billing:read": frozenset({"billing:manage"}),
    "usage:read": frozenset({"billing:read", "billing:manage"}),
    "ledger:read": frozenset({"billing:manage", "ledger:post"}),
}
"""Permissions that include the one on the left."""


@dataclass(frozen=True)
class Caller:
    """An authenticated caller.

    Attributes:
        actor: `key_<UUID>` or `usr_<UUID>`, as the audit log names it.
        tenant_id: the key's tenant, or the tenant the assertion was made for.
        role: the member's role; None for an API key.
        session_id: the session an assertion was made from; None for an API key.
    """

    actor: str
    tenant_id: UUID
    mode: Mode
    permissions: frozenset[str]
    operator: bool = False
    role: str | None = None
    session_id: UUID | None = None

    def may(self, permission: str) -> bool:
        """Whether the caller has the permission, directly or by a larger one."""
        if self.operator or permission == ANYONE_SIGNED_IN:
            return True
        if permission == OPERATOR:
            return False
        if permission == OWNER:
            return self.role == OWNER
        return permission in self.permissions or bool(
            IMPLIED.get(permission, frozenset()) & self.permissions
        )


@dataclass(frozen=True)
class Access:
    """What a route works with: who calls, and for which tenant in which mode.

    Attributes:
        named: whether the request named the tenant (header or path) rather than left it to the key.
    """

    caller: Caller
    tenant: Tenant
    mode: Mode
    named: bool

    @property
    def tenant_id(self) -> UUID:
        """The tenant the request is for."""
        return self.tenant.id

    @property
    def books(self) -> tuple[str, ...]:
        """The ledger books the caller may read: only operators read the platform's."""
        return ("platform", "tenant") if self.caller.operator else ("tenant",)

    @property
    def whole_platform(self) -> bool:
        """An operator who named no tenant looks at the platform as a whole."""
        return self.caller.operator and not self.named


class Gate:
    """Authenticates and authorises requests of one service.

    `admits_before_live`: live mode works here before a tenant went live. True for the service where
    a tenant connects its live Stripe account and goes live; everywhere else only operators, who set
    a tenant up, may look at the live side of one that is not live.
    """

    def __init__(
        self,
        database: Database,
        directory: Directory,
        key_pepper: bytes,
        *,
        admits_before_live: bool = False,
    ) -> None:
        self.database = database
        self.directory = directory
        self._key_pepper = key_pepper
        self._admits_before_live = admits_before_live
        self._key_waits = KeyWaits()
        self._write_waits = KeyWaits(WRITE_WAITS, WRITE_WAITS_PER_CALLER)
        self.alarms = Alarms(database)

    async def admit(
        self, request: Request, permission: str, *, path_names_tenant: bool = True
    ) -> Access:
        """The caller's access, or the problem that says why not.

        Args:
            request: of the caller.
            permission: that the route asks for.
            path_names_tenant: False where `{tenant}` in the path may name one that does not exist
                yet; the route then chooses it itself (`for_tenant`).

        Raises:
            Unauthorized, TenantForbidden, Forbidden, NotLive, InvalidRequest, Unavailable.
        """
        caller = await self._authenticate_after_writes(request)
        header = tenant_header(request)
        path = request.path_params.get("tenant") if path_names_tenant else None
        if header and path and not await self._same_tenant(header, path):
            raise InvalidRequest("`X-Tenant-ID` and the path name different tenants. Name one.")
        access = await self._choose(request, caller, path or header)
        if not caller.may(permission):
            await self.alarms.tell(request, _concerned(access), "permission_denied", permission)
            raise Forbidden(permission)
        if access.mode == "live" and not self._is_open(access):
            # What is remembered may be older than the live key that was just made.
            access = replace(access, tenant=await self.directory.afresh(access.tenant))
            if not self._is_open(access):
                raise NotLive
        return access

    def _is_open(self, access: Access) -> bool:
        """Whether live mode is open to the request."""
        return access.tenant.is_live or access.caller.operator or self._admits_before_live

    async def for_tenant(self, request: Request, access: Access, reference: str | None) -> Access:
        """The access for a tenant named in the body; 400 where the header names another."""
        if reference is None:
            return access
        if access.named and not await self._same_tenant(str(access.tenant_id), reference):
            raise InvalidRequest("`X-Tenant-ID` and the body name different tenants. Name one.")
        return await self._choose(request, access.caller, reference)

    async def refuse(
        self, request: Request, access: Access, permission: str, detail: str | None = None
    ) -> NoReturn:
        """Refuse what only the body shows to be beyond the caller; recorded like any refusal.

        Raises:
            Forbidden: always.
        """
        await self.alarms.tell(request, _concerned(access), "permission_denied", permission)
        raise Forbidden(permission, detail)

    async def tell(
        self, request: Request, access: Access, kind: str, permission: str | None
    ) -> None:
        """Record what a request tried in vain, where the rest of it is answered."""
        await self.alarms.tell(request, _concerned(access), kind, permission)

    async def note_absent(self, request: Request, access: Access, permission: str) -> None:
        """Record that a route did not find what it was asked for.

        Operators see every tenant's objects: what they do not find is not there.
        """
        if not access.caller.operator:
            await self.alarms.tell_absent(request, _concerned(access), permission)

    async def _authenticate_after_writes(self, request: Request) -> Caller:
        """The caller, once this service knows what the caller has written.

        The key itself may be part of that: a key made a moment ago is unknown here, not wrong.
        """
        try:
            caller = await self._authenticate(request)
        except Unauthorized:
            key = apikeys.parse(credential(request) or "")
            if key is None or "sluice-version" not in request.headers:
                raise
            # Once more, in one of the few places of those whose key is unknown.
            caller = await self._authenticate(request)
        await self._wait_for_writes(request, caller)
        return caller

    async def _authenticate(self, request: Request) -> Caller:
        presented = credential(request)
        if presented is None:
            raise Unauthorized
        key = apikeys.parse(presented)
        caller = await self._by_key(key) if key else await self._by_assertion(presented)
        if isinstance(caller, Caller):
            return caller
        SECURITY_EVENTS_TOTAL.labels(kind="unauthenticated", severity="info").inc()
        raise Unauthorized(caller)

    async def _by_key(self, key: apikeys.ParsedKey) -> Caller | None:
        """A key from the directory; one that is well formed but unknown may be on its way."""
        found = await self._key_waits.find(partial(self._look_up, key), remote_address())
        if found is None:
            return None
        tenant, record = found
        if record.revoked_at is not None or (record.expires_at and record.expires_at <= utc_now()):
            return None
        KEY_USES.note(tenant.id, record.mode, "api_key", record.key_id)
        return Caller(
            public_id("api_key", record.key_id),
            tenant.id,
            record.mode,
            frozenset(record.scopes),
            operator=record.operator and tenant.id == PLATFORM_TENANT_ID,
        )

    async def _look_up(self, key: apikeys.ParsedKey) -> tuple[Tenant, ApiKeyRecord] | None:
        """The key's tenant and record; None also where the rest of the key is another's."""
        tenant = await self.directory.find("key", key.prefix)
        record = tenant.api_key(key.prefix) if tenant else None
        stored = bytes.fromhex(record.key_hash) if record else NOBODYS_HASH
        is_known = apikeys.verify(key.key, self._key_pepper, stored)
        return (tenant, record) if tenant and record and is_known else None

    async def _by_assertion(self, presented: str) -> Caller | str | None:
        """A 60-second assertion of the console, signed by tenants; or a sentence that says why not."""
        platform = await self.directory.platform()
        if platform is None:
            return None
        keys = {key.key_id: key.public_key for key in platform.snapshot.assertion_keys}
        try:
            claims = tokens.verify(presented, keys, utc_now())
        except tokens.TokenError as error:
            return EXPIRED if isinstance(error, tokens.TokenExpiredError) else None
        home = partial(self.directory.by_id, claims.tenant_id)
        tenant = await self._write_waits.find(home, str(claims.user_id))
        if tenant is None:
            return None
        if _is_void(claims, tenant, platform):
            return VOIDED
        return Caller(
            public_id("user", claims.user_id),
            claims.tenant_id,
            claims.mode,
            frozenset(claims.permissions),
            operator=claims.operator,
            role=claims.role,
            session_id=claims.session_id,
        )

    async def _choose(self, request: Request, caller: Caller, reference: str | None) -> Access:
        """The tenant of the request; a stranger's and an absent one are refused alike."""
        if reference is None:
            own = await self.directory.wait_for("id", str(caller.tenant_id))
            if own is None:
                raise Unavailable("Your tenant is still being set up. Try again shortly.")
            return Access(caller, own, caller.mode, named=False)
        if caller.operator:
            tenant = await self._wait_by_reference(reference)
            if tenant is None:
                raise NotFound("There is no such tenant. Check the id or slug.")
            access = Access(caller, tenant, caller.mode, named=True)
            if tenant.id != caller.tenant_id:
                await self.alarms.tell(request, _concerned(access), OPERATOR_ACCESS, None)
            return access
        tenant = await self.directory.by_reference(reference)
        if tenant is None or tenant.id != caller.tenant_id:
            own = await self.directory.by_id(caller.tenant_id)
            if own is not None:
                denied = Access(caller, own, caller.mode, named=False)
                await self.alarms.tell(request, _concerned(denied), "tenant_denied", None)
            raise TenantForbidden
        return Access(caller, tenant, caller.mode, named=True)

    async def _wait_by_reference(self, reference: str) -> Tenant | None:
        tenant = await self.directory.by_reference(reference)
        if tenant is not None or len(reference) > 100:
            return tenant
        kind: LookupKind = "id" if len(reference) == 36 else "slug"
        return await self.directory.wait_for(kind, reference.lower())

    async def _same_tenant(self, one: str, other: str) -> bool:
        if one.lower() == other.lower():
            return True
        first = await self.directory.by_reference(one)
        second = await self.directory.by_reference(other)
        return first is not None and second is not None and first.id == second.id

    async def _wait_for_writes(self, request: Request, caller: Caller) -> None:
        """Honour `Sluice-Version`: read what the caller has just written, or say come back."""
        stamp = request.headers.get("sluice-version")
        if stamp is None:
            return
        tenant, _, version = stamp.partition(":")
        try:
            wanted = (UUID(tenant), int(version[:18]))
        except ValueError:
            raise InvalidRequest("`Sluice-Version` must be as an earlier answer gave it.") from None
        with self._write_waits.place(caller.actor) as waits:
            seconds = WAIT_SECONDS if waits else 0.0
            is_known = await self.directory.wait_for_version(*wanted, wait_seconds=seconds)
        if not is_known:
            raise Unavailable("This service has not caught up with your change yet.")


class Requires:
    """A route's permission; as a dependency it answers with the caller's access."""

    def __init__(self, permission: str, *, path_names_tenant: bool = True) -> None:
        self.permission = permission
        self.path_names_tenant = path_names_tenant

    async def __call__(self, request: Request) -> AsyncGenerator[Access, None]:
        """Admit the request or raise the problem that refuses it; note what the route did not find."""
        gate: Gate = request.app.state.gate
        named = self.path_names_tenant
        access = await gate.admit(request, self.permission, path_names_tenant=named)
        try:
            yield access
        except NotFound:
            await gate.note_absent(request, access, self.permission)
            raise


def in_mode(access: Access, mode: Mode) -> Access:
    """The same access in another mode, for what names a mode itself (new API keys, rebuilds)."""
    return replace(access, mode=mode)


def _concerned(access: Access) -> Concerned:
    caller = access.caller
    return Concerned(access.tenant_id, access.mode, caller.actor, caller.role)


def _is_void(claims: tokens.Claims, tenant: Tenant, platform: Tenant) -> bool:
    """Whether the session has ended or the person lost rights since the assertion was made."""
    if claims.session_id in tenant.snapshot.sessions_revoked:
        return True
    return _lost_rights(tenant, claims.user_id, claims.tenant_version) or (
        claims.operator and _lost_rights(platform, claims.user_id, claims.platform_version)
    )


def _lost_rights(tenant: Tenant, user_id: UUID, version: int) -> bool:
    """Whether the user lost rights in the tenant after this version of its record."""
    return version < tenant.snapshot.assertions_void_before or any(
        lost.user_id == user_id and version < lost.version
        for lost in tenant.snapshot.members_revoked
    )
