"""Identifiers: UUIDv7 inside, prefixed text at the door.

A tenant's id is the bare UUID (it is the Kafka key); every other object shows itself as
`<prefix>_<UUID>`, so that a reader of a log or an invoice knows what an id names.
"""

from uuid import UUID

from uuid_utils import uuid7

PREFIXES = {
    "api_key": "key",
    "audit": "aud",
    "break": "brk",
    "backfill": "bkf",
    "connection": "con",
    "correction": "cor",
    "credit": "crd",
    "customer": "cus",
    "dispute": "dsp",
    "entry": "ent",
    "event": "evt",
    "hold": "hld",
    "invitation": "ivt",
    "invoice": "inv",
    "key_rotation": "rot",
    "line": "line",
    "meter": "mtr",
    "overage": "ovr",
    "payment": "pay",
    "payment_link": "lnk",
    "payout": "pyo",
    "plan": "plan",
    "planned_usage": "pln",
    "price": "price",
    "producer": "prd",
    "rebuild": "rbd",
    "reconciliation": "rec",
    "refund": "ref",
    "reservation": "rsv",
    "resync": "rsy",
    "session": "ses",
    "statement": "stm",
    "subscription": "sub",
    "team": "team",
    "user": "usr",
    "webhook_event": "whe",
    "webhook_replay": "rpl",
}


class InvalidIdError(ValueError):
    """The text is not an id of this kind."""


def new_id() -> UUID:
    """A new time-ordered id (RFC 9562, version 7)."""
    return UUID(int=uuid7().int)


def public_id(kind: str, value: UUID) -> str:
    """The id as the HTTP interface shows it, e.g. `inv_0192…`."""
    return f"{PREFIXES[kind]}_{value}"


def parse_public_id(kind: str, text: str) -> UUID:
    """The UUID inside a prefixed id.

    Raises:
        InvalidIdError: the prefix is another kind's or the rest is no UUID.
    """
    prefix, _, rest = text.partition("_")
    if prefix != PREFIXES[kind] or len(rest) != 36:
        raise InvalidIdError(f"expected an id of the form {PREFIXES[kind]}_<UUID>")
    try:
        return UUID(rest)
    except ValueError:
        raise InvalidIdError(f"expected an id of the form {PREFIXES[kind]}_<UUID>") from None


def parse_uuid(text: str) -> UUID | None:
    """A bare UUID in its 36-character form, or None."""
    if len(text) != 36:
        return None
    try:
        return UUID(text)
    except ValueError:
        return None
