"""The client for asyncio: `track` only puts an event into memory, a task sends."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Self

import httpx

from sluice_client import delivery
from sluice_client.intake import Intake
from sluice_client.options import Options
from sluice_client.queue import Counters, Queue
from sluice_client.sender import Batch, Sender

log = logging.getLogger("sluice_client")

IDLE_SECONDS = 1.0


class AsyncClient:
    """Publishes usage from one event loop; use it as `async with AsyncClient(…) as sluice`.

    Args:
        origin, api_key, options: see `Client`.
        transport: another way to the server, for tests.
    """

    def __init__(
        self,
        origin: str,
        api_key: str,
        options: Options | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = origin.rstrip("/") + delivery.PATH
        self._headers = delivery.headers_of(api_key)
        self._options = options or Options()
        self._transport = transport
        self._queue = Queue(self._options.buffer_events)
        self._intake = Intake(self._queue, self._options)
        self._sender = Sender(self._queue, self._options)
        self._wake = asyncio.Event()
        self._idle = asyncio.Event()
        self._hurries = 0
        self._task: asyncio.Task[None] | None = None

    @property
    def counters(self) -> Counters:
        """What became of the events so far."""
        return self._queue.counters

    def track(
        self,
        event_type: str,
        data: Mapping[str, Any] | None = None,
        *,
        customer: str | None = None,
        user: str | None = None,
        event_id: str | None = None,
        source: str | None = None,
        tenant: str | None = None,
        at: datetime | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> str | None:
        """Note that something was used; see `Client.track`. Call it in the loop's thread.

        What is tracked while no loop runs waits until something is tracked or flushed in one.
        """
        made, waiting = self._intake.take(
            event_type,
            data,
            customer=customer,
            user=user,
            event_id=event_id,
            source=source,
            tenant=tenant,
            at=at,
            attributes=attributes,
        )
        if waiting:
            self._idle.clear()
            self._ensure_task()
            self._wake.set()
        return made

    async def flush(self, timeout_seconds: float | None = None) -> bool:
        """Send what waits now; True once nothing is left in memory or on disk."""
        if self._sender.is_idle:
            return True
        self._idle.clear()
        self._ensure_task()
        self._hurries += 1
        self._wake.set()
        try:
            async with asyncio.timeout(timeout_seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        finally:
            self._hurries -= 1
        return True

    async def aclose(self, timeout_seconds: float | None = None) -> bool:
        """Send what waits, then end; what cannot be sent in time goes to the spool or is dropped.

        Returns:
            Whether everything was delivered.
        """
        if self._intake.closed:
            return True
        self._intake.closed = True
        seconds = self._options.close_seconds if timeout_seconds is None else timeout_seconds
        delivered = await self.flush(seconds)
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._sender.give_up()
        return delivered

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _ensure_task(self) -> None:
        if self._task is None:
            with contextlib.suppress(RuntimeError):
                loop = asyncio.get_running_loop()
                self._task = loop.create_task(self._run(), name="sluice-client")

    async def _run(self) -> None:
        async with httpx.AsyncClient(
            headers=self._headers, timeout=self._options.request_seconds, transport=self._transport
        ) as http:
            while True:
                try:
                    await self._step(http)
                except Exception:
                    log.exception("the sender stumbled and goes on")
                    self._sender.take_back()
                    await asyncio.sleep(IDLE_SECONDS)

    async def _step(self, http: httpx.AsyncClient) -> None:
        """Wait for something to do, or do it."""
        wait = self._sender.wait_seconds(hurry=self._hurries > 0)
        if self._sender.is_idle:
            self._idle.set()
        if wait is None or wait > 0:
            await self._sleep(IDLE_SECONDS if wait is None else min(wait, IDLE_SECONDS))
            return
        batch = self._sender.next_batch()
        if batch is not None:
            await self._deliver(http, batch)

    async def _sleep(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    async def _deliver(self, http: httpx.AsyncClient, batch: Batch) -> None:
        """One request; a batch whose request is canceled is kept."""
        outcome = delivery.unanswered(batch.events, asyncio.CancelledError())
        try:
            answer = await http.post(self._url, content=delivery.body_of(batch.events))
            outcome = delivery.read_answer(
                batch.events, answer.status_code, answer.headers, answer.content
            )
        except httpx.HTTPError as error:
            outcome = delivery.unanswered(batch.events, error)
        finally:
            self._sender.settle(batch, outcome)
