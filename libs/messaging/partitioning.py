"""Where a tenant's records lie: Kafka's own hash of the key, as every Java client computes it."""

from functools import lru_cache
from uuid import UUID

from aiokafka.partitioner import murmur2

from libs.contracts.topics import PARTITIONS

TENANTS_REMEMBERED = 10_000


@lru_cache(TENANTS_REMEMBERED)
def partition_of(tenant_id: UUID) -> int:
    """The partition of a tenant's records, the same one on every topic."""
    return int((murmur2(str(tenant_id).encode()) & 0x7FFFFFFF) % PARTITIONS)
