"""Events of the tenants service: who exists, and what everybody must know of them."""

from typing import Any, Literal
from uuid import UUID

from pydantic import AwareDatetime, BaseModel, ConfigDict

from libs.contracts.envelope import Fact, Mode

PLATFORM_TENANT_ID = UUID("00000000-0000-7000-8000-000000000001")
DEFAULT_TENANT_ID = UUID("00000000-0000-7000-8000-000000000002")

TenantStatus = Literal["trialing", "active", "past_due", "suspended", "canceled"]
TenantType = Literal["user", "organization"]
ConnectionKind = Literal["CONNECT_STANDARD", "CONNECT_EXPRESS", "RAW_KEYS"]
ConnectionStatus = Literal["NOT_CONNECTED", "PENDING", "CONNECTED", "REVOKED"]
SecretName = Literal["stripe_secret_key", "stripe_webhook_secret"]


class TenantCreated(Fact):
    """A tenant signed up; billing, metering and ledger derive theirs from it.

    Its mode is `test`: a tenant begins there.

    Attributes:
        self_customer_id: the customer that is the tenant itself, billed by the platform.
        billing_email: not told any more and not read: this topic is kept for ever, and an e-mail
            must be erasable. `TenantSnapshot` tells it, sealed; its older records are compacted away.
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


class TenantWentLive(Fact):
    """A tenant passed the checklist and may work in live mode; its own mode is `live`.

    Consumers derive the live side of a tenant from it as they derive the test side from
    `TenantCreated`.

    Attributes:
        self_customer_id: the customer that is the tenant itself, the same as in test mode.
        billing_email: as in `TenantCreated`.
    """

    name: str
    slug: str
    tenant_type: TenantType
    currency: str
    locale: str
    self_customer_id: UUID
    billing_email: str | None = None


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


class ConnectionRecord(BaseModel):
    """A tenant's own Stripe account in one mode, without any secret (requirements S1-S3, S6).

    Attributes:
        account_id: `acct_…`, once Stripe has told it.
        account_since: since when the connection has this account, by the way it has now.
        is_active: False while the tenant has switched it off; its keys are kept.
        credential_version: of the raw secret key in `tenants.secrets`; 0 where the platform's key
            is used with `Stripe-Account`.
        webhook_token_hashes: hex SHA-256 of the opaque tokens of the tenant's webhook URL.
        application_fee_basis_points: the platform's share of a Connect payment; None takes none.
        application_fee_fixed_minor: taken besides, of payments in `application_fee_currency`.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    connection_id: UUID
    mode: Mode
    kind: ConnectionKind
    status: ConnectionStatus
    is_active: bool = True
    account_id: str | None = None
    account_since: AwareDatetime | None = None
    charges_enabled: bool = False
    payouts_enabled: bool = False
    requirements_due: tuple[str, ...] = ()
    key_valid: bool = True
    credential_version: int = 0
    webhook_token_hashes: tuple[str, ...] = ()
    application_fee_basis_points: int | None = None
    application_fee_fixed_minor: int | None = None
    application_fee_currency: str | None = None


class ConfigRecord(BaseModel):
    """One namespace of a tenant's configuration as it holds now (requirement T9)."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    namespace: str
    version: int
    values: dict[str, Any]


class MemberRevocation(BaseModel):
    """A member lost rights: assertions made for an earlier version of the tenant are void."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    user_id: UUID
    version: int


class SealedAddress(BaseModel):
    """An e-mail, sealed under a key of its own that stands wrapped beside it (`libs.crypto.personal`).

    Attributes:
        sealed, wrapped: base64; both are bound to the tenant and open with the pepper only.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    sealed: str
    wrapped: str


class TenantSnapshot(Fact):
    """The complete public record of one tenant on the compacted topic `tenants.directory`.

    Only a higher `version` is applied. It travels with mode None: it holds in both.

    Attributes:
        billing_email: in the clear only in records from before it was sealed.
        billing_address: where the tenant's bills go.
        clock_offset_seconds: what business_now adds to the clock, test mode only.
        assertion_keys: on the record of `platform` only.
        sessions_revoked: ids of sessions ended in the last minute or so.
        members_revoked: members who lost rights in the last minute or so, or whose sessions ended
            while too many others did to name each.
        assertions_void_before: assertions made for an earlier version are void, whoever's they are:
            more members lost rights than are named. 0: none.
        live_since: when the tenant went live; None: live mode is not open to it.
        owner_user_id: of its owners the one who has been a member longest; None where it has none, and
            in records from before it was told.
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
    billing_address: SealedAddress | None = None
    plan_key: str | None = None
    api_keys: tuple[ApiKeyRecord, ...] = ()
    stripe: tuple[StripeIds, ...] = ()
    clock_offset_seconds: int = 0
    assertion_keys: tuple[AssertionKey, ...] = ()
    sessions_revoked: tuple[UUID, ...] = ()
    members_revoked: tuple[MemberRevocation, ...] = ()
    assertions_void_before: int = 0
    connections: tuple[ConnectionRecord, ...] = ()
    config: tuple[ConfigRecord, ...] = ()
    tax_region: str | None = None
    live_since: AwareDatetime | None = None
    owner_user_id: UUID | None = None


class WrappedKeyRecord(BaseModel):
    """A data key of the tenant, wrapped by a master key; without that it is noise.

    Attributes:
        wrapped: base64 of the wrapped key's record, which names its master key.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    data_key_id: UUID
    wrapped: str


class SecretRecord(BaseModel):
    """One version of a secret: sealed here, or a reference into a secret store.

    Attributes:
        version: counts the versions of this name on this connection from 1.
        valid_until: a previous version may be used until then; None for the current one.
        sealed: base64 of the sealed value (`libs.crypto.sealed`), bound to table
            `connection_secret`, field `value`, row `secret_id`.
        reference: where an external store keeps it; exactly one of the two is set.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    secret_id: UUID
    connection_id: UUID
    mode: Mode
    name: SecretName
    version: int
    valid_until: AwareDatetime | None = None
    sealed: str | None = None
    reference: str | None = None


class TenantSecrets(Fact):
    """All sealed secrets of one tenant, on the compacted topic `tenants.secrets`.

    Only a higher `version` is applied; it travels with mode None. What it no longer holds is
    destroyed: compaction removes the older record within 24 hours, and a record without secrets is
    the last word on a tenant that was shredded.

    Attributes:
        left: whether the tenant was shredded because it is gone. It is back when it connects a Stripe
            account.
    """

    version: int
    left: bool = False
    secrets: tuple[SecretRecord, ...] = ()
    data_keys: tuple[WrappedKeyRecord, ...] = ()
