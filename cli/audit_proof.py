"""The audit chains as Postgres has them, held against what stands on the topic `audit.events`.

The topic keeps every event for ever and no service may change it, so an entry that was changed,
removed or put in differs from it, and so does an end that was cut off.
"""

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

import asyncpg
from aiokafka import AIOKafkaConsumer, TopicPartition

from libs.contracts.audit import AuditHeadAnchored, ConfigurationChanged, SecurityEventRaised
from libs.contracts.envelope import Envelope
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.contracts.topics import PARTITIONS, TOPIC_OF
from libs.crypto.audit_chain import ChainCheck, Head, digest_of_event
from libs.messaging.records import UndecodableError, decode

TOPIC = TOPIC_OF[AuditHeadAnchored].name
CONSUMER = "tenants"
PAGE = 1_000
POLL_MS = 1_000
ENTRIES = (ConfigurationChanged, SecurityEventRaised)


class NoSuchTenantError(LookupError):
    """No tenant has this id or slug."""


@dataclass(frozen=True)
class AuditedTenant:
    """A tenant whose log is checked."""

    tenant_id: UUID
    slug: str


@dataclass(frozen=True)
class Finding:
    """What checking one tenant's log found.

    Attributes:
        entries: entries that hold.
        signed_seq: the last entry up to which a signed head proves the chain.
        forged_heads: heads on the topic that the platform did not sign; they prove nothing.
    """

    tenant_id: str
    slug: str
    entries: int
    signed_seq: int
    forged_heads: int
    first_broken_seq: int | None
    reason: str | None


