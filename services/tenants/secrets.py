"""The secrets of Stripe connections: versions, sealed or kept outside, and told to their users.

A version is `current`, then `previous` (still good for a while), then `archived` (out of use, kept
only until it is known to be worthless), then `destroyed`: what names it is left, its value is not.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID

import structlog

from libs.contracts.envelope import Mode
from libs.contracts.tenants import SecretName, SecretRecord, TenantSecrets, WrappedKeyRecord
from libs.crypto.errors import SealedValueError, SecretStoreUnavailableError
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.directory.secrets import SECRET_FIELD, SECRET_TABLE, secret_row
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.tenants import store_intents
from services.tenants import store_secrets as store
from services.tenants.sealing import Kept, Place, Sealer

log = structlog.get_logger()

FIRST_LOOK = timedelta(minutes=10)
"""After so long a previous key that nobody used in between is taken out of use."""


class OverlapError(Exception):
    """A secret that was replaced lately is still good, and would not be for the time promised."""

    def __init__(self, until: datetime) -> None:
        self.until = until
        super().__init__(f"the one before is good until {until.isoformat()}")


@dataclass(frozen=True)
class NewSecret:
    """A secret that is kept already, and will be entered.

    Attributes:
        fingerprint: tells two secrets apart without telling anything of either.
    """

    secret_id: UUID
    name: SecretName
    fingerprint: str
    last4: str
    kept: Kept = field(repr=False)


async def keep(
    sealer: Sealer,
    tenant_id: UUID,
    mode: Mode,
    name: SecretName,
    value: str,
    *,
    pepper: bytes,
    at: datetime,
) -> NewSecret:
    """Seal a secret, or put it into the store outside; outside of any transaction.

    What is put outside stands noted first (`secret_intents`), so that it is found and deleted where
    this process dies before `enter`.

    Raises:
        MasterKeyUnavailableError, SecretStoreUnavailableError: nothing was kept.
    """
    secret_id = new_id()
    key = await sealer.prepare(tenant_id, at)
    place = place_of(mode, name, secret_id)
    kept = await sealer.keep(key, secret_id, value.encode(), place, at)
    return NewSecret(secret_id, name, fingerprint_of(value, pepper), value[-4:], kept)


async def discard(sealer: Sealer, tenant_id: UUID, new: NewSecret) -> None:
    """Take back what `keep` kept and nothing names; where that fails, the job does it."""
    if new.kept.reference is not None:
        try:
            await sealer.discard(tenant_id, new.secret_id)
        except (SealedValueError, SecretStoreUnavailableError):
            log.warning("unused_secret_left_in_store", reference=new.kept.reference)


async def read(sealer: Sealer, tenant_id: UUID, row: Row) -> str:
    """The value of a version; outside of any transaction.

    Raises:
        SealedValueError, MasterKeyUnavailableError, SecretStoreUnavailableError.
    """
    kept = Kept(row["sealed"], row["data_key_id"], row["reference"])
    secret_id = row["secret_id"]
    place = place_of(row["mode"], row["name"], secret_id)
    return (await sealer.read(tenant_id, secret_id, kept, place)).decode()


def place_of(mode: Mode, name: SecretName, secret_id: UUID) -> Place:
    """Where a secret stands, as its sealed value is bound to it."""
    return Place(SECRET_TABLE, SECRET_FIELD, secret_row(mode, name, secret_id), str(secret_id))


def fingerprint_of(value: str, pepper: bytes) -> str:
    """A keyed digest, so that a weak secret cannot be guessed from it."""
    digest = hmac.new(pepper, b"connection secret\x00" + value.encode(), hashlib.sha256)
    return digest.hexdigest()[:16]


async def enter(
    tx: Tx, connection_id: UUID, new: NewSecret, *, actor: str, at: datetime, overlap: timedelta
) -> int:
    """Make a secret the current version; the one before stays good for the overlap. The version.

    At most two are good at once: an older previous one is taken out of use.

    Raises:
        SecretStoreUnavailableError: it took so long that the secret is being deleted outside.
    """
    if new.kept.reference is not None and not await store_intents.end(tx, new.secret_id):
        raise SecretStoreUnavailableError("the secret was kept too long ago to be entered")
    await store.archive(tx, connection_id, at=at, name=new.name)
    await store.step_down(
        tx,
        connection_id,
        new.name,
        at=at,
        valid_until=at + overlap,
        due_at=at + min(overlap, FIRST_LOOK),
    )
    version = await store.next_version(tx, connection_id, new.name)
    await store.insert_secret(
        tx,
        secret_id=new.secret_id,
        connection_id=connection_id,
        name=new.name,
        version=version,
        fingerprint=new.fingerprint,
        last4=new.last4,
        sealed=new.kept.sealed,
        reference=new.kept.reference,
        data_key_id=new.kept.data_key_id,
        actor=actor,
        at=at,
    )
    return version


async def refuse_in_overlap(tx: Tx, connection_id: UUID, name: SecretName, at: datetime) -> None:
    """Refuse to replace a secret while the one before it is still good: two are, at most.

    Raises:
        OverlapError: it is, and until when.
    """
    until = await store.previous_valid_until(tx, connection_id, name)
    if until is not None and until > at:
        raise OverlapError(until)


async def publish_secrets(tx: Tx, at: datetime, *, left: bool = False) -> int:
    """Tell those who use them all sealed secrets of the tenant in scope; the new version.

    Args:
        left: there are none any more, because the tenant is gone.
    """
    here = tx.scope
    await tx.enter(Scope((tx.tenant_id,), None))
    version = await store.raise_secrets_version(tx)
    secrets = tuple(_record(row) for row in await store.published_secrets(tx))
    data_keys = tuple(
        WrappedKeyRecord(
            data_key_id=row["data_key_id"], wrapped=base64.b64encode(row["wrapped"]).decode()
        )
        for row in await store.published_data_keys(tx)
    )
    told = TenantSecrets(version=version, left=left, secrets=secrets, data_keys=data_keys)
    emit(tx, told, effective_at=at)
    await tx.enter(here)
    return version


def _record(row: Row) -> SecretRecord:
    sealed = row["sealed"]
    return SecretRecord(
        secret_id=row["secret_id"],
        connection_id=row["connection_id"],
        mode=row["mode"],
        name=row["name"],
        version=row["version"],
        valid_until=row["valid_until"],
        sealed=None if sealed is None else base64.b64encode(sealed).decode(),
        reference=row["reference"],
    )
