"""Events of stripe_sync about tenants' own Stripe accounts: their health, and who may speak for them."""

from uuid import UUID

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact


class StripeAccountChanged(Fact):
    """The health of a tenant's own Stripe account, as Stripe tells it.

    Attributes:
        account: `acct_…`.
        requirements_due: what Stripe wants to know by now, past due included.
        fetched_at: when Stripe said so; only a later word replaces an earlier one.
    """

    account: str
    charges_enabled: bool
    payouts_enabled: bool
    details_submitted: bool
    requirements_due: tuple[str, ...] = ()
    disabled_reason: str | None = None
    fetched_at: AwareDatetime


class StripeAccountDeauthorized(Fact):
    """The tenant disconnected the platform at Stripe: nothing of its account can be called now."""

    account: str
    stripe_event_id: str
    deauthorized_at: AwareDatetime


class StripeCredentialRefused(Fact):
    """Stripe refused a tenant's key even after it was read afresh.

    Attributes:
        credential_version: which version was refused; a newer one is not affected.
        code: Stripe's word.
    """

    account: str
    connection_id: UUID
    credential_version: int
    code: str
    refused_at: AwareDatetime
