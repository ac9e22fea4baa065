"""How fast a backlog of webhooks becomes mirror, payments and ledger entries.

`make bench` prints the row for docs/benchmarks.md. stripe_sync is frozen while payments are made at
Stripe; what they led to waits on `stripe.events`. The time runs from the first batch that stripe_sync
takes until every payment is in the mirror and posted by the ledger; the sandbox, which is asked for the
latest of every object, works on the same machine.
"""

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from cli import proof
from cli.api import Api, eventually
from deploy.local.stack import Stack
from libs.ids import new_id
from tests.bench.processes import cpu_seconds_of

PAYMENTS = int(os.environ.get("SLUICE_BENCH_PAYMENTS") or 1_500)
TENANTS, AT_ONCE = 10, 8
GOAL_PER_SECOND = 500
POLL_SECONDS = 0.1
REST_SECONDS = 5

pytestmark = [pytest.mark.flow, pytest.mark.timeout(1_200)]


async def open_tenants(environment: Mapping[str, str]) -> list[str]:
    """Tenants whose payments arrive."""
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    try:
        slugs = [f"backlog-{new_id().hex[-12:]}" for _ in range(TENANTS)]
        return [
            (await operator.post("/api/v1/tenants", {"name": slug, "slug": slug}))["id"]
            for slug in slugs
        ]
    finally:
        await operator.close()


async def pay_at_stripe(environment: Mapping[str, str], tenants: list[str]) -> None:
    """Payments that only Stripe knows of, each with the tenant in its metadata."""
    headers = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
    places = iter(range(PAYMENTS))

    async with httpx.AsyncClient(
        base_url=environment["STRIPE_SIM_URL"], headers=headers, timeout=60
    ) as sandbox:

        async def post(path: str, form: dict[str, Any]) -> dict[str, Any]:
            answer = await sandbox.post(f"/v1/{path}", data=form)
            answer.raise_for_status()
            found: dict[str, Any] = answer.json()
            return found

        customers = [
            (await post("customers", {"metadata[tenant_id]": tenant}))["id"] for tenant in tenants
        ]

        async def one_after_another() -> None:
            for place in places:
                tenant, customer = tenants[place % TENANTS], customers[place % TENANTS]
                form = {
                    "amount": 1_000 + place,
                    "currency": "eur",
                    "customer": customer,
                    "payment_method": "pm_card_visa",
                    "confirm": "true",
                    "off_session": "true",
                    "metadata[tenant_id]": tenant,
                }
                await post("payment_intents", form)

        await asyncio.gather(*(one_after_another() for _ in range(AT_ONCE)))


async def waiting(environment: Mapping[str, str]) -> int:
    """Webhooks that the sandbox has not delivered, and events that are not on Kafka."""
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=60) as sandbox:
        left = (await sandbox.get("/_sim/status")).json()["webhooks_waiting"]
    admin = await proof.connect(environment)
    try:
        unsent = await admin.fetchval("select count(*) from gateway.outbox where sent_at is null")
    finally:
        await admin.close()
    return int(left) + int(unsent)


class Watch:
    """Looks at how far stripe_sync and the ledger are."""

    def __init__(self, admin: Any, tenants: list[str], since: Any) -> None:
        self._admin = admin
        self._tenants = tenants
        self._since = since

    async def events(self) -> int:
        """Events that wait, or waited."""
        return int(
            await self._admin.fetchval(
                "select count(*) from gateway.outbox where topic = 'stripe.events' "
                "and created_at > $1",
                self._since,
            )
        )

    async def taken(self) -> int:
        """Of those, how many stripe_sync has taken."""
        return int(
            await self._admin.fetchval(
                "select count(*) from gateway.outbox o join stripe_sync.inbox using (event_id) "
                "where o.topic = 'stripe.events' and o.created_at > $1",
                self._since,
            )
        )

    async def done(self) -> bool:
        """Every payment is in the mirror, told, and posted."""
        paid = await self._admin.fetchval(
            "select count(*) from stripe_sync.payment where tenant_id = any($1::uuid[]) "
            "and status = 'COMPLETED'",
            self._tenants,
        )
        if paid < PAYMENTS:
            return False
        left = await self._admin.fetchval(
            "select (select count(*) from stripe_sync.dirty_object) + "
            "(select count(*) from stripe_sync.outbox o where o.topic = 'payments.events' and "
            "o.created_at > $1 and o.event_type in ('PaymentSucceeded', "
            "'BalanceTransactionRecorded') and not exists (select from ledger.inbox i "
            "where i.event_id = o.event_id))",
            self._since,
        )
        return int(left) == 0


def pid_of(stack: Stack, name: str) -> int:
    """The process of a program."""
    state = stack.state()
    assert state is not None
    (pid,) = [each.pid for each in state.programs if each.name == name]
    assert pid is not None
    return pid


def took(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Processor time between two looks, by program."""
    return {name: after[name] - before.get(name, 0.0) for name in after}


def shares_of(used: Mapping[str, float]) -> str:
    """What each program took of the machine, the most first."""
    shares = [f"{name} {used[name]:.1f}" for name in sorted(used, key=lambda each: -used[each])]
    return ", ".join([*shares, f"all {sum(used.values()):.1f}"])


async def at_rest(stack: Stack) -> float:
    """Processor time that the whole stack takes in a second in which nothing happens."""
    before, began = cpu_seconds_of(stack), time.perf_counter()
    await asyncio.sleep(REST_SECONDS)
    lasted = time.perf_counter() - began
    return sum(took(before, cpu_seconds_of(stack)).values()) / lasted


async def test_a_backlog_becomes_mirror_payments_and_ledger(stack: Stack) -> None:
    environment = stack.environment()
    tenants = await open_tenants(environment)
    await proof.settle(environment)
    rest = await at_rest(stack)
    admin = await proof.connect(environment)
    try:
        watch = Watch(admin, tenants, await admin.fetchval("select clock_timestamp()"))
        pid = pid_of(stack, "stripe_sync")
        os.kill(pid, signal.SIGSTOP)
        try:
            await pay_at_stripe(environment, tenants)

            async def all_there() -> bool:
                return await waiting(environment) == 0

            await eventually("the backlog on Kafka", all_there, seconds=600)
            events = await watch.events()
        finally:
            os.kill(pid, signal.SIGCONT)
        woken, used = time.perf_counter(), cpu_seconds_of(stack)
        while not await watch.taken():
            await asyncio.sleep(POLL_SECONDS)
        began = time.perf_counter()
        async with asyncio.timeout(600):
            while not await watch.done():
                await asyncio.sleep(POLL_SECONDS)
        seconds = time.perf_counter() - began
        shares = took(used, cpu_seconds_of(stack))
    finally:
        await admin.close()
    await proof.settle(environment)
    print(
        f"| {events:,} events of {PAYMENTS:,} payments | {seconds:.1f} | {events / seconds:,.0f} |"
    )
    print(f"first batch after {began - woken:.1f} s (goal {GOAL_PER_SECOND} events/s)")
    cores, load = os.cpu_count() or 1, os.getloadavg()[0]
    print(f"CPU seconds: {shares_of(shares)}; load {load:.0f} on {cores} cores")
    above_rest = sum(shares.values()) - rest * (began - woken + seconds)
    print(
        f"{1000 * above_rest / events:.1f} ms of CPU for each event, "
        f"above the {rest:.2f} s per second of the stack at rest"
    )
