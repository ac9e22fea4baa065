"""What must exist before anybody can do anything; run again and again, it adds what is missing.

The two reserved tenants, the first operator with its key, and a key that signs assertions.
"""

from datetime import datetime

import structlog

from libs.clock import utc_now
from libs.contracts.tenants import DEFAULT_TENANT_ID, PLATFORM_TENANT_ID
from libs.crypto import apikeys, tokens
from libs.db.pool import Database, Tx
from libs.db.tenant import Scope
from services.tenants import (
    going_live,
    keys,
    passwords,
    people,
    sealing,
    sessions,
    snapshot,
    store_keys,
    store_people,
    store_tenants,
    tenancy,
)
from services.tenants.roles import SCOPES
from services.tenants.settings import Settings

log = structlog.get_logger()

ACTOR = "system"
LOCK = "tenants.bootstrap"

RESERVED_TENANTS = (
    (PLATFORM_TENANT_ID, "platform", "Platform"),
    (DEFAULT_TENANT_ID, "default", "Default"),
)


async def run_once(database: Database, settings: Settings) -> None:
    """Make what is missing: tenants and operator in one commit, then what signs assertions."""
    await _ensure_reserved(database, settings)
    await _ensure_signing_key(database, settings)


async def _ensure_reserved(database: Database, settings: Settings) -> None:
    async with database.transaction() as tx:
        await tx.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", LOCK)
        now = utc_now()
        for tenant_id, slug, name in RESERVED_TENANTS:
            await tx.enter(Scope((tenant_id,), None))
            changed = await _ensure_tenant(tx, slug, name, settings.default_currency, now)
            changed |= await _ensure_live(tx, now)
            if tenant_id == PLATFORM_TENANT_ID:
                changed |= await _ensure_operator(tx, settings, now)
                changed |= await _ensure_operator_key(tx, settings, now)
            if changed:
                version = await snapshot.publish(tx, now)
                log.info("reserved_tenant_published", slug=slug, version=version)


async def _ensure_tenant(tx: Tx, slug: str, name: str, currency: str, now: datetime) -> bool:
    if await store_tenants.lock_tenant(tx) is not None:
        return False
    new = tenancy.NewTenant(
        name=name,
        tenant_type="organization",
        currency=currency,
        locale="en",
        created_by=ACTOR,
    )
    taken = await store_tenants.take_slug(tx, slug)
    assert taken, "a reserved slug is nobody else's"
    await tenancy.enter(tx, new, slug, now)
    return True


async def _ensure_live(tx: Tx, now: datetime) -> bool:
    """The reserved tenants are live from the start."""
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "it was just made sure of"
    if tenant["live_since"] is not None:
        return False
    await going_live.open_live_mode(tx, tenant, {}, ACTOR, now)
    return True


async def _ensure_operator(tx: Tx, settings: Settings, now: datetime) -> bool:
    """The first operator; one who exists keeps the password it has."""
    if settings.operator_email is None or settings.operator_password is None:
        return False
    known = await store_people.find_account(tx, settings.operator_email)
    if known is not None:
        return await store_people.insert_member(tx, known["user_id"], "owner", now)
    password_hash = await passwords.hash_password(settings.operator_password.get_secret_value())
    user_id = await people.ensure_user(
        tx, settings.operator_email, now, name="Operator", password_hash=password_hash
    )
    await store_people.insert_email_proof(tx, user_id, now)
    return await store_people.insert_member(tx, user_id, "owner", now)


async def _ensure_operator_key(tx: Tx, settings: Settings, now: datetime) -> bool:
    """The first operator's key; once revoked it stays so, and another must be configured."""
    if settings.operator_key is None:
        return False
    text = settings.operator_key.get_secret_value()
    parsed = apikeys.parse(text)
    assert parsed is not None, "the settings have checked it"
    if await store_keys.has_prefix(tx, parsed.prefix):
        return False
    new = keys.NewKey(
        name="First operator",
        mode=parsed.mode,
        scopes=frozenset(SCOPES),
        expires_at=None,
        created_by=ACTOR,
        operator=True,
    )
    await keys.enter(tx, new, text, settings.key_pepper_bytes, now)
    return True


async def _ensure_signing_key(database: Database, settings: Settings) -> None:
    now = utc_now()
    async with database.tenant(PLATFORM_TENANT_ID, None) as tx:
        if await store_keys.signing_keys(tx):
            return
    private_key = tokens.generate_private_key()
    public_key = tokens.public_key_of(private_key)
    key_id = tokens.key_id_of(public_key)
    sealer = sealing.Sealer(database, settings.sealing)
    key = await sealer.prepare(PLATFORM_TENANT_ID, now)
    sealed = key.seal(private_key, sessions.signing_key_place(key_id))
    async with database.tenant(PLATFORM_TENANT_ID, None) as tx:
        await tx.execute("select pg_advisory_xact_lock(hashtextextended($1, 0))", LOCK)
        if await store_keys.signing_keys(tx):
            return
        await store_keys.insert_signing_key(
            tx,
            key_id=key_id,
            public_key=public_key,
            private_key_sealed=sealed.value,
            data_key_id=sealed.data_key_id,
            at=now,
        )
        await snapshot.publish(tx, now)
