"""Sealed values open in their own place only, and hostile bytes raise one kind of error."""

import base64
import secrets
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.crypto.errors import (
    DataKeyExhaustedError,
    KeyringError,
    MalformedSealedValueError,
    SealedValueError,
    TamperedSealedValueError,
    UnknownMasterKeyError,
)
from libs.crypto.framing import canonical
from libs.crypto.keyring import Keyring
from libs.crypto.sealed import (
    DATA_KEY_USES_MAX,
    PLAINTEXT_BYTES_MAX,
    DataKey,
    OpenDataKey,
    header_of,
    open_sealed,
    seal,
)
from libs.crypto.wrapped import master_key_id_of
from libs.ids import new_id

NOW = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = UUID("01890000-0000-7000-8000-000000000001")
OLD, NEW = b"o" * 32, b"n" * 32
KEYRING = Keyring({"2026-01": OLD}, "2026-01")


def new_key(tenant_id: UUID = TENANT) -> OpenDataKey:
    """A fresh data key, wrapped by the keyring."""
    key_id, key = new_id(), secrets.token_bytes(32)
    wrapped = KEYRING.wrap(key, tenant_id=tenant_id, data_key_id=key_id)
    return OpenDataKey(DataKey(key_id, tenant_id, wrapped, NOW), key)


KEY = new_key()
DATA_KEY = KEY.data_key


def with_key(**changes: Any) -> OpenDataKey:
    """The key, its record changed."""
    return replace(KEY, data_key=replace(DATA_KEY, **changes))


def place(**changes: Any) -> dict[str, Any]:
    """Where a value lives; `changes` move it."""
    whole = {
        "key": KEY,
        "tenant_id": TENANT,
        "table": "stripe_connection",
        "field": "secret_key",
        "row_id": "42",
    }
    return whole | changes


@given(st.binary(max_size=2_000))
def test_what_is_sealed_opens_again(plaintext: bytes):
    assert open_sealed(seal(plaintext, **place()), **place()) == plaintext


def test_a_record_is_laid_out_as_documented():
    record = seal(b"hello", **place())
    assert record[:2] == b"\x01\x01"
    assert record[2 : 3 + len("2026-01")] == b"\x072026-01"
    assert record[10:26] == DATA_KEY.id.bytes
    assert len(record) == 26 + 12 + len(b"hello") + 16
    assert header_of(record).master_key_id == "2026-01"
    assert header_of(record).data_key_id == DATA_KEY.id


def test_the_same_plaintext_never_seals_to_the_same_bytes():
    assert len({seal(b"x", **place()) for _ in range(100)}) == 100


@pytest.mark.parametrize(
    "moved",
    [
        {"table": "stripe_connection2"},
        {"field": "webhook_secret"},
        {"row_id": "43"},
        {"tenant_id": uuid4()},
        {"table": "stripe_connections", "field": "ecret_key"},
        {"key": new_key()},
        {"key": with_key(tenant_id=uuid4())},
        {"key": replace(KEY, key=new_key().key)},
    ],
)
def test_a_value_opens_in_no_other_place(moved: dict[str, Any]):
    record = seal(b"sk_live_x", **place())
    with pytest.raises(TamperedSealedValueError):
        open_sealed(record, **place(**moved))


def test_a_thousand_random_edits_are_all_noticed():
    record = seal(b"sk_live_x" * 5, **place())
    for _ in range(1_000):
        edited = bytearray(record)
        edited[secrets.randbelow(len(edited))] ^= 1 + secrets.randbelow(255)
        with pytest.raises(SealedValueError):
            open_sealed(bytes(edited), **place())


