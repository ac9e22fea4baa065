"""How records come out of Kafka's client: as ours, and whatever their headers are called.

Kafka says that the name of a header is text, and takes any bytes for one.
"""

import struct
from collections.abc import Callable, Iterator
from typing import Any, Self, SupportsIndex, cast

from aiokafka import TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.record.default_records import _DefaultRecordBatchPy
from aiokafka.record.memory_records import MemoryRecords
from faststream.kafka import KafkaMessage
from faststream.kafka.message import FAKE_CONSUMER

LENGTH_AT, LENGTH_ENDS = 8, 12
"""Where a record batch says how many bytes follow, after the offset of its first record."""


def deliver_as(make: Callable[[TopicPartition, Any], Any]) -> None:
    """Let every consumer of this process deliver what `make` makes of a record, whatever its headers.

    aiokafka 0.14 makes an object with all that a record could have, of which another one would be made.
    And it raises UnicodeDecodeError out of the poll, before anybody sees the record, where a header has a
    name that is not UTF-8: whoever may write to a topic could hold up a partition for ever. The batch of
    such a record is read once more, by the reader of aiokafka that is in Python, and the name is shown as
    escapes in ASCII.

    Args:
        make: is given the partition, and the record as aiokafka's reader has it; no deserializer is asked.
    """
    if fetcher.MemoryRecords is _Records:
        return
    fetcher.MemoryRecords = _Records
    unpack = fetcher.PartitionRecords._unpack_records  # noqa: SLF001 - nothing public comes before

    def unpack_all(fetched: Any) -> Iterator[Any]:
        while True:
            try:
                # One by one: closed by whoever reads no further now, this goes on later.
                for record in unpack(fetched):  # noqa: UP028 - see above
                    yield record
            except UnicodeDecodeError:
                # What was delivered of this batch is not delivered again: its offsets are behind the next.
                fetched._records.again()  # noqa: SLF001 - `_Records`
            else:
                return

    def unpacked(fetched: Any) -> Iterator[Any]:
        found: Iterator[Any] = fetched._records_iterator  # noqa: SLF001 - see above
        return found

    fetcher.PartitionRecords._unpack_records = unpack_all  # noqa: SLF001 - see above
    fetcher.PartitionRecords.__iter__ = unpacked
    fetcher.PartitionRecords._consumer_record = staticmethod(make)  # noqa: SLF001 - see above


async def keep_raw(raw: Any) -> KafkaMessage:
    """FastStream's parser decodes headers and fails on hostile bytes; ours touches nothing."""
    return KafkaMessage(
        body=b"", raw_message=raw, headers={}, message_id="", consumer=FAKE_CONSUMER
    )


async def no_decoding(message: KafkaMessage) -> KafkaMessage:
    """Nor is anything decoded: that is the applier's."""
    return message


class _Records:
    """What a fetch brought, of which a batch can be read again."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._records = MemoryRecords(content)
        self._begins = self._ends = 0
        self._again = False

    def size_in_bytes(self) -> int:
        """Of all of it."""
        return len(self._content)

    def has_next(self) -> bool:
        """Whether a whole batch is left."""
        return self._again or self._records.has_next()

    def next_batch(self) -> Any:
        """The next batch; the last one, whatever its headers are called, if that was asked for."""
        if self._again:
            self._again = False
            return _AnyNames(self._content[self._begins : self._ends])
        batch = self._records.next_batch()
        if batch is not None:
            self._begins = self._ends
            (length,) = struct.unpack_from(">i", self._content, self._begins + LENGTH_AT)
            self._ends = self._begins + LENGTH_ENDS + length
        return batch

    def again(self) -> None:
        """Read the last batch once more."""
        self._again = True


class _AnyNames(_DefaultRecordBatchPy):  # type: ignore[misc] # there is no other way to its buffer
    """A batch that is read in Python."""

    _buffer: bytearray

    def __iter__(self) -> Self:
        self._maybe_uncompress()
        self._buffer = _Escaped(self._buffer)
        return self


class _Escaped(bytearray):
    """Bytes whose text shows what is no text as escapes."""

    def __getitem__(self, place: SupportsIndex | slice) -> Any:
        found = super().__getitem__(place)
        return _Escaped(found) if isinstance(place, slice) else found

    def decode(self, encoding: str = "utf-8", errors: str = "backslashreplace") -> str:
        """The text in it."""
        return cast(bytearray, super()).decode(encoding, errors)
