"""A tenant's own customers: entered by the tenant, billed by the tenant."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import NAME_NOT_TOLD, CustomerCreated, NameCustomer
from libs.crypto.personal import PersonalKeys
from libs.db.pool import Row, Tx
from libs.ids import new_id, public_id
from libs.messaging.outbox import emit
from services.billing import store_customers as store


class KeyTakenError(Exception):
    """Another customer of the tenant has this key already."""


@dataclass(frozen=True)
class NewCustomer:
    """Who is to be entered.

    Attributes:
        key: what the tenant calls it; unique among the tenant's customers of the mode.
    """

    name: str
    currency: str
    email: str | None = None
    key: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


async def create(tx: Tx, wish: NewCustomer, at: datetime, *, actor: str, keys: PersonalKeys) -> Row:
    """Enter a customer whom the tenant bills, and tell of it: the name sealed, the e-mail never.

    Raises:
        KeyTakenError: there is one with this key.
    """
    customer_id = new_id()
    added = await store.add_customer(
        tx,
        customer_id,
        billed_by="tenant",
        name=wish.name,
        email=wish.email,
        currency=wish.currency,
        at=at,
        key=wish.key,
        metadata=dict(wish.metadata),
    )
    if not added:
        raise KeyTakenError
    created = CustomerCreated(customer_id=customer_id, billed_by="tenant", name=NAME_NOT_TOLD)
    emit(tx, created, effective_at=at)
    emit(tx, _sealed_name(keys, customer_id, wish.name), effective_at=at)
    change = ConfigurationChanged(
        action="customer.created",
        actor=actor,
        object_id=public_id("customer", customer_id),
        after={"currency": wish.currency},
    )
    emit(tx, change, effective_at=at)
    return await store.find_customer(tx, customer_id)


def _sealed_name(keys: PersonalKeys, customer_id: UUID, name: str) -> NameCustomer:
    wrapped = keys.new_key(customer_id)
    personal = keys.seal({"name": name}, wrapped, customer_id)
    return NameCustomer(
        customer_id=customer_id,
        personal=base64.b64encode(personal).decode(),
        wrapped=base64.b64encode(wrapped).decode(),
    )
