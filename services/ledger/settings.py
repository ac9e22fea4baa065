"""The settings of the ledger service."""

from typing import ClassVar

from pydantic import Field

from libs.settings import ServiceSettings


class Settings(ServiceSettings):
    """How often the ledger tells how far its chains reached."""

    service: ClassVar[str] = "ledger"

    ledger_anchor_seconds: int = Field(
        default=3600, ge=1, le=24 * 3600, description="how often the head of a growing book is told"
    )
    ledger_anchor_entries: int = Field(
        default=10_000,
        ge=1,
        le=1_000_000,
        description="the head of a book that grew by so many is told at once",
    )
