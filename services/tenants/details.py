"""What people may change of a tenant: its name, language, currency, tax region and billing e-mail."""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime

from libs.contracts.audit import ConfigurationChanged
from libs.db.pool import Row, Tx
from libs.messaging.outbox import emit
from services.tenants import snapshot
from services.tenants import store_tenants as store

FIELDS = ("name", "locale", "currency", "tax_region", "billing_email")


class ChangedMeanwhileError(Exception):
    """The tenant is not as the caller last read it."""


class CurrencySettledError(Exception):
    """The tenant has bought something, so its currency stays."""


def etag_of(tenant: Row) -> str:
    """The entity tag of what people may change; other changes of the tenant leave it alone."""
    text = json.dumps([tenant[field] for field in FIELDS], ensure_ascii=False)
    return f'"{hashlib.sha256(text.encode()).hexdigest()[:32]}"'


async def change(
    tx: Tx, wanted: Mapping[str, str | None], *, expected: str | None, actor: str, at: datetime
) -> bool:
    """Change the tenant in scope; False where everything is so already.

    Args:
        tx: in the tenant's scope.
        wanted: new values among `FIELDS`; what is left out stays.
        expected: the entity tag that the caller read; None takes whatever there is.
        actor: as the audit log names it.
        at: now.

    Raises:
        ChangedMeanwhileError, CurrencySettledError: nothing was changed.
    """
    tenant = await store.lock_tenant(tx)
    assert tenant is not None, "the gate knows the tenant"
    if expected is not None and expected != etag_of(tenant):
        raise ChangedMeanwhileError
    new = {field: value for field, value in wanted.items() if tenant[field] != value}
    if not new:
        return False
    if "currency" in new and await store.was_billed(tx):
        raise CurrencySettledError
    after = {field: tenant[field] for field in FIELDS} | new
    await store.set_details(
        tx,
        name=after["name"],
        locale=after["locale"],
        currency=after["currency"],
        tax_region=after["tax_region"],
        billing_email=after["billing_email"],
    )
    change = ConfigurationChanged(
        action="tenant.changed",
        actor=actor,
        object_id=str(tx.tenant_id),
        before={field: tenant[field] for field in sorted(new)},
        after=dict(sorted(new.items())),
    )
    emit(tx, change, effective_at=at)
    await snapshot.publish(tx, at)
    return True