class AuditProof:
    """One look at Postgres and Kafka; an asynchronous context manager."""

    def __init__(self, postgres: str, kafka: str) -> None:
        self._postgres = postgres
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=kafka, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self._admin: Any = None
        self._keys: dict[str, str] = {}
        self._up_to: dict[UUID, int] = {}
        self._heads: dict[UUID, dict[int, frozenset[bytes]]] = defaultdict(dict)
        self._told: dict[UUID, dict[UUID, bytes]] = defaultdict(dict)
        self._forged: dict[UUID, int] = defaultdict(int)

    async def __aenter__(self) -> Self:
        self._admin = await asyncpg.connect(self._postgres, timeout=10)
        try:
            await self._consumer.start()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._consumer.stop()
        await self._admin.close()

    async def tenants(self, wanted: str | None) -> list[AuditedTenant]:
        """The tenant with this id or slug, or all of them.

        Raises:
            NoSuchTenantError: there is none.
        """
        async with self._as_tenants():
            rows = await self._admin.fetch(
                "select tenant_id, slug from tenants.tenant "
                "where $1::text is null or slug = lower($1) or tenant_id::text = lower($1) "
                "order by created_at, tenant_id",
                wanted,
            )
        if not rows:
            raise NoSuchTenantError
        return [AuditedTenant(row["tenant_id"], row["slug"]) for row in rows]

    async def read_topic(
        self, tenants: Sequence[AuditedTenant], progress: Callable[[int, int], None]
    ) -> None:
        """Read the events that tenants has taken already, and the heads that were signed.

        What it has not taken yet cannot have an entry; what became a dead letter never will.
        """
        wanted = {each.tenant_id for each in tenants}
        async with self._as_tenants():
            await self._read_keys()
            fences = await self._admin.fetch(
                "select partition, next_offset from tenants.fence "
                "where consumer = $1 and topic = $2",
                CONSUMER,
                TOPIC,
            )
            # What is recorded from now on has events that are not read here.
            numbers = await self._admin.fetch(
                "select tenant_id, max(seq) as seq from tenants.audit_entry "
                "where tenant_id = any($1::uuid[]) group by tenant_id",
                list(wanted),
            )
            buried = await self._admin.fetch(
                "select partition, record_offset from tenants.dead_letter "
                "where consumer = $1 and topic = $2",
                CONSUMER,
                TOPIC,
            )
        ends = {TopicPartition(TOPIC, row["partition"]): row["next_offset"] for row in fences}
        dead = {(row["partition"], row["record_offset"]) for row in buried}
        self._up_to = {row["tenant_id"]: row["seq"] for row in numbers}
        done, total = 0, sum(ends.values())
        async for message in self._messages(ends):
            done += 1
            progress(done, total)
            if (message.partition, message.offset) not in dead:
                self._take(message, wanted)
        progress(total, total)

    @property
    def entries(self) -> int:
        """How many entries there are to check."""
        return sum(self._up_to.values())

    async def check(self, tenant: AuditedTenant, progress: Callable[[int], None]) -> Finding:
        """Go along one tenant's chain."""
        tenant_id = tenant.tenant_id
        check = ChainCheck(tenant_id, self._heads[tenant_id], self._told[tenant_id])
        async with self._as_tenants():
            while True:
                rows = await self._admin.fetch(
                    "select * from tenants.audit_entry where tenant_id = $1 and seq > $2 "
                    "and seq <= $3 order by seq limit $4",
                    tenant_id,
                    check.seq,
                    self._up_to.get(tenant_id, 0),
                    PAGE,
                )
                progress(len(rows))
                well = check.follow({**row, "content": json.loads(row["content"])} for row in rows)
                if not well or len(rows) < PAGE:
                    break
        broken = check.finish()
        return Finding(
            tenant_id=str(tenant_id),
            slug=tenant.slug,
            entries=check.seq,
            signed_seq=check.proven_seq,
            forged_heads=self._forged[tenant_id],
            first_broken_seq=broken.seq if broken else None,
            reason=broken.reason if broken else None,
        )

    @asynccontextmanager
    async def _as_tenants(self) -> AsyncGenerator[None, None]:
        """One unchanging view of the tables."""
        async with self._admin.transaction(isolation="repeatable_read", readonly=True):
            yield

    async def _read_keys(self) -> None:
        rows = await self._admin.fetch(
            "select key_id, public_key from tenants.signing_key where tenant_id = $1",
            PLATFORM_TENANT_ID,
        )
        self._keys = {row["key_id"]: row["public_key"] for row in rows}

    async def _messages(self, ends: Mapping[TopicPartition, int]) -> AsyncGenerator[Any, None]:
        """Every record before these offsets."""
        places = [place for place, end in ends.items() if end and place.partition < PARTITIONS]
        if not places:
            return
        self._consumer.assign(places)
        await self._consumer.seek_to_beginning(*places)
        open_places = set(places)
        while open_places:
            batches = await self._consumer.getmany(*open_places, timeout_ms=POLL_MS)
            for place, messages in batches.items():
                for message in messages:
                    if message.offset < ends[place]:
                        yield message
            for place in list(open_places):
                if await self._consumer.position(place) >= ends[place]:
                    open_places.discard(place)

    def _take(self, message: Any, wanted: set[UUID]) -> None:
        try:
            event = decode(message)
        except UndecodableError:
            return
        if event is None or event.tenant_id not in wanted:
            return
        if isinstance(event.data, AuditHeadAnchored):
            self._take_head(event)
        elif isinstance(event.data, ENTRIES):
            digest = digest_of_event(event.model_dump(mode="json"))
            self._told[event.tenant_id].setdefault(event.id, digest)

    def _take_head(self, event: Envelope[Any]) -> None:
        fact: AuditHeadAnchored = event.data
        try:
            head_hash, signature = bytes.fromhex(fact.head_hash), bytes.fromhex(fact.signature)
        except ValueError:
            self._forged[event.tenant_id] += 1
            return
        head = Head(event.tenant_id, fact.seq, head_hash, fact.anchored_at)
        if not head.is_signed(signature, fact.key_id, self._keys):
            self._forged[event.tenant_id] += 1
            return
        heads = self._heads[event.tenant_id]
        heads[head.seq] = heads.get(head.seq, frozenset()) | {head_hash}
