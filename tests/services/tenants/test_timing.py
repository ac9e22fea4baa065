"""What an answer takes tells nobody who exists (attack A22)."""

import statistics
import time

import pytest
from argon2 import PasswordHasher, extract_parameters

from services.tenants import passwords

SAMPLES = 2_000


async def test_an_unknown_user_costs_the_same_work_as_a_wrong_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hasher = passwords._HASHER
    tried: list[str] = []

    class Watched:
        """The hasher in use, which notes what it verifies."""

        def verify(self, known: str, password: str) -> bool:
            tried.append(known)
            return hasher.verify(known, password)

        def hash(self, password: str) -> str:
            return hasher.hash(password)

    known = hasher.hash("right")
    monkeypatch.setattr(passwords, "_HASHER", Watched())
    assert not await passwords.is_password("wrong", known)
    assert not await passwords.is_password("wrong", None)
    # One verification each, with the same memory, passes and lanes: the same path by construction.
    assert len(tried) == 2
    assert extract_parameters(tried[0]) == extract_parameters(tried[1])


async def test_two_thousand_samples_show_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passwords, "_HASHER", PasswordHasher(time_cost=1, memory_cost=64))
    passwords._nobodys_hash.cache_clear()
    known = await passwords.hash_password("right")
    taken: dict[bool, list[float]] = {True: [], False: []}
    # In turns, so that whatever else the machine does meets both alike.
    for sample in range(SAMPLES):
        exists = sample % 2 == 0
        started = time.perf_counter()
        assert not await passwords.is_password("wrong", known if exists else None)
        taken[exists].append(time.perf_counter() - started)
    passwords._nobodys_hash.cache_clear()
    # Without the same work the median would be off by an order of magnitude, not by a part.
    ratio = statistics.median(taken[True]) / statistics.median(taken[False])
    assert 0.5 < ratio < 2
