"""Whose object it is: decided once per object, by the surest sign there is."""

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from services.stripe_sync import store_customers, store_objects
from services.stripe_sync.client import Json
from services.stripe_sync.identities import Identity
from services.stripe_sync.objects import customer_of, id_of, named
from services.stripe_sync.objects_payments import charge_of
from services.stripe_sync.store_objects import Owner

ATTEMPTS_BEFORE_GIVING_UP = 7
"""With pauses that double from half a second: about a minute for a link that is on its way."""

_SHARES = frozenset({"application_fee", "application_fee_refund"})
"""Movements of the platform's share of a payment: their charge is in the connected account."""

_ORDER = {"customer": 0, "subscription": 1, "invoice": 2, "payment_intent": 3, "charge": 4}
"""What others name comes before them."""


class UnknownOwnerError(Exception):
    """The object names a customer nobody knows yet; the link may be on its way."""


@dataclass(frozen=True)
class Foundling:
    """An object whose owner is wanted.

    Attributes:
        raw: the object; None where Stripe has it no more.
        hint: the tenant under which its webhook came.
        attempts: tries so far; after about a minute a customer nobody knows is a stranger, and the
            object is the platform's.
    """

    kind: str
    object_id: str
    raw: Json | None
    hint: UUID
    attempts: int = 0

    @property
    def signs(self) -> tuple[str, ...]:
        """Ids whose owner is this object's too, the surest first."""
        return (self.object_id, *named_ids(self.raw))

    @property
    def order(self) -> int:
        """Its place among others that may name each other."""
        return _ORDER.get(self.kind, len(_ORDER))


async def resolve(
    database: Database, directory: Directory, identity: Identity, foundling: Foundling
) -> Owner:
    """The owner of one object.

    Raises:
        UnknownOwnerError: try again shortly.
    """
    (owner,) = await resolve_all(database, directory, identity, [foundling])
    if isinstance(owner, UnknownOwnerError):
        raise owner
    return owner


async def resolve_all(
    database: Database, directory: Directory, identity: Identity, foundlings: list[Foundling]
) -> list[Owner | UnknownOwnerError]:
    """The owners of objects of one account, in their order.

    In a tenant's own account it is that tenant, whatever the object says; its customer is one that
    Sluice itself has linked, else one of the tenant's that our metadata names (a payment link has no
    customer of Stripe's). In the platform's account, in this order: the claim made earlier; the
    customer it names (or its charge or source); our metadata where it names a tenant that exists; the
    tenant its webhook came under. What is paid out of it, and its share of payments in connected
    accounts, is the platform's at once.
    """
    signs = sorted({sign for foundling in foundlings for sign in foundling.signs})
    async with database.transaction() as tx:
        known = await store_objects.find_owners(tx, identity.account, identity.mode, signs)
    own = frozenset() if identity.is_platform else await _own(database, identity, foundlings)
    named_tenants = {named(each.raw, "tenant_id") for each in foundlings if each.raw}
    await directory.by_ids(tenant_id for tenant_id in named_tenants if tenant_id is not None)
    found: dict[int, Owner | UnknownOwnerError] = {}
    for place, foundling in sorted(enumerate(foundlings), key=lambda pair: pair[1].order):
        if identity.is_platform:
            owner = await _on_the_platform(directory, known, foundling)
        else:
            owner = _in_account(identity.tenant_id, known, own, foundling)
        found[place] = owner
        if isinstance(owner, Owner):
            known.setdefault(foundling.object_id, owner)
            charge = charge_of(foundling.raw or {})
            if charge is not None:
                known.setdefault(charge["id"], owner)
    return [found[place] for place in range(len(foundlings))]


async def _own(
    database: Database, identity: Identity, foundlings: list[Foundling]
) -> frozenset[UUID]:
    """Those of the customers that the objects' metadata names that are the tenant's."""
    named_customers = {_customer_named(foundling.raw) for foundling in foundlings} - {None}
    if not named_customers:
        return frozenset()
    async with database.tenant(identity.tenant_id, identity.mode) as tx:
        return await store_customers.known_among(tx, [each for each in named_customers if each])


def _customer_named(raw: Json | None) -> UUID | None:
    return named(raw, "customer_id") if raw else None


def _in_account(
    tenant_id: UUID, known: Mapping[str, Owner], own: frozenset[UUID], foundling: Foundling
) -> Owner:
    for sign in foundling.signs:
        owner = known.get(sign)
        if owner is not None and owner.customer_id and owner.tenant_id == tenant_id:
            return owner
    customer_id = _customer_named(foundling.raw)
    return Owner(tenant_id, customer_id if customer_id in own else None)


async def _on_the_platform(
    directory: Directory, known: Mapping[str, Owner], foundling: Foundling
) -> Owner | UnknownOwnerError:
    raw = foundling.raw
    share = foundling.kind == "balance_transaction" and (raw or {}).get("type") in _SHARES
    if share or foundling.kind == "payout":
        return Owner(PLATFORM_TENANT_ID, None)
    for sign in foundling.signs:
        if sign in known:
            return known[sign]
    by_metadata = await _by_metadata(directory, raw)
    if by_metadata is not None:
        return by_metadata
    if raw is None or not _concerns_a_payer(raw):
        return Owner(foundling.hint, None)
    if foundling.attempts < ATTEMPTS_BEFORE_GIVING_UP:
        return UnknownOwnerError(f"nobody knows the customer of {foundling.object_id} yet")
    return Owner(PLATFORM_TENANT_ID, None)


def named_ids(raw: Json | None) -> list[str]:
    """The customer an object names, its payment intent, its charge or its source."""
    if raw is None:
        return []
    named_ids = (
        customer_of(raw),
        id_of(raw.get("payment_intent")),
        id_of(raw.get("charge")),
        *_source(raw),
    )
    return [found for found in named_ids if found is not None]


async def _by_metadata(directory: Directory, raw: Json | None) -> Owner | None:
    tenant_id = named(raw, "tenant_id") if raw else None
    tenant = await directory.by_id(tenant_id) if tenant_id else None
    if raw is None or tenant is None:
        return None
    return Owner(tenant.id, named(raw, "customer_id") or tenant.snapshot.self_customer_id)


def _source(raw: Json) -> tuple[str | None, ...]:
    """What a balance transaction is about, where it was expanded: its customer or its charge."""
    source = raw.get("source")
    if not isinstance(source, dict):
        return (id_of(source),)
    return (
        id_of(source),
        customer_of(source),
        id_of(source.get("payment_intent")),
        id_of(source.get("charge")),
    )


def _concerns_a_payer(raw: Json) -> bool:
    """Whether an object, or the source of a balance transaction, is about somebody's payment."""
    if raw.get("object") in ("refund", "dispute") or customer_of(raw) is not None:
        return True
    if raw.get("object") == "charge" and id_of(raw.get("payment_intent")) is not None:
        return True
    source = raw.get("source")
    names = ("customer", "charge", "payment_intent")
    return isinstance(source, dict) and any(id_of(source.get(name)) for name in names)