def test_every_single_bit_counts():
    record = seal(b"x", **place())
    for bit in range(len(record) * 8):
        edited = bytearray(record)
        edited[bit // 8] ^= 1 << bit % 8
        with pytest.raises(SealedValueError):
            open_sealed(bytes(edited), **place())


def test_every_cut_and_every_addition_is_noticed():
    record = seal(b"hello", **place())
    for end in range(len(record)):
        with pytest.raises(SealedValueError):
            open_sealed(record[:end], **place())
    with pytest.raises(SealedValueError):
        open_sealed(record + b"\x00", **place())


@given(st.binary(max_size=200))
def test_hostile_bytes_raise_only_sealed_value_errors(data: bytes):
    for opening in (
        lambda: open_sealed(data, **place()),
        lambda: header_of(data),
        lambda: master_key_id_of(data),
        lambda: KEYRING.unwrap(data, tenant_id=TENANT, data_key_id=DATA_KEY.id),
    ):
        try:
            opening()
        except SealedValueError:
            continue


@given(st.binary(max_size=100))
def test_hostile_bytes_behind_a_proper_head_raise_only_sealed_value_errors(data: bytes):
    head = seal(b"x", **place())[:26]
    with pytest.raises(SealedValueError):
        open_sealed(head + data, **place())


@given(st.lists(st.binary(max_size=5), max_size=4), st.lists(st.binary(max_size=5), max_size=4))
def test_the_bound_form_of_two_lists_is_the_same_only_for_the_same_list(
    one: list[bytes], other: list[bytes]
):
    assert (canonical(*one) == canonical(*other)) == (one == other)


def test_an_overlong_value_is_refused_on_both_ways():
    with pytest.raises(ValueError, match="at most"):
        seal(b"x" * (PLAINTEXT_BYTES_MAX + 1), **place())
    longest = seal(b"x" * PLAINTEXT_BYTES_MAX, **place())
    assert len(open_sealed(longest, **place())) == PLAINTEXT_BYTES_MAX
    with pytest.raises(MalformedSealedValueError):
        open_sealed(longest + b"x", **place())


def test_sealing_for_a_tenant_with_another_tenants_key_is_refused():
    with pytest.raises(ValueError, match="another tenant"):
        seal(b"x", **place(tenant_id=uuid4()))


def test_a_data_key_seals_a_bounded_number_of_values():
    last = with_key(uses=DATA_KEY_USES_MAX - 1)
    assert seal(b"x", **place(key=last))
    assert last.data_key.has_room_for(1)
    assert not last.data_key.has_room_for(2)
    spent = with_key(uses=DATA_KEY_USES_MAX)
    assert DATA_KEY_USES_MAX == 2**24
    with pytest.raises(DataKeyExhaustedError):
        seal(b"x", **place(key=spent))
    record = seal(b"x", **place())
    assert open_sealed(record, **place(key=spent)) == b"x"


def test_a_data_key_is_due_by_age_or_use():
    assert not DATA_KEY.is_due_for_rotation(NOW + timedelta(days=89))
    assert DATA_KEY.is_due_for_rotation(NOW + timedelta(days=90))
    assert replace(DATA_KEY, uses=DATA_KEY_USES_MAX).is_due_for_rotation(NOW)


def test_a_wrapped_key_is_bound_to_tenant_and_id():
    for bound in (
        {"tenant_id": uuid4(), "data_key_id": DATA_KEY.id},
        {"tenant_id": TENANT, "data_key_id": uuid4()},
    ):
        with pytest.raises(TamperedSealedValueError):
            KEYRING.unwrap(DATA_KEY.wrapped, **bound)


def test_a_key_under_an_unknown_master_key_is_told_apart():
    with pytest.raises(UnknownMasterKeyError):
        Keyring({"2026-02": NEW}, "2026-02").unwrap(
            DATA_KEY.wrapped, tenant_id=TENANT, data_key_id=DATA_KEY.id
        )
    with pytest.raises(TamperedSealedValueError):
        Keyring({"2026-01": NEW}, "2026-01").unwrap(
            DATA_KEY.wrapped, tenant_id=TENANT, data_key_id=DATA_KEY.id
        )


def test_a_key_of_another_length_is_no_data_key():
    with pytest.raises(MalformedSealedValueError):
        OpenDataKey(DATA_KEY, b"short")


def test_a_key_in_memory_is_not_shown():
    assert repr(KEY.key) not in repr(KEY)


def encoded(key: bytes) -> str:
    return base64.b64encode(key).decode()


def test_the_first_master_key_is_the_current_one():
    keyring = Keyring.parse(f"2026-02:{encoded(NEW)};2026-01:{encoded(OLD)};")
    assert keyring.current_id == "2026-02"
    assert dict(keyring.keys) == {"2026-02": NEW, "2026-01": OLD}
    lines = f"# master keys\n2026-02:{encoded(NEW)}  # current\n\n2026-01:{encoded(OLD)}\n"
    assert Keyring.parse(lines) == keyring


@pytest.mark.parametrize(
    "text",
    [
        "",
        ";",
        "a",
        "a:",
        f":{encoded(OLD)}",
        "a:not-base64!",
        f"a:{encoded(b'short')}",
        f"a b:{encoded(OLD)}",
        f"{'a' * 65}:{encoded(OLD)}",
        f"a:{encoded(OLD)};a:{encoded(NEW)}",
        f"ä:{encoded(OLD)}",
    ],
)
def test_a_keyring_that_is_not_one_is_refused(text: str):
    with pytest.raises(KeyringError) as caught:
        Keyring.parse(text)
    assert encoded(OLD) not in str(caught.value)


def test_a_keyring_shows_ids_only():
    shown = repr(KEYRING) + str(KEYRING)
    assert "2026-01" in shown
    assert "ooo" not in shown
