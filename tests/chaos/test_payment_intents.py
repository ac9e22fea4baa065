"""Payments begun while Stripe fails every fifth call and stripe_sync is killed: each is made once.

`make chaos` begins 10,000 payments; `make test` about 200, with the same draws each time.
"""

import asyncio
import math
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from cli import proof
from cli.api import Api, eventually
from cli.demo import next_number
from cli.story import Story
from cli.terms import draw
from deploy.local.stack import Stack
from libs.ids import new_id, parse_public_id
from tests.conftest import story_seed
from tests.known_everywhere import known_everywhere
from tests.nothing_waits import nothing_waits

LONG = os.environ.get("SLUICE_CHAOS") == "long"
PAYMENTS, AT_ONCE = (10_000, 24) if LONG else (200, 12)
KILLS_EVERY_PAYMENTS = (200, 400) if LONG else (40, 70)
"""So many are answered between two kills: a slow machine gets its turn."""
SLOW_ANSWERS = 20 if LONG else 2
"""Answers that come later than stripe_sync waits."""
SLOW_SECONDS = 25.0
DECLINED_SHARE = 0.1
TENANTS = 4
SHORT_SEED = 20_260_107
SETTLE_SECONDS = 1_200.0 if LONG else 450.0
"""A request that a killed worker had taken up is free after five minutes; pauses grow to ten."""
PATIENCE_SECONDS = 240.0

FAULTS: list[dict[str, Any]] = [
    {"kind": "error", "status": 500, "moment": "after", "stored": True, "probability": 0.04},
    {"kind": "error", "status": 500, "moment": "after", "stored": False, "probability": 0.03},
    {"kind": "error", "status": 500, "moment": "before", "stored": True, "probability": 0.03},
    {"kind": "error", "status": 429, "moment": "before", "probability": 0.04},
    {"kind": "cut", "probability": 0.04},
    {"kind": "delay", "seconds": 1.0, "probability": 0.02},
]
"""Together a fifth of all calls about payment intents."""
CERTAIN: list[dict[str, Any]] = [
    *(fault | {"probability": 1.0, "count": 1} for fault in FAULTS),
    {"kind": "delay", "seconds": SLOW_SECONDS, "count": SLOW_ANSWERS, "method": "POST"},
]
"""What strikes in every run, whatever the draws."""
COUNTING: dict[str, Any] = {"kind": "delay", "seconds": 0.0}
"""A delay of no length meets every call that no other delay does: it counts them."""
SHARE, SHARE_OFF_MAX = 0.2, 0.03
"""One call is struck by one error at most, and an answer that is kept by none: a little less than drawn."""
DEVIATIONS_MAX = 5.0
GOOD, DECLINED = "pm_card_visa", "pm_card_visa_chargeDeclined"

pytestmark = [pytest.mark.flow, pytest.mark.timeout(5_400 if LONG else 900)]


@dataclass
class Order:
    """What a caller wants paid.

    Attributes:
        number: stands in the metadata at Stripe, so that a twin shows whoever made it.
        outcome: the status of the final answer.
        payment_id: of the payment that the answer told of.
    """

    number: str
    key: str
    amount_minor: int
    card: str
    client_key: str = field(default_factory=lambda: str(new_id()))
    outcome: int = 0
    payment_id: str | None = None
    asked: int = 0
    trouble: str = ""


async def ask(http: httpx.AsyncClient, order: Order) -> None:
    """Begin one payment as a careful program does: again under the same key until it is answered."""
    body = {
        "amount": {"amount_minor": order.amount_minor, "currency": "EUR"},
        "payment_method": order.card,
        "confirm": True,
        "off_session": True,
        "metadata": {"order": order.number},
    }
    headers = {"authorization": f"Bearer {order.key}", "idempotency-key": order.client_key}
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        order.asked += 1
        try:
            answer = await http.post("/api/v1/payment-intents", json=body, headers=headers)
            if answer.status_code < 500:
                order.outcome = answer.status_code
                order.payment_id = answer.json().get("id")
                return
            order.trouble = f"{answer.status_code} {answer.text[:300]}"
        except httpx.TransportError as error:
            order.trouble = type(error).__name__
        await asyncio.sleep(0.5)


