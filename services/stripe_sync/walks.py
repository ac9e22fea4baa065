"""What a walk over one of Stripe's lists is made of: the pages, and what is done with each."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime

from libs.contracts.envelope import Mode
from libs.db.pool import Database
from libs.directory.local import Directory
from services.stripe_sync.client import Json
from services.stripe_sync.identities import Identity
from services.stripe_sync.marks import MIRRORED
from services.stripe_sync.settings import Settings
from services.stripe_sync.store_walks import Walk

WHOLE = "whole:"
"""What the steps begin with that list an account from end to end."""

LISTS: Mapping[str, tuple[str, dict[str, str]]] = {
    "customer": ("/v1/customers", {}),
    "product": ("/v1/products", {}),
    "price": ("/v1/prices", {}),
    "subscription": ("/v1/subscriptions", {"status": "all"}),
    "invoice": ("/v1/invoices", {}),
    "payment_intent": ("/v1/payment_intents", {}),
    "refund": ("/v1/refunds", {}),
    "dispute": ("/v1/disputes", {}),
    "payout": ("/v1/payouts", {}),
}
"""Where the objects of each kind are listed, and the filters that list all of them.

Charges come with their payment intents, or with their balance transactions.
"""


def whole_steps(mode: Mode) -> list[str]:
    """The steps that list an account from end to end; parents before what names them."""
    kinds = [kind for kind in LISTS if kind in MIRRORED]
    clocks = ["test_clock"] if mode == "test" else []
    return [WHOLE + kind for kind in (*kinds, *clocks, "balance_transaction")]


@dataclass(frozen=True)
class Visit:
    """The reading of one page: of whose list, and with what at hand."""

    database: Database
    directory: Directory
    settings: Settings
    identity: Identity
    walk: Walk


TakePage = Callable[[Visit, list[Json]], Awaitable[int]]
"""Does what is to be done with a page, as often as it comes; how many objects counted."""


@dataclass(frozen=True)
class Step:
    """A list of Stripe's and what it is read for.

    Attributes:
        path: of the list; it is read newest first, as Stripe gives it.
        query: its filters, by the run under way.
        next_at: when it is read again after a run; None: when somebody asks.
        begin: before the first page of a run.
        end: after the last one; how many more objects counted.
        marks: whether it makes objects dirty, and so waits while many are.
    """

    path: str
    take_page: TakePage
    query: Callable[[Walk], Json] = field(default=lambda _: {})
    next_at: Callable[[Settings, Walk, datetime], datetime | None] = field(default=lambda *_: None)
    begin: Callable[[Visit], Awaitable[None]] | None = None
    end: Callable[[Visit], Awaitable[int]] | None = None
    marks: bool = False

    @property
    def operation(self) -> str:
        """How its calls are named in metrics."""
        return f"{self.path.removeprefix('/v1/').removesuffix('s')}.walk"
