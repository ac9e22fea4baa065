"""`audit.events`: the one topic with many producers; tenants consumes and keeps it."""

from typing import Literal

from pydantic import AwareDatetime

from libs.contracts.envelope import Fact


class SecurityEventRaised(Fact):
    """Somebody was refused, or did something that staff must be able to look up.

    Attributes:
        kind: stable code, e.g. `tenant_denied`, `permission_denied`, `operator_access`.
        actor: `key_<UUID>`, `usr_<UUID>` or `anonymous`.
        permission: the missing permission, where one was missing.
        left_out: how many events of this kind, actor, tenant and service were not told before this
            one: it came too often. None: not one.
    """

    kind: str
    severity: Literal["info", "warning", "critical"]
    actor: str
    service: str
    method: str
    path: str
    permission: str | None = None
    role: str | None = None
    remote_address: str | None = None
    left_out: int | None = None


class ConfigurationChanged(Fact):
    """A setting, member, key, plan, subscription, credit or connection was changed.

    Attributes:
        before, after: JSON of the changed fields with secrets masked.
    """

    action: str
    actor: str
    object_id: str
    before: dict[str, str | int | bool | None] | None = None
    after: dict[str, str | int | bool | None] | None = None
    remote_address: str | None = None


class KeyUsed(Fact):
    """A key or secret was used; told at most once a minute per key and service.

    Not an entry of the log: tenants keeps the latest use of each version.

    Attributes:
        kind: what was used.
        object_id: UUID text of the API key or of the connection.
        version: of the secret; 1 for API keys.
    """

    kind: Literal["api_key", "stripe_secret_key", "stripe_webhook_secret"]
    object_id: str
    version: int
    service: str
    used_at: AwareDatetime


class SecretsHeld(Fact):
    """A service holds this version of a tenant's sealed secrets now.

    A master key may be retired only when every holder has told a version that was wrapped anew.
    """

    service: str
    version: int


class AuditHeadAnchored(Fact):
    """How far the tenant's audit chain reached at a time, signed by the platform.

    Not an entry of the log: tenants keeps it beside the log, and a verifier reads it from the topic.
    A chain that lacks the entry, or has another hash there, was changed.

    Attributes:
        seq: number of the chain's last entry.
        head_hash: hex of that entry's hash.
        key_id: which of the platform's Ed25519 keys signed (`TenantSnapshot.assertion_keys`).
        signature: hex of the signature over tenant, number, hash and time
            (`libs.crypto.audit_chain.Head`).
    """

    seq: int
    head_hash: str
    key_id: str
    signature: str
    anchored_at: AwareDatetime
