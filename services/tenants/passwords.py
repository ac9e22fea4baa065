"""Passwords: argon2id (RFC 9106), at most a few at a time, and no sign of whether a user exists."""

import asyncio
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

LENGTH_MIN = 12
LENGTH_MAX = 1024
CONCURRENT_MAX = 4
"""Each takes 64 MiB for a moment."""

# RFC 9106, section 4, second recommended option: 64 MiB, 3 passes, 4 lanes.
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=4)


@cache
def _turns() -> asyncio.Semaphore:
    return asyncio.Semaphore(CONCURRENT_MAX)


@cache
def _nobodys_hash() -> str:
    return _HASHER.hash("no user has this password")


async def hash_password(password: str) -> str:
    """What is stored of a password: parameters, salt and hash in one text."""
    async with _turns():
        return await asyncio.to_thread(_HASHER.hash, _bytes(password))


async def is_password(password: str, password_hash: str | None) -> bool:
    """Whether this is the password.

    Without a hash (no such user, or one without a password) the same work is done for nothing, so
    that the time taken tells nothing.
    """
    async with _turns():
        return await asyncio.to_thread(_verify, password, password_hash)


def _bytes(password: str) -> bytes:
    """Any text that JSON can hold has bytes, half a surrogate pair too."""
    return password.encode("utf-8", "surrogatepass")


def _verify(password: str, password_hash: str | None) -> bool:
    try:
        matches = _HASHER.verify(password_hash or _nobodys_hash(), _bytes(password))
    except (VerificationError, InvalidHashError):
        return False
    return matches and password_hash is not None
