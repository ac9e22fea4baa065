"""Whose object it is: decided once per object, by the surest sign there is."""

from uuid import UUID

from libs.contracts.envelope import Mode
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database
from libs.directory.local import Directory
from services.stripe_sync import store_objects
from services.stripe_sync.client import Json
from services.stripe_sync.identities import Identity
from services.stripe_sync.objects import customer_of, id_of, named
from services.stripe_sync.store_objects import Owner

ATTEMPTS_BEFORE_GIVING_UP = 7
"""With pauses that double from half a second: about a minute for a link that is on its way."""


class UnknownOwnerError(Exception):
    """The object names a customer nobody knows yet; the link may be on its way."""


async def owner_in_account(
    database: Database, identity: Identity, object_id: str, raw: Json | None
) -> Owner:
    """The owner of an object in a tenant's own account: that tenant, whatever the object says.

    Its customer is one that Sluice itself has linked; metadata is the tenant's to write.
    """
    candidates = (object_id, *_named_ids(raw))
    async with database.tenant(identity.tenant_id, identity.mode) as tx:
        for candidate in candidates:
            owner = await store_objects.find_owner(tx, identity.account, identity.mode, candidate)
            if owner is not None and owner.customer_id and owner.tenant_id == identity.tenant_id:
                return owner
    return Owner(identity.tenant_id, None)


async def resolve(
    database: Database,
    directory: Directory,
    account: str,
    mode: Mode,
    object_id: str,
    raw: Json | None,
    *,
    hint: UUID,
    attempts: int,
) -> Owner:
    """The owner of an object in the platform's account.

    In this order: the claim made earlier; the customer it names (or its charge or source); our
    metadata where it names a tenant that exists; the tenant its webhook came under.

    Args:
        raw: the object; None where Stripe has it no more.
        hint: the tenant under which the webhook came.
        attempts: tries so far; after about a minute a customer nobody knows is a stranger, and
            the object is the platform's.

    Raises:
        UnknownOwnerError: try again shortly.
    """
    candidates = (object_id, *_named_ids(raw))
    async with database.transaction() as tx:
        for candidate in candidates:
            owner = await store_objects.find_owner(tx, account, mode, candidate)
            if owner is not None:
                return owner
    by_metadata = await _by_metadata(directory, raw)
    if by_metadata is not None:
        return by_metadata
    if raw is None or (customer_of(raw) is None and not _is_source_of_customer(raw)):
        return Owner(hint, None)
    if attempts < ATTEMPTS_BEFORE_GIVING_UP:
        raise UnknownOwnerError(f"nobody knows the customer of {object_id} yet")
    return Owner(PLATFORM_TENANT_ID, None)


def _named_ids(raw: Json | None) -> list[str]:
    """The customer an object names, or its charge or source."""
    if raw is None:
        return []
    named_ids = (customer_of(raw), id_of(raw.get("charge")), *_source(raw))
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
    return (id_of(source), customer_of(source), id_of(source.get("charge")))


def _is_source_of_customer(raw: Json) -> bool:
    """Whether a balance transaction concerns some customer's payment."""
    source = raw.get("source")
    return isinstance(source, dict) and any(id_of(source.get(n)) for n in ("customer", "charge"))
