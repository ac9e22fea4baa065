"""What is told of an entry in haste are the words of its model, and its hash is what it always was."""

import hashlib
import json
from datetime import datetime
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from libs.clock import utc_now
from libs.contracts.envelope import Envelope
from libs.contracts.ledger import JournalEntryPosted
from libs.db.pool import Cause, Tx
from libs.db.tenant import Scope
from libs.messaging.outbox import compose
from services.ledger import chart, posting
from services.ledger.entries import Entry, Line, credit, debit
from services.ledger.store import Booking

TIMES = st.datetimes(
    min_value=datetime(1970, 1, 1),  # noqa: DTZ001 - the strategy adds the zone
    max_value=datetime(2200, 1, 1),  # noqa: DTZ001
    timezones=st.timezones(),
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)
PAIRS = st.tuples(
    st.sampled_from(chart.FIXED),
    st.sampled_from([*chart.FIXED, chart.clearing("acct_1")]),
    st.integers(1, 2**63 - 1),
    st.sampled_from(["EUR", "JPY"]),
)


def lines_of(pairs: list[tuple[Any, ...]]) -> tuple[Line, ...]:
    return tuple(
        line
        for debited, credited, amount, currency in pairs
        for line in (debit(debited, amount, currency), credit(credited, amount, currency))
    )


ENTRIES = st.builds(
    Entry,
    book=st.sampled_from(["platform", "tenant"]),
    source_key=TEXTS,
    rule=st.just("trial"),
    lines=st.lists(PAIRS, min_size=1, max_size=4).map(lines_of),
)
BOOKINGS = st.builds(
    Booking,
    id=st.uuids(),
    tenant_id=st.uuids(),
    entry=ENTRIES,
    effective_at=TIMES,
    booked_at=TIMES,
    cause=st.builds(Cause, st.uuids() | st.none(), st.uuids() | st.none(), st.just({})),
    reverses=st.none() | st.uuids(),
    belongs_to=st.none() | st.just("2026-03"),
    true_effective_at=st.none() | TIMES,
)


@given(BOOKINGS)
def test_an_entry_is_told_in_the_words_of_its_model(booking: Booking) -> None:
    tx = Tx(None, "ledger", Scope((booking.tenant_id,), "test"))
    before = utc_now()
    letter = compose(
        tx,
        JournalEntryPosted,
        posting.told(booking),
        tenant_id=booking.tenant_id,
        effective_at=booking.effective_at,
        cause=booking.cause,
    )
    payload = letter.row[5]
    event = Envelope[JournalEntryPosted].model_validate_json(payload)
    assert event.model_dump_json(exclude={"stream_seq"}) == payload
    assert before <= event.occurred_at <= utc_now()
    assert (event.tenant_id, event.effective_at) == (booking.tenant_id, booking.effective_at)
    assert event.causation_id == booking.cause.causation_id
    assert event.correlation_id == (booking.cause.correlation_id or event.id)
    assert (event.data.entry_id, event.data.booked_at) == (booking.id, booking.booked_at)
    assert len(event.data.postings) == len(booking.entry.lines)


@given(ENTRIES)
def test_the_hash_of_what_is_booked_never_changes(entry: Entry) -> None:
    """As the standard library's JSON has it: hashes that are booked were made with it."""
    content = {
        "book": entry.book,
        "postings": sorted(
            (line.account.code, line.side, line.amount_minor, line.currency) for line in entry.lines
        ),
        "source_key": entry.source_key,
    }
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    assert entry.content_hash == hashlib.sha256(text.encode()).digest()


def test_an_entry_has_the_hash_it_had() -> None:
    lines = (debit(chart.BANK, 5, "EUR"), credit(chart.SUSPENSE, 5, "EUR"))
    entry = Entry("platform", "käse\n1", "trial", lines)
    assert (
        entry.content_hash.hex()
        == "663ec41e808a63a1eea85f7e62cc090cdc1c7ccdf25de5af35bdf04aad2dc853"
    )
