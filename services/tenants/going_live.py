"""Going live: a tenant begins in test mode, and live mode opens when its checklist is done.

The step is taken once, by an owner, and never taken back. An operator may waive an item with a
reason, which stands in the audit log. The reserved tenants are live from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, cast, get_args

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.tenants import TenantWentLive
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import emit
from services.tenants import connections, snapshot, store_tenants

ItemKey = Literal[
    "connection_connected", "charges_enabled", "webhook_seen", "plan_chosen", "tax_region_set"
]
ITEM_KEYS: tuple[ItemKey, ...] = get_args(ItemKey)

WHAT_TO_DO: Mapping[ItemKey, str] = {
    "connection_connected": "Connect your Stripe account in live mode.",
    "charges_enabled": "Finish Stripe's onboarding, so that the account may take payments.",
    "webhook_seen": "Send a test event from Stripe to your live webhook address.",
    "plan_chosen": "Choose a plan in test mode, or confirm that you begin on the free one.",
    "tax_region_set": "Set the tenant's tax region.",
}
FREE_PLAN = "free"


class NotReadyError(Exception):
    """Items of the checklist are open."""

    def __init__(self, open_items: Sequence[ItemKey]) -> None:
        self.open_items = tuple(open_items)
        super().__init__(", ".join(open_items))


@dataclass(frozen=True)
class Item:
    """One item of the checklist.

    Attributes:
        waived: the operator's reason, where the item was waived instead of done.
    """

    key: ItemKey
    done: bool
    waived: str | None = None


@dataclass(frozen=True)
class Step:
    """Who opens live mode, and what need not be done for it.

    Attributes:
        waivers: a reason by item; operators only.
        confirm_free_plan: the tenant means to begin on the free plan.
    """

    actor: str
    waivers: Mapping[ItemKey, str]
    confirm_free_plan: bool = False


@dataclass(frozen=True)
class Checklist:
    """Whether the tenant is live, since when, and the items."""

    live_since: datetime | None
    items: tuple[Item, ...]


async def read_checklist(tx: Tx) -> Checklist | None:
    """The checklist of the tenant in scope; None where there is no such tenant."""
    tenant = await store_tenants.read_tenant(tx)
    return None if tenant is None else await _checklist(tx, tenant)


async def go_live(tx: Tx, step: Step, at: datetime) -> Checklist:
    """Open live mode to the tenant in scope; nothing where it is open.

    Raises:
        NotReadyError: with the items that are neither done nor waived.
    """
    tenant = await store_tenants.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    if tenant["live_since"] is not None:
        return await _checklist(tx, tenant)
    items = (await _checklist(tx, tenant)).items
    waived: dict[ItemKey, str] = dict(step.waivers)
    if step.confirm_free_plan:
        waived.setdefault("plan_chosen", "begins on the free plan")
    waived = {item.key: waived[item.key] for item in items if not item.done and item.key in waived}
    still_open = [item.key for item in items if not item.done and item.key not in waived]
    if still_open:
        raise NotReadyError(still_open)
    await open_live_mode(tx, tenant, waived, step.actor, at)
    await snapshot.publish(tx, at)
    opened = await read_checklist(tx)
    assert opened is not None, "the tenant is there"
    return opened


async def open_live_mode(
    tx: Tx, tenant: Row, waived: Mapping[ItemKey, str], actor: str, at: datetime
) -> None:
    """Open live mode and tell of it; whoever opens it publishes the tenant's record."""
    await store_tenants.set_live(tx, {str(key): reason for key, reason in waived.items()}, at)
    here = tx.scope
    await tx.enter(Scope(here.tenants, "live"))
    emit(
        tx,
        TenantWentLive(
            name=tenant["name"],
            slug=tenant["slug"],
            tenant_type=tenant["type"],
            currency=tenant["currency"],
            locale=tenant["locale"],
            self_customer_id=tenant["self_customer_id"],
        ),
        effective_at=at,
    )
    emit(
        tx,
        ConfigurationChanged(
            action="tenant.went_live",
            actor=actor,
            object_id=str(tx.tenant_id),
            before={"live_since": None},
            after={"live_since": at.isoformat()}
            | {f"waived_{key}": reason for key, reason in sorted(waived.items())},
        ),
        effective_at=at,
    )
    await tx.enter(here)


async def _checklist(tx: Tx, tenant: Row) -> Checklist:
    row = await connections.find_live(tx)
    connection = row if row is not None and row["is_active"] else None
    connected = (
        connection is not None and connection["status"] == "CONNECTED" and connection["key_valid"]
    )
    done: dict[ItemKey, bool] = {
        "connection_connected": connected,
        "charges_enabled": connection is not None and connected and connection["charges_enabled"],
        "webhook_seen": connection is not None
        and await connections.last_webhook_at(tx, connection) is not None,
        "plan_chosen": tenant["plan_key"] not in (None, FREE_PLAN),
        "tax_region_set": tenant["tax_region"] is not None,
    }
    waivers = cast("Mapping[str, str]", tenant["live_waivers"])
    return Checklist(
        tenant["live_since"],
        tuple(Item(key, done[key], None if done[key] else waivers.get(key)) for key in ITEM_KEYS),
    )
