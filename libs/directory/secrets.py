"""The sealed secrets of tenants, as the services that use them hold them (topic `tenants.secrets`).

A holder keeps ciphertext and wrapped keys only, in its table `tenant_secrets`; opening is
`libs.crypto`'s.
"""

from libs.contracts.audit import SecretsHeld
from libs.contracts.envelope import Envelope
from libs.contracts.tenants import TenantSecrets
from libs.db.pool import Tx
from libs.messaging.outbox import emit


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
