"""Redaction: what looks or is named like a secret goes, what does not stays."""

import random
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.crypto.apikeys import generate
from libs.observability.redaction import (
    ITEMS_MAX,
    TEXT_LENGTH_MAX,
    is_luhn,
    is_secret_name,
    redact,
    redact_fields,
    redact_text,
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("key sk_live_51Habc", "key sk_live_[redacted]"),
        ("rk_test_51Habc,", "rk_test_[redacted],"),
        ("whsec_Zm9vYmFy+/=", "whsec_[redacted]"),
        ("Authorization: Bearer abc.def-ghi", "Authorization: Bearer [redacted]"),
        ("basic dXNlcjpwYXNz", "basic [redacted]"),
        (
            "postgresql://sluice_billing:s3cr%2Ft@127.0.0.1/x",
            "postgresql://sluice_billing:[redacted]@127.0.0.1/x",
        ),
        ("dsn password=hunter2 host=x", "dsn password=[redacted] host=x"),
        ("?client_secret=abc&x=1", "?client_secret=[redacted]&x=1"),
        ('{"token": "abc"}', '{"token": "[redacted]"}'),
        ("sla1.kid.body.sig", "sla1.[redacted]"),
        ("eyJhbGciOi.eyJzdWIi.c2ln", "eyJ[redacted]"),
        ("paid with 4242 4242 4242 4242.", "paid with [card]."),
        ("4242-4242-4242-4242", "[card]"),
        ("378282246310005", "[card]"),
        ("mail to Ada.L@example.co.uk now", "mail to [email] now"),
    ],
)
def test_secrets_and_personal_data_are_taken_out(text: str, shown: str):
    assert redact_text(text) == shown


@pytest.mark.parametrize(
    "text",
    [
        "pi_3MtwBwLkdIwHu7ix28a3tqPa",
        "pk_test_51Habc",
        "2026-11-21T03:40:35.123456Z",
        "4242424242424241",
        "offset 1795233271453",
        "1234",
        "consumed 12 records from usage.events[3]",
        "the api key was rotated",
        "http://127.0.0.1:8080/api/v1/tenants",
    ],
)
def test_ordinary_text_stays(text: str):
    assert redact_text(text) == text


def test_our_own_keys_keep_their_public_prefix_only():
    key = generate("live")
    shown = redact_text(f"key {key.key} used")
    assert shown == f"key slk_live_{key.prefix}[redacted] used"


def test_no_uuid_is_ever_taken_for_a_card():
    digits = random.Random(7)
    for _ in range(2_000):
        text = "".join(digits.choice("0123456789") for _ in range(32))
        uuid = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
        assert redact_text(uuid) == uuid
    assert redact(uuid4()) != "[card]"


@given(st.integers(10**12, 10**18))
def test_every_number_with_a_cards_check_digit_goes(number: int):
    assert (redact(number) == "[card]") == is_luhn(str(number))
    assert ("[card]" in redact_text(f"pan={number};")) == is_luhn(str(number))


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "stripe_secret_key",
        "stripeSecretKey",
        "webhook_secret",
        "X-API-Key",
        "Authorization",
        "Set-Cookie",
        "SLUICE_MASTER_KEYS",
        "SLUICE_KEY_PEPPER",
        "apiKey",
        "postgres_dsn",
        "card_number",
        "Stripe-Signature",
        "access_token",
    ],
)
def test_names_of_secrets(name: str):
    assert is_secret_name(name)
    assert redact_fields({name: "x"}) == {name: "[redacted]"}


@pytest.mark.parametrize(
    "name",
    [
        "key",
        "event_key",
        "tenant_id",
        "idempotency_key",
        "secret_version",
        "api_key_id",
        "api_key_prefix",
        "secret_last4",
        "key_fingerprint",
        "",
        "topic",
    ],
)
def test_names_that_are_not(name: str):
    assert not is_secret_name(name)


def test_that_a_secret_is_absent_may_be_known():
    assert redact_fields({"password": None, "has_secret": True}) == {
        "password": None,
        "has_secret": True,
    }


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(json_like)
def test_anything_can_be_redacted_and_twice_is_once(value: Any):
    once = redact(value)
    if once == once:  # noqa: PLR0124 - NaN is unlike itself
        assert redact(once) == once or "nan" in str(once)


def test_size_and_depth_are_bounded():
    deep: list[Any] = []
    for _ in range(1_000):
        deep = [deep]
    assert "[too deep]" in str(redact(deep))
    assert len(redact(list(range(1_000)))) == ITEMS_MAX + 1
    assert len(redact("x" * 100_000)) == TEXT_LENGTH_MAX


def test_no_text_makes_the_patterns_slow():
    for part in ("a@", "1 ", "://a:", "eyJ.", "password=", "Bearer ", "aA1.", "1-"):
        redact_text(part * 4_000)
