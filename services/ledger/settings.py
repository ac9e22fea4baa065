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
    ledger_reconciliation_hours: int = Field(
        default=24, ge=1, le=24 * 31, description="how often a Stripe account is compared"
    )
    ledger_reconciliation_days: int = Field(
        default=30, ge=1, le=366, description="how far back a Stripe account is compared"
    )
    ledger_reconciliation_settle_minutes: int = Field(
        default=60,
        ge=0,
        le=7 * 24 * 60,
        description="a difference is a break when the movement is so old",
    )
    ledger_reconciliation_repairs: bool = Field(
        default=True,
        description="have facts told again at once that Stripe lists and the books lack",
    )
