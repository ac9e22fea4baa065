"""Slugs: the name of a tenant in addresses. Lower-case ASCII, unique, never a tenant's id."""

import re
import secrets
import unicodedata
from collections.abc import Iterator

from libs.ids import parse_uuid

SLUG_LENGTH_MAX = 63
DERIVED_LENGTH_MAX = 40
NUMBERED_MAX = 9
RANDOM_TRIES = 5

RESERVED = frozenset(
    {
        "admin",
        "all",
        "api",
        "console",
        "default",
        "docs",
        "login",
        "logout",
        "me",
        "new",
        "operator",
        "ops",
        "platform",
        "portal",
        "self",
        "sluice",
        "status",
        "system",
        "tenants",
    }
)
"""Words that a reader would take for something else than a tenant."""

_SLUG = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")


class InvalidSlugError(ValueError):
    """The text cannot be a slug; the message says why."""


def check(text: str) -> str:
    """The slug in its one form, lower case.

    Raises:
        InvalidSlugError: other characters than a-z, 0-9 and inner hyphens, longer than 63, reserved,
            or of the form of an id.
    """
    slug = text.strip().lower()
    if len(slug) > SLUG_LENGTH_MAX or not _SLUG.fullmatch(slug):
        raise InvalidSlugError("Use 1 to 63 of a-z, 0-9 and hyphens; no hyphen at either end.")
    if parse_uuid(slug) is not None:
        raise InvalidSlugError("A slug must not look like an id.")
    if slug in RESERVED:
        raise InvalidSlugError("This word is reserved. Choose another slug.")
    return slug


def derive(name: str) -> str:
    """A slug that resembles the name: `Café Zürich GmbH` gives `cafe-zurich-gmbh`."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    words = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")
    return words[:DERIVED_LENGTH_MAX].strip("-") or "tenant"


def candidates(name: str) -> Iterator[str]:
    """Slugs to try for a name, the likeliest first; the last ones are random."""
    base = derive(name)
    if base not in RESERVED and parse_uuid(base) is None:
        yield base
    for number in range(2, NUMBERED_MAX + 1):
        yield f"{base}-{number}"
    for _ in range(RANDOM_TRIES):
        yield f"{base}-{secrets.token_hex(4)}"
