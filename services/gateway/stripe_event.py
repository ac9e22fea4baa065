"""Reading a verified webhook body: snapshot events (`event`) and thin ones (`v2.core.event`).

Total: whatever the bytes are, the answer is an event or `NotAnEventError`. Unknown types, unknown
versions and unknown fields are kept; JSON that two parsers could read differently is not.
"""

import json
import math
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from libs.clock import InvalidTimeError, from_unix, is_kept_exactly, parse_time
from libs.contracts.envelope import Mode
from libs.ids import parse_uuid

CREATED_SECONDS_MAX = 253_402_300_799
_EVENT_ID = re.compile(r"evt_[A-Za-z0-9_]{1,250}")
_ACCOUNT_ID = re.compile(r"acct_[A-Za-z0-9_]{1,250}")
_CONTEXT = re.compile(r"(?:org_[A-Za-z0-9_]{1,250}/){0,4}(?:org|acct)_[A-Za-z0-9_]{1,250}")
_OBJECT_ID = re.compile(r"""(?!\.{1,2}$)[!"$&-.0->@-~]{1,255}""")
"""Products, prices and others may have ids that users chose (`basic.monthly`): anything printable that
stays one segment of a path, so without `/ ? # %`."""
_WORD = re.compile(r"[\x21-\x7e]{1,200}")


class NotAnEventError(ValueError):
    """Signed, but no Stripe event; the message says what is missing."""


class StripeEvent(msgspec.Struct, frozen=True):
    """What the gateway needs to know of an event.

    Attributes:
        account: the connected account it happened in; None on the endpoint owner's own account.
        object_type: without the `v1.` that thin events may write before it.
        about_account: the connected account that an event of the owner's own account is about.
        customer_ids, subscription_ids: Stripe ids that its object names, the surest first.
        named_tenant_ids: tenants that metadata of ours names.
    """

    id: str
    type: str
    api_version: str | None
    created_at: datetime
    livemode: bool
    account: str | None
    object_type: str | None
    object_id: str | None
    about_account: str | None = None
    customer_ids: tuple[str, ...] = ()
    subscription_ids: tuple[str, ...] = ()
    named_tenant_ids: tuple[UUID, ...] = ()

    @property
    def mode(self) -> Mode:
        """The mode it happened in."""
        return "live" if self.livemode else "test"

    @property
    def names_somebody(self) -> bool:
        """Whether it names a customer, subscription, tenant or account."""
        return bool(
            self.about_account
            or self.customer_ids
            or self.subscription_ids
            or self.named_tenant_ids
        )


def parse(body: bytes) -> StripeEvent:
    """The event in a body.

    Raises:
        NotAnEventError: it is not UTF-8, not JSON, ambiguous, too deep, or not an event.
    """
    try:
        data = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise NotAnEventError("the body is not unambiguous JSON in UTF-8") from None
    if not isinstance(data, dict):
        raise NotAnEventError("the body is not a JSON object")
    if data.get("object") == "event":
        return _snapshot(data)
    if data.get("object") == "v2.core.event":
        return _thin(data)
    raise NotAnEventError("`object` is neither `event` nor `v2.core.event`")


def _snapshot(data: Mapping[str, Any]) -> StripeEvent:
    payload = data.get("data")
    subject = payload.get("object") if isinstance(payload, dict) else None
    if not isinstance(subject, dict):
        raise NotAnEventError("`data.object` is missing")
    kind, subject_id = _word(subject.get("object")), _matching(_OBJECT_ID, subject.get("id"))
    return StripeEvent(
        id=_required(_EVENT_ID, data, "id"),
        type=_required(_WORD, data, "type"),
        api_version=_word(data.get("api_version")),
        created_at=_unix_time(data.get("created")),
        livemode=_livemode(data),
        account=_account(data.get("account")),
        object_type=kind,
        object_id=subject_id,
        customer_ids=_distinct(
            [subject_id if kind == "customer" else None, _id_in(subject.get("customer"))]
        ),
        subscription_ids=_distinct(
            [
                subject_id if kind == "subscription" else None,
                _id_in(subject.get("subscription")),
                *(_id_in(details.get("subscription")) for details in _nested(subject)),
            ]
        ),
        named_tenant_ids=tuple(dict.fromkeys(_named_tenants(subject))),
    )


