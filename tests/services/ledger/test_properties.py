"""Whatever is told, in whichever order and however often: the books are those of a plain reference."""

import random
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ledger.facts import Tenant, assert_sound, net_balances, snapshot
from libs.contracts.envelope import Envelope
from libs.testing.databases import TestDatabase
from libs.testing.memory_log import MemoryLog

AMOUNTS = st.integers(1, 10**9)
SIGNED = st.integers(-(10**9), 10**9)
CURRENCIES = st.sampled_from(["EUR", "USD", "JPY"])
BILLERS = st.sampled_from(["platform", "tenant"])
KINDS = st.sampled_from(
    ["charge", "refund", "payout", "adjustment", "stripe_fee", "never_heard_of"]
)
LINES = st.dictionaries(st.sampled_from(["flat", "usage", "proration"]), SIGNED, max_size=3)

FACTS = st.one_of(
    st.tuples(st.just("invoice"), LINES, st.integers(0, 1000), CURRENCIES, BILLERS),
    st.tuples(st.just("payment"), AMOUNTS, st.booleans(), CURRENCIES, BILLERS),
    st.tuples(st.just("transaction"), KINDS, SIGNED, st.integers(-500, 500), CURRENCIES),
    st.tuples(st.just("grant"), AMOUNTS, CURRENCIES, BILLERS),
)


def event_of(tenant: Tenant, drawn: tuple[Any, ...]) -> Envelope[Any]:
    match drawn:
        case ("invoice", lines, credits_minor, currency, biller):
            return tenant.invoice(
                lines, credits_minor=credits_minor, currency=currency, billed_by=biller
            )
        case ("payment", amount, invoiced, currency, biller):
            invoice = "in_1" if invoiced else None
            return tenant.payment(
                amount, stripe_invoice_id=invoice, currency=currency, collected_by=biller
            )
        case ("transaction", kind, amount, fee, currency):
            return tenant.transaction(kind, amount, fee, currency=currency)
        case ("grant", amount, currency, biller):
            return tenant.grant(amount, currency=currency, billed_by=biller)
    raise AssertionError(drawn)


def expected(facts: list[tuple[Any, ...]]) -> dict[str, int]:
    """Debits less credits, by hand and without rules.py; every fact once."""
    net: dict[str, int] = defaultdict(int)

    def move(account: str, currency: str, amount: int) -> None:
        net[f"{account} {currency}"] += amount

    for fact in facts:
        match fact:
            case ("invoice", lines, credits_minor, currency, _):
                move("asset:receivable", currency, sum(lines.values()) - credits_minor)
                move("liability:customer_credits", currency, credits_minor)
                for kind, amount in lines.items():
                    move(f"revenue:{kind}", currency, -amount)
            case ("payment", amount, invoiced, currency, _):
                paid = "asset:receivable" if invoiced else "liability:unapplied_payments"
                move("asset:stripe_clearing:platform", currency, amount)
                move(paid, currency, -amount)
            case ("transaction", "charge", _, fee, currency):
                move("asset:stripe_clearing:platform", currency, -fee)
                move("expense:stripe_fees", currency, fee)
            case ("transaction", "never_heard_of", amount, fee, currency):
                move("asset:stripe_clearing:platform", currency, amount - fee)
                move("liability:suspense", currency, fee - amount)
            case ("transaction", kind, amount, fee, currency):
                other = {
                    "refund": "revenue:refunds",
                    "payout": "asset:bank",
                    "adjustment": "expense:disputes",
                    "stripe_fee": "expense:stripe_fees",
                }[kind]
                move("asset:stripe_clearing:platform", currency, amount - fee)
                move(other, currency, -amount)
                move("expense:stripe_fees", currency, fee)
            case ("grant", amount, currency, _):
                move("expense:credits_granted", currency, amount)
                move("liability:customer_credits", currency, -amount)
    return {name: amount for name, amount in net.items() if amount}


@settings(
    max_examples=25,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(facts=st.lists(FACTS, max_size=25), seed=st.integers(0, 2**32))
@pytest.mark.usefixtures("ledger")
async def test_the_books_are_the_reference(
    log: MemoryLog, database: TestDatabase, facts: list[tuple[Any, ...]], seed: int
) -> None:
    """Facts of two tenants, shuffled and told up to three times each; then all of it again."""
    chance = random.Random(seed)
    tenants = [Tenant(), Tenant()]
    of_tenant: dict[int, list[tuple[Any, ...]]] = {0: [], 1: []}
    told = []
    for fact in facts:
        owner = chance.randrange(2)
        of_tenant[owner].append(fact)
        event = event_of(tenants[owner], fact)
        told += [event, *([event] * chance.randrange(2))]
        if chance.random() < 0.3:
            told.append(tenants[owner].event(event.data))
    told += [tenant.created() for tenant in tenants]
    chance.shuffle(told)
    for event in told:
        log.publish(event)
    await log.settle()
    for index, tenant in enumerate(tenants):
        assert await net_balances(database, tenant) == expected(of_tenant[index])
    await assert_sound(database, *(tenant.id for tenant in tenants))


@pytest.mark.usefixtures("ledger")
async def test_everything_again_changes_nothing(database: TestDatabase, log: MemoryLog) -> None:
    """One long random story, replayed whole with the inboxes forgotten."""
    chance = random.Random(11)
    tenants = [Tenant() for _ in range(5)]
    kinds = ["charge", "refund", "payout", "adjustment", "never_heard_of"]
    for _ in range(200):
        tenant = chance.choice(tenants)
        amount = chance.randrange(1, 10_000)
        log.publish(
            chance.choice(
                [
                    tenant.payment(amount),
                    tenant.invoice({"flat": amount, "usage": -amount // 2}),
                    tenant.transaction(chance.choice(kinds), -amount, 5),
                    tenant.grant(amount),
                ]
            )
        )
    await log.settle()
    before = await snapshot(database)
    await log.replay(clear_inboxes=True)
    assert await snapshot(database) == before
    await assert_sound(database)
