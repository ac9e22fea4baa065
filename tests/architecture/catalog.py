"""What Postgres's own catalogue says of tenancy: every table, role, view and function of a service.

Each check returns sentences that name what is wrong; an empty list is good. The waivers are the
one list of tables that may differ, each with its reason and exactly the rules it does not keep; a
waiver that nothing needs any more is itself wrong.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from libs.db.migrate import LOOKUP, OWNER

TENANT_ID = "no column tenant_id uuid not null"
MODE = "no column mode text not null"
FORCED = "row-level security is not enabled and forced"
TENANT_POLICY = "no policy reads app.tenants"
MODE_POLICY = "no policy reads app.mode"
OPEN_POLICY = "a policy lets the service see or write rows of any tenant"
INDEX = "no index is led by tenant_id"
KEYS = "a primary, unique or foreign key lacks tenant_id or mode"

NO_TENANT = frozenset({TENANT_ID, MODE, FORCED, TENANT_POLICY, MODE_POLICY, INDEX, KEYS})
IDENTITY = frozenset({MODE, MODE_POLICY, KEYS})


@dataclass(frozen=True)
class Waiver:
    """A table that may break some rules, and why."""

    reason: str
    rules: frozenset[str]


def _waiver(reason: str, *rules: str, also: frozenset[str] = frozenset()) -> Waiver:
    return Waiver(reason, frozenset(rules) | also)


CORE_WAIVERS: Mapping[str, Waiver] = {
    "schema_migration": _waiver(
        "names of applied files; the service cannot write it", also=NO_TENANT
    ),
    "fence": _waiver("offsets of partitions, which many tenants share", also=NO_TENANT),
    "inbox": _waiver("random ids of events and nothing else", also=NO_TENANT),
    "consumer_stop": _waiver("why a consumer stopped: one row per consumer", also=NO_TENANT),
    "parked_key": _waiver(
        "read before an event's tenant is entered; holds no data", also=NO_TENANT
    ),
    "parked_record": _waiver(
        "raw records behind a failing one; the service may add and, as maintenance, drain them",
        *(TENANT_ID, MODE, TENANT_POLICY, MODE_POLICY, OPEN_POLICY, INDEX, KEYS),
    ),
    "dead_letter": _waiver(
        "raw bytes whose tenant may be unreadable; the service may only add",
        *(TENANT_ID, MODE, TENANT_POLICY, MODE_POLICY, OPEN_POLICY, INDEX, KEYS),
    ),
    "outbox": _waiver("identity facts have no mode; numbered for the relay", MODE, KEYS),
    "stream": _waiver("numbers of a tenant's streams hold in both modes", also=IDENTITY),
    "stream_position": _waiver("numbers of a tenant's streams hold in both modes", also=IDENTITY),
    "directory": _waiver("a tenant's public record holds in both modes", also=IDENTITY),
    "directory_account": _waiver("exact look-ups before a tenant is known", also=IDENTITY),
    "directory_lookup": _waiver("exact look-ups before a tenant is known", also=IDENTITY),
}
"""Tables that every service's schema has."""


@dataclass(frozen=True)
class Table:
    """One table as the catalogue has it."""

    schema: str
    name: str
    broken: frozenset[str]

    @property
    def full_name(self) -> str:
        """`schema.table`."""
        return f"{self.schema}.{self.name}"


_TABLES = """
select n.nspname as schema, c.relname as name,
    c.relrowsecurity and c.relforcerowsecurity as forced,
    exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'tenant_id'
        and a.attnotnull and a.atttypid = 'uuid'::regtype) as tenant_id,
    exists (select from pg_attribute a where a.attrelid = c.oid and a.attname = 'mode'
        and a.attnotnull and a.atttypid = 'text'::regtype) as mode,
    exists (select from pg_index i join pg_attribute a
        on a.attrelid = c.oid and a.attnum = i.indkey[0]
        where i.indrelid = c.oid and i.indpred is null and a.attname = 'tenant_id') as led,
    array(select (select string_agg(a.attname::text, ',') from pg_attribute a
            where a.attrelid = c.oid and a.attnum = any (i.indkey))
        from pg_index i where i.indrelid = c.oid and i.indisunique) as uniques,
    array(select (select string_agg(a.attname::text, ',') from pg_attribute a
            where a.attrelid = c.oid and a.attnum = any (f.conkey))
        from pg_constraint f where f.conrelid = c.oid and f.contype = 'f') as foreigns
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = any ($1::text[]) and c.relkind in ('r', 'p')
order by 1, 2
"""

