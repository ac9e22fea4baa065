"""API keys: `slk_<test|live>_<look-up prefix>_<secret><checksum>`.

The prefix (12 characters) is public and finds the key; the secret has 256 random bits; the checksum
(CRC-32, as GitHub's tokens have it) tells a mistyped or invented key from one that is merely not
known here yet, without asking anybody. Only `hash_key` is ever stored: an HMAC with a pepper that
is not in the database, fast because the secret is random and long.
"""

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field
from typing import Literal, cast

Mode = Literal["test", "live"]

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
PREFIX_LENGTH = 12
SECRET_BITS = 256
SECRET_LENGTH = 43  # the least n with 62^n >= 2^256
CHECKSUM_LENGTH = 6  # the least n with 62^n >= 2^32
PEPPER_BYTES = 32

_KEY = re.compile(
    rf"slk_(?P<mode>test|live)_(?P<prefix>[0-9A-Za-z]{{{PREFIX_LENGTH}}})"
    rf"_[0-9A-Za-z]{{{SECRET_LENGTH}}}(?P<checksum>[0-9A-Za-z]{{{CHECKSUM_LENGTH}}})"
)


@dataclass(frozen=True)
class ApiKey:
    """A new key: `key` is shown once to its owner, `prefix` is kept."""

    key: str = field(repr=False)
    prefix: str


@dataclass(frozen=True)
class ParsedKey:
    """A key that is well formed. Whether it exists is another question."""

    mode: Mode
    prefix: str
    key: str = field(repr=False)


def generate(mode: Mode) -> ApiKey:
    """A new random key."""
    prefix = "".join(secrets.choice(ALPHABET) for _ in range(PREFIX_LENGTH))
    secret = _base62(secrets.randbits(SECRET_BITS), SECRET_LENGTH)
    body = f"slk_{mode}_{prefix}_{secret}"
    return ApiKey(key=body + _checksum(body), prefix=prefix)


def parse(text: str) -> ParsedKey | None:
    """The parts of a key, or None where the text is not one or its checksum is wrong."""
    match = _KEY.fullmatch(text)
    if match is None or _checksum(text[:-CHECKSUM_LENGTH]) != match["checksum"]:
        return None
    return ParsedKey(mode=cast("Mode", match["mode"]), prefix=match["prefix"], key=text)


def hash_key(key: str, pepper: bytes) -> bytes:
    """What is stored of a key: HMAC-SHA-256 under the pepper, 32 bytes.

    Raises:
        ValueError: the pepper is not 32 bytes; an empty one would make the hash guessable.
    """
    if len(pepper) != PEPPER_BYTES:
        raise ValueError(f"the pepper must be {PEPPER_BYTES} bytes")
    return hmac.new(pepper, key.encode(), hashlib.sha256).digest()


def verify(key: str, pepper: bytes, stored_hash: bytes) -> bool:
    """Whether `stored_hash` is this key's, in time that does not depend on where they differ."""
    return hmac.compare_digest(hash_key(key, pepper), stored_hash)


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode("ascii")), CHECKSUM_LENGTH)


def _base62(number: int, length: int) -> str:
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(ALPHABET))
        digits.append(ALPHABET[digit])
    assert number == 0
    return "".join(reversed(digits))
