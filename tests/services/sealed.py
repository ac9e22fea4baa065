"""A tenant's sealed secrets as the tenants service would send them."""

import base64
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from libs.clock import utc_now
from libs.contracts.tenants import SecretName, SecretRecord, TenantSecrets, WrappedKeyRecord
from libs.crypto.keyring import Keyring
from libs.crypto.sealed import DataKey, OpenDataKey, seal
from libs.directory.secrets import SECRET_FIELD, SECRET_TABLE, secret_row
from libs.ids import new_id


@dataclass(frozen=True)
class Plain:
    """One version of a secret, in the clear."""

    connection_id: UUID
    version: int
    value: str
    name: SecretName = "stripe_secret_key"
    mode: Literal["test", "live"] = "test"
    valid_until: datetime | None = None


@dataclass
class Vault:
    """The data key of one tenant under a local master key."""

    tenant_id: UUID
    master_key: bytes
    version: int = 0
    data_key_id: UUID = field(default_factory=new_id)
    key: bytes = field(default_factory=lambda: os.urandom(32))

    def secrets(self, plain: Sequence[Plain]) -> TenantSecrets:
        """The next version of what is held of the tenant."""
        self.version += 1
        keyring = Keyring({"k1": self.master_key}, "k1")
        wrapped = keyring.wrap(self.key, tenant_id=self.tenant_id, data_key_id=self.data_key_id)
        data_key = OpenDataKey(
            DataKey(self.data_key_id, self.tenant_id, wrapped, utc_now()), self.key
        )
        return TenantSecrets(
            version=self.version,
            secrets=tuple(self._record(each, data_key) for each in plain),
            data_keys=(
                WrappedKeyRecord(
                    data_key_id=self.data_key_id, wrapped=base64.b64encode(wrapped).decode()
                ),
            ),
        )

    def _record(self, plain: Plain, data_key: OpenDataKey) -> SecretRecord:
        secret_id = new_id()
        sealed = seal(
            plain.value.encode(),
            key=data_key,
            tenant_id=self.tenant_id,
            table=SECRET_TABLE,
            field=SECRET_FIELD,
            row_id=secret_row(plain.mode, plain.name, secret_id),
        )
        return SecretRecord(
            secret_id=secret_id,
            connection_id=plain.connection_id,
            mode=plain.mode,
            name=plain.name,
            version=plain.version,
            valid_until=plain.valid_until,
            sealed=base64.b64encode(sealed).decode(),
        )
