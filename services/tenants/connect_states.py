"""The ways back from Stripe's pages, and that a connection is on its way.

A way back carries a state of 256 random bits that is kept as its hash, is good once, and is bound to
the tenant and the mode. One that connects an account (OAuth) is bound to the session of the person who
began as well, so that nobody can send their own consent through another's browser.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from secrets import token_urlsafe
from typing import Literal
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.tenants import ConnectionKind
from libs.db.pool import Row, Tx
from libs.ids import new_id
from services.tenants import connection_states, fees, snapshot, store_tenants
from services.tenants import store_connections as store
from services.tenants.means import Means

OAUTH_LIFE = timedelta(minutes=10)
LINK_LIFE = timedelta(hours=24)
"""Onboarding takes its time, and its way back does nothing but look at the account again."""
SETTLE_WITHIN = timedelta(minutes=2)
"""Longer than every call to Stripe in between may take: an exchange that is not settled then hangs."""
STATES_MAX = 20
STATE_LENGTH_MAX = 200
PAGE = "/settings/stripe"

Purpose = Literal["oauth", "account_link"]
AccountType = Literal["standard", "express"]


class StateRefusedError(Exception):
    """The state is unknown, used, too old, or of another person's session."""


class TooManyStartsError(Exception):
    """`STATES_MAX` ways back are open already."""


@dataclass(frozen=True)
class Start:
    """Who begins, and how it shall end.

    Attributes:
        return_to: a path of ours to be shown afterwards.
        session_id: of the person who begins; None for a program with an API key, which may begin an
            account link only.
    """

    actor: str
    session_id: UUID | None
    return_to: str = PAGE
    account_type: AccountType = "standard"
    confirm_account_change: bool = False


@dataclass(frozen=True)
class WayBack:
    """What a state says before it is looked up; not to be trusted."""

    tenant_id: UUID
    mode: Mode
    text: str

    @property
    def digest(self) -> bytes:
        """What is kept of the state."""
        return hashlib.sha256(self.text.encode()).digest()

    @classmethod
    def make(cls, tenant_id: UUID, mode: Mode) -> "WayBack":
        """A new state."""
        return cls(tenant_id, mode, f"{mode}.{tenant_id.hex}.{token_urlsafe(32)}")

    @classmethod
    def parse(cls, text: str) -> "WayBack":
        """The state of an address.

        Raises:
            StateRefusedError: it is none.
        """
        parts = text.split(".") if len(text) <= STATE_LENGTH_MAX and text.isascii() else []
        if len(parts) != 3 or len(parts[1]) != 32:
            raise StateRefusedError
        modes: dict[str, Mode] = {"test": "test", "live": "live"}
        mode = modes.get(parts[0])
        try:
            tenant_id = UUID(hex=parts[1])
        except ValueError:
            raise StateRefusedError from None
        if mode is None:
            raise StateRefusedError
        return cls(tenant_id, mode, text)


async def pend(tx: Tx, kind: ConnectionKind, actor: str, at: datetime) -> None:
    """Show that a connection is on its way; one that is there stays until the new one is."""
    row = await store.find_connection(tx)
    if row is None:
        await store.insert_connection(tx, new_id(), kind, "NOT_CONNECTED", actor, at)
        await fees.copy(tx, at)
        row = await store.find_connection(tx)
    assert row is not None, "it was entered"
    on_its_way = row["status"] == "PENDING" and row["pending_since"] is not None
    if row["status"] == "CONNECTED" or (on_its_way and row["kind"] == kind):
        return
    await store.update_connection(tx, at, kind=kind, status="PENDING", pending_since=at)
    await connection_states.tell(tx, "stripe_connection.started", row, actor, at)
    await snapshot.publish(tx, at)


async def keep_state(tx: Tx, back: WayBack, purpose: Purpose, start: Start, at: datetime) -> None:
    """Keep the hash of a way back.

    Raises:
        TooManyStartsError: see there.
    """
    if await store.count_states(tx, at) >= STATES_MAX:
        raise TooManyStartsError
    await store.insert_state(
        tx,
        state_hash=back.digest,
        purpose=purpose,
        actor=start.actor,
        session_id=start.session_id,
        return_to=start.return_to,
        confirm_account_change=start.confirm_account_change,
        at=at,
        expires_at=at + (OAUTH_LIFE if purpose == "oauth" else LINK_LIFE),
    )


async def use(
    means: Means,
    text: str,
    purpose: Purpose,
    session_id: UUID | None,
    *,
    exchanges: bool = False,
) -> tuple[WayBack, Row]:
    """Use a way back, once, whatever comes of it.

    Args:
        exchanges: a code is exchanged next; if nothing more is heard, `connect_leftovers` looks.

    Raises:
        StateRefusedError: see there.
    """
    back = WayBack.parse(text)
    async with means.database.tenant(back.tenant_id, back.mode) as tx:
        now = utc_now()
        state = await store.find_state(tx, back.digest, now)
        if state is None or state["purpose"] != purpose:
            raise StateRefusedError
        if purpose == "oauth" and (session_id is None or state["session_id"] != session_id):
            raise StateRefusedError
        await store.use_state(tx, back.digest, now)
        if exchanges:
            await store.begin_exchange(tx, back.digest, now + SETTLE_WITHIN)
    return back, state


async def unpend(means: Means, back: WayBack, actor: str) -> None:
    """A start that came to nothing leaves the connection as it was before."""
    async with means.database.tenant(back.tenant_id, back.mode) as tx:
        now = utc_now()
        await store_tenants.lock_tenant(tx)
        row = await store.find_connection(tx)
        if row is None or row["status"] != "PENDING" or connection_states.is_being_onboarded(row):
            return
        status = "REVOKED" if row["revoked_at"] is not None else "NOT_CONNECTED"
        await store.update_connection(tx, now, status=status, pending_since=None)
        await connection_states.tell(tx, "stripe_connection.given_up", row, actor, now)
        await snapshot.publish(tx, now)
