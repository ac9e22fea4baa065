"""Stripe's webhook signature: `t=<unix seconds>,v1=<hex HMAC-SHA-256 of "<t>.<body>">[,v1=…]`.

The scheme is Stripe's (docs.stripe.com/webhooks); the SDK's own check accepts times far in the
future and raises on hostile bytes, so this one is ours: a total function that never raises.
"""

import hmac
import secrets as random_secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

TOLERANCE_SECONDS = 300
HEADER_BYTES_MAX = 4096
TIMESTAMP_DIGITS_MAX = 12
_HEX_LENGTH = 64
_DECOY = random_secrets.token_bytes(32)

Outcome = Literal["valid", "malformed", "no_match", "outside_tolerance"]


@dataclass(frozen=True)
class Verdict:
    """What a signature is worth.

    Attributes:
        outcome: `valid`, or why not. Answers to strangers do not tell these apart.
        matched: places of the secrets that signed; empty unless valid.
    """

    outcome: Outcome
    matched: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Header:
    timestamp: bytes
    signatures: tuple[bytes, ...]


def verify(header: bytes | None, body: bytes, secrets: Sequence[bytes], now: int) -> Verdict:
    """Check a signature over the raw bytes of a body.

    Every secret is tried, and without any a decoy, so that the time taken tells a stranger neither
    whether an account is known nor where the check failed.

    Args:
        header: the value of `Stripe-Signature`, or None.
        body: exactly what was received.
        secrets: the endpoint's secrets, the current one first.
        now: Unix time in seconds.
    """
    parsed = _parse(header)
    timestamp = parsed.timestamp if parsed else b"0"
    signatures = parsed.signatures if parsed else (b"0" * _HEX_LENGTH,)
    signed = timestamp + b"." + body
    matched = []
    for place, secret in enumerate(secrets or (_DECOY,)):
        expected = hmac.digest(secret, signed, "sha256").hex().encode()
        hits = [hmac.compare_digest(expected, signature) for signature in signatures]
        if any(hits) and secrets:
            matched.append(place)
    if parsed is None:
        return Verdict("malformed")
    if not matched:
        return Verdict("no_match")
    if abs(now - int(parsed.timestamp)) > TOLERANCE_SECONDS:
        return Verdict("outside_tolerance")
    return Verdict("valid", tuple(matched))


def sign(secret: bytes, body: bytes, timestamp: int) -> bytes:
    """The header that Stripe would send with this body."""
    signed = b"%d." % timestamp + body
    return b"t=%d,v1=%s" % (
        timestamp,
        hmac.digest(secret, signed, "sha256").hex().encode(),
    )


def _parse(header: bytes | None) -> _Header | None:
    """The one timestamp and all v1 signatures; None where there is no such thing."""
    if header is None or len(header) > HEADER_BYTES_MAX:
        return None
    timestamps, signatures = [], []
    for part in header.split(b","):
        name, _, value = part.strip().partition(b"=")
        if name == b"t":
            timestamps.append(value)
        elif name == b"v1":
            signatures.append(value)
    if len(timestamps) != 1 or not signatures:
        return None
    timestamp = timestamps[0]
    if not timestamp.isdigit() or len(timestamp) > TIMESTAMP_DIGITS_MAX:
        return None
    return _Header(timestamp, tuple(signatures))
