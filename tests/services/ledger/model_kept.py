"""Amounts that are held, and months that are closed: two more machines of `model.py`."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, Literal

from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from ledger.drawn import (
    BATCHES,
    BOTH,
    CLOSING_AT,
    CREDIT,
    HOLDS,
    HOURS,
    MONTHS,
    PARTS,
    START,
    Drawn,
)
from ledger.model import Step, Twice, booking
from ledger.reference import ReferenceHold, ReferenceLedger
from libs.db.pool import Tx
from services.ledger import chart, holds, periods, store_holds
from services.ledger.periods import Period


class Held(Twice):
    """Whatever is held of what customers hold, and what becomes of it."""

    @initialize()
    def grant(self) -> None:
        """Customers hold credit."""
        self.all_at_once(
            booking([(2000, [((chart.BANK, chart.CUSTOMER_CREDITS), CREDIT, "EUR")], 40, 0)])
        )

    @precondition(lambda self: len(self.reference.entries) > 1)
    @rule(number=st.integers(0, 30), held=HOURS, callers=st.integers(1, 2))
    def reverse(self, number: int, held: int, callers: int) -> None:
        """An entry is taken back."""
        self.reverse_at_once(number, held, callers)

    @rule(wishes=st.lists(HOLDS, min_size=1, max_size=3))
    def hold(self, wishes: list[tuple[int, int, int]]) -> None:
        """Amounts are held, perhaps by several at once: as much as there is."""
        self.all_at_once(*(self._holding(*wish) for wish in wishes))

    @precondition(lambda self: self.hold_ids)
    @rule(number=st.integers(0, 7), parts=st.lists(PARTS, min_size=1, max_size=2))
    def capture(self, number: int, parts: list[Any]) -> None:
        """A hold is captured in parts, at the same time."""
        key = self._held_key(number)
        self.all_at_once(*(self._capture(key, *part) for part in parts))

    @precondition(lambda self: self.hold_ids)
    @rule(number=st.integers(0, 7), parts=st.lists(PARTS, max_size=1))
    def release(self, number: int, parts: list[Any]) -> None:
        """A hold is released, perhaps while it is captured."""
        key = self._held_key(number)
        self.all_at_once(self._release(key), *(self._capture(key, *part) for part in parts))

    @precondition(lambda self: self.hold_ids)
    @rule(hours=st.integers(1, 3), freed=st.booleans())
    def wait(self, hours: int, freed: bool) -> None:
        """Time goes by, and what was held too long is freed, or is not yet."""
        self.now += timedelta(hours=hours)
        if freed:
            self.world.run(holds.expire(self.world.ledger, self.now))
            self.reference.expire(self.now)

    def _held_key(self, number: int) -> str:
        return list(self.hold_ids)[number % len(self.hold_ids)]

    def _holding(self, number: int, amount: int, hours: int) -> Step:
        now, expires_at = self.now, START + timedelta(hours=hours) + (self.now - START)
        key, account = f"h{number}", chart.CUSTOMER_CREDITS.code

        async def real(tx: Tx) -> bool:
            wish = holds.Wish(key, account, "EUR", amount, expires_at)
            _, is_new = await holds.place(tx, "platform", wish, actor="x", now=now)
            return is_new

        def plain(reference: ReferenceLedger) -> bool:
            return reference.hold(key, ReferenceHold(account, "EUR", amount, expires_at), now)

        return Step(real, plain)

    def _capture(
        self,
        key: str,
        number: int,
        amount: int | None,
        to: chart.Account,
        ends: bool,
        held: int,
    ) -> Step:
        now, effective_at, part = self.now, START + timedelta(hours=held), f"p{number}"

        async def real(tx: Tx) -> bool:
            found = await store_holds.find(tx, BOTH, self.hold_ids[key])
            rest: Literal["stays", "released"] = "released" if ends else "stays"
            wish = holds.Capture(part, to.code, amount, rest, effective_at)
            _, is_new = await holds.capture(tx, found, wish, actor="x", now=now)
            return is_new

        def plain(reference: ReferenceLedger) -> bool:
            return reference.capture(
                key, part, amount, to.code, ends=ends, effective_at=effective_at, now=now
            )

        return Step(real, plain)

    def _release(self, key: str) -> Step:
        now = self.now

        async def real(tx: Tx) -> None:
            found = await store_holds.find(tx, BOTH, self.hold_ids[key])
            await holds.release(tx, found, actor="x", now=now)

        return Step(real, lambda plain: plain.release(key, now))


class Closed(Twice):
    """Whatever is booked in months that are closed and opened again."""

    @rule(batch=BATCHES)
    def book(self, batch: Sequence[Drawn]) -> None:
        """A batch is booked, or told again."""
        self.all_at_once(booking(batch))

    @rule(number=st.integers(0, 30), held=HOURS, callers=st.integers(1, 2))
    def reverse(self, number: int, held: int, callers: int) -> None:
        """An entry is taken back."""
        self.reverse_at_once(number, held, callers)

    @rule(month=MONTHS, batches=st.lists(BATCHES, max_size=2))
    def close(self, month: tuple[int, int], batches: list[Sequence[Drawn]]) -> None:
        """A month is closed while others book."""

        async def real(tx: Tx) -> None:
            await periods.close(
                tx, "platform", Period(*month), actor="x", business_now=CLOSING_AT, now=self.now
            )

        closing = Step(real, lambda plain: plain.close(month, CLOSING_AT))
        self.all_at_once(closing, *map(booking, batches))

    @precondition(lambda self: self.reference.closed)
    @rule(month=MONTHS, batches=st.lists(BATCHES, max_size=1))
    def reopen(self, month: tuple[int, int], batches: list[Sequence[Drawn]]) -> None:
        """A month is opened again while others book."""

        async def real(tx: Tx) -> None:
            await periods.reopen(
                tx, "platform", Period(*month), reason="x", actor="x", now=self.now
            )

        reopening = Step(real, lambda plain: plain.reopen(month))
        self.all_at_once(reopening, *map(booking, batches))
