"""What each role may do: the one table of it (requirement T2).

Manage billing: owner, admin, billing_admin. View billing and usage: all four. Manage members and
keys: owner, admin. An API key carries scopes of the same names.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

Role = Literal["owner", "admin", "billing_admin", "member"]

SCOPES: Mapping[str, str] = {
    "usage:write": "send usage",
    "usage:read": "see usage and limits",
    "billing:read": "see plans, subscriptions, invoices and credits",
    "billing:manage": "buy, change and cancel; connect Stripe; includes every view of billing",
    "ledger:read": "see the tenant's own books",
    "ledger:post": "book entries in the tenant's own books; includes seeing them",
    "members:manage": "manage members and API keys; read the audit log",
    "tenants:read": "see the tenant's own record",
    "tenants:manage": "change the tenant's own record",
}
"""Every permission there is, and what it lets one do."""

PERMISSIONS: Mapping[Role, frozenset[str]] = {
    "owner": frozenset(SCOPES),
    "admin": frozenset(SCOPES),
    "billing_admin": frozenset(
        {"usage:read", "billing:read", "billing:manage", "ledger:read", "tenants:read"}
    ),
    "member": frozenset({"usage:read", "billing:read", "tenants:read"}),
}

RANK: Mapping[Role, int] = {"member": 0, "billing_admin": 1, "admin": 2, "owner": 3}
"""Nobody gives a role above their own, nor takes one."""


def permissions_of(role: Role, extra: Iterable[str] = ()) -> frozenset[str]:
    """All that a member may do: by its role, and beyond it."""
    return PERMISSIONS[role] | frozenset(extra)
