"""The verifier and the reader are total: whatever the bytes, an answer and no exception."""

import hashlib
import hmac

import pytest
import stripe
from hypothesis import given, settings
from hypothesis import strategies as st

from services.gateway.signature import sign, verify
from services.gateway.stripe_event import NotAnEventError, parse

SECRET = b"whsec_test"
NOW = 1_790_000_000


@given(header=st.none() | st.binary(max_size=5000), body=st.binary(max_size=200))
@settings(max_examples=300, deadline=None)
def test_any_bytes_get_a_verdict(header: bytes | None, body: bytes) -> None:
    assert verify(header, body, [SECRET], NOW).outcome != "valid"


@given(body=st.binary(max_size=200) | st.text(alphabet='{}[]",:0123456789aeE.-\\u', max_size=100))
@settings(max_examples=300, deadline=None)
def test_any_body_is_an_event_or_refused(body: bytes | str) -> None:
    with pytest.raises(NotAnEventError):
        parse(body if isinstance(body, bytes) else body.encode())


@given(body=st.binary(max_size=200), skew=st.integers(-300, 300))
@settings(max_examples=100, deadline=None)
def test_what_stripe_signs_is_valid(body: bytes, skew: int) -> None:
    assert verify(sign(SECRET, body, NOW + skew), body, [SECRET], NOW).outcome == "valid"


@pytest.mark.parametrize("skew", [-301, 301, -86_400, 86_400 * 365])
def test_the_tolerance_holds_both_ways(skew: int) -> None:
    assert verify(sign(SECRET, b"{}", NOW + skew), b"{}", [SECRET], NOW).outcome == (
        "outside_tolerance"
    )


def test_any_of_several_signatures_and_secrets_is_enough() -> None:
    body, old = b"{}", b"whsec_old"
    other = hmac.new(b"whsec_other", body, hashlib.sha256).hexdigest().encode()
    header = sign(old, body, NOW).replace(b",v1=", b",v1=" + other + b",v1=", 1)
    assert verify(header, body, [SECRET, old], NOW).matched == (1,)


def test_no_secret_never_verifies() -> None:
    assert verify(sign(b"", b"{}", NOW), b"{}", [], NOW).outcome == "no_match"


def test_the_sdk_agrees_on_what_is_signed() -> None:
    body = b'{"object": "event"}'
    header = sign(SECRET, body, NOW).decode()
    assert stripe.WebhookSignature.verify_header(  # type: ignore[no-untyped-call]
        body.decode(), header, SECRET.decode(), tolerance=0
    )
