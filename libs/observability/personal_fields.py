"""Fields of Stripe's objects that tell of a person (https://docs.stripe.com/api).

What a service keeps of an object it keeps without them, unless the field itself is the product.
"""

from collections.abc import Mapping
from typing import Any

PERSONAL_FIELDS = frozenset(
    {
        "address",
        "billing_details",
        "billing_email",
        "business_name",
        "customer_address",
        "customer_details",
        "customer_email",
        "customer_name",
        "customer_phone",
        "customer_shipping",
        "customer_tax_ids",
        "email",
        "individual_name",
        "payer_email",
        "payer_name",
        "phone",
        "receipt_email",
        "receipt_url",
        "shipping",
        "verified_name",
    }
)
DEPTH_MAX = 32


def without_personal_fields(value: Any, *, depth: int = 0) -> Any:
    """The JSON value with every personal field null, and the name of a customer with them.

    What is nested deeper than `DEPTH_MAX` is left out.
    """
    if depth > DEPTH_MAX:
        return None
    if isinstance(value, list):
        return [without_personal_fields(part, depth=depth + 1) for part in value]
    if not isinstance(value, Mapping):
        return value
    kept = {
        name: None if name in PERSONAL_FIELDS else without_personal_fields(part, depth=depth + 1)
        for name, part in value.items()
    }
    if kept.get("object") == "customer":
        kept |= {name: None for name in ("name", "description") if name in kept}
        metadata = kept.get("metadata")
        if isinstance(metadata, dict):
            metadata.pop("name", None)
    return kept
