"""The sealed secrets of tenants, as the services that use them hold them (topic `tenants.secrets`).

A holder keeps ciphertext and wrapped keys only, in its table `tenant_secrets`. `Secrets` opens them
on demand and keeps what it opened in memory for some minutes.
"""

import base64
import binascii
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from uuid import UUID

import structlog

from libs.clock import utc_now
from libs.contracts.audit import SecretsHeld
from libs.contracts.envelope import Envelope, Mode
from libs.contracts.tenants import SecretName, SecretRecord, TenantSecrets
from libs.crypto.errors import DestroyedKeyError, MalformedSealedValueError, SealedValueError
from libs.crypto.sealed import DataKey, header_of, open_sealed
from libs.crypto.settings import Sealing
from libs.db.pool import Database, Tx
from libs.directory.arrivals import SECRETS
from libs.messaging.outbox import emit

log = structlog.get_logger()

SECRET_TABLE, SECRET_FIELD = "connection_secret", "value"
"""Where a secret stands, besides its row: what its sealed value is bound to."""

LOOK_SECONDS = 1.0
KEPT_SECONDS = 300.0
ENTRIES_MAX = 10_000
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


def secret_row(mode: Mode, name: SecretName, secret_id: UUID) -> str:
    """What a secret's sealed value is bound to as its row.

    With its mode, and so with the one connection of its tenant in that mode, and with its name: a row
    whose mode, connection or name is exchanged does not open. Secrets that were sealed before are
    bound to their id alone.
    """
    return f"{mode}/{name}/{secret_id}"


async def apply_secrets(event: Envelope[TenantSecrets], tx: Tx) -> None:
    """Replace a tenant's sealed secrets and tell that they are held; only a higher version is."""
    held = await tx.execute(
        """
        insert into tenant_secrets as s (tenant_id, version, record) values ($1, $2, $3)
        on conflict (tenant_id) do update set version = excluded.version, record = excluded.record
        where s.version < excluded.version
        """,
        event.tenant_id,
        event.data.version,
        event.data.model_dump(mode="json"),
    )
    if held:
        tx.after_commit.append(
            partial(SECRETS.note, tx.service, event.tenant_id, event.data.version)
        )
        emit(
            tx,
            SecretsHeld(service=tx.service, version=event.data.version),
            effective_at=event.effective_at,
        )


async def read_secrets(tx: Tx) -> TenantSecrets | None:
    """What is held of the tenant in scope; None: nothing."""
    record = await tx.fetchval(
        "select record from tenant_secrets where tenant_id = $1", tx.tenant_id
    )
    return None if record is None else TenantSecrets.model_validate(record)


@dataclass(frozen=True)
class OpenSecret:
    """A secret in the clear, in memory only.

    Attributes:
        valid_until: for a previous version; None for the current one.
    """

    connection_id: UUID
    version: int
    value: bytes = field(repr=False)
    valid_until: datetime | None = None


@dataclass
class _Held:
    """What is known of a tenant's secrets; `version` 0: nothing is held."""

    version: int
    record: TenantSecrets | None
    looked_at: float
    opened: dict[UUID, tuple[OpenSecret, float]]


class Secrets:
    """Opens what the service holds of tenants' secrets. One per process.

    A change is seen within a second of its arrival, at once in the process that took it in. No call is made inside a transaction.
    """

    def __init__(
        self,
        database: Database,
        sealing: Sealing,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._data_keys = sealing.data_keys
        self._store = sealing.store
        self._clock = clock
        self._now = now
        self._held: dict[UUID, _Held] = {}

    async def find(
        self, tenant_id: UUID, mode: Mode, name: SecretName, *, afresh: bool = False
    ) -> list[OpenSecret]:
        """The secrets of this name that are valid now: the current one, then the newest previous.

        A version that does not open is left out and told in the log, as long as another one does.

        Args:
            afresh: read them anew, whatever is in memory (after a secret was refused).

        Raises:
            MasterKeyUnavailableError, SecretStoreUnavailableError: try again later.
            SealedValueError: not one of them opens.
        """
        held = await self._look(tenant_id, afresh=afresh)
        now = self._now()
        wanted = [
            each
            for each in (held.record.secrets if held.record else ())
            if each.mode == mode
            and each.name == name
            and (each.valid_until is None or each.valid_until > now)
        ]
        wanted.sort(key=lambda each: (each.valid_until is not None, -each.version))
        return await self._open_all(tenant_id, held, wanted)

    async def _look(self, tenant_id: UUID, *, afresh: bool) -> _Held:
        held = self._held.get(tenant_id)
        now = self._clock()
        service = self._database.service
        if (
            held is not None
            and not afresh
            and now - held.looked_at < LOOK_SECONDS
            and SECRETS.is_newest(service, tenant_id, held.version)
        ):
            return held
        async with self._database.tenant(tenant_id, None) as tx:
            version = await tx.fetchval(
                "select version from tenant_secrets where tenant_id = $1", tx.tenant_id
            )
            if held is not None and not afresh and held.version == (version or 0):
                held.looked_at = now
                return held
            record = await read_secrets(tx)
        while len(self._held) >= ENTRIES_MAX:
            del self._held[next(iter(self._held))]
        held = _Held(record.version if record else 0, record, now, {})
        self._held[tenant_id] = held
        return held

    async def _open_all(
        self, tenant_id: UUID, held: _Held, wanted: Sequence[SecretRecord]
    ) -> list[OpenSecret]:
        found: list[OpenSecret] = []
        failure: SealedValueError | None = None
        for each in wanted:
            kept = held.opened.get(each.secret_id)
            if kept is None or self._clock() - kept[1] >= KEPT_SECONDS:
                held.opened.pop(each.secret_id, None)
                try:
                    value = await self._open(tenant_id, held, each)
                except SealedValueError as error:
                    log.error(  # noqa: TRY400 - a trace would show the sealed bytes
                        "secret_does_not_open",
                        tenant_id=str(tenant_id),
                        secret=each.name,
                        version=each.version,
                        reason=type(error).__name__,
                    )
                    failure = error
                    continue
                opened = OpenSecret(each.connection_id, each.version, value, each.valid_until)
                kept = held.opened[each.secret_id] = (opened, self._clock())
            found.append(kept[0])
        if failure is not None and not found:
            raise failure
        return found

    async def _open(self, tenant_id: UUID, held: _Held, secret: SecretRecord) -> bytes:
        if secret.reference is not None:
            if self._store is None:
                raise SealedValueError("the secret is in a store that is not configured here")
            return await self._store.get(
                secret.reference, tenant_id=tenant_id, secret_id=secret.secret_id
            )
        sealed = _bytes(secret.sealed or "")
        wanted = header_of(sealed).data_key_id
        keys = held.record.data_keys if held.record else ()
        for key in keys:
            if key.data_key_id == wanted:
                data_key = DataKey(wanted, tenant_id, _bytes(key.wrapped), created_at=_UNKNOWN)
                return open_sealed(
                    sealed,
                    key=await self._data_keys.open(data_key),
                    tenant_id=tenant_id,
                    table=SECRET_TABLE,
                    field=SECRET_FIELD,
                    row_id=secret_row(secret.mode, secret.name, secret.secret_id),
                    former_row_id=str(secret.secret_id),
                )
        raise DestroyedKeyError("the data key of this secret is not held")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise MalformedSealedValueError("not base64") from None
