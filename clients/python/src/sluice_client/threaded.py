"""The client for ordinary programs: `track` only puts an event into memory, a thread sends."""

import atexit
import logging
import os
import threading
import time
import weakref
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
"""The thread looks at the clock at least this often."""


class Client:
    """Publishes usage from any thread; survives a fork (the child begins with nothing to send).

    Args:
        origin: where Sluice is, e.g. `https://billing.example.com`.
        api_key: a key with the scope `usage:write`.
        options: limits and choices.
        transport: another way to the server, for tests.
    """

    def __init__(
        self,
        origin: str,
        api_key: str,
        options: Options | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self._url = origin.rstrip("/") + delivery.PATH
        self._headers = delivery.headers_of(api_key)
        self._options = options or Options()
        self._transport = transport
        self._start_lock = threading.Lock()
        self._pid = -1
        self._begin()
        atexit.register(_close_if_alive, weakref.ref(self))

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
        """Note that something was used; returns at once, with the event's id.

        Args:
            event_type: what meters listen to.
            data: what meters read; decimals are exact.
            customer: who used it (`subject`); None: the tenant itself.
            event_id: an id of your own that is the same when the same use is told again.
            tenant: for a platform's key: whose usage it is.
            at: when it happened; now, if left out.
            attributes: what else is to be kept with it, by names in small letters and digits, such as
                `role` or `tenanttype`.

        Returns:
            The id; None where the event was dropped (see `counters`).

        Raises:
            BufferFullError, InvalidEventError, ClosedError: only with `Options(raises=True)`.
        """
        self._ensure_own()
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
            self._ensure_thread()
        if waiting in (1, self._options.batch_events):
            self._wake.set()
        return made

    def flush(self, timeout_seconds: float | None = None) -> bool:
        """Send what waits now; True once nothing is left in memory or on disk."""
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        self._ensure_own()
        if not self._ensure_thread():
            return self._sender.is_idle
        with self._settled:
            self._hurries += 1
            self._wake.set()
            try:
                while not self._sender.is_idle:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._settled.wait(
                        min(left, IDLE_SECONDS) if left is not None else IDLE_SECONDS
                    )
            finally:
                self._hurries -= 1
        return True

    def close(self, timeout_seconds: float | None = None) -> bool:
        """Send what waits, then end; what cannot be sent in time goes to the spool or is dropped.

        Returns:
            Whether everything was delivered.
        """
        mine = self._pid == os.getpid()
        if mine and len(self._queue):
            self._ensure_thread()
        self._intake.closed = True
        if not mine or (self._thread is None and not len(self._queue)):
            return True
        seconds = self._options.close_seconds if timeout_seconds is None else timeout_seconds
        delivered = self.flush(seconds)
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(self._options.request_seconds)
        self._sender.give_up()
        return delivered

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _begin(self) -> None:
        """Start from nothing: in a new client, and in the child of a fork.

        The process id is set last: it says that everything else is this process's own.
        """
        # Here and not in the thread: what httpx imports in making it would, if the program forked in
        # that moment, stay half imported in the child for ever.
        self._http = httpx.Client(
            headers=self._headers,
            timeout=self._options.request_seconds,
            transport=self._transport,
        )
        self._queue = Queue(self._options.buffer_events)
        self._intake = Intake(self._queue, self._options)
        self._sender = Sender(self._queue, self._options)
        self._wake = threading.Event()
        self._settled = threading.Condition()
        self._hurries = 0
        self._stopping = self._complained = False
        self._thread: threading.Thread | None = None
        self._pid = os.getpid()

    def _ensure_own(self) -> None:
        """In the child of a fork: begin anew, with nothing to send."""
        if self._pid != os.getpid():
            with self._start_lock:
                if self._pid != os.getpid():
                    self._begin()

    def _ensure_thread(self) -> bool:
        """Whether a thread sends. It starts with the first event, so that a server may fork before.

        Where none can be started, events wait for a later try, and in the end for `close`.
        """
        if self._thread is not None:
            return True
        with self._start_lock:
            if self._thread is None and not self._intake.closed:
                thread = threading.Thread(target=self._run, name="sluice-client", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    if not self._complained:
                        log.warning("usage events wait: no thread can be started: %s", error)
                    self._complained = True
                else:
                    self._thread = thread
        return self._thread is not None

    def _run(self) -> None:
        with self._http as http:
            while not self._stopping:
                try:
                    self._step(http)
                except Exception:
                    log.exception("the sender stumbled and goes on")
                    self._sender.take_back()
                    self._wake.wait(IDLE_SECONDS)

    def _step(self, http: httpx.Client) -> None:
        """Wait for something to do, or do it."""
        wait = self._sender.wait_seconds(hurry=self._hurries > 0)
        if wait is None or wait > 0:
            self._wake.wait(IDLE_SECONDS if wait is None else min(wait, IDLE_SECONDS))
            self._wake.clear()
            return
        batch = self._sender.next_batch()
        if batch is not None:
            self._sender.settle(batch, self._send(http, batch))
        with self._settled:
            self._settled.notify_all()

    def _send(self, http: httpx.Client, batch: Batch) -> delivery.Outcome:
        try:
            answer = http.post(self._url, content=delivery.body_of(batch.events))
        except httpx.HTTPError as error:
            return delivery.unanswered(batch.events, error)
        return delivery.read_answer(
            batch.events, answer.status_code, answer.headers, answer.content
        )


def _close_if_alive(client: "weakref.ref[Client]") -> None:
    alive = client()
    if alive is not None:
        alive.close()
