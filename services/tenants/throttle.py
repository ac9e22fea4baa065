"""How often a sign-in may fail: counted per e-mail and per address, in the database.

A try is counted before the password is looked at, so that many at once do not slip through. Both are kept as digests under the key pepper: the table tells nobody's e-mail.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from libs.db.pool import Tx
from services.tenants import store_people as store

WINDOW = timedelta(minutes=15)
FAILURES_MAX: Mapping[str, int] = {"email": 10, "address": 100}
"""Per window. An address may be a whole office's, or the console's."""


class TooManyAttemptsError(Exception):
    """Sign-in is closed for this e-mail or address for a while."""

    def __init__(self, retry_after_seconds: int) -> None:
        self.retry_after_seconds = retry_after_seconds
        super().__init__(f"try again in {retry_after_seconds} s")


@dataclass(frozen=True)
class Attempt:
    """One try to sign in, known by the digests of the e-mail and the address, or one of them."""

    digests: Mapping[str, bytes]

    @classmethod
    def of(cls, email: str | None, address: str | None, pepper: bytes) -> "Attempt":
        """The attempt of this e-mail (lower case) from this address; None is not counted."""
        named = {"address": address, "email": email}
        return cls(
            {
                kind: hmac.new(pepper, f"sign-in:{kind}:{text}".encode(), hashlib.sha256).digest()
                for kind, text in named.items()
                if text is not None
            }
        )


async def count(tx: Tx, attempt: Attempt, now: datetime) -> int:
    """Count the attempt as failed; the seconds to wait, or 0 when it may go on.

    Whoever counts must commit, whatever becomes of the attempt.
    """
    wait_seconds = 0
    for kind, digest in attempt.digests.items():
        row = await store.count_attempt(tx, kind, digest, now, now - WINDOW)
        if row["failures"] > FAILURES_MAX[kind]:
            left = row["window_started_at"] + WINDOW - now
            wait_seconds = max(wait_seconds, int(left.total_seconds()) + 1)
    return wait_seconds


async def forgive(tx: Tx, attempt: Attempt) -> None:
    """The attempt succeeded: the e-mail starts anew, the address has one failure less."""
    for kind, digest in attempt.digests.items():
        if kind == "email":
            await store.forget_attempts(tx, kind, digest)
        else:
            await store.forgive_attempt(tx, kind, digest)
