"""One function per consumed event: (event, tx) -> one domain call."""

from libs.contracts.audit import (
    AuditHeadAnchored,
    ConfigurationChanged,
    KeyUsed,
    SecretsHeld,
    SecurityEventRaised,
)
from libs.contracts.billing import SubscriptionChanged
from libs.contracts.envelope import Envelope, Fact
from libs.contracts.stripe_accounts import (
    StripeAccountChanged,
    StripeAccountDeauthorized,
    StripeCredentialRefused,
)
from libs.contracts.stripe_sync import (
    StripeClockAdvanced,
    StripeCommandFailed,
    StripeCustomerLinked,
    StripeSubscriptionChanged,
)
from libs.db.pool import Tx
from libs.messaging.apply import Handler
from services.tenants import audit, clock, connection_states, key_use, rotation, tenancy


async def on_subscription_changed(event: Envelope[SubscriptionChanged], tx: Tx) -> None:
    """Plan and status follow the tenant's own subscription."""
    await tenancy.follow_subscription(tx, event.data, event.occurred_at)


async def on_stripe_customer_linked(event: Envelope[StripeCustomerLinked], tx: Tx) -> None:
    """Webhooks about this Stripe customer concern the tenant."""
    await tenancy.link_customer(tx, event.data, event.occurred_at)


async def on_stripe_subscription_changed(
    event: Envelope[StripeSubscriptionChanged], tx: Tx
) -> None:
    """Webhooks about this Stripe subscription concern the tenant."""
    await tenancy.link_subscription(tx, event.data, event.occurred_at)


async def on_stripe_clock_advanced(event: Envelope[StripeClockAdvanced], tx: Tx) -> None:
    """The business clock follows the hop."""
    await clock.follow(tx, event.data, event.occurred_at)


async def on_stripe_command_failed(event: Envelope[StripeCommandFailed], tx: Tx) -> None:
    """A move of the clock that Stripe refused is over."""
    await clock.give_up(tx, event.data, event.occurred_at)


async def on_stripe_account_changed(event: Envelope[StripeAccountChanged], tx: Tx) -> None:
    """Show what Stripe says of the tenant's own account."""
    await connection_states.follow_account(tx, event.data, event.occurred_at)


async def on_stripe_account_deauthorized(
    event: Envelope[StripeAccountDeauthorized], tx: Tx
) -> None:
    """The tenant took its access back at Stripe."""
    await connection_states.follow_deauthorized(tx, event.data, event.occurred_at)


async def on_stripe_credential_refused(event: Envelope[StripeCredentialRefused], tx: Tx) -> None:
    """The tenant's key does not work any more."""
    await connection_states.follow_refused(tx, event.data, event.occurred_at)


async def on_security_event_raised(event: Envelope[SecurityEventRaised], tx: Tx) -> None:
    """Keep it in the audit log."""
    await audit.record(tx, event)


async def on_configuration_changed(event: Envelope[ConfigurationChanged], tx: Tx) -> None:
    """Keep it in the audit log."""
    await audit.record(tx, event)


async def on_key_used(event: Envelope[KeyUsed], tx: Tx) -> None:
    """Show when a key or secret was last used."""
    await key_use.follow(tx, event.data)


async def on_audit_head_anchored(event: Envelope[AuditHeadAnchored], tx: Tx) -> None:
    """Keep the signed head beside the log."""
    await audit.keep_anchor(tx, event.id, event.data)


async def on_secrets_held(event: Envelope[SecretsHeld], tx: Tx) -> None:
    """A rotation waits until every holder has told."""
    await rotation.note_holder(tx, event.data)


HANDLERS: dict[type[Fact], Handler] = {
    SubscriptionChanged: on_subscription_changed,
    StripeCustomerLinked: on_stripe_customer_linked,
    StripeSubscriptionChanged: on_stripe_subscription_changed,
    StripeClockAdvanced: on_stripe_clock_advanced,
    StripeCommandFailed: on_stripe_command_failed,
    StripeAccountChanged: on_stripe_account_changed,
    StripeAccountDeauthorized: on_stripe_account_deauthorized,
    StripeCredentialRefused: on_stripe_credential_refused,
    SecurityEventRaised: on_security_event_raised,
    ConfigurationChanged: on_configuration_changed,
    AuditHeadAnchored: on_audit_head_anchored,
    KeyUsed: on_key_used,
    SecretsHeld: on_secrets_held,
}
