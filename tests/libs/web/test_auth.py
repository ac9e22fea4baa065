"""Who may in: keys and assertions checked offline, tenants picked, refusals recorded."""

import asyncio
import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Annotated, Any
from uuid import UUID

import httpx
import pytest
from fastapi import APIRouter, Depends, Request

from libs.clock import utc_now
from libs.contracts.audit import SecurityEventRaised
from libs.contracts.envelope import wrap
from libs.contracts.tenants import (
    PLATFORM_TENANT_ID,
    ApiKeyRecord,
    AssertionKey,
    MemberRevocation,
    TenantSnapshot,
)
from libs.crypto import apikeys, tokens
from libs.db.pool import Database
from libs.directory.local import CACHE_SECONDS, Directory, LookupKind, Tenant
from libs.ids import new_id
from libs.observability.health import Health
from libs.observability.metrics import SECURITY_EVENTS_TOTAL
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog
from libs.web import alarms
from libs.web.alarms import ABSENT_TOLD_AT_ONCE
from libs.web.auth import EXPIRED, OPERATOR, OWNER, VOIDED, Access, Gate, Requires
from libs.web.key_waits import KeyWaits
from libs.web.problems import NotFound
from libs.web.serve import create_app

PEPPER = b"p" * 32
ACME, GLOBEX = new_id(), new_id()

router = APIRouter()


@router.get("/read")
async def read(access: Annotated[Access, Depends(Requires("billing:read"))]) -> dict[str, Any]:
    return {"tenant": str(access.tenant_id), "mode": access.mode, "books": access.books}


@router.get("/manage")
async def manage(access: Annotated[Access, Depends(Requires("billing:manage"))]) -> str:
    return str(access.tenant_id)


@router.get("/staff")
async def staff(access: Annotated[Access, Depends(Requires(OPERATOR))]) -> str:
    return str(access.tenant_id)


@router.get("/owner")
async def owner(access: Annotated[Access, Depends(Requires(OWNER))]) -> str:
    return str(access.tenant_id)


@router.get("/of/{tenant}")
async def of_tenant(access: Annotated[Access, Depends(Requires("billing:read"))]) -> str:
    return str(access.tenant_id)


@router.get("/body/{reference}")
async def named_in_body(
    request: Request,
    reference: str,
    access: Annotated[Access, Depends(Requires("billing:read"))],
) -> str:
    gate: Gate = request.app.state.gate
    return str((await gate.for_tenant(request, access, reference)).tenant_id)


@router.get("/things")
@router.get("/things/{thing}")
async def thing(
    access: Annotated[Access, Depends(Requires("billing:read"))], thing: str = "absent"
) -> str:
    if thing == "absent":
        raise NotFound
    return str(access.tenant_id)


@dataclass
class World:
    """A service with two tenants and the platform in its directory."""

    log: MemoryLog
    http: httpx.AsyncClient
    database: Database
    snapshots: dict[UUID, TenantSnapshot]
    signing_key: bytes
    gate: Gate

    async def publish(self, tenant_id: UUID, **changes: Any) -> None:
        """A new version of a tenant's record arrives."""
        old = self.snapshots[tenant_id]
        new = old.model_copy(update={"version": old.version + 1, **changes})
        self.snapshots[tenant_id] = new
        self.log.publish(
            wrap(new, tenant_id=tenant_id, mode=None, source="tenants", effective_at=utc_now())
        )
        await self.log.settle()

    async def add_key(self, tenant_id: UUID, *scopes: str, **more: Any) -> str:
        """A new API key of a tenant."""
        made = apikeys.generate("test")
        record = ApiKeyRecord(
            key_id=new_id(),
            prefix=made.prefix,
            key_hash=apikeys.hash_key(made.key, PEPPER).hex(),
            mode="test",
            scopes=scopes,
            **more,
        )
        keys = (*self.snapshots[tenant_id].api_keys, record)
        await self.publish(tenant_id, api_keys=keys)
        return made.key

    def assertion(self, **changes: Any) -> str:
        """An assertion of the console for a member of acme."""
        now = utc_now()
        claims = tokens.Claims(
            user_id=new_id(),
            tenant_id=ACME,
            mode="test",
            role="member",
            permissions=frozenset({"billing:read"}),
            session_id=new_id(),
            operator=False,
            issued_at=now,
            expires_at=now + timedelta(seconds=60),
        )
        return tokens.sign(replace(claims, **changes), self.signing_key)

    async def get(self, path: str, key: str, **headers: str) -> httpx.Response:
        return await self.http.get(path, headers={"Authorization": f"Bearer {key}", **headers})

    async def security_events(self) -> list[str]:
        await self.log.settle()
        return [event.data.kind for event in self.log.events(SecurityEventRaised)]