@asynccontextmanager
async def failing(environment: Mapping[str, str]) -> AsyncGenerator[None, None]:
    """The sandbox fails a fifth of the calls about payment intents, and has done so at the end."""
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=30) as sandbox:
        try:
            for fault in (*CERTAIN, *FAULTS, COUNTING):
                wish = {"path": "/v1/payment_intents", **fault}
                (await sandbox.post("/_sim/faults", json=wish)).raise_for_status()
            yield
            check_strikes((await sandbox.get("/_sim/faults")).json()["items"])
        finally:
            await sandbox.delete("/_sim/faults")


def check_strikes(left: list[dict[str, Any]]) -> None:
    """Every kind of fault struck, and together they struck as often as was drawn, but for chance.

    Args:
        left: the faults that are on still; one that has struck as often as it should is not.
    """
    *drawn, counting = left
    assert [fault for fault in left if fault["count"] is not None] == []
    assert len(drawn) == len(FAULTS)
    used_up = sum(fault["count"] for fault in CERTAIN)
    struck = used_up + sum(fault["struck"] for fault in drawn)
    delays = sum(fault["count"] for fault in CERTAIN if fault["kind"] == "delay")
    delays += sum(fault["struck"] for fault in drawn if fault["kind"] == "delay")
    calls = counting["struck"] + delays
    print(f"{struck} of {calls} calls struck")
    assert calls >= PAYMENTS
    deviation = math.sqrt(calls * SHARE * (1 - SHARE))
    assert abs(struck - SHARE * calls) <= SHARE_OFF_MAX * calls + DEVIATIONS_MAX * deviation


@asynccontextmanager
async def killing(
    stack: Stack, rng: random.Random, orders: list[Order]
) -> AsyncGenerator[list[int], None]:
    """stripe_sync is killed again and again while payments are being made."""
    killed: list[int] = []

    async def hunt() -> None:
        next_at = rng.randrange(10, 20)
        while True:
            await asyncio.sleep(0.05)
            if sum(order.outcome > 0 for order in orders) < next_at:
                continue
            next_at += rng.randrange(*KILLS_EVERY_PAYMENTS)
            state = stack.state()
            assert state is not None
            (pid,) = [each.pid for each in state.programs if each.name == "stripe_sync"]
            if pid:
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    task = asyncio.create_task(hunt())
    try:
        yield killed
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def at_stripe(environment: Mapping[str, str], path: str) -> list[dict[str, Any]]:
    """Every object of a list of the platform's account."""
    headers = {"Authorization": f"Bearer {environment['STRIPE_SECRET_KEY']}"}
    found: list[dict[str, Any]] = []
    async with httpx.AsyncClient(base_url=environment["STRIPE_SIM_URL"], timeout=30) as sandbox:
        query: dict[str, str | int] = {"limit": 100}
        while True:
            page = (await sandbox.get(f"/v1/{path}", params=query, headers=headers)).json()
            found += page["data"]
            if not page["has_more"]:
                return found
            query["starting_after"] = page["data"][-1]["id"]


async def payments(environment: Mapping[str, str], tenants: list[str]) -> list[dict[str, Any]]:
    """Our rows of these tenants."""
    admin = await proof.connect(environment)
    try:
        rows = await admin.fetch(
            "select * from stripe_sync.payment where tenant_id = any($1::uuid[])", tenants
        )
        return [dict(row) for row in rows]
    finally:
        await admin.close()


async def open_tenants(environment: Mapping[str, str]) -> dict[str, str]:
    """Tenants that pay with their own cards: id and key of each."""
    operator = Api(environment["SLUICE_ORIGIN"], environment["SLUICE_OPERATOR_KEY"])
    made = {}
    try:
        for _ in range(TENANTS):
            slug = f"payer-{new_id().hex[-12:]}"
            tenant = await operator.post("/api/v1/tenants", {"name": slug, "slug": slug})
            key = {"tenant": slug, "name": "payer", "scopes": ["billing:manage"], "mode": "test"}
            made[tenant["id"]] = (await operator.post("/api/v1/api-keys", key))["key"]
            await known_everywhere(environment, operator)
    finally:
        await operator.close()
    return made


