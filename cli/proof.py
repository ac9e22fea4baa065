"""Proofs over a running stack: everything settled, nothing leaks, a replay changes nothing.

These look into Postgres and Kafka as an administrator; the story itself uses the public API only.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from cli.api import StoryError

SETTLE_SECONDS = 120.0
STILL_SECONDS = 1.5

AWAY = (
    OSError,
    TimeoutError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    KafkaError,
)
"""What Postgres or Kafka says that was killed a moment ago, or is coming back."""

SERVICES = ("gateway", "tenants", "metering", "billing", "stripe_sync", "ledger", "reporting")

EXEMPT_TABLES: Mapping[str, str] = {
    "fence": "says where a consumer stands, and when it moved",
    "inbox": "is cleared for the replay, or gets the replay's ids",
    "outbox": "is compared by its rows: none may be added",
    "idempotency_key": "holds answers to clients, not effects",
    "key_use": "says when a key was last used",
    "audit_anchor": "says where an audit chain stood, by the clock",
    "session_revocation": "is dropped when no assertion of that time holds any more, by the clock",
    "schema_migration": "belongs to the deploy step",
    "dirty_object": "asks for a refetch that finds no difference",
    "account_turn": "says when an account was last worked on",
    "archive_place": "says how far the topic of usage is archived",
    "archived_file": "lists what lies on that topic, also what was sent again and counts no more",
    "usage_forecast": "is made anew by the clock",
    "planned_occurrence": "is decided by the clock when it is due",
    "walk": "says how far a periodic walk through an account's lists has come",
    "walked_object": "says what that walk has seen",
    "transaction_cursor": "says how far the periodic listing at Stripe has looked",
    "reconciliation_schedule": "says when a Stripe account is compared next, by the clock",
    "reconciliation": "says how far a periodic comparison with Stripe has come",
    "reconciliation_item": "holds both sides of such a comparison while it goes",
    "listed_movement": "says what Stripe listed in such a comparison",
    "reconciliation_break": "is found by such a comparison",
    "reconciliation_break_change": "is found by such a comparison",
}
"""Tables that a replay may touch, each with its reason; every other must be equal to the byte."""

EXEMPT_ROWS: Mapping[str, tuple[str, str]] = {
    "outbox": (
        "event_type in ('KeyUsed', 'AuditHeadAnchored', 'LedgerHeadAnchored')",
        "told by the clock, not by an event: when a key was last used, where a chain stood",
    ),
    "stream": ("topic in ('audit.events', 'ledger.events')", "numbers those"),
    "stream_position": ("topic in ('audit.events', 'ledger.events')", "numbers those"),
}
"""Rows that come and go without any event; the rest of their tables is compared."""

RETRIED_ROWS: Mapping[str, str] = {
    "payment_request": "state = 'open' or (state = 'refused' and kind = 'refund' "
    "and refusal = 'outcome_unknown')",
    "statement_request": "state = 'pending'",
}
"""Rows that wait for an answer of Stripe's, and are asked for again by the clock until there is one.

Where a tenant has disconnected the account that is for an hour, or for a day: a stack at rest may have
such rows. That they are there, what was asked for and that it waits is compared like everything else.
"""

RETRIED_COLUMNS: frozenset[str] = frozenset({"attempts", "next_try_at", "last_error"})
"""What each try changes of them, and nothing else."""

EXEMPT_COLUMNS: frozenset[str] = frozenset(
    {"fetched_at", "checked_at", "last_received_at", "anchored_at", "anchored_seq"}
)
"""Times of looking and telling, not of change."""


async def connect(environment: Mapping[str, str]) -> Any:
    """A connection as the administrator."""
    return await asyncpg.connect(environment["SLUICE_POSTGRES"], timeout=10)


async def unsettled(environment: Mapping[str, str]) -> list[str]:
    """What still moves: records before a fence, unsent events, work that is due."""
    admin = await connect(environment)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=environment["SLUICE_KAFKA"], enable_auto_commit=False
    )
    try:
        await consumer.start()
        moving = []
        for schema in await schemas(admin):
            unsent = await admin.fetchval(
                f"select count(*) from {schema}.outbox where sent_at is null"  # noqa: S608
            )
            if unsent:
                moving.append(f"{schema}: {unsent} unsent")
            fences = await admin.fetch(f"select * from {schema}.fence")  # noqa: S608
            places = {TopicPartition(f["topic"], f["partition"]) for f in fences}
            ends = await consumer.end_offsets(places) if places else {}
            for fence in fences:
                end = ends[TopicPartition(fence["topic"], fence["partition"])]
                if fence["next_offset"] < end:
                    moving.append(f"{fence['consumer']}: {end - fence['next_offset']} to read")
        return moving
    finally:
        await consumer.stop()
        await admin.close()


async def settle(environment: Mapping[str, str], *, seconds: float = SETTLE_SECONDS) -> None:
    """Wait until nothing moves any more, twice in a row; a server that is away comes back first.

    Raises:
        StoryError: it does not come to rest.
    """
    deadline = time.monotonic() + seconds
    still = 0
    while still < 2:
        try:
            moving = await unsettled(environment)
        except AWAY as error:
            moving = [f"{type(error).__name__}: {error}"]
        still = 0 if moving else still + 1
        if time.monotonic() > deadline:
            raise StoryError(f"the system does not come to rest: {moving[:5]}")
        await asyncio.sleep(STILL_SECONDS if still else 0.3)


async def schemas(admin: Any) -> list[str]:
    """The services' schemas that exist."""
    rows = await admin.fetch(
        "select nspname from pg_namespace where nspname = any($1::text[]) order by 1",
        list(SERVICES),
    )
    return [row["nspname"] for row in rows]