def snapshot(slug: str, **more: Any) -> TenantSnapshot:
    return TenantSnapshot(
        version=1,
        slug=slug,
        name=slug.title(),
        tenant_type="organization",
        status="active",
        currency="EUR",
        locale="en",
        self_customer_id=new_id(),
        **more,
    )


@pytest.fixture
async def world(database: TestDatabase, log: MemoryLog) -> AsyncGenerator[World, None]:
    signing_key = tokens.generate_private_key()
    public_key = tokens.public_key_of(signing_key)
    asserted = AssertionKey(key_id=tokens.key_id_of(public_key), public_key=public_key)
    async with database.open("gateway") as opened:
        log.add(opened, {}, parks=False)
        app = create_app("Trial", health=Health(), routers=[router])
        app.state.gate = Gate(opened, Directory(opened), PEPPER)
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://trial") as http:
            world = World(log, http, opened, {}, signing_key, app.state.gate)
            world.snapshots = {
                PLATFORM_TENANT_ID: snapshot("platform", assertion_keys=(asserted,)),
                ACME: snapshot("acme"),
                GLOBEX: snapshot("globex"),
            }
            for tenant_id in world.snapshots:
                await world.publish(tenant_id)
            yield world


async def test_a_key_opens_its_own_tenant_by_either_header(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    answer = await world.get("/read", key)
    assert answer.json() == {"tenant": str(ACME), "mode": "test", "books": ["tenant"]}
    other = await world.http.get("/read", headers={"X-API-Key": key})
    assert other.json() == answer.json()


@pytest.mark.parametrize("presented", ["", "nonsense", "slk_test_x", "\x7f", "a" * 5000])
async def test_what_is_no_key_is_refused_at_once(world: World, presented: str) -> None:
    answer = await world.get("/read", presented)
    assert answer.status_code == 401
    assert answer.json()["code"] == "unauthorized"


async def test_a_well_formed_key_that_nobody_knows_is_refused(world: World) -> None:
    assert (await world.get("/read", apikeys.generate("test").key)).status_code == 401


async def test_a_revoked_and_an_expired_key_are_refused(world: World) -> None:
    past = utc_now() - timedelta(seconds=1)
    revoked = await world.add_key(ACME, "billing:read", revoked_at=past)
    expired = await world.add_key(ACME, "billing:read", expires_at=past)
    assert (await world.get("/read", revoked)).status_code == 401
    assert (await world.get("/read", expired)).status_code == 401


async def test_a_scope_too_low_is_refused_by_name_and_recorded(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    answer = await world.get("/manage", key)
    assert answer.status_code == 403
    assert answer.json()["code"] == "insufficient_billing_permissions"
    assert answer.json()["permission"] == "billing:manage"
    assert await world.security_events() == ["permission_denied"]


async def test_managing_includes_reading(world: World) -> None:
    key = await world.add_key(ACME, "billing:manage")
    assert (await world.get("/read", key)).status_code == 200


async def test_no_tenants_key_is_staff(world: World) -> None:
    key = await world.add_key(ACME, "billing:manage", operator=True)
    assert (await world.get("/staff", key)).status_code == 403


async def test_a_strangers_and_an_absent_tenant_are_refused_alike(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    stranger = await world.get("/read", key, **{"X-Tenant-ID": "globex"})
    absent = await world.get("/read", key, **{"X-Tenant-ID": "nobody-here"})
    assert stranger.status_code == absent.status_code == 403
    strip = {"instance", "request_id"}
    assert {k: v for k, v in stranger.json().items() if k not in strip} == {
        k: v for k, v in absent.json().items() if k not in strip
    }
    assert await world.security_events() == ["tenant_denied", "tenant_denied"]


async def test_the_own_tenant_may_be_named_by_id_or_slug(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    for reference in ("acme", "ACME", str(ACME)):
        answer = await world.get("/read", key, **{"X-Organization-ID": reference})
        assert answer.json()["tenant"] == str(ACME)


async def test_names_that_differ_are_a_mistake(world: World) -> None:
    key = await world.add_key(PLATFORM_TENANT_ID, operator=True)
    both = {"X-Tenant-ID": "acme", "X-Organization-ID": "globex"}
    assert (await world.get("/read", key, **both)).status_code == 400
    assert (await world.get("/of/globex", key, **{"X-Tenant-ID": "acme"})).status_code == 400
    assert (await world.get("/body/globex", key, **{"X-Tenant-ID": "acme"})).status_code == 400
    assert (await world.get("/of/acme", key, **{"X-Tenant-ID": str(ACME)})).status_code == 200


async def test_an_operator_acts_for_any_tenant_and_it_is_recorded(world: World) -> None:
    key = await world.add_key(PLATFORM_TENANT_ID, operator=True)
    answer = await world.get("/read", key, **{"X-Tenant-ID": "acme"})
    assert answer.json()["tenant"] == str(ACME)
    assert answer.json()["books"] == ["platform", "tenant"]
    assert (await world.get("/staff", key)).json() == str(PLATFORM_TENANT_ID)
    assert await world.security_events() == ["operator_access"]


async def test_an_assertion_holds_until_its_session_is_revoked(world: World) -> None:
    session = new_id()
    token = world.assertion(session_id=session)
    assert (await world.get("/read", token)).status_code == 200
    await world.publish(ACME, sessions_revoked=(session,))
    world.http._transport.app.state.gate = Gate(  # type: ignore[attr-defined]
        world.database, Directory(world.database), PEPPER
    )
    assert (await world.get("/read", token)).status_code == 401


@pytest.mark.parametrize(
    ("whose", "made_for", "lost_with", "status"),
    [("own", 1, 2, 401), ("own", 2, 2, 200), ("own", 3, 2, 200), ("another's", 1, 2, 200)],
)
async def test_who_lost_rights_needs_an_assertion_made_since(
    world: World, whose: str, made_for: int, lost_with: int, status: int
) -> None:
    user_id = new_id()
    token = world.assertion(user_id=user_id, tenant_version=made_for)
    lost = MemberRevocation(user_id=user_id if whose == "own" else new_id(), version=lost_with)
    await world.publish(ACME, members_revoked=(lost,))
    assert (await world.get("/read", token)).status_code == status


async def test_an_old_or_altered_assertion_is_refused(world: World) -> None:
    past = utc_now() - timedelta(minutes=5)
    old = world.assertion(issued_at=past, expires_at=past + timedelta(seconds=60))
    assert (await world.get("/read", old)).status_code == 401
    good = world.assertion()
    head, _, tail = good.rpartition(".")
    flipped = base64.urlsafe_b64encode(b"\x00" * 64).rstrip(b"=").decode()
    assert (await world.get("/read", f"{head}.{flipped}")).status_code == 401
    assert tail


async def test_a_service_waits_for_the_callers_own_write_or_says_come_back(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    version = world.snapshots[ACME].version
    seen = await world.get("/read", key, **{"Sluice-Version": f"{ACME}:{version}"})
    assert seen.status_code == 200
    ahead = await world.get("/read", key, **{"Sluice-Version": f"{ACME}:{version + 5}"})
    assert ahead.status_code == 503
    assert "retry-after" in ahead.headers
    wrong = await world.get("/read", key, **{"Sluice-Version": "nonsense"})
    assert wrong.status_code == 400


async def test_live_mode_is_closed_before_a_tenant_went_live(world: World) -> None:
    live = world.assertion(mode="live")
    answer = await world.get("/read", live)
    assert (answer.status_code, answer.json()["code"]) == (403, "not_live")
    assert (await world.get("/manage", live)).json()["permission"] == "billing:manage"
    staff = world.assertion(mode="live", operator=True, tenant_id=PLATFORM_TENANT_ID)
    for headers in ({}, {"X-Tenant-ID": "acme"}):
        answer = await world.get("/read", staff, **headers)
        assert (answer.status_code, answer.json()["mode"]) == (200, "live")
    assert (await world.get("/read", world.assertion())).status_code == 200
    await world.publish(ACME, live_since=utc_now())
    await asyncio.sleep(CACHE_SECONDS)
    assert (await world.get("/read", live)).json()["mode"] == "live"


async def test_where_a_tenant_goes_live_live_mode_is_open_before(world: World) -> None:
    gate = world.http._transport.app.state.gate  # type: ignore[attr-defined]
    opened = Gate(world.database, gate.directory, PEPPER, admits_before_live=True)
    world.http._transport.app.state.gate = opened  # type: ignore[attr-defined]
    assert (await world.get("/read", world.assertion(mode="live"))).status_code == 200


async def test_what_is_an_owners_is_nobody_elses(world: World) -> None:
    key = await world.add_key(ACME, "billing:manage", "members:manage")
    answer = await world.get("/owner", key)
    assert (answer.status_code, answer.json()["permission"]) == (403, "owner")
    for role, status in (("member", 403), ("admin", 403), ("owner", 200)):
        answer = await world.get("/owner", world.assertion(role=role))
        assert answer.status_code == status
    staff = await world.add_key(PLATFORM_TENANT_ID, operator=True)
    assert (await world.get("/owner", staff)).status_code == 200


async def test_a_stale_assertion_says_so_and_a_forged_one_does_not(world: World) -> None:
    old = utc_now() - timedelta(minutes=2)
    expired = world.assertion(issued_at=old, expires_at=old + timedelta(seconds=60))
    answer = await world.get("/read", expired)
    assert (answer.status_code, answer.json()["detail"]) == (401, EXPIRED)
    session_id = new_id()
    ended = world.assertion(session_id=session_id)
    assert (await world.get("/read", ended)).status_code == 200
    await world.publish(ACME, sessions_revoked=(session_id,))
    await asyncio.sleep(CACHE_SECONDS)
    answer = await world.get("/read", ended)
    assert (answer.status_code, answer.json()["detail"]) == (401, VOIDED)
    forged = expired[:-4] + "AAAA"
    assert (await world.get("/read", forged)).json()["detail"] not in (EXPIRED, VOIDED)


async def test_every_assertion_before_a_version_may_be_void(world: World) -> None:
    version = world.snapshots[ACME].version
    before, after = (world.assertion(tenant_version=version + more) for more in (0, 1))
    await world.publish(ACME, assertions_void_before=version + 1)
    await asyncio.sleep(CACHE_SECONDS)
    assert (await world.get("/read", before)).status_code == 401
    assert (await world.get("/read", after)).status_code == 200


async def test_a_key_that_nobody_has_costs_the_work_of_one_that_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attack A22: by what is done and said, and not by a clock that other work on a machine moves."""
    known = await world.add_key(ACME, "billing:read")
    body = known[: known.rindex("_") + 1] + "0" * apikeys.SECRET_LENGTH
    forged, invented = body + apikeys._checksum(body), apikeys.generate("test").key
    parsed = apikeys.parse(forged)
    assert parsed is not None
    assert parsed.prefix == known.split("_")[2]
    world.gate._key_waits = KeyWaits(places=0)
    done: list[tuple[str, int]] = []
    find, verify = world.gate.directory.find, apikeys.verify

    async def watched_find(kind: LookupKind, value: str) -> Tenant | None:
        done.append((f"look up a {kind}", len(value)))
        return await find(kind, value)

    def watched_verify(key: str, pepper: bytes, stored_hash: bytes) -> bool:
        done.append(("compare", len(key) + len(stored_hash)))
        return verify(key, pepper, stored_hash)

    monkeypatch.setattr(world.gate.directory, "find", watched_find)
    monkeypatch.setattr(apikeys, "verify", watched_verify)
    work, said = [], []
    for key in (forged, invented, forged, invented):
        done.clear()
        answer = await world.get("/read", key)
        assert answer.status_code == 401
        work.append(list(done))
        said.append({name: value for name, value in answer.json().items() if name != "request_id"})
    assert [name for name, _ in work[0]] == ["look up a key", "compare"]
    assert all(each == work[0] for each in work)
    assert all(each == said[0] for each in said)
    # That a look in memory and one in the database end alike is key_waits' own promise.
    assert (await world.get("/read", known)).status_code == 200


async def test_an_absent_object_and_a_strangers_are_noted_alike(world: World) -> None:
    key = await world.add_key(ACME, "billing:read")
    staff = await world.add_key(PLATFORM_TENANT_ID, operator=True)
    assert (await world.get("/things/known", key)).status_code == 200
    assert (await world.get("/things", key, **{"X-Note": "names nothing"})).status_code == 404
    assert (await world.get("/things/absent", staff)).status_code == 404
    assert await world.security_events() == []
    assert (await world.get("/things/absent", key)).status_code == 404
    await world.log.settle()
    (told,) = world.log.events(SecurityEventRaised)
    assert (told.tenant_id, told.data.kind, told.data.severity) == (ACME, "object_absent", "info")
    assert (told.data.method, told.data.path) == ("GET", "/things/absent")
    assert (told.data.permission, told.data.role) == ("billing:read", None)
    assert told.data.actor.startswith("key_")


async def test_looking_for_thousands_fills_no_log(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    # However slow the machine is: in the time of this test nobody is told of one more.
    monkeypatch.setattr(alarms, "TOLD_PER_SECOND", 1e-9)
    monkeypatch.setattr(world.gate.alarms, "_telling", alarms.Telling())
    key, other = [await world.add_key(ACME, "billing:read") for _ in range(2)]
    counted = SECURITY_EVENTS_TOTAL.labels(kind="object_absent", severity="info")
    before = counted._value.get()
    for _ in range(ABSENT_TOLD_AT_ONCE + 5):
        assert (await world.get("/things/absent", key)).status_code == 404
    assert (await world.security_events()).count("object_absent") == ABSENT_TOLD_AT_ONCE
    assert counted._value.get() - before == ABSENT_TOLD_AT_ONCE + 5
    # One caller's haste hides nobody else's.
    assert (await world.get("/things/absent", other)).status_code == 404
    assert (await world.security_events()).count("object_absent") == ABSENT_TOLD_AT_ONCE + 1