def draw_orders(rng: random.Random, keys: list[str]) -> list[Order]:
    """What is to be paid, some of it with a card that is declined."""
    run = rng.randbytes(4).hex()
    return [
        Order(
            number=f"{run}-{place}",
            key=rng.choice(keys),
            amount_minor=rng.randrange(100, 10_000),
            card=DECLINED if rng.random() < DECLINED_SHARE else GOOD,
        )
        for place in range(PAYMENTS)
    ]


async def test_every_payment_is_made_once_whatever_fails(stack: Stack) -> None:
    environment = stack.environment()
    rng = random.Random(story_seed() if LONG else SHORT_SEED)
    tenants = await open_tenants(environment)
    orders = draw_orders(rng, list(tenants.values()))
    waiting = iter(orders)

    async def caller(http: httpx.AsyncClient) -> None:
        for order in waiting:
            await ask(http, order)

    async with (
        httpx.AsyncClient(base_url=environment["SLUICE_ORIGIN"], timeout=60) as http,
        failing(environment),
        killing(stack, rng, orders) as killed,
    ):
        await asyncio.gather(*(caller(http) for _ in range(AT_ONCE)))

    async def known() -> bool:
        return all(row["status"] != "UNKNOWN" for row in await payments(environment, list(tenants)))

    await eventually("the resolution of every payment", known, seconds=SETTLE_SECONDS)
    await proof.settle(environment, seconds=SETTLE_SECONDS)
    print(f"{len(killed)} kills, answers: {Counter(order.outcome for order in orders)}")
    print(f"asked more than once: {sum(order.asked > 1 for order in orders)}")
    assert killed
    rows = await payments(environment, list(tenants))
    await check_nothing_is_lost(orders, rows)
    await check_nothing_is_doubled(environment, orders, rows)
    await check_books(stack)


async def check_nothing_is_lost(orders: list[Order], rows: list[dict[str, Any]]) -> None:
    """Every caller was answered, and what it was told of stands."""
    odd = [order for order in orders if order.outcome not in (201, 202, 402)]
    assert odd == []
    by_id = {row["payment_id"]: row for row in rows}
    assert len(by_id) == len(orders), "one payment for each order"
    for order in orders:
        if order.payment_id is not None:
            row = by_id[parse_public_id("payment", order.payment_id)]
            assert row["amount_minor"] == order.amount_minor
            assert row["status"] == ("COMPLETED" if order.card == GOOD else "FAILED")
    told = Counter(row["status"] for row in rows)
    assert told == Counter("COMPLETED" if o.card == GOOD else "FAILED" for o in orders)


async def check_nothing_is_doubled(
    environment: Mapping[str, str], orders: list[Order], rows: list[dict[str, Any]]
) -> None:
    """At Stripe every order was paid once, by the intent that our row names."""
    numbers = {order.number: order for order in orders}
    intents = {
        intent["id"]: intent
        for intent in await at_stripe(environment, "payment_intents")
        if intent["metadata"].get("order") in numbers
    }
    paid = Counter(
        intents[charge["payment_intent"]]["metadata"]["order"]
        for charge in await at_stripe(environment, "charges")
        if charge["payment_intent"] in intents and charge["paid"]
    )
    assert paid == Counter(order.number for order in orders if order.card == GOOD)
    made = Counter(intent["metadata"]["payment_id"] for intent in intents.values())
    assert set(made.values()) == {1}, "one intent for each payment"
    assert len(made) == len(orders)
    for row in rows:
        if row["status"] == "COMPLETED":
            intent = intents[row["stripe_payment_intent_id"]]
            assert intent["metadata"]["payment_id"] == str(row["payment_id"])
            assert (intent["status"], intent["amount"]) == ("succeeded", row["amount_minor"])


async def check_books(stack: Stack) -> None:
    """The ledger's clearing account is Stripe's balance, and nothing was put aside."""
    environment = stack.environment()
    story = Story(environment, draw(SHORT_SEED), number=await next_number(environment))
    await story.check_ledger()
    await story.close()
    await nothing_waits(stack)
