"""API keys: random, checked before they are looked up, stored as a hash only."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.crypto.apikeys import ALPHABET, Mode, generate, hash_key, parse, verify

PEPPER = b"p" * 32
ALPHANUMERIC = set(string.ascii_letters + string.digits)


@pytest.mark.parametrize("mode", ["test", "live"])
def test_a_new_key_has_the_documented_form(mode: Mode):
    key = generate(mode)
    lead, shown_mode, prefix, rest = key.key.split("_")
    assert (lead, shown_mode, prefix) == ("slk", mode, key.prefix)
    assert (len(prefix), len(rest)) == (12, 43 + 6)
    assert set(prefix + rest) <= ALPHANUMERIC
    parsed = parse(key.key)
    assert parsed is not None
    assert (parsed.mode, parsed.prefix, parsed.key) == (mode, key.prefix, key.key)


def test_no_two_keys_are_alike():
    keys = [generate("test") for _ in range(1_000)]
    assert len({key.key for key in keys}) == len({key.prefix for key in keys}) == 1_000


def test_a_key_does_not_show_itself():
    key = generate("live")
    parsed = parse(key.key)
    assert key.key not in repr(key) + repr(parsed)


def test_every_changed_character_is_noticed_without_a_lookup():
    key = generate("test").key
    for place in range(len(key)):
        for character in ALPHABET:
            edited = key[:place] + character + key[place + 1 :]
            assert (parse(edited) is None) == (edited != key)


@given(st.text(max_size=100) | st.from_regex(r"slk_(test|live)_[0-9A-Za-z]{12}_[0-9A-Za-z]{49}"))
def test_anything_else_is_no_key(text: str):
    assert parse(text) is None


@pytest.mark.parametrize("change", [" {}", "{} ", "{}\n", "{}x", "Bearer {}"])
def test_nothing_may_stand_around_a_key(change: str):
    assert parse(change.format(generate("test").key)) is None


def test_a_key_is_verified_by_its_hash_under_the_pepper():
    key = generate("live").key
    stored = hash_key(key, PEPPER)
    assert len(stored) == 32
    assert verify(key, PEPPER, stored)
    assert not verify(key, b"q" * 32, stored)
    assert not verify(generate("live").key, PEPPER, stored)
    assert not verify(key, PEPPER, stored[:-1])
    assert not verify(key, PEPPER, b"")


def test_the_hash_is_hmac_sha_256():
    assert hash_key("slk", PEPPER).hex() == (
        "4490f8b101164e9647f80e0cbd520f309cfc46cdb44d3c7b92577f909622b6e4"
    )


@pytest.mark.parametrize("pepper", [b"", b"short", b"p" * 33])
def test_a_pepper_of_another_length_is_refused(pepper: bytes):
    with pytest.raises(ValueError, match="pepper"):
        hash_key("slk_test", pepper)
