"""Tenancy as Postgres's catalogue tells it, and the checks themselves tried on planted faults."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import asyncpg
import pytest

from libs.deploy import services_with_schema
from libs.testing.databases import TestDatabase
from tests.architecture import catalog
from tests.architecture.catalog import (
    FORCED,
    IDENTITY,
    INDEX,
    KEYS,
    MODE,
    MODE_POLICY,
    NO_TENANT,
    OPEN_POLICY,
    TENANT_ID,
    TENANT_POLICY,
    Waiver,
)

STRANGERS_ROWS = (NO_TENANT - {FORCED}) | {OPEN_POLICY}
IDENTITY_WITH_MODE = frozenset({MODE_POLICY})

WAIVERS: Mapping[str, Waiver] = {
    "gateway.taken_event_id": Waiver(
        "ids of Stripe's events, taken before their tenant is known; holds nothing else",
        NO_TENANT - {MODE},
    ),
    "gateway.tenant_secrets": Waiver("sealed secrets of both modes travel together", IDENTITY),
    "metering.former_ids": Waiver(
        "since when ids have another hash; no tenant's data", NO_TENANT - {KEYS}
    ),
    "metering.platform_marks": Waiver(
        "since when the platform marks what it reports; no tenant's data", NO_TENANT - {KEYS}
    ),
    "stripe_sync.tenant_secrets": Waiver("sealed secrets of both modes travel together", IDENTITY),
    "stripe_sync.lease": Waiver("who holds a piece of work; no tenant's data", NO_TENANT),
    "stripe_sync.object_owner": Waiver(
        "claims a Stripe id for one tenant among all, so the key cannot contain the tenant",
        frozenset({KEYS}),
    ),
    "stripe_sync.transaction_cursor": Waiver(
        "how far a Stripe account was listed; an account may serve many tenants",
        NO_TENANT - {MODE},
    ),
    "stripe_sync.account_turn": Waiver(
        "when a Stripe account was last served; an account may serve many tenants",
        NO_TENANT - {MODE},
    ),
    "stripe_sync.taken_event": Waiver(
        "ids of Stripe's events of an account, which may serve many tenants; holds nothing else",
        NO_TENANT - {MODE},
    ),
    "stripe_sync.walk": Waiver(
        "how far a Stripe account was listed; an account may serve many tenants",
        NO_TENANT - {MODE},
    ),
    "stripe_sync.walked_object": Waiver(
        "what a run over a Stripe account's list saw; an account may serve many tenants",
        NO_TENANT - {MODE},
    ),
    "metering.archive_place": Waiver(
        "how far a partition is archived; holds no tenant's data", NO_TENANT
    ),
    "tenants.tenant": Waiver("a tenant exists in both modes", IDENTITY),
    "tenants.tenant_slug": Waiver("a slug is unique among all tenants", IDENTITY),
    "tenants.member": Waiver("members belong to both modes", IDENTITY),
    "tenants.member_revocation": Waiver("members belong to both modes", IDENTITY),
    "tenants.team": Waiver("members belong to both modes", IDENTITY),
    "tenants.team_member": Waiver("members belong to both modes", IDENTITY),
    "tenants.invitation": Waiver("members belong to both modes", IDENTITY),
    "tenants.data_key": Waiver("keys seal a tenant's secrets of both modes", IDENTITY),
    "tenants.key_rotation": Waiver("keys seal a tenant's secrets of both modes", IDENTITY),
    "tenants.key_rotation_told": Waiver("secrets of both modes travel together", IDENTITY),
    "tenants.secrets_holder": Waiver("secrets of both modes travel together", IDENTITY),
    "tenants.secret_destruction": Waiver("secrets of both modes are destroyed together", IDENTITY),
    "tenants.secret_intent": Waiver("names a secret's path outside, which has no mode", IDENTITY),
    "tenants.signing_key": Waiver("signs assertions of both modes", IDENTITY),
    "tenants.session_revocation": Waiver("a session holds in both modes", IDENTITY),
    "tenants.audit_entry": Waiver("one chain per tenant, over both modes", IDENTITY),
    "tenants.audit_head": Waiver("one chain per tenant, over both modes", IDENTITY),
    "tenants.audit_anchor": Waiver("one chain per tenant, over both modes", IDENTITY),
    "tenants.api_key": Waiver(
        "all keys of a tenant are shown and published together, whatever their mode",
        frozenset({MODE_POLICY, KEYS}),
    ),
    "tenants.key_use": Waiver(
        "shown beside a tenant's keys of both modes", frozenset({MODE_POLICY})
    ),
    "tenants.tenant_config": Waiver("a tenant's configuration holds in both modes", IDENTITY),
    "tenants.platform_subscription": Waiver(
        "goes into the one snapshot of both modes", IDENTITY_WITH_MODE
    ),
    "tenants.stripe_object": Waiver("goes into the one snapshot of both modes", IDENTITY_WITH_MODE),
    "tenants.stripe_connection": Waiver(
        "goes into the one snapshot of both modes", frozenset({MODE_POLICY})
    ),
    "tenants.connection_secret": Waiver(
        "sealed secrets of both modes travel and are sealed anew together, under one data key",
        frozenset({MODE_POLICY, KEYS}),
    ),
    "tenants.stripe_account_owner": Waiver(
        "a Stripe account belongs to one tenant among all; holds nothing else", frozenset({KEYS})
    ),
    "tenants.secrets_version": Waiver("sealed secrets of both modes travel together", IDENTITY),
    "tenants.clock_advance": Waiver(
        "refers to the tenant, which exists in both modes", frozenset({KEYS})
    ),
    "tenants.user_account": Waiver(
        "people belong to no tenant; the service may add one, and only look one up exactly",
        STRANGERS_ROWS,
    ),
    "tenants.person_key": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.session": Waiver(
        "of a person, not of a tenant; found by its hash only", STRANGERS_ROWS
    ),
    "tenants.session_use": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.user_password": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.user_email_proof": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.user_identity": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.oidc_sign_in": Waiver("two hashes and a path of ours; of nobody's tenant", NO_TENANT),
    "tenants.session_end": Waiver("of a person, not of a tenant", STRANGERS_ROWS),
    "tenants.sign_in_failure": Waiver("counts by keyed digest; of nobody's tenant", NO_TENANT),
}
"""Tables that break rules, with the reason, beside the core's own (`CORE_WAIVERS`)."""

