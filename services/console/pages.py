"""Templates and the words they use: amounts, quantities and times, each written in one way."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from libs.money import Money, MoneyError, format_money

HERE = Path(__file__).parent
NOTHING = "\N{EN DASH}"

MAIN_PAGES = (
    ("/tenants", "Tenants"),
    ("/usage", "Usage"),
    ("/invoices", "Invoices"),
    ("/payments", "Payments"),
    ("/ledger", "Ledger"),
    ("/webhooks", "Webhooks"),
    ("/settings", "Settings"),
    ("/ops/topics", "Topics"),
)
PAYMENT_PAGES = (
    ("/payments", "Payments"),
    ("/payouts", "Payouts"),
    ("/disputes", "Disputes"),
)
LEDGER_PAGES = (
    ("/ledger", "Books"),
    ("/ledger/reconciliation", "Reconciliation"),
    ("/ledger/periods", "Periods"),
)
WEBHOOK_PAGES = (
    ("/webhooks", "Events"),
    ("/webhooks/replays", "Replays"),
)
SETTINGS_PAGES = (
    ("/settings/stripe", "Stripe"),
    ("/settings/members", "Members"),
    ("/settings/teams", "Teams"),
    ("/settings/api-keys", "API keys"),
    ("/settings/configuration", "Configuration"),
    ("/audit", "Audit log"),
    ("/settings/account", "Your account"),
)
"""What stands behind Settings, in the order of its tabs."""

TABS = {
    "/payments": ("Payments", PAYMENT_PAGES),
    "/ledger": ("Ledger", LEDGER_PAGES),
    "/webhooks": ("Webhooks", WEBHOOK_PAGES),
    "/settings": ("Settings", SETTINGS_PAGES),
}
"""What stands behind a main page: the name of its tabs, and the tabs."""

TITLES = dict((*PAYMENT_PAGES, *LEDGER_PAGES, *WEBHOOK_PAGES, *SETTINGS_PAGES, *MAIN_PAGES))

SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
    ),
    # `no-referrer` would make the browser send `Origin: null` with our own forms.
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=()",
    "Cross-Origin-Opener-Policy": "same-origin",
}

_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_TONES = {
    "good": {
        "active", "paid", "ready", "live", "connected", "completed", "succeeded", "won", "done",
        "closed", "resolved", "admitted",
    },
    "waiting": {
        "draft", "open", "trialing", "advancing", "incomplete", "pending", "processing", "unknown",
        "requires_action", "authorized", "in_transit", "under_review", "warning_needs_response",
        "warning_under_review", "unassigned", "running", "listing", "comparing", "proposed", "accepted",
        "deferred",
    },
    "bad": {
        "past_due", "suspended", "unpaid", "uncollectible", "paused", "revoked", "failed", "lost",
        "needs_response", "quarantined", "refused",
    },
}  # fmt: skip


@dataclass(frozen=True)
class StaticFile:
    """A file that pages load, with the address that changes when it does."""

    content: bytes
    media_type: str
    address: str


def load_static() -> dict[str, StaticFile]:
    """Every file of `static/` by its name."""
    found = {}
    for path in sorted((HERE / "static").iterdir()):
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()[:12]
        address = f"/console/static/{path.name}?v={digest}"
        found[path.name] = StaticFile(content, _MEDIA_TYPES[path.suffix], address)
    return found


def make_environment(static: dict[str, StaticFile]) -> Environment:
    """The templates: everything escaped, a misspelt name an error."""
    environment = Environment(
        loader=FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["static"] = {name: file.address for name, file in static.items()}
    environment.globals |= {
        "main_pages": MAIN_PAGES,
        "settings_pages": SETTINGS_PAGES,
        "tabs": TABS,
        "section_of": section_of,
        "tab_of": tab_of,
        "titles": TITLES,
    }
    environment.filters |= {
        "money": money,
        "number": number,
        "about": about,
        "decimal": decimal,
        "moment": moment,
        "age": age,
        "day": day,
        "tone": tone,
        "words": words,
        "compact": compact,
        "fact": fact,
        "pretty": pretty,
    }
    return environment


def section_of(path: str) -> str | None:
    """The main page that a page belongs to; None for those that belong to none."""
    for main, (_, pages) in TABS.items():
        if _longest(path, (main, *(target for target, _ in pages))):
            return main
    return _longest(path, (target for target, _ in MAIN_PAGES))


def tab_of(path: str) -> str | None:
    """The tab that a page belongs to."""
    return _longest(path, (target for _, pages in TABS.values() for target, _ in pages))


def _longest(path: str, targets: Iterable[str]) -> str | None:
    """The longest of the addresses that the path is or lies below."""
    fitting = [each for each in targets if path == each or path.startswith(f"{each}/")]
    return max(fitting, key=len, default=None)


def money(amount_minor: int, currency: str) -> str:
    """Whole minor units as people read them: `1,234.50 EUR`."""
    try:
        return format_money(Money(amount_minor, currency))
    except MoneyError:
        return f"{amount_minor} minor units of {currency}"


def number(value: Decimal | int | str | None) -> str:
    """A quantity or count: exact, grouped by thousands; a dash for none."""
    if value is None:
        return NOTHING
    try:
        exact = Decimal(value)
    except InvalidOperation:
        return str(value)
    if not exact.is_finite() or abs(exact.adjusted()) > 40:
        return str(value)
    text = decimal(exact)
    whole, point, fraction = text.partition(".")
    return f"{int(whole):,}{point}{fraction}" if whole != "-0" else text


def about(value: Decimal) -> str:
    """A quantity that is not known exactly: whole from 100 on, below that to three digits."""
    digits = max(3, value.adjusted() + 1)
    return number(Context(prec=digits, rounding=ROUND_HALF_EVEN).plus(value))


def decimal(value: Decimal | int) -> str:
    """A quantity for programs: no exponent, no zeros that say nothing, no grouping."""
    text = format(Decimal(value), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("-0", "") else text


def moment(at: datetime | None) -> Markup | str:
    """A time to the minute with its zone, UTC."""
    if at is None:
        return NOTHING
    utc = at.astimezone(UTC)
    return Markup('<time datetime="{}">{} UTC</time>').format(
        utc.isoformat(timespec="seconds"), utc.strftime("%Y-%m-%d %H:%M")
    )


def age(seconds: int) -> str:
    """How long something has lasted, to its largest unit: `3 days`."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        count = seconds // length
        if count:
            return f"{count} {unit}" if count == 1 else f"{count} {unit}s"
    return "less than a minute"


def day(at: date | datetime) -> str:
    """A date, UTC."""
    return (at.astimezone(UTC).date() if isinstance(at, datetime) else at).isoformat()


def tone(status: str) -> str:
    """How a status is tinted; its word always stands beside the colour."""
    return next((name for name, known in _TONES.items() if status in known), "plain")


def compact(value: Any) -> str:
    """A value of a setting on one line."""
    return json.dumps(value, ensure_ascii=False, default=float)


def pretty(value: Any) -> str:
    """JSON as people read it: a member a line."""
    return json.dumps(value, ensure_ascii=False, indent=2, default=float)


def fact(value: object) -> str:
    """A value of the audit log as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def words(name: str) -> str:
    """An identifier as words: `past_due` is `past due`."""
    return name.replace("_", " ")
