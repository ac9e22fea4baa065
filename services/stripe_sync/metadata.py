"""What every object that we make at Stripe says of itself (requirement P3)."""

from collections.abc import Mapping
from uuid import UUID

from libs.directory.local import Tenant
from libs.ids import public_id

RESERVED = frozenset(
    {
        "billing_email",
        "checkout_id",
        "command_id",
        "customer_id",
        "invoice_id",
        "line_id",
        "name",
        "owner",
        "payment_id",
        "payment_link_id",
        "plan",
        "plan_id",
        "plan_key",
        "plan_version_id",
        "price_id",
        "refund_id",
        "tenant_id",
        "tenant_type",
        "user",
    }
)
"""Names that a caller's own metadata may not have: they decide whose an object is."""


class ReservedMetadataError(ValueError):
    """A caller's metadata has a name of ours."""


def check_own(metadata: Mapping[str, str]) -> None:
    """Refuse names of ours.

    Raises:
        ReservedMetadataError: there is one.
    """
    if RESERVED & metadata.keys():
        raise ReservedMetadataError


def metadata_of(
    tenant: Tenant, actor: str, customer_id: UUID | None, more: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Tenant, its type, plan and owner, who asked, who pays, and what else is told.

    Args:
        actor: `usr_…` or `key_…`, as the audit log names it.
        more: wins nothing over the rest.
    """
    snapshot = tenant.snapshot
    owner = snapshot.owner_user_id
    told: dict[str, str | None] = {
        "tenant_id": str(tenant.id),
        "tenant_type": snapshot.tenant_type,
        "owner": public_id("user", owner) if owner else None,
        "user": actor,
        "plan": snapshot.plan_key,
        "customer_id": str(customer_id) if customer_id else None,
    }
    return dict(more or {}) | {name: value for name, value in told.items() if value}
