"""One function per consumed event: (event, tx) -> one domain call."""

from libs.contracts.envelope import Envelope, Fact
from libs.contracts.metering import MeterCreated, PeriodUsage
from libs.contracts.stripe_sync import (
    StripeCommandFailed,
    StripeCustomerLinked,
    StripeInvoiceChanged,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import TenantCreated, TenantWentLive
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.billing import completion, intake, invoices, plans


async def on_meter_created(event: Envelope[MeterCreated], tx: Tx) -> None:
    """Prices may name this meter from now on."""
    await plans.remember_meter(tx, event.data)


async def on_period_usage(event: Envelope[PeriodUsage], tx: Tx) -> None:
    """Rate a closed period's quantity; complete the invoice when it was the last one awaited."""
    await completion.take_usage(tx, event.data, event.effective_at)


async def on_stripe_command_failed(event: Envelope[StripeCommandFailed], tx: Tx) -> None:
    """Show on the invoice why it could not be completed."""
    await invoices.note_failure(tx, event.data)


HANDLERS: dict[type[Fact], Handler] = {
    TenantCreated: intake.tenant_created,
    TenantWentLive: intake.tenant_created,
    MeterCreated: on_meter_created,
    PeriodUsage: on_period_usage,
    StripeCustomerLinked: intake.customer_linked,
    StripeSubscriptionChanged: intake.subscription_changed,
    StripeInvoiceChanged: intake.invoice_changed,
    StripeCommandFailed: on_stripe_command_failed,
}
