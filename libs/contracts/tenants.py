"""Events of the tenants service: who exists, and what everybody must know of them."""

from typing import Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from libs.contracts.envelope import Fact, Mode

PLATFORM_TENANT_ID = UUID("00000000-0000-7000-8000-000000000001")
DEFAULT_TENANT_ID = UUID("00000000-0000-7000-8000-000000000002")

TenantStatus = Literal["trialing", "active", "past_due", "suspended", "canceled"]
TenantType = Literal["user", "organization"]


class TenantCreated(Fact):
    """A tenant signed up; billing, metering and ledger derive theirs from it.

    Its mode is `test`: a tenant begins there.

    Attributes:
        self_customer_id: the customer that is the tenant itself, billed by the platform.
        billing_email: where messages about money go, if known.
    """

    name: str
    slug: str
    tenant_type: TenantType
    currency: str
    locale: str
    self_customer_id: UUID
    billing_email: str | None = None


class TenantStatusChanged(Fact):
    """A tenant's status followed its platform subscription (requirement T6)."""

    from_status: TenantStatus
    to_status: TenantStatus


class ClockAdvanceRequested(Fact):
    """An operator asked to move the tenant's business clock (test mode only).

    stripe_sync moves the Stripe test clock in hops and reports each as `StripeClockAdvanced`.
    """

    advance_id: UUID
    advance_to: AwareDatetime


class ApiKeyRecord(BaseModel):
    """What a service needs to authenticate an API key offline; never the secret.

    Attributes:
        prefix: the look-up part of the key.
        key_hash: hex of HMAC-SHA-256 of the whole key under the pepper.
        operator: the key belongs to the platform's staff and may act for any tenant.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    key_id: UUID
    prefix: str
    key_hash: str
    mode: Mode
    scopes: tuple[str, ...]
    operator: bool = False
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = None


class AssertionKey(BaseModel):
    """A public Ed25519 key that verifies the console's 60-second assertions."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    key_id: str
    public_key: str


class StripeIds(BaseModel):
    """The tenant's own objects in the platform's Stripe account, per mode."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    mode: Mode
    customer_ids: tuple[str, ...] = ()
    subscription_ids: tuple[str, ...] = ()


class TenantSnapshot(Fact):
    """The complete public record of one tenant on the compacted topic `tenants.directory`.

    Only a higher `version` is applied. It travels with mode None: it holds in both.

    Attributes:
        clock_offset_seconds: what business_now adds to the clock, test mode only.
        assertion_keys: on the record of `platform` only.
        sessions_revoked: ids of sessions ended in the last minute or so.
    """

    version: int
    slug: str
    name: str
    tenant_type: TenantType
    status: TenantStatus
    currency: str
    locale: str
    self_customer_id: UUID
    billing_email: str | None = None
    plan_key: str | None = None
    api_keys: tuple[ApiKeyRecord, ...] = ()
    stripe: tuple[StripeIds, ...] = ()
    clock_offset_seconds: int = 0
    assertion_keys: tuple[AssertionKey, ...] = ()
    sessions_revoked: tuple[UUID, ...] = ()