async def tables(admin: Any, schema: str) -> dict[str, list[str]]:
    """The tables of a schema (partitions through their parent) with their columns."""
    rows = await admin.fetch(
        """
        select c.relname, array_agg(a.attname::text order by a.attnum) columns
        from pg_class c join pg_namespace n on n.oid = c.relnamespace
        join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
        where n.nspname = $1 and c.relkind in ('r', 'p') and not c.relispartition
        group by c.relname order by c.relname
        """,
        schema,
    )
    return {row["relname"]: list(row["columns"]) for row in rows}


async def checksums(environment: Mapping[str, str]) -> dict[str, str]:
    """A digest of every table's rows, and of the outboxes' ids."""
    admin = await connect(environment)
    try:
        sums: dict[str, str] = {}
        for schema in await schemas(admin):
            for table, columns in (await tables(admin, schema)).items():
                if table == "outbox":
                    columns = ["id", "event_id", "payload"]  # noqa: PLW2901
                elif table in EXEMPT_TABLES:
                    continue
                left_out, _ = EXEMPT_ROWS.get(table, ("false", ""))
                kept = ", ".join(_compared(table, c) for c in columns if c not in EXEMPT_COLUMNS)
                sums[f"{schema}.{table}"] = await admin.fetchval(
                    f"select count(*) || ':' || coalesce(md5(string_agg(h, '' order by h)), '') "  # noqa: S608
                    f"from (select md5(row({kept})::text) h from {schema}.{table} "
                    f"where not ({left_out})) rows"
                )
        return sums
    finally:
        await admin.close()


def _compared(table: str, column: str) -> str:
    """What of a column is compared."""
    if table in RETRIED_ROWS and column in RETRIED_COLUMNS:
        return f'case when {RETRIED_ROWS[table]} then null else "{column}" end'
    return f'"{column}"'


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """The tables whose digest changed."""
    return sorted(
        name for name in before.keys() | after.keys() if before.get(name) != after.get(name)
    )


async def replay(environment: Mapping[str, str], *, clear_inboxes: bool) -> None:
    """Move every fence to the beginning of its topic, perhaps forget the inboxes, and wait."""
    admin = await connect(environment)
    try:
        for schema in await schemas(admin):
            async with admin.transaction():
                if clear_inboxes:
                    await admin.execute(f"delete from {schema}.inbox")  # noqa: S608
                await admin.execute(
                    f"update {schema}.fence set next_offset = 0, last_record_digest = null"  # noqa: S608
                )
    finally:
        await admin.close()
    await settle(environment)


async def resend_webhooks(environment: Mapping[str, str]) -> int:
    """Have the sandbox send every event once more; how many."""
    headers = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
    sent = 0
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=30) as sandbox:
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = (await sandbox.get("/v1/events", params=query, headers=headers)).json()
            for event in page["data"]:
                answer = await sandbox.post(f"/_sim/events/{event['id']}/resend", json={})
                if not answer.is_success:
                    raise StoryError(f"the sandbox did not resend: {answer.text[:200]}")
                sent += 1
            if not page["has_more"]:
                return sent
            query["starting_after"] = page["data"][-1]["id"]


async def rows_seen(
    environment: Mapping[str, str], *, owner: str, looking_as: str
) -> tuple[int, int]:
    """What SQL shows of one tenant's rows to another, as every service's role.

    Returns:
        The rows seen (must be 0), and the tables looked at.
    """
    admin = await connect(environment)
    seen = looked = 0
    try:
        for schema in await schemas(admin):
            for table, columns in (await tables(admin, schema)).items():
                if "tenant_id" not in columns:
                    continue
                for mode in ("test", "live"):
                    async with admin.transaction():
                        await admin.execute(f"set local role sluice_{schema}")
                        await _enter(admin, looking_as, mode)
                        seen += await admin.fetchval(
                            f"select count(*) from {schema}.{table} where tenant_id = $1::uuid",  # noqa: S608
                            owner,
                        )
                looked += 1
    finally:
        await admin.close()
    return seen, looked


async def _enter(admin: Any, tenant_id: str, mode: str) -> None:
    settings: Sequence[tuple[str, str]] = (
        ("app.tenants", tenant_id),
        ("app.mode", mode),
        ("app.books", "platform,tenant"),
    )
    for name, value in settings:
        await admin.execute("select set_config($1, $2, true)", name, value)
