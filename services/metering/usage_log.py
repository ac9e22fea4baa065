"""`usage.events` as the ingest writes it: durable, or an error that says it is not."""

import asyncio
import zlib
from collections.abc import Sequence
from uuid import UUID

import structlog
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from libs.clock import utc_now
from libs.contracts.topics import PARTITIONS
from libs.messaging.partitioning import partition_of
from libs.messaging.stopping import stop_within
from services.metering.producers import SEAL_HEADER, ProducerKeys

log = structlog.get_logger()

TOPIC = "usage.events"
PUBLISH_SECONDS = 5.0
STOP_SECONDS = 2.0
BATCH_BYTES = 512 * 1024
SINGLES_MAX = 4
"""Up to so many events the client's own batching across requests is faster than a batch of ours."""


class LogUnavailableError(RuntimeError):
    """Kafka did not confirm in time: what was sent may or may not be there; send it again."""


def usage_partition(tenant_id: UUID, place: int = 0) -> int:
    """Where a tenant's usage lies.

    Args:
        place: of a tenant whose usage is spread, one of its partitions; they follow each other.
    """
    return (partition_of(tenant_id) + place) % PARTITIONS


def place_of(subject: str | None, spread: int) -> int:
    """In which of a tenant's partitions the usage of a customer lies: always the same one."""
    return zlib.crc32((subject or "").encode("utf-8", "surrogatepass")) % spread


class UsageLog:
    """Writes usage with its tenant as key and knows how far the topic reaches."""

    def __init__(self, bootstrap: str, keys: ProducerKeys | None = None) -> None:
        """The topic on these brokers.

        Args:
            keys: what is published is sealed with them, where the consumer asks for proof.
        """
        self._bootstrap = bootstrap
        self._keys = keys
        self._producer: AIOKafkaProducer | None = None
        self._probe: AIOKafkaConsumer | None = None
        self._lock = asyncio.Lock()
        self._probe_lock = asyncio.Lock()

    async def publish(self, tenant_id: UUID, values: Sequence[bytes], place: int = 0) -> None:
        """Write events of one tenant in order; when this returns all replicas have them.

        Args:
            place: which of the tenant's partitions.

        Raises:
            LogUnavailableError: not confirmed.
        """
        producer: AIOKafkaProducer | None = None
        try:
            async with asyncio.timeout(PUBLISH_SECONDS):
                producer = await self._connected()
                await self._send(producer, tenant_id, values, usage_partition(tenant_id, place))
        except (KafkaError, OSError, TimeoutError) as error:
            log.warning("usage_not_published", error=type(error).__name__, events=len(values))
            await self._let_go(producer)
            raise LogUnavailableError from error

    async def end_offsets(self) -> dict[int, int]:
        """The end of every partition.

        Raises:
            KafkaError, TimeoutError, OSError: Kafka does not answer.
        """
        try:
            async with asyncio.timeout(PUBLISH_SECONDS), self._probe_lock:
                if self._probe is None:
                    self._probe = AIOKafkaConsumer(
                        bootstrap_servers=self._bootstrap, group_id=None, enable_auto_commit=False
                    )
                    await self._probe.start()
                places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
                ends: dict[TopicPartition, int] = await self._probe.end_offsets(places)
        except (KafkaError, OSError, TimeoutError):
            probe, self._probe = self._probe, None
            await _stop(probe)
            raise
        return {place.partition: end for place, end in ends.items()}

    async def close(self) -> None:
        """Give the connections back."""
        producer, self._producer = self._producer, None
        probe, self._probe = self._probe, None
        await _stop(producer)
        await _stop(probe)

    async def _send(
        self, producer: AIOKafkaProducer, tenant_id: UUID, values: Sequence[bytes], partition: int
    ) -> None:
        key = str(tenant_id).encode()
        headers = (
            [] if self._keys is None else [(SEAL_HEADER, self._keys.seal(tenant_id, utc_now()))]
        )
        if len(values) <= SINGLES_MAX:
            sent = [
                await producer.send(
                    TOPIC, key=key, value=value, partition=partition, headers=headers
                )
                for value in values
            ]
            await asyncio.gather(*sent)
            return
        waiting = []
        batch = producer.create_batch()
        for value in values:
            if batch.append(key=key, value=value, timestamp=None, headers=headers) is None:
                batch.close()
                waiting.append(await producer.send_batch(batch, TOPIC, partition=partition))
                batch = producer.create_batch()
                batch.append(key=key, value=value, timestamp=None, headers=headers)
        batch.close()
        waiting.append(await producer.send_batch(batch, TOPIC, partition=partition))
        await asyncio.gather(*waiting)

    async def _connected(self) -> AIOKafkaProducer:
        async with self._lock:
            if self._producer is None:
                producer = AIOKafkaProducer(
                    bootstrap_servers=self._bootstrap,
                    enable_idempotence=True,
                    acks="all",
                    linger_ms=2,
                    max_batch_size=BATCH_BYTES,
                    max_request_size=1024 * 1024,
                    request_timeout_ms=5_000,
                )
                try:
                    await producer.start()
                except BaseException:
                    await producer.stop()
                    raise
                self._producer = producer
            return self._producer

    async def _let_go(self, failed: AIOKafkaProducer | None) -> None:
        """A producer that failed may stay so for ever; the next request starts a new one."""
        if failed is not None and self._producer is failed:
            self._producer = None
            await _stop(failed)


async def _stop(client: AIOKafkaProducer | AIOKafkaConsumer | None) -> None:
    if client is not None:
        await stop_within(client, STOP_SECONDS)
