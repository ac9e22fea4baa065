"""Personal data under a key of the person's own."""

import random
from uuid import uuid4

import pytest

from libs.crypto.errors import SealedValueError
from libs.crypto.personal import PersonalKeys

PEPPER = b"p" * 32
KEYS = PersonalKeys(PEPPER)
FIELDS = {"email": "ada@people.example", "name": "Ada Canary ✓"}
EDITS = 1_000


def test_what_is_sealed_opens_and_says_nothing_before() -> None:
    person = uuid4()
    wrapped = KEYS.new_key(person)
    sealed = KEYS.seal(FIELDS, wrapped, person)
    assert KEYS.open(sealed, wrapped, person) == FIELDS
    assert KEYS.seal(FIELDS, wrapped, person) != sealed
    for part in (b"ada", b"Canary"):
        assert part not in sealed + wrapped
    assert "p" * 8 not in repr(KEYS)


def test_nothing_opens_elsewhere() -> None:
    one, two = uuid4(), uuid4()
    key_of_one, key_of_two = KEYS.new_key(one), KEYS.new_key(two)
    sealed = KEYS.seal(FIELDS, key_of_one, one)
    stranger = PersonalKeys(b"q" * 32)
    for keys, value, wrapped, person in (
        (KEYS, sealed, key_of_one, two),
        (KEYS, sealed, key_of_two, one),
        (KEYS, sealed, key_of_two, two),
        (KEYS, key_of_one, key_of_one, one),
        (stranger, sealed, key_of_one, one),
    ):
        with pytest.raises(SealedValueError):
            keys.open(value, wrapped, person)


def test_a_thousand_edits_are_all_found() -> None:
    chance = random.Random(20261121)
    person = uuid4()
    wrapped = KEYS.new_key(person)
    sealed = KEYS.seal(FIELDS, wrapped, person)
    for _ in range(EDITS):
        values = [bytearray(sealed), bytearray(wrapped)]
        value = chance.choice(values)
        match chance.randrange(3):
            case 0:
                value[chance.randrange(len(value))] ^= 1 << chance.randrange(8)
            case 1:
                del value[chance.randrange(len(value)) :]
            case _:
                value.append(chance.randrange(256))
        with pytest.raises(SealedValueError):
            KEYS.open(bytes(values[0]), bytes(values[1]), person)


def test_an_email_is_found_by_a_digest_of_this_installation() -> None:
    assert KEYS.digest("ada@people.example") == PersonalKeys(PEPPER).digest("ada@people.example")
    others = {KEYS.digest("bob@people.example"), PersonalKeys(b"q" * 32).digest(FIELDS["email"])}
    assert KEYS.digest(FIELDS["email"]) not in others