OWNERS_FUNCTIONS: Mapping[str, str] = {
    "gateway.make_archive_months": "only an owner makes partitions; it makes exactly the archive's",
    "gateway.drop_archive_months": "only an owner drops partitions; never that of a running month",
    "ledger.fold_hold": "the one writer of what a hold has come to; held likewise",
    "ledger.post_entries": "the one way to book; its owner is held by forced row-level security",
}
"""SECURITY DEFINER functions that run as the tables' owner.

Each with its reason."""

SCHEMAS = services_with_schema()


async def test_every_table_is_isolated_or_excused(database: TestDatabase) -> None:
    async with database.admin() as admin:
        found = await catalog.tables(admin, SCHEMAS)
    assert {table.schema for table in found} == set(SCHEMAS)
    assert catalog.table_faults(found, WAIVERS) == []


async def test_roles_are_plain_and_keep_to_their_schema(database: TestDatabase) -> None:
    async with database.admin() as admin:
        assert await catalog.role_faults(admin, SCHEMAS) == []


async def test_nothing_passes_row_level_security_by(database: TestDatabase) -> None:
    async with database.admin() as admin:
        assert await catalog.object_faults(admin, SCHEMAS, OWNERS_FUNCTIONS) == []


GOOD = "tenant_id uuid not null, mode text not null, id uuid not null"
PLANTED = {
    "create table planted (id uuid primary key, tenant_id uuid, mode text not null)": TENANT_ID,
    "create table planted (tenant_id uuid not null, id uuid, primary key (tenant_id, id))": MODE,
    f"create table planted ({GOOD}, primary key (tenant_id, mode, id))": FORCED,
    f"create table planted ({GOOD}, primary key (tenant_id, mode, id));"
    "alter table planted enable row level security;"
    "create policy p on planted using (tenant_id::text = current_setting('app.tenants', true)"
    " and mode = current_setting('app.mode', true))": FORCED,
    f"create table planted ({GOOD}, primary key (tenant_id, mode, id));"
    "alter table planted enable row level security;"
    "alter table planted force row level security": TENANT_POLICY,
    f"create table planted ({GOOD}, primary key (tenant_id, mode, id));"
    "select isolate('planted', with_mode => false)": MODE_POLICY,
    f"create table planted ({GOOD}, primary key (tenant_id, mode, id));"
    "select isolate('planted'); create policy everything on planted using (true)": OPEN_POLICY,
    f"create table planted ({GOOD}, primary key (id, tenant_id, mode));"
    "select isolate('planted')": INDEX,
    f"create table planted ({GOOD} unique, primary key (tenant_id, mode, id));"
    "select isolate('planted')": KEYS,
}


@asynccontextmanager
async def planted(
    database: TestDatabase, sql: str, *, schema: str = "billing"
) -> AsyncGenerator[asyncpg.Connection, None]:
    """What there is after SQL was run as the owner of the tables, as by a migration.

    It is rolled back, so that the next test finds the database as it was.
    """
    async with database.admin() as admin:
        change = admin.transaction()
        await change.start()
        try:
            await admin.execute(f"set role sluice_owner; set search_path = {schema}; {sql}")
            await admin.execute("reset role; reset search_path")
            yield admin
        finally:
            await change.rollback()


