"""Settings of the gateway."""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from libs.contracts.envelope import Mode
from libs.crypto.settings import SealingSettings
from libs.db.pool import Database
from libs.settings import ServiceSettings, StripeSettings
from libs.web.limits import RateLimiter
from services.gateway.endpoints import EndpointSecret
from services.gateway.spool import BYTES_MAX, TENANT_PERCENT, Spool

SECONDS_AT_ONCE = 20
"""A tenant's URL takes at once what may come in so long: Stripe tells of a month's bills in a burst."""


class Settings(SealingSettings, StripeSettings, ServiceSettings):
    """The secrets of Stripe's endpoints: current, previous (while a roll lasts), and Connect's."""

    service: ClassVar[str] = "gateway"

    stripe_webhook_secret_previous: SecretStr | None = Field(
        default=None,
        validation_alias="STRIPE_WEBHOOK_SECRET_PREVIOUS",
        description="the endpoint's signing secret before it was rolled, for the 24 h it still holds",
    )
    stripe_connect_webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias="STRIPE_CONNECT_WEBHOOK_SECRET",
        description="the signing secret of the endpoint for connected accounts, whsec_…",
    )
    stripe_connect_webhook_secret_previous: SecretStr | None = Field(
        default=None,
        validation_alias="STRIPE_CONNECT_WEBHOOK_SECRET_PREVIOUS",
        description="the same before it was rolled, for the 24 h it still holds",
    )

    archive_months: int = Field(
        default=0,
        ge=0,
        le=1200,
        description="how many months of webhooks are kept before the running one; 0 keeps all",
    )
    spool_events_max: int = Field(
        default=1_000_000,
        ge=1,
        description="with so many events waiting for Kafka webhooks are answered 503",
    )
    spool_bytes_max: int = Field(
        default=BYTES_MAX,
        ge=1,
        description="likewise with so many bytes, as the events stand on the disk",
    )
    spool_tenant_percent: int = Field(
        default=TENANT_PERCENT,
        ge=1,
        le=100,
        description="with so much of the spool a tenant's the tenant's own webhook URL answers 503",
    )
    tenant_webhooks_per_second: int = Field(
        default=100,
        ge=1,
        description=(
            "webhooks that a tenant's own URL takes in a second and process, a larger one counting "
            "once per 16 KiB; twenty times as many at once, and beyond that 429"
        ),
    )

    @property
    def stripe_mode(self) -> Mode:
        """The mode of the endpoint: that of the key it was configured with."""
        key = self.stripe_secret_key.get_secret_value() if self.stripe_secret_key else ""
        return "live" if key.startswith(("sk_live_", "rk_live_")) else "test"

    def spool(self, database: Database) -> Spool:
        """The spool in this database, with an end."""
        return Spool(
            database,
            self.spool_events_max,
            bytes_max=self.spool_bytes_max,
            tenant_percent=self.spool_tenant_percent,
        )

    def tenant_rates(self) -> RateLimiter:
        """How much the URL of a tenant's own account takes."""
        per_second = self.tenant_webhooks_per_second
        return RateLimiter(per_second, burst=per_second * SECONDS_AT_ONCE)

    def endpoint_secrets(self) -> tuple[EndpointSecret, ...]:
        """Every secret a webhook may be signed with now; none closes the endpoint."""
        if not self.stripe_enabled:
            return ()
        candidates: tuple[tuple[SecretStr | None, Literal["platform", "connect"]], ...] = (
            (self.stripe_webhook_secret, "platform"),
            (self.stripe_webhook_secret_previous, "platform"),
            (self.stripe_connect_webhook_secret, "connect"),
            (self.stripe_connect_webhook_secret_previous, "connect"),
        )
        return tuple(
            EndpointSecret(secret.get_secret_value().encode(), scope, self.stripe_mode)
            for secret, scope in candidates
            if secret is not None and secret.get_secret_value()
        )
