"""Whose webhook URL it is, and which secrets may sign there."""

import hashlib
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal
from uuid import UUID

from libs.contracts.envelope import Mode
from libs.crypto.errors import SealedValueError
from libs.directory.local import Directory
from libs.directory.secrets import OpenSecret, Secrets

_TOKEN = re.compile(r"[A-Za-z0-9_-]{16,200}")
_OPEN_STATUSES = frozenset({"PENDING", "CONNECTED"})


@dataclass(frozen=True)
class EndpointSecret:
    """A signing secret, and what may be signed with it: our own events or connected accounts'."""

    value: bytes = field(repr=False)
    scope: Literal["platform", "connect"]
    mode: Mode

    @cached_property
    def modes(self) -> frozenset[Mode]:
        """The modes of events it signs; a live endpoint for connected accounts gets test events too.

        docs.stripe.com/connect/webhooks
        """
        if self.scope == "connect" and self.mode == "live":
            return frozenset(("live", "test"))
        return frozenset((self.mode,))


@dataclass(frozen=True)
class TenantEndpoint:
    """The webhook URL of one tenant's own Stripe account in one mode."""

    tenant_id: UUID
    mode: Mode
    account: str
    connection_id: UUID
    secrets: tuple[OpenSecret, ...]


async def find_endpoint(
    token: str, directory: Directory, secrets: Secrets
) -> TenantEndpoint | None:
    """The tenant's endpoint behind a token, with the secrets of that connection alone.

    None where there is none, none any more, or no secret of it can be used.

    Raises:
        MasterKeyUnavailableError, SecretStoreUnavailableError: try again later.
    """
    if not _TOKEN.fullmatch(token):
        return None
    digest = hashlib.sha256(token.encode()).hexdigest()
    tenant = await directory.find("webhook_token", digest)
    if tenant is None:
        return None
    connection = next(
        (each for each in tenant.snapshot.connections if digest in each.webhook_token_hashes), None
    )
    if connection is None or connection.account_id is None:
        return None
    if connection.status not in _OPEN_STATUSES:
        return None
    try:
        found = await secrets.find(tenant.id, connection.mode, "stripe_webhook_secret")
    except SealedValueError:
        found = []
    return TenantEndpoint(
        tenant.id,
        connection.mode,
        connection.account_id,
        connection.connection_id,
        tuple(each for each in found if each.connection_id == connection.connection_id),
    )
