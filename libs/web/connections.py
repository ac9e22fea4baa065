"""Whose Stripe account a tenant's customers pay into: its own, or, where allowed, the platform's.

Asked wherever such an account is needed, so that the answer is the same everywhere (requirement S3).
"""

from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionRecord
from libs.directory.local import Tenant
from libs.settings import StripeSettings
from libs.web.problems import Conflict

CONNECT_PAGE = "/settings/stripe"


class StripeNotConnected(Conflict):
    """409: a Stripe account of the tenant's own is needed, and there is none that can be used."""

    default_code = "stripe_not_connected"
    default_title = "Stripe is not connected"
    default_detail = (
        "Connect Stripe first: open /settings/stripe in the console, or call "
        "POST /api/v1/connect/start."
    )

    def __init__(self, detail: str | None = None, *, payment: str | None = None) -> None:
        named = {} if payment is None else {"payment": payment}
        super().__init__(detail, extra={"connect_url": CONNECT_PAGE} | named)


def needs_connection(
    tenant: Tenant, mode: Mode, settings: StripeSettings
) -> ConnectionRecord | None:
    """The tenant's own account to be used; None: the platform's stands in for it.

    An account that the tenant has, but switched off or whose key fails, is never replaced by the
    platform's: money would go where nobody expects it.

    Raises:
        StripeNotConnected: there is none, and the platform's may not stand in.
    """
    connection = tenant.connection(mode)
    if connection is not None and connection.status == "CONNECTED":
        if not connection.is_active:
            raise StripeNotConnected(
                "The tenant's Stripe account is switched off. Switch it on at /settings/stripe in the "
                "console, or with PATCH /api/v1/billing/config."
            )
        if not connection.key_valid:
            raise StripeNotConnected(
                "Stripe refuses the key of the tenant's account. Give a new one, or connect it again, "
                "at /settings/stripe in the console."
            )
        if connection.account_id is None:
            raise StripeNotConnected(
                "The tenant's restricted key may not read its own account, so nobody can tell where the "
                "money would go. Give it read access to the account in Stripe's dashboard, then send it "
                "again at /settings/stripe in the console."
            )
        return connection
    if may_fall_back(tenant, mode, settings):
        return None
    raise StripeNotConnected


def may_fall_back(tenant: Tenant, mode: Mode, settings: StripeSettings) -> bool:
    """Whether the platform's account may stand in for one that the tenant does not have."""
    if settings.platform_fallback == "test":
        return mode == "test"
    if settings.platform_fallback == "listed":
        return bool({str(tenant.id), tenant.snapshot.slug} & settings.fallback_tenants)
    return False