_POLICIES = """
select schemaname as schema, tablename as name, roles::text[] as roles,
    coalesce(qual, '') as qual, coalesce(with_check, '') as with_check
from pg_policies where schemaname = any ($1::text[])
"""


async def tables(admin: Any, schemas: Sequence[str]) -> list[Table]:
    """Every table of these schemas with the rules it breaks.

    A partition counts as a table: read directly, its parent's policies do not hold.
    """
    policies: dict[tuple[str, str], list[Any]] = {}
    for row in await admin.fetch(_POLICIES, schemas):
        policies.setdefault((row["schema"], row["name"]), []).append(row)
    return [
        Table(
            row["schema"], row["name"], _broken(row, policies.get((row["schema"], row["name"]), []))
        )
        for row in await admin.fetch(_TABLES, schemas)
    ]


def _broken(row: Any, policies: Iterable[Any]) -> frozenset[str]:
    apart = {f"sluice_{row['schema']}_maintenance", LOOKUP}
    own = [policy for policy in policies if not set(policy["roles"]) <= apart]
    conditions = [text for policy in own for text in (policy["qual"], policy["with_check"]) if text]
    keys = [set(key.split(",")) for key in (*row["uniques"], *row["foreigns"])]
    kept = {
        TENANT_ID: row["tenant_id"],
        MODE: row["mode"],
        FORCED: row["forced"],
        TENANT_POLICY: any("app.tenants" in text for text in conditions),
        MODE_POLICY: any("app.mode" in text for text in conditions),
        OPEN_POLICY: all("app.tenants" in text for text in conditions),
        INDEX: row["led"],
        KEYS: all({"tenant_id", "mode"} <= key for key in keys),
    }
    return frozenset(rule for rule, holds in kept.items() if not holds)


def table_faults(found: Iterable[Table], waivers: Mapping[str, Waiver]) -> list[str]:
    """What no waiver covers, and waivers that cover nothing."""
    faults = []
    needed: dict[str, set[str]] = {}
    for table in found:
        name = table.full_name if table.full_name in waivers else table.name
        waiver = waivers.get(name) or CORE_WAIVERS.get(name)
        if waiver is not None:
            needed.setdefault(name, set()).update(table.broken & waiver.rules)
        allowed = waiver.rules if waiver else frozenset()
        faults += [f"{table.full_name}: {rule}" for rule in sorted(table.broken - allowed)]
    for name, waiver in {**CORE_WAIVERS, **waivers}.items():
        if name not in needed:
            faults.append(f"the waiver of {name} is for a table that does not exist")
            continue
        unused = sorted(waiver.rules - needed[name])
        faults += [f"the waiver of {name} is not needed: {rule}" for rule in unused]
    return faults


async def role_faults(admin: Any, schemas: Sequence[str]) -> list[str]:
    """Login roles that own, bypass or inherit something, and any way from one schema to another."""
    faults = []
    for schema in schemas:
        role = f"sluice_{schema}"
        row = await admin.fetchrow(
            "select *, exists (select from pg_shdepend d where d.refobjid = r.oid "
            "and d.refclassid = 'pg_authid'::regclass and d.deptype = 'o') as owns "
            "from pg_roles r where rolname = $1",
            role,
        )
        powers = ("rolsuper", "rolbypassrls", "rolcreaterole", "rolcreatedb", "rolreplication")
        faults += [f"{role} has {power}" for power in (*powers, "rolinherit") if row[power]]
        if row["owns"]:
            faults.append(f"{role} owns something")
        reachable = await admin.fetch(
            "select rolname from pg_roles where rolname <> $1 and pg_has_role($1, oid, 'member')",
            role,
        )
        others = {row["rolname"] for row in reachable} - {f"{role}_maintenance"}
        faults += [f"{role} may become {other}" for other in sorted(others)]
    for role in (OWNER, LOOKUP):
        row = await admin.fetchrow("select * from pg_roles where rolname = $1", role)
        shared = ("rolsuper", "rolbypassrls", "rolcanlogin")
        faults += [f"{role} has {power}" for power in shared if row[power]]
    return faults + await _crossings(admin, schemas)


