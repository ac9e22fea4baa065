"""The schemas of a tenant's configuration: one model per namespace (requirement T9).

A tenant sets what it wants; what it leaves out is the platform's own setting, and what the platform
leaves out is the default here. `libs.directory.configuration.effective` puts the three together. A
field may be added with a default; one is never removed or given another meaning. Configuration
travels in the clear to every service and its versions are kept, so it never holds a secret or
personal data.

Each field says who reads it. `custom.<name>` namespaces hold whatever JSON a tenant likes and
nothing here reads them.
"""

import ipaddress
import re
from collections.abc import Mapping
from itertools import pairwise
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    model_validator,
)

from libs.clock import zone_named
from libs.money import Currency

CUSTOM_NAMESPACE = re.compile(r"custom\.[a-z][a-z0-9_]{0,39}")
"""The names of namespaces without a schema."""

FIXED_FEE_MAX = 1_000_000_000
URL_LENGTH_MAX = 500
_HOST_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_PRIVATE_SUFFIXES = frozenset(
    {
        "localhost",
        "local",
        "internal",
        "intranet",
        "lan",
        "home",
        "corp",
        "test",
        "invalid",
        "onion",
    }
)


def _check_public_url(text: str) -> str:
    """An address that a mail or a page may show to strangers, and that is nobody's inner network.

    Only names are taken, no IP addresses in any notation; whoever fetches it must check what the
    name resolves to all the same.
    """
    if len(text) > URL_LENGTH_MAX or not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError(f"must be an address of at most {URL_LENGTH_MAX} ASCII characters")
    try:
        parts = urlsplit(text)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("must be an address such as https://example.com/logo.png") from None
    if parts.scheme != "https" or "@" in parts.netloc or "\\" in text or parts.fragment:
        raise ValueError("must begin with https:// and name no user and no fragment")
    if port not in (None, 443):
        raise ValueError("must use the usual port of https")
    labels = host.rstrip(".").split(".")
    if len(labels) < 2 or not all(_HOST_LABEL.fullmatch(label) for label in labels):
        raise ValueError("must name a public host such as example.com")
    if labels[-1] in _PRIVATE_SUFFIXES or _is_number(labels[-1]) or _is_address(host):
        raise ValueError("must name a public host such as example.com")
    return text


def _is_number(label: str) -> bool:
    """Whether a host that ends so is an IPv4 address to a browser (WHATWG URL, section 3.5)."""
    return label.isdigit() or re.fullmatch(r"0x[0-9a-f]*", label) is not None


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _check_line(text: str) -> str:
    if not text.isprintable():
        raise ValueError("must be one line without control characters")
    return text


def _check_ascending(numbers: tuple[int, ...]) -> tuple[int, ...]:
    if any(later <= earlier for earlier, later in pairwise(numbers)):
        raise ValueError("must be in ascending order, each once")
    return numbers


def _check_zone(name: str) -> str:
    zone_named(name)
    return name


def _check_statement_descriptor(text: str) -> str:
    """Stripe's rule: https://docs.stripe.com/get-started/account/statement-descriptors."""
    if not text.isascii() or not text.isprintable() or set(text) & set("<>\\'\"*"):
        raise ValueError("must be ASCII without < > \\ ' \" *")
    if not any(char.isalpha() for char in text):
        raise ValueError("must hold at least one letter")
    return text


PublicUrl = Annotated[str, AfterValidator(_check_public_url)]
Color = Annotated[str, StringConstraints(pattern=r"^#[0-9a-fA-F]{6}$")]
Line = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_check_line),
]
Email = Annotated[
    str,
    StringConstraints(
        max_length=254, pattern=r"^[^\s@\"(),:;<>\[\]\\]{1,64}@[A-Za-z0-9.-]{1,189}$"
    ),
    AfterValidator(_check_line),
]
TimeZone = Annotated[str, StringConstraints(max_length=64), AfterValidator(_check_zone)]
"""The name of a zone in the tz database, such as Europe/Berlin."""
StatementDescriptor = Annotated[
    str,
    StringConstraints(min_length=5, max_length=22),
    AfterValidator(_check_statement_descriptor),
]


