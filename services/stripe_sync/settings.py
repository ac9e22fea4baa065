"""Settings of stripe_sync."""

from typing import ClassVar

from pydantic import Field

from libs.contracts.envelope import Mode
from libs.crypto.settings import SealingSettings
from libs.settings import ServiceSettings, StripeSettings

API_VERSION = "2026-10-28.endive"


class Settings(SealingSettings, StripeSettings, ServiceSettings):
    """The platform's key, what opens tenants' keys, and how patient we are with Stripe."""

    service: ClassVar[str] = "stripe_sync"

    stripe_api_version: str = Field(
        default=API_VERSION,
        validation_alias="SLUICE_STRIPE_API_VERSION",
        description="the version of Stripe's API that every call pins",
    )
    request_timeout_seconds: float = Field(
        default=20.0, gt=0, le=80, description="how long one call to Stripe may take"
    )
    live_calls_per_second: float = Field(
        default=80.0,
        ge=0,
        le=10_000,
        description="calls to Stripe per live account and process; 0: no limit of our own",
    )
    test_calls_per_second: float = Field(
        default=20.0,
        ge=0,
        le=10_000,
        description="the same in test mode, where Stripe allows a quarter",
    )
    transactions_every_seconds: float = Field(
        default=30.0, gt=0, description="how often balance transactions are listed afresh"
    )

    gap_fill_every_seconds: float = Field(
        default=600.0, gt=0, description="how often events are looked for that never arrived"
    )
    found_after_seconds: float = Field(
        default=60.0, ge=0, description="how old an event is before it counts as never arrived"
    )
    undelivered_every_seconds: float = Field(
        default=3600.0, gt=0, description="how often Stripe is asked what it could not deliver"
    )
    sweep_hour: int = Field(
        default=2,
        ge=0,
        le=20,
        description="from which hour (UTC) on the mirror is compared nightly",
    )

    @property
    def calls_per_second(self) -> dict[Mode, float]:
        """Our own limit by mode."""
        return {"live": self.live_calls_per_second, "test": self.test_calls_per_second}

    @property
    def stripe_key(self) -> str | None:
        """The platform's secret key, or None where Stripe is off or not configured."""
        if not self.stripe_enabled or self.stripe_secret_key is None:
            return None
        return self.stripe_secret_key.get_secret_value() or None

    @property
    def stripe_mode(self) -> Mode:
        """The mode of the platform's key."""
        key = self.stripe_key or ""
        return "live" if key.startswith(("sk_live_", "rk_live_")) else "test"

    @property
    def stripe_base(self) -> str | None:
        """Base address of Stripe's API without a slash at its end; None for the real Stripe."""
        return str(self.stripe_api_base).rstrip("/") if self.stripe_api_base else None
