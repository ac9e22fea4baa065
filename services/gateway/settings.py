"""Settings of the gateway."""

from typing import ClassVar, Literal

from pydantic import Field, SecretStr

from libs.contracts.envelope import Mode
from libs.crypto.settings import SealingSettings
from libs.settings import ServiceSettings, StripeSettings
from services.gateway.endpoints import EndpointSecret


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

    @property
    def stripe_mode(self) -> Mode:
        """The mode of the endpoint: that of the key it was configured with."""
        key = self.stripe_secret_key.get_secret_value() if self.stripe_secret_key else ""
        return "live" if key.startswith(("sk_live_", "rk_live_")) else "test"

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
