"""SQL of plan versions and of what stands at Stripe for them."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from libs.contracts.billing import PlanPublished
from libs.db.pool import Row, Tx


@dataclass(frozen=True)
class PlanVersion:
    """A version of a plan as billing published it."""

    plan_version_id: UUID
    plan_id: UUID
    version: int
    key: str
    name: str
    interval: str
    currency: str
    collection: str
    prices: list[dict[str, Any]]
    stripe_price_id: str | None

    @property
    def flat_prices(self) -> list[dict[str, Any]]:
        """What is paid in advance; usage never stands at Stripe as a price."""
        return [price for price in self.prices if price["kind"] == "flat"]


_COLUMNS = ", ".join(PlanVersion.__dataclass_fields__)


async def insert(tx: Tx, plan: PlanPublished) -> None:
    """Keep a version; versions never change."""
    await tx.execute(
        f"""
        insert into plan_version (tenant_id, mode, {_COLUMNS})
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) on conflict do nothing
        """,  # noqa: S608 - constants only
        tx.tenant_id,
        tx.mode,
        plan.plan_version_id,
        plan.plan_id,
        plan.version,
        plan.key,
        plan.name,
        plan.interval,
        plan.currency,
        plan.collection,
        [price.model_dump(mode="json") for price in plan.prices],
        plan.stripe_price_id,
    )


async def latest(tx: Tx, key: str) -> PlanVersion | None:
    """The newest version of a plan of the biller in scope."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from plan_version where tenant_id = $1 and mode = $2 and key = $3 "  # noqa: S608
        "order by version desc limit 1",
        tx.tenant_id,
        tx.mode,
        key,
    )
    return _plan(row)


async def by_stripe_price(tx: Tx, stripe_price_id: str) -> PlanVersion | None:
    """The newest version that is sold under a price that exists at Stripe."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from plan_version where tenant_id = $1 and mode = $2 "  # noqa: S608
        "and stripe_price_id = $3 order by version desc limit 1",
        tx.tenant_id,
        tx.mode,
        stripe_price_id,
    )
    return _plan(row)


async def find(tx: Tx, plan_version_id: UUID) -> PlanVersion | None:
    """One version."""
    row = await tx.fetchrow(
        f"select {_COLUMNS} from plan_version where tenant_id = $1 and mode = $2 "  # noqa: S608
        "and plan_version_id = $3",
        tx.tenant_id,
        tx.mode,
        plan_version_id,
    )
    return _plan(row)


def _plan(row: Row | None) -> PlanVersion | None:
    return PlanVersion(**dict(row)) if row else None


async def reserve_price(
    tx: Tx, account: str, price_id: UUID, plan_version_id: UUID, asked_at: datetime
) -> Row:
    """What stands at Stripe for one of our prices, entered now as asked for unless it is there."""
    found = await _find_price(tx, account, price_id)
    if found is not None:
        return found
    await tx.execute(
        """
        insert into plan_price (tenant_id, mode, account, price_id, plan_version_id, asked_at)
        values ($1, $2, $3, $4, $5, $6) on conflict do nothing
        """,
        tx.tenant_id,
        tx.mode,
        account,
        price_id,
        plan_version_id,
        asked_at,
    )
    entered = await _find_price(tx, account, price_id)
    assert entered is not None, "it was entered above, here or by a twin"
    return entered


async def _find_price(tx: Tx, account: str, price_id: UUID) -> Row | None:
    return await tx.fetchrow(
        "select stripe_price_id, asked_at from plan_price where tenant_id = $1 and mode = $2 "
        "and account = $3 and price_id = $4",
        tx.tenant_id,
        tx.mode,
        account,
        price_id,
    )


async def complete_price(tx: Tx, account: str, price_id: UUID, product: str, price: str) -> None:
    """Remember what was created at Stripe; a concurrent twin created the same."""
    await tx.execute(
        """
        update plan_price set stripe_product_id = $5, stripe_price_id = $6
        where tenant_id = $1 and mode = $2 and account = $3 and price_id = $4
            and stripe_price_id is null
        """,
        tx.tenant_id,
        tx.mode,
        account,
        price_id,
        product,
        price,
    )