@pytest.mark.parametrize(("sql", "fault"), PLANTED.items(), ids=range(len(PLANTED)))
async def test_a_bad_table_is_found(database: TestDatabase, sql: str, fault: str) -> None:
    async with planted(database, sql) as admin:
        found = await catalog.tables(admin, SCHEMAS)
    faults = catalog.table_faults(found, WAIVERS)
    assert f"billing.planted: {fault}" in faults
    assert all(named.startswith("billing.planted: ") for named in faults)


async def test_a_good_table_is_good(database: TestDatabase) -> None:
    good = (
        f"create table planted ({GOOD}, primary key (tenant_id, mode, id));"
        "select isolate('planted'); select open_to_maintenance('planted')"
    )
    async with planted(database, good) as admin:
        assert catalog.table_faults(await catalog.tables(admin, SCHEMAS), WAIVERS) == []


async def test_a_waiver_that_nothing_needs_is_found(database: TestDatabase) -> None:
    async with database.admin() as admin:
        found = await catalog.tables(admin, SCHEMAS)
    more = {"billing.gone": Waiver("was dropped", NO_TENANT)}
    more["billing.invoice"] = Waiver("needs none", frozenset({MODE}))
    assert catalog.table_faults(found, {**WAIVERS, **more}) == [
        "the waiver of billing.gone is for a table that does not exist",
        f"the waiver of billing.invoice is not needed: {MODE}",
    ]


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        (
            "grant usage on schema billing to sluice_ledger",
            "sluice_ledger reaches the schema billing",
        ),
        (
            "grant select on billing.invoice to sluice_ledger",
            "sluice_ledger reaches the schema billing",
        ),
        (
            "grant select on billing.invoice to public",
            "sluice_gateway_maintenance reaches the schema billing",
        ),
        (
            "grant create on schema billing to sluice_billing",
            "sluice_billing may create in billing",
        ),
    ],
)
async def test_a_way_into_another_schema_is_found(
    database: TestDatabase, sql: str, fault: str
) -> None:
    async with planted(database, sql) as admin:
        assert fault in await catalog.role_faults(admin, SCHEMAS)


async def test_a_strong_role_is_found(database: TestDatabase) -> None:
    """Roles are the server's, shared with other tests: the change is rolled back."""
    async with database.admin() as admin:
        change = admin.transaction()
        await change.start()
        await admin.execute("alter role sluice_billing bypassrls inherit")
        await admin.execute("grant sluice_ledger_maintenance to sluice_billing")
        await admin.execute(
            "create table public.mine (); alter table public.mine owner to sluice_billing"
        )
        faults = await catalog.role_faults(admin, SCHEMAS)
        await change.rollback()
    assert faults[:4] == [
        "sluice_billing has rolbypassrls",
        "sluice_billing has rolinherit",
        "sluice_billing owns something",
        "sluice_billing may become sluice_ledger_maintenance",
    ]


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        (
            "create view every_invoice as select * from invoice",
            "the view billing.every_invoice reads as its owner: set security_invoker",
        ),
        (
            "create materialized view copy as select 1 as one",
            "billing.copy is a materialized view or foreign table: no policy holds it",
        ),
        (
            (
                "create function peek() returns bigint language sql security definer "
                "set search_path = billing, pg_temp as 'select count(*) from invoice'"
            ),
            "billing.peek is SECURITY DEFINER as sluice_owner",
        ),
        (
            (
                "create function peek() returns integer language sql security definer as 'select 1'; "
                "alter function peek() owner to sluice_lookup"
            ),
            "billing.peek is SECURITY DEFINER without a pinned search_path",
        ),
        ("grant delete on invoice to sluice_lookup", "sluice_lookup may write billing.invoice"),
    ],
)
async def test_a_way_past_the_policies_is_found(
    database: TestDatabase, sql: str, fault: str
) -> None:
    async with planted(database, sql) as admin:
        assert fault in await catalog.object_faults(admin, SCHEMAS, OWNERS_FUNCTIONS)


async def test_no_role_can_read_another_services_tables(database: TestDatabase) -> None:
    """Tried for real: every role on every table of every other service."""
    async with database.admin() as admin:
        found = await catalog.tables(admin, SCHEMAS)
    for schema in SCHEMAS:
        async with database.open(schema) as service, service.pool.acquire() as connection:
            for table in found:
                if table.schema != schema:
                    with pytest.raises(asyncpg.InsufficientPrivilegeError):
                        await connection.execute(f"select from {table.full_name} limit 1")
