"""Metadata as the API takes it: a caller's own words on an object, few and short."""

from typing import Annotated

from pydantic import Field, StringConstraints

ENTRIES_MAX = 20

MetadataName = Annotated[
    str, StringConstraints(min_length=1, max_length=40, pattern=r"^[^\x00-\x1f\x7f\[\]]*$")
]
MetadataValue = Annotated[str, StringConstraints(max_length=500, pattern=r"^[^\x00]*$")]
Metadata = Annotated[
    dict[MetadataName, MetadataValue],
    Field(
        max_length=ENTRIES_MAX,
        description=f"Your own words: at most {ENTRIES_MAX} names of up to 40 characters, each with "
        "a text of up to 500 (Stripe's limits).",
        examples=[{"order": "6735"}],
    ),
]
"""Names and texts that Stripe takes too (https://docs.stripe.com/api/metadata)."""
