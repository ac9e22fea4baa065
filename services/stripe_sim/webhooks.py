"""Sending webhooks: signed, retried with growing pauses until they are accepted."""

import asyncio
import contextlib
import hashlib
import heapq
import hmac
import itertools
import logging
import time
from dataclasses import dataclass, field

import httpx

from services.stripe_sim import destinations
from services.stripe_sim.events import (
    DELIVERED,
    DROPPED,
    PENDING,
    body_of,
    settle,
    thin_body_of,
)
from services.stripe_sim.sandbox import Sandbox
from services.stripe_sim.store import Obj

log = logging.getLogger("stripe_sim")


def signature(body: bytes, secrets: list[str], timestamp: int) -> str:
    """Return the `Stripe-Signature` header: one `v1` for every secret that is valid now."""
    signed = b"%d." % timestamp + body
    marks = [hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest() for secret in secrets]
    return f"t={timestamp}," + ",".join(f"v1={mark}" for mark in marks)


def valid_secrets(endpoint: Obj, now: int) -> list[str]:
    """Return an endpoint's secrets, newest first; a rolled one counts until it expires."""
    return [
        entry["secret"]
        for entry in endpoint["_sim"]["secrets"]
        if entry["expires_at"] is None or entry["expires_at"] > now
    ]


def find_endpoint(sandbox: Sandbox, owner: str, endpoint_id: str) -> Obj | None:
    """Return an account's endpoint of either kind, or None."""
    found = sandbox.store.get(owner, "webhook_endpoint", endpoint_id)
    return found or sandbox.store.get(owner, destinations.KIND, endpoint_id)


@dataclass(order=True)
class Item:
    """One webhook to send."""

    due: float
    number: int
    account: str = field(compare=False)
    event: str = field(compare=False)
    attempt: int = field(compare=False, default=0)
    judged: bool = field(compare=False, default=False)
    extra: bool = field(compare=False, default=False)


@dataclass
class Lane:
    """The webhooks that wait for one endpoint, so that a dead one delays no other."""

    waiting: list[Item] = field(default_factory=list)
    running: int = 0


