"""The API's answers that the pages behind Settings read."""

from datetime import datetime
from typing import Any

from services.console.shapes import Answer, Tenant


class ApiKey(Answer):
    """An API key without its secret."""

    id: str
    name: str
    prefix: str
    mode: str
    scopes: list[str]
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    revoke_reason: str | None = None
    replaces: str | None = None
    replaced_by: str | None = None
    last_used_at: datetime | None = None
    created_by: str
    created_at: datetime

    def state(self, now: datetime) -> str:
        """Whether it is good for anything: `active`, `expired` or `revoked`."""
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if self.expires_at is not None and self.expires_at <= now else "active"


class MadeApiKey(ApiKey):
    """A key that was just made, with its secret."""

    key: str


class Member(Answer):
    """A member of the tenant."""

    user: str
    email: str
    name: str | None = None
    role: str
    permissions: list[str]
    all_permissions: list[str]
    created_at: datetime


class Invitation(Answer):
    """An invitation that waits to be accepted."""

    id: str
    email: str
    role: str
    permissions: list[str]
    created_by: str
    created_at: datetime
    expires_at: datetime


class MadeInvitation(Invitation):
    """An invitation that was just made, with its link."""

    url: str


class Team(Answer):
    """A team."""

    id: str
    name: str
    everyone: bool = False
    members: int
    created_at: datetime


class AuditEntry(Answer):
    """An entry of the audit log."""

    id: str
    seq: int
    occurred_at: datetime
    kind: str
    action: str
    actor: str
    object_id: str | None = None
    service: str
    mode: str | None = None
    data: dict[str, Any]

    @property
    def where_from(self) -> str | None:
        """The address of whoever did it."""
        found = self.data.get("remote_address")
        return None if found is None else str(found)

    @property
    def changes(self) -> list[tuple[str, Any, Any]]:
        """Each field that differs, with its value before and after."""
        before, after = self.data.get("before") or {}, self.data.get("after") or {}
        names = list(dict.fromkeys([*before, *after]))
        found = [(name, before.get(name), after.get(name)) for name in names]
        return [(name, old, new) for name, old, new in found if (old or "") != (new or "")]

    @property
    def facts(self) -> list[tuple[str, Any]]:
        """What else the entry says."""
        shown = ("severity", "method", "path", "permission", "role", "reason", "session_id")
        return [(name, self.data[name]) for name in shown if self.data.get(name) is not None]


class Verification(Answer):
    """What checking the chain of the audit log found."""

    holds: bool
    complete: bool
    last_seq: int
    signed_seq: int = 0
    forged_heads: int = 0
    next_after: int | None = None
    first_broken_seq: int | None = None
    reason: str | None = None


class SecretVersion(Answer):
    """A version of a secret: what names it, never the secret."""

    version: int
    last4: str
    fingerprint: str
    valid_until: datetime | None = None
    created_at: datetime
    last_used_at: datetime | None = None


class PreviousKey(SecretVersion):
    """A key that was replaced."""

    dead_at: datetime | None = None
    advice: str | None = None


class SecretKey(SecretVersion):
    """The secret key in use, and what Stripe last said to it."""

    valid: bool
    failure: str | None = None
    checked_at: datetime | None = None


class Webhook(Answer):
    """How events of the tenant's account come in; `url` is told once."""

    status: str
    url: str | None = None
    failure: str | None = None
    secret: SecretVersion | None = None
    previous: SecretVersion | None = None
    last_received_at: datetime | None = None


class BillingConfig(Answer):
    """The tenant's own Stripe account in the mode in view."""

    id: str
    mode: str
    kind: str
    status: str
    is_active: bool
    stripe_account_id: str | None = None
    stripe_publishable_key: str | None = None
    limited: bool = False
    secret_key: SecretKey | None = None
    previous: PreviousKey | None = None
    webhook: Webhook
    warnings: list[str]
    created_at: datetime
    updated_at: datetime


class ConnectionHealth(Answer):
    """Whether the tenant's own Stripe account in the mode in view is well."""

    connected: bool
    status: str
    kind: str | None = None
    is_active: bool
    stripe_account_id: str | None = None
    charges_enabled: bool
    payouts_enabled: bool
    requirements_due: list[str]
    disabled_reason: str | None = None
    key_valid: bool
    last_webhook_at: datetime | None = None
    checked_at: datetime | None = None
    problems: list[str]


class Started(Answer):
    """Where the owner of an account goes on at Stripe."""

    url: str


class OwnSession(Answer):
    """A session of the person who looks."""

    id: str
    current: bool
    created_at: datetime
    last_used_at: datetime | None = None
    expires_at: datetime
    remote_address: str | None = None

    @property
    def seen_at(self) -> datetime:
        """The last use; the API tells it to the quarter of an hour, which may lie before the start."""
        return max(self.created_at, self.last_used_at or self.created_at)


class TenantSettings(Answer):
    """Settings of a tenant's record."""

    billing_email: str | None = None


class TenantRecord(Tenant):
    """What people may change of a tenant's record."""

    locale: str
    tax_region: str | None = None
    settings: TenantSettings


class Item(Answer):
    """An item of the checklist for going live."""

    key: str
    done: bool
    waived: str | None = None
    to_do: str | None = None


class Checklist(Answer):
    """What a tenant still needs for live mode."""

    live: bool
    live_since: datetime | None = None
    ready: bool
    items: list[Item]


class Configuration(Answer):
    """A namespace: what the tenant sets, and what holds."""

    namespace: str
    version: int
    values: dict[str, Any]
    effective: dict[str, Any]
    operator_only: bool = False
    changed_by: str | None = None
    changed_at: datetime | None = None


class Described(Configuration):
    """A namespace with what may stand in it; no schema where anything may."""

    description: str
    json_schema: dict[str, Any] | None = None

    @property
    def summary(self) -> str:
        """The first sentence of what it is for."""
        return " ".join(self.description.split("\n\n", 1)[0].split())

    @property
    def settings(self) -> list[tuple[str, str, Any]]:
        """Each setting: its name, what it means, and what holds."""
        known = (self.json_schema or {}).get("properties", {})
        return [
            (name, str(about.get("description", "")), self.effective.get(name))
            for name, about in known.items()
        ]


class ConfigurationVersion(Answer):
    """What a namespace held in one version."""

    version: int
    values: dict[str, Any]
    changed_by: str
    changed_at: datetime
