"""Taking an event from the caller: written down, put into memory, or dropped and counted."""

import logging
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sluice_client import event
from sluice_client.errors import BufferFullError, ClosedError, InvalidEventError
from sluice_client.options import Options
from sluice_client.queue import Queue

log = logging.getLogger("sluice_client")


class Intake:
    """The side of a client that its callers see; never waits, never asks the network."""

    def __init__(self, queue: Queue, options: Options) -> None:
        self._queue = queue
        self._options = options
        self.closed = False

    def take(
        self,
        event_type: str,
        data: Mapping[str, Any] | None,
        *,
        customer: str | None,
        user: str | None,
        event_id: str | None,
        source: str | None,
        tenant: str | None,
        at: datetime | None,
        attributes: Mapping[str, str] | None,
    ) -> tuple[str | None, int]:
        """The event's id (None: dropped), and how many wait now.

        Raises:
            BufferFullError, InvalidEventError, ClosedError: only with `Options(raises=True)`.
        """
        try:
            made = event.make(
                event_type,
                data,
                source=source or self._options.source,
                event_id=event_id,
                customer=customer,
                user=user,
                tenant=tenant,
                at=at,
                attributes=attributes,
            )
            return made.id, self._put(made)
        except (InvalidEventError, BufferFullError, ClosedError) as error:
            self._queue.count(dropped=1)
            if self._options.raises:
                raise
            log.warning("a usage event was dropped: %s", error)
            return None, 0

    def _put(self, made: event.Event) -> int:
        if self.closed:
            raise ClosedError("the client was closed")
        waiting = self._queue.put(made)
        if not waiting:
            raise BufferFullError(f"{self._options.buffer_events} events wait already")
        return waiting
