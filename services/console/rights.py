"""Roles and permissions in words, as the forms offer them; the API alone decides."""

from collections.abc import Mapping

PERMISSIONS: Mapping[str, str] = {
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

ROLES: Mapping[str, str] = {
    "owner": "may do everything, and make others owners",
    "admin": "manages billing, members and keys",
    "billing_admin": "manages billing",
    "member": "sees usage and billing",
}