def _thin(data: Mapping[str, Any]) -> StripeEvent:
    """A thin event names its object and carries nothing of it.

    Some have no object at all, such as `v2.core.health.event_generation_failure.resolved`. The
    account is the last segment of `context` (docs.stripe.com/context); organizations may stand
    before it.
    """
    related = data.get("related_object")
    subject = related if isinstance(related, dict) else {}
    kind, subject_id = _word(subject.get("type")), _matching(_OBJECT_ID, subject.get("id"))
    kind = kind.removeprefix("v1.") if kind else None
    try:
        created_at = parse_time(str(data.get("created"))[:64])
    except InvalidTimeError:
        raise NotAnEventError("`created` is not a time") from None
    if not is_kept_exactly(created_at):
        raise NotAnEventError("`created` is out of range")
    account = _account_of_context(data.get("context"))
    about = subject_id if kind == "v2.core.account" and account is None else None
    return StripeEvent(
        id=_required(_EVENT_ID, data, "id"),
        type=_required(_WORD, data, "type"),
        api_version=None,
        created_at=created_at,
        livemode=_livemode(data),
        account=account,
        object_type=kind,
        object_id=subject_id,
        about_account=_matching(_ACCOUNT_ID, about),
        customer_ids=_distinct([subject_id if kind == "customer" else None]),
        subscription_ids=_distinct([subject_id if kind == "subscription" else None]),
    )


def _nested(subject: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Where invoices, invoice items and their kin keep what they belong to."""
    parent = subject.get("parent")
    for holder in (parent, subject):
        details = holder.get("subscription_details") if isinstance(holder, dict) else None
        if isinstance(details, dict):
            yield details


def _named_tenants(subject: Mapping[str, Any]) -> Iterator[UUID]:
    for holder in (subject, *_nested(subject)):
        metadata = holder.get("metadata")
        text = metadata.get("tenant_id") if isinstance(metadata, dict) else None
        tenant_id = parse_uuid(text) if isinstance(text, str) else None
        if tenant_id is not None:
            yield tenant_id


def _id_in(value: object) -> str | None:
    """The id in a reference, which is the id itself or the expanded object."""
    return _matching(_OBJECT_ID, value.get("id") if isinstance(value, dict) else value)


def _distinct(values: list[str | None]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(value for value in values if value is not None))


def _matching(pattern: re.Pattern[str], value: object) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _word(value: object) -> str | None:
    return _matching(_WORD, value)


def _required(pattern: re.Pattern[str], data: Mapping[str, Any], name: str) -> str:
    value = _matching(pattern, data.get(name))
    if value is None:
        raise NotAnEventError(f"`{name}` is missing or not of Stripe's form")
    return value


def _account(value: object) -> str | None:
    if value is None:
        return None
    account = _matching(_ACCOUNT_ID, value)
    if account is None:
        raise NotAnEventError("the account is not of Stripe's form")
    return account


def _account_of_context(value: object) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _CONTEXT.fullmatch(value):
        raise NotAnEventError("`context` is not of Stripe's form")
    last = value.rpartition("/")[2]
    return last if _ACCOUNT_ID.fullmatch(last) else None


def _livemode(data: Mapping[str, Any]) -> bool:
    value = data.get("livemode")
    if not isinstance(value, bool):
        raise NotAnEventError("`livemode` is not true or false")
    return value


def _unix_time(value: object) -> datetime:
    if type(value) is not int or not 0 < value <= CREATED_SECONDS_MAX:
        raise NotAnEventError("`created` is not a Unix time")
    return from_unix(value)


def finite_number(text: str) -> float | str:
    """A number with a fraction or an exponent; its text where no answer could carry the number."""
    number = float(text)
    return number if math.isfinite(number) else text


def _unique_members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member name comes twice")
    return members


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(
    object_pairs_hook=_unique_members, parse_constant=_refuse_constant, parse_float=str
)
