"""Settings of the tenants service."""

from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, StringConstraints, model_validator

from libs.crypto import apikeys
from libs.crypto.settings import SealingSettings
from libs.money import Currency
from libs.settings import ServiceSettings, StripeSettings
from services.tenants.people import EmailAddress

SESSION_COOKIE = "sluice_session"
OIDC_COOKIE = "sluice_oidc"
STRIPE_API_VERSION = "2026-10-28.endive"


def _check_operator_key(value: SecretStr) -> SecretStr:
    key = apikeys.parse(value.get_secret_value())
    if key is None or key.mode != "test":
        raise ValueError("must be a complete API key of mode test: slk_test_…")
    return value


def _check_issuer(value: str) -> str:
    parts = urlsplit(value)
    is_here = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "::1", "localhost")
    if not parts.hostname or parts.query or parts.fragment or parts.username:
        raise ValueError("must be an address such as https://accounts.example.com")
    if parts.scheme != "https" and not is_here:
        raise ValueError("must begin with https://")
    return value


class Settings(SealingSettings, StripeSettings, ServiceSettings):
    """Master keys, the first operator, sessions, and how Stripe is reached."""

    service: ClassVar[str] = "tenants"

    operator_email: EmailAddress | None = Field(
        default=None,
        validation_alias="SLUICE_OPERATOR_EMAIL",
        description="who signs in as the first operator; entered when absent",
    )
    operator_password: SecretStr | None = Field(
        default=None,
        validation_alias="SLUICE_OPERATOR_PASSWORD",
        min_length=12,
        max_length=1024,
        description="the first operator's password, at least 12 characters",
    )
    operator_key: Annotated[SecretStr, AfterValidator(_check_operator_key)] | None = Field(
        default=None,
        validation_alias="SLUICE_OPERATOR_KEY",
        description="the first operator's API key; entered when absent",
    )
    default_currency: Annotated[Currency, StringConstraints(to_upper=True)] = Field(
        default="USD",
        validation_alias="SLUICE_STRIPE_CURRENCY",
        description="currency of a tenant that names none",
    )
    stripe_api_version: str = Field(
        default=STRIPE_API_VERSION,
        validation_alias="SLUICE_STRIPE_API_VERSION",
        description="the version of Stripe's API that every call pins",
    )
    stripe_timeout_seconds: float = Field(
        default=10.0, gt=0, le=60, description="how long one call to Stripe may take"
    )
    oidc_issuer: Annotated[str, AfterValidator(_check_issuer)] | None = Field(
        default=None,
        validation_alias="SLUICE_OIDC_ISSUER",
        description="the OpenID Connect provider people may sign in at, exactly as it names itself",
    )
    oidc_client_id: str | None = Field(
        default=None,
        validation_alias="SLUICE_OIDC_CLIENT_ID",
        description="what Sluice is called at the provider; needed with an issuer",
    )
    oidc_client_secret: SecretStr | None = Field(
        default=None,
        validation_alias="SLUICE_OIDC_CLIENT_SECRET",
        description="its secret there; without one Sluice is a public client",
    )
    session_hours: int = Field(
        default=12, ge=1, le=24 * 30, description="how long a session lasts, at most"
    )
    audit_anchor_seconds: int = Field(
        default=3600, ge=1, le=24 * 3600, description="how often a growing audit chain is signed"
    )
    audit_anchor_entries: int = Field(
        default=1_000,
        ge=1,
        le=100_000,
        description="a chain that grew by so many is signed at once",
    )

    @property
    def platform_stripe_key(self) -> str | None:
        """The platform's secret key, or None where Stripe is off or not configured."""
        if not self.stripe_enabled or self.stripe_secret_key is None:
            return None
        return self.stripe_secret_key.get_secret_value() or None

    @property
    def webhook_base_url(self) -> str:
        """The address Stripe reaches our webhooks at, without a slash at its end."""
        return str(self.stripe_webhook_base or self.origin).rstrip("/")

    @model_validator(mode="after")
    def _check_oidc(self) -> "Settings":
        if self.oidc_issuer is not None and not self.oidc_client_id:
            raise ValueError("SLUICE_OIDC_ISSUER needs SLUICE_OIDC_CLIENT_ID beside it")
        return self

    @property
    def is_https(self) -> bool:
        """Whether the origin is reached over TLS."""
        return self.origin_url.startswith("https://")

    @property
    def cookie_name(self) -> str:
        """The session cookie; on https its prefix binds it to this very host (RFC 6265bis, 4.1.3)."""
        return f"__Host-{SESSION_COOKIE}" if self.is_https else SESSION_COOKIE

    @property
    def oidc_cookie_name(self) -> str:
        """The cookie that binds a sign-in at the provider to the browser that began it."""
        return f"__Host-{OIDC_COOKIE}" if self.is_https else OIDC_COOKIE

    @property
    def browser_origin(self) -> str:
        """The origin as a browser writes it in the header `Origin`."""
        parts = urlsplit(self.origin_url)
        return f"{parts.scheme}://{parts.netloc}".lower()