class Configuration(BaseModel):
    """A namespace.

    Attributes:
        operator_only: the platform sets it for the tenant; the tenant may read it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    namespace: ClassVar[str]
    operator_only: ClassVar[bool] = False


class BillingConfiguration(Configuration):
    """How the tenant's own customers are billed."""

    namespace: ClassVar[str] = "billing"

    net_terms_days: int = Field(
        default=30, ge=0, le=365, description="From an invoice's date to its due date (invoices)."
    )
    draft_grace_hours: int = Field(
        default=1, ge=0, le=720, description="How long a draft may still change (invoices)."
    )
    dunning_retry_days: Annotated[
        tuple[Annotated[int, Field(ge=1, le=90)], ...],
        Field(max_length=8),
        AfterValidator(_check_ascending),
    ] = Field(default=(1, 3, 7, 14), description="Days after a failed payment (dunning).")
    suspend_after_days: int = Field(
        default=30, ge=1, le=365, description="From the first failure to suspension (dunning)."
    )
    statement_descriptor: StatementDescriptor | None = Field(
        default=None, description="What stands on the payer's statement (payments)."
    )
    invoice_footer: Line | None = Field(
        default=None, description="At the foot of every invoice (invoices)."
    )
    portal_url: PublicUrl | None = Field(
        default=None,
        description="The tenant's own page for its customers, instead of Stripe's (portal links).",
    )


class BrandingConfiguration(Configuration):
    """How the tenant looks to its customers: invoices, receipts, the portal, messages."""

    namespace: ClassVar[str] = "branding"

    display_name: Line | None = Field(default=None, description="Instead of the tenant's name.")
    primary_color: Color = Field(default="#1f2937", description="As #rrggbb.")
    accent_color: Color = Field(default="#2563eb", description="As #rrggbb.")
    logo_url: PublicUrl | None = Field(default=None, description="https, on a public host.")
    support_email: Email | None = Field(
        default=None, description="Where customers may write: a shared mailbox, for versions stay."
    )


class MeteringConfiguration(Configuration):
    """Which usage counts."""

    namespace: ClassVar[str] = "metering"

    late_event_days: int = Field(
        default=34, ge=1, le=34, description="Older usage is refused (ingest)."
    )
    closing_grace_minutes: int = Field(
        default=0,
        ge=0,
        le=24 * 60,
        description="From a period's end to its closing, where the plan names none (periods).",
    )
    time_zone: TimeZone = Field(
        default="UTC",
        description="By whose clocks usage is told by hour, day and month, and a limit without a period "
        "is of a month, such as Europe/Berlin (queries, reports, limits, forecasts).",
    )


class CapacityConfiguration(Configuration):
    """What the platform sets aside for the tenant."""

    namespace: ClassVar[str] = "capacity"
    operator_only: ClassVar[bool] = True

    usage_partitions: int = Field(
        default=1,
        ge=1,
        le=12,
        description="Over how many partitions the usage of its customers is spread, so that as many "
        "workers count it (ingest).",
    )


class NotificationsConfiguration(Configuration):
    """What the tenant's billing contacts are told."""

    namespace: ClassVar[str] = "notifications"

    invoices: bool = Field(default=True, description="An invoice was finalized or paid (messages).")
    payments: bool = Field(default=True, description="A payment failed or was refunded (messages).")
    limit_thresholds_percent: Annotated[
        tuple[Annotated[int, Field(ge=1, le=1000)], ...],
        Field(max_length=10),
        AfterValidator(_check_ascending),
    ] = Field(default=(50, 80, 100), description="Of a limit, when usage reaches it (thresholds).")


class FeesConfiguration(Configuration):
    """What the platform takes of the tenant's payments."""

    namespace: ClassVar[str] = "fees"
    operator_only: ClassVar[bool] = True

    application_fee_basis_points: int = Field(
        default=0,
        ge=0,
        le=10_000,
        description="Hundredths of a percent of each payment through Connect (payments).",
    )
    application_fee_fixed_minor: int = Field(
        default=0,
        ge=0,
        le=FIXED_FEE_MAX,
        description="Taken besides, in minor units, of each payment in this currency (payments).",
    )
    application_fee_currency: Currency | None = Field(
        default=None, description="Of the fixed fee; set together with it (payments)."
    )

    @model_validator(mode="after")
    def _check_fixed(self) -> "FeesConfiguration":
        # Set one by one, an amount could meet the currency of another layer.
        fixed = {"application_fee_fixed_minor", "application_fee_currency"}
        if len(fixed & self.model_fields_set) == 1:
            raise ValueError("a fixed fee and its currency are set together")
        if self.application_fee_fixed_minor and self.application_fee_currency is None:
            raise ValueError("a fixed fee needs its currency")
        return self


NAMESPACES: Mapping[str, type[Configuration]] = {
    model.namespace: model
    for model in (
        BillingConfiguration,
        BrandingConfiguration,
        MeteringConfiguration,
        NotificationsConfiguration,
        FeesConfiguration,
        CapacityConfiguration,
    )
}
"""Every namespace with a schema."""