async def _crossings(admin: Any, schemas: Sequence[str]) -> list[str]:
    rows = await admin.fetch(
        """
        select r.role, n.nspname as schema from unnest($1::text[]) as own(schema),
            lateral (values ('sluice_' || own.schema),
                ('sluice_' || own.schema || '_maintenance')) as r(role),
            pg_namespace n
        where n.nspname = any ($1::text[]) and n.nspname <> own.schema
          and (has_schema_privilege(r.role, n.oid, 'usage')
            or has_schema_privilege(r.role, n.oid, 'create')
            or exists (select from pg_class c where c.relnamespace = n.oid
                and c.relkind in ('r', 'p', 'v', 'm') and has_table_privilege(r.role, c.oid,
                    'select, insert, update, delete, truncate, references, trigger')))
        order by 1, 2
        """,
        schemas,
    )
    faults = [f"{row['role']} reaches the schema {row['schema']}" for row in rows]
    creators = await admin.fetch(
        "select own || '' as own, n.nspname as schema from unnest($1::text[]) as own, "
        "pg_namespace n where n.nspname = any ($1::text[] || array['public']) "
        "and has_schema_privilege('sluice_' || own, n.oid, 'create') order by 1, 2",
        schemas,
    )
    return faults + [f"sluice_{row['own']} may create in {row['schema']}" for row in creators]


async def object_faults(
    admin: Any, schemas: Sequence[str], owners_functions: Mapping[str, str]
) -> list[str]:
    """Views, functions and ownership through which row-level security could be passed by.

    Args:
        owners_functions: SECURITY DEFINER functions of the owner role, each with its reason; the
            owner is held by forced row-level security like everybody.
    """
    faults = []
    for row in await admin.fetch(
        "select n.nspname as schema, c.relname as name, c.relkind::text as kind, "
        "pg_get_userbyid(c.relowner) as owner, "
        "coalesce(c.reloptions, '{}') && array['security_invoker=true', 'security_invoker=on'] "
        "as invoker from pg_class c join pg_namespace n on n.oid = c.relnamespace "
        "where n.nspname = any ($1::text[]) and c.relkind in ('r', 'p', 'v', 'm', 'f', 'S') "
        "order by 1, 2",
        schemas,
    ):
        name = f"{row['schema']}.{row['name']}"
        if row["owner"] != OWNER:
            faults.append(f"{name} belongs to {row['owner']}, not to {OWNER}")
        if row["kind"] == "v" and not row["invoker"]:
            faults.append(f"the view {name} reads as its owner: set security_invoker")
        if row["kind"] in ("m", "f"):
            faults.append(f"{name} is a materialized view or foreign table: no policy holds it")
    return faults + await _function_faults(admin, schemas, owners_functions)


async def _function_faults(
    admin: Any, schemas: Sequence[str], owners_functions: Mapping[str, str]
) -> list[str]:
    faults = []
    missing = set(owners_functions)
    for row in await admin.fetch(
        "select n.nspname as schema, p.proname as name, pg_get_userbyid(p.proowner) as owner, "
        "coalesce(p.proconfig, '{}') as config from pg_proc p "
        "join pg_namespace n on n.oid = p.pronamespace "
        "where p.prosecdef and n.nspname <> all (array['pg_catalog', 'information_schema']) "
        "order by 1, 2"
    ):
        name = f"{row['schema']}.{row['name']}"
        missing.discard(name)
        if row["schema"] not in schemas:
            faults.append(f"{name} is SECURITY DEFINER outside a service's schema")
        if row["owner"] != LOOKUP and not (row["owner"] == OWNER and name in owners_functions):
            faults.append(f"{name} is SECURITY DEFINER as {row['owner']}")
        if f"search_path={row['schema']}, pg_temp" not in row["config"]:
            faults.append(f"{name} is SECURITY DEFINER without a pinned search_path")
    for row in await admin.fetch(
        "select c.oid::regclass::text as name from pg_class c "
        "join pg_namespace n on n.oid = c.relnamespace where n.nspname = any ($1::text[]) "
        "and c.relkind in ('r', 'p') "
        f"and has_table_privilege('{LOOKUP}', c.oid, 'insert, update, delete, truncate')",
        schemas,
    ):
        faults.append(f"{LOOKUP} may write {row['name']}")
    return faults + [f"{name} is excused and does not exist" for name in sorted(missing)]
