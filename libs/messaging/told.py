"""What an audit fact is completed with, and what is taken out of it, before it leaves.

Done where events are emitted, so that no route or domain function can forget it.
"""

from typing import Any, TypeVar, cast

from libs.contracts.audit import ConfigurationChanged, SecurityEventRaised
from libs.contracts.envelope import Fact
from libs.observability.redaction import redact_fields, redact_text
from libs.observability.remote import remote_address

D = TypeVar("D", bound=Fact)


def told(fact: D) -> D:
    """The fact as it may stand in the audit log for ever; every other kind of fact as it is."""
    if isinstance(fact, ConfigurationChanged):
        masked = {
            "before": masked_fields(fact.before),
            "after": masked_fields(fact.after),
            "remote_address": fact.remote_address or remote_address(),
        }
        return cast("D", fact.model_copy(update=masked))
    if isinstance(fact, SecurityEventRaised):
        completed = {
            "path": redact_text(fact.path),
            "remote_address": fact.remote_address or remote_address(),
        }
        return cast("D", fact.model_copy(update=completed))
    return fact


def masked_fields(fields: dict[str, Any] | None) -> dict[str, Any] | None:
    """Changed fields without secrets and personal data: what stands in a chain cannot be erased."""
    return None if fields is None else redact_fields(fields)
