"""Assertions: signed by one key, alive for a minute, and total against hostile text."""

import base64
import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from libs.crypto.tokens import (
    BadSignatureError,
    Claims,
    MalformedTokenError,
    TokenError,
    TokenExpiredError,
    TokenNotYetValidError,
    UnknownSigningKeyError,
    generate_private_key,
    key_id_of,
    public_key_of,
    sign,
    verify,
)

NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
PRIVATE_KEY = generate_private_key()
PUBLIC_KEY = public_key_of(PRIVATE_KEY)
KEYS = {key_id_of(PUBLIC_KEY): PUBLIC_KEY}
CLAIMS = Claims(
    user_id=UUID("01890000-0000-7000-8000-000000000001"),
    tenant_id=UUID("01890000-0000-7000-8000-000000000002"),
    mode="test",
    role="billing_admin",
    permissions=frozenset({"billing:manage", "usage:read"}),
    session_id=UUID("01890000-0000-7000-8000-000000000003"),
    operator=False,
    issued_at=NOW,
    expires_at=NOW + timedelta(seconds=60),
    tenant_version=7,
)
TOKEN = sign(CLAIMS, PRIVATE_KEY)


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed_with(claims: Any) -> str:
    """A token whose signature is right and whose claims are whatever is given."""
    body = claims if isinstance(claims, bytes) else json.dumps(claims).encode()
    signed = f"sla1.{key_id_of(PUBLIC_KEY)}.{encode(body)}"
    key = Ed25519PrivateKey.from_private_bytes(PRIVATE_KEY)
    return f"{signed}.{encode(key.sign(signed.encode()))}"


def claims_of(token: str) -> dict[str, Any]:
    body = token.split(".")[2]
    decoded: dict[str, Any] = json.loads(base64.urlsafe_b64decode(body + "=="))
    return decoded


def test_what_was_signed_is_read_back():
    assert verify(TOKEN, KEYS, NOW) == CLAIMS
    operator = replace(CLAIMS, operator=True, mode="live", permissions=frozenset())
    assert verify(sign(operator, PRIVATE_KEY), KEYS, NOW) == operator


@pytest.mark.parametrize("seconds", [-5, 0, 59, 64])
def test_a_token_lives_a_minute_and_a_little_leeway(seconds: int):
    assert verify(TOKEN, KEYS, NOW + timedelta(seconds=seconds))


def test_outside_its_life_a_token_proves_nothing():
    with pytest.raises(TokenExpiredError):
        verify(TOKEN, KEYS, NOW + timedelta(seconds=65))
    with pytest.raises(TokenNotYetValidError):
        verify(TOKEN, KEYS, NOW - timedelta(seconds=6))


@pytest.mark.parametrize("seconds", [0, -1, 61])
def test_nobody_signs_a_longer_or_empty_life(seconds: int):
    with pytest.raises(ValueError, match="lives"):
        replace(CLAIMS, expires_at=NOW + timedelta(seconds=seconds))


def test_a_longer_life_is_refused_even_when_signed():
    claims = claims_of(TOKEN)
    with pytest.raises(MalformedTokenError):
        verify(signed_with(claims | {"expires_at": claims["issued_at"] + 61}), KEYS, NOW)


def test_another_key_does_not_sign_for_this_one():
    other = generate_private_key()
    with pytest.raises(UnknownSigningKeyError):
        verify(sign(CLAIMS, other), KEYS, NOW)
    with pytest.raises(UnknownSigningKeyError):
        verify(TOKEN, {}, NOW)
    with pytest.raises(BadSignatureError):
        verify(TOKEN, {key_id_of(PUBLIC_KEY): public_key_of(other)}, NOW)


def test_a_key_published_in_another_form_proves_nothing():
    for published in ("", "AAAA", "not base64", PUBLIC_KEY + "="):
        with pytest.raises(TokenError):
            verify(TOKEN, {key_id_of(PUBLIC_KEY): published}, NOW)


def test_keys_overlap_during_a_rotation():
    new = generate_private_key()
    both = KEYS | {key_id_of(public_key_of(new)): public_key_of(new)}
    assert verify(TOKEN, both, NOW) == verify(sign(CLAIMS, new), both, NOW)


def test_every_changed_character_is_noticed():
    for place, character in enumerate(TOKEN):
        other = "A" if character != "A" else "B"
        with pytest.raises(TokenError):
            verify(TOKEN[:place] + other + TOKEN[place + 1 :], KEYS, NOW)


def test_a_token_has_one_written_form():
    lead, signature = TOKEN.rsplit(".", 1)
    last = signature[-1]
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for other in alphabet.replace(last, ""):
        with pytest.raises(TokenError):
            verify(f"{lead}.{signature[:-1]}{other}", KEYS, NOW)
    for changed in (TOKEN + "=", TOKEN + ".", TOKEN + "\n", " " + TOKEN, TOKEN.replace("_", "/")):
        if changed != TOKEN:
            with pytest.raises(TokenError):
                verify(changed, KEYS, NOW)


@given(st.text(max_size=300))
def test_hostile_text_raises_only_token_errors(text: str):
    for token in (text, f"sla1.{text}", f"sla1.{key_id_of(PUBLIC_KEY)}.{text}"):
        with pytest.raises(TokenError):
            verify(token, KEYS, NOW)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4)
    ),
    max_leaves=10,
)


@given(json_values)
def test_signed_nonsense_raises_only_token_errors(value: Any):
    with pytest.raises(TokenError):
        verify(signed_with(value), KEYS, NOW)


MORE_THAN_ONE_VALUE = {
    "role",
    "permissions",
    "operator",
    "issued_at",
    "expires_at",
    "tenant_version",
    "platform_version",
}
"""Claims that some other value of the same kind may stand in."""


@given(st.sampled_from(sorted(claims_of(TOKEN))), json_values)
def test_each_claim_is_checked(name: str, value: Any):
    claims = claims_of(TOKEN)
    try:
        read = verify(signed_with(claims | {name: value}), KEYS, NOW)
    except TokenError:
        return
    assert name in MORE_THAN_ONE_VALUE
    assert isinstance(read, Claims)


@pytest.mark.parametrize("name", sorted(claims_of(TOKEN)))
def test_no_claim_may_be_missing(name: str):
    claims = claims_of(TOKEN)
    del claims[name]
    with pytest.raises(MalformedTokenError):
        verify(signed_with(claims), KEYS, NOW)


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 3_000, b"1" * 4_000, b'{"a":' * 1_000, b"NaN"]
)
def test_signed_bytes_that_are_not_claims_are_malformed(body: bytes):
    with pytest.raises(MalformedTokenError):
        verify(signed_with(body), KEYS, NOW)


def test_an_overlong_token_is_not_even_read():
    with pytest.raises(MalformedTokenError):
        verify(TOKEN + "A" * 10_000, KEYS, NOW)


@pytest.mark.parametrize("at", [10**18, -(10**18), 10**400])
def test_a_time_no_calendar_has_is_malformed(at: int):
    with pytest.raises(MalformedTokenError):
        verify(signed_with(claims_of(TOKEN) | {"issued_at": at}), KEYS, NOW)
