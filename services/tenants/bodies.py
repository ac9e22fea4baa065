"""What all request bodies of tenants share."""

import unicodedata
from typing import Annotated

from fastapi import Path
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints


class StrictBody(BaseModel):
    """A request body: unknown fields are refused, and no error repeats what was sent."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


def _without_controls(text: str) -> str:
    if any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in text):
        raise ValueError("must be one line without control characters")
    return text


Name = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=1, max_length=200),
    AfterValidator(_without_controls),
]
TenantReference = Annotated[
    str, Field(min_length=1, max_length=100, description="Id or slug of a tenant.")
]
TenantPath = Annotated[str, Path(max_length=100, description="Id or slug of a tenant.")]
"""The gate reads it; a route names it so that the API's description does."""
