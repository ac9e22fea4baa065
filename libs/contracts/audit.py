"""`audit.events`: the one topic with many producers; tenants consumes and keeps it."""

from typing import Literal

from libs.contracts.envelope import Fact


class SecurityEventRaised(Fact):
    """Somebody was refused, or did something that staff must be able to look up.

    Attributes:
        kind: stable code, e.g. `tenant_denied`, `permission_denied`, `operator_access`.
        actor: `key_<UUID>`, `usr_<UUID>` or `anonymous`.
        permission: the missing permission, where one was missing.
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
