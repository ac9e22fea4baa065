"""The sandbox as a whole, and the view one request or job has of one account."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from services.stripe_sim.errors import no_such
from services.stripe_sim.faults import FaultBoard
from services.stripe_sim.settings import Settings
from services.stripe_sim.store import Obj, Store

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


def letters(digest: bytes, length: int) -> str:
    """Spell a digest in base 62."""
    number = int.from_bytes(digest, "big")
    spelled = []
    for _ in range(length):
        number, digit = divmod(number, 62)
        spelled.append(_ALPHABET[digit])
    return "".join(spelled)


class Key(NamedTuple):
    """An API key: whose it is, its kind (or `revoked`), and what a restricted one may do."""

    account: str
    kind: str
    permissions: list[str] | None


@dataclass
class Sandbox:
    """All accounts, the switches for faults, and what wakes the webhook sender."""

    settings: Settings
    store: Store
    faults: FaultBoard
    wake_sender: Callable[[str, str, str], None] = field(default=lambda *_: None)
    """Called with (account, event, endpoint) for every webhook to send."""
    wake_clocks: Callable[[str, str], None] = field(default=lambda *_: None)
    """Called with (account, clock) for every clock that begins to move."""
    keys: dict[str, Key] = field(default_factory=dict)
    """Every API key there is; rebuilt from the accounts at start."""
    platform: str = ""
    """The id of the platform's own account: derived from its first secret key, then kept."""

    def __post_init__(self) -> None:
        seed = self.settings.seed or self.store.setting("seed", secrets.token_hex(16))
        self.store.set_setting("seed", seed)
        self._seed = seed.encode()
        digest = hashlib.sha256(self.settings.secret_key.encode()).digest()
        self.platform = self.store.setting("platform", "acct_1" + letters(digest, 15))
        self.store.set_setting("platform", self.platform)
        self._counter = int(self.store.setting("counter", "0"))
        self.store.commit()

    def new_id(self, prefix: str, length: int = 24) -> str:
        """Return a fresh id: the same sequence for the same seed, and never one twice."""
        self._counter += 1
        self.store.set_setting("counter", str(self._counter))
        digest = hmac.new(self._seed, b"%d" % self._counter, hashlib.sha512).digest()
        return prefix + letters(digest, length)

    def wall_now(self) -> int:
        """Return the real time in Unix seconds."""
        return int(time.time())

    def find_anywhere(self, kind: str, object_id: str) -> tuple["Scope", Obj] | None:
        """Return an object of any account, for the hosted pages: its id is the secret."""
        for account in self.store.accounts():
            obj = self.store.get(account, kind, object_id)
            if obj is not None:
                return self.scope(account), obj
        return None

    def scope(self, account: str) -> "Scope":
        """Return the view of an account for work that no request asked for."""
        return Scope(self, account)


@dataclass(frozen=True)
class Scope:
    """One account as one request or job sees it: every look-up stays inside the account."""

    sandbox: Sandbox
    account: str
    request_id: str | None = None
    idempotency_key: str | None = None
    platform: str | None = None
    """The platform that acts for the account in this request, if one does."""

    def new_id(self, prefix: str, length: int = 24) -> str:
        """Return a fresh id with this prefix."""
        return self.sandbox.new_id(prefix, length)

    def find(self, kind: str, object_id: str | None) -> Obj | None:
        """Return an object of this account, or None."""
        return self.sandbox.store.get(self.account, kind, object_id) if object_id else None

    def get(self, kind: str, object_id: str, param: str = "id") -> Obj:
        """Return an object of this account.

        Raises:
            ApiError: there is none; another account's object is as good as none.
        """
        obj = self.find(kind, object_id)
        if obj is None:
            raise no_such(_noun(kind), object_id, param)
        return obj

    def all(self, kind: str, **wanted: Any) -> list[Obj]:
        """Return the objects whose fields equal the wanted values (None: any), oldest first."""
        objects = self.sandbox.store.all(self.account, kind)
        for name, value in wanted.items():
            if value is not None:
                objects = [obj for obj in objects if obj.get(name) == value]
        return objects

    def save(self, obj: Obj) -> Obj:
        """Mark an object as new or changed, and return it."""
        self.sandbox.store.save(self.account, obj)
        return obj

    def wall_now(self) -> int:
        """Return the real time in Unix seconds."""
        return self.sandbox.wall_now()

    def now(self, clock_id: str | None) -> int:
        """Return the time on a test clock, or the real time where there is none.

        While a clock advances its time is that of the action being worked on, so that an invoice
        made by a renewal bears the time of the renewal.
        """
        clock = self.find("test_helpers.test_clock", clock_id)
        if clock is None:
            return self.sandbox.wall_now()
        working_at: int | None = clock["_sim"].get("working_at")
        return clock["frozen_time"] if working_at is None else working_at

    @property
    def own_account(self) -> Obj:
        """The account itself."""
        return self.get("account", self.account)


_NOUNS = {
    "payment_method": "PaymentMethod",
    "test_helpers.test_clock": "billing_clock",
    "payment_intent": "payment_intent",
    "checkout.session": "checkout.session",
    "billing_portal.session": "billing_portal.session",
}


def _noun(kind: str) -> str:
    return _NOUNS.get(kind, kind)