class Sender:
    """Sends what is pending, for ever."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self._lanes: dict[str, Lane] = {}
        self._numbers = itertools.count()
        self._wake = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._http = httpx.AsyncClient(
            timeout=sandbox.settings.delivery_timeout_seconds,
            trust_env=False,
            follow_redirects=False,
        )
        sandbox.wake_sender = self.add

    def add(self, account: str, event: str, endpoint: str) -> None:
        """Queue an event for an endpoint."""
        self._push(endpoint, Item(time.monotonic(), next(self._numbers), account, event))

    def _push(self, endpoint: str, item: Item) -> None:
        heapq.heappush(self._lanes.setdefault(endpoint, Lane()).waiting, item)
        self._wake.set()

    def resume(self) -> None:
        """Queue everything that was undelivered when the sandbox stopped."""
        for account, event in self.sandbox.store.everywhere("event"):
            for endpoint, state in event["_sim"]["deliveries"].items():
                if state == PENDING:
                    self.add(account, event["id"], endpoint)

    def clear(self) -> None:
        """Forget everything that waits."""
        self._lanes.clear()

    def waiting(self) -> int:
        """Return how many webhooks wait or are on their way."""
        return sum(len(lane.waiting) + lane.running for lane in self._lanes.values())

    async def run(self) -> None:
        """Send until cancelled."""
        try:
            while True:
                self._wake.clear()
                pause = self._start_due()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(pause):
                        await self._wake.wait()
        finally:
            for task in list(self._tasks):
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._http.aclose()

    def _start_due(self) -> float | None:
        """Start what is due; return the seconds until the next is, or None."""
        now = time.monotonic()
        pauses = []
        for endpoint, lane in self._lanes.items():
            room = self.sandbox.settings.deliveries_at_once_max
            while lane.waiting and lane.waiting[0].due <= now and lane.running < room:
                item = heapq.heappop(lane.waiting)
                if self._delayed(endpoint, item):
                    continue
                lane.running += 1
                task = asyncio.create_task(self._deliver(endpoint, lane, item))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
            if lane.waiting and lane.running < room:
                pauses.append(max(lane.waiting[0].due - now, 0.001))
        return min(pauses, default=None)

    def _delayed(self, endpoint: str, item: Item) -> bool:
        """Apply the webhook faults to a first attempt; return whether it is not sent now."""
        event = self.sandbox.store.get(item.account, "event", item.event)
        if item.judged or event is None:
            return False
        item.judged = True
        faults, where = self.sandbox.faults, (event["type"], item.account)
        if faults.strike_event("webhook_drop", *where):
            settle(self.sandbox.scope(item.account), event, endpoint, DROPPED)
            self.sandbox.store.commit()
            return True
        if faults.strike_event("webhook_duplicate", *where):
            now = time.monotonic()
            self._push(
                endpoint,
                Item(now, next(self._numbers), item.account, item.event, judged=True, extra=True),
            )
        delay = faults.strike_event("webhook_delay", *where)
        reorder = faults.strike_event("webhook_reorder", *where)
        seconds = (delay.seconds if delay else 0.0) + (
            reorder.seconds * faults.jitter() if reorder else 0.0
        )
        if seconds:
            item.due = time.monotonic() + seconds
            self._push(endpoint, item)
        return bool(seconds)

    async def _deliver(self, endpoint_id: str, lane: Lane, item: Item) -> None:
        try:
            event, endpoint = self._look_up(item, endpoint_id)
            if event is None:
                return
            if endpoint is None or endpoint["status"] != "enabled":
                settle(self.sandbox.scope(item.account), event, endpoint_id, DROPPED)
                self.sandbox.store.commit()
                return
            status = await self.send(item.account, event, endpoint)
            event = self.sandbox.store.get(item.account, "event", item.event)
            if event is None or item.extra:
                return
            if 200 <= status < 300:
                settle(self.sandbox.scope(item.account), event, endpoint_id, DELIVERED)
                self.sandbox.store.commit()
            else:
                self._retry(endpoint_id, item)
        finally:
            lane.running -= 1
            self._wake.set()

    def _look_up(self, item: Item, endpoint_id: str) -> tuple[Obj | None, Obj | None]:
        event = self.sandbox.store.get(item.account, "event", item.event)
        if event is None:
            return None, None
        owner = event["_sim"]["owners"].get(endpoint_id, item.account)
        return event, find_endpoint(self.sandbox, owner, endpoint_id)

    def _retry(self, endpoint_id: str, item: Item) -> None:
        settings = self.sandbox.settings
        pause = min(
            settings.retry_delay_seconds_min * 2 ** min(item.attempt, 20),
            settings.retry_delay_seconds_max,
        )
        due = time.monotonic() + pause * (0.75 + 0.5 * self.sandbox.faults.jitter())
        self._push(
            endpoint_id,
            Item(due, next(self._numbers), item.account, item.event, item.attempt + 1, judged=True),
        )

    async def send(self, account: str, event: Obj, endpoint: Obj) -> int:
        """Send an event once, signed now; return the HTTP status, or 0 where none came."""
        owner = event["_sim"]["owners"].get(endpoint["id"], account)
        write = thin_body_of if destinations.is_thin(endpoint) else body_of
        body = write(event, account if owner != account else None)
        now = int(time.time())
        headers = {
            "Content-Type": "application/json; charset=utf-8",
            "User-Agent": "Stripe/1.0 (+https://stripe.com/docs/webhooks)",
            "Stripe-Signature": signature(body, valid_secrets(endpoint, now), now),
        }
        try:
            url = destinations.url_of(endpoint)
            response = await self._http.post(url, content=body, headers=headers)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            log.info("webhook %s to %s: %s", event["id"], endpoint["id"], type(error).__name__)
            return 0
        return response.status_code
