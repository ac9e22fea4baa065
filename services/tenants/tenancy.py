"""Tenants: signing one up in one commit, and following its subscription."""

from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from libs.contracts.audit import ConfigurationChanged
from libs.contracts.billing import SubscriptionChanged
from libs.contracts.stripe_sync import (
    PLATFORM_ACCOUNT,
    StripeCustomerLinked,
    StripeSubscriptionChanged,
)
from libs.contracts.tenants import TenantCreated, TenantStatusChanged, TenantType
from libs.db.pool import Row, Tx
from libs.db.tenant import Scope
from libs.ids import new_id
from libs.messaging.outbox import emit
from services.tenants import invitations, people, slugs, snapshot
from services.tenants import store_people as people_store
from services.tenants import store_tenants as store
from services.tenants.statuses import STATUS_OF_SUBSCRIPTION


class SlugTakenError(Exception):
    """Another tenant has the slug."""


@dataclass(frozen=True)
class NewTenant:
    """What a tenant begins with.

    Attributes:
        slug: checked; None derives one from the name.
        owner_user_id: an existing user; or
        owner_email: a user that is entered when absent.
        created_by: the actor, as the audit log names it.
    """

    name: str
    tenant_type: TenantType
    currency: str
    locale: str
    created_by: str
    slug: str | None = None
    billing_email: str | None = None
    tax_region: str | None = None
    owner_user_id: UUID | None = None
    owner_email: str | None = None


@dataclass(frozen=True)
class SignedUp:
    """A tenant that was just made.

    Attributes:
        owner_token: of the invitation with which the owner chooses a password, where it has none.
    """

    tenant_id: UUID
    owner_token: str | None = field(default=None, repr=False)


async def sign_up(tx: Tx, new: NewTenant, at: datetime) -> SignedUp:
    """Make a tenant with owner and self customer, and tell everybody.

    Raises:
        SlugTakenError: the slug asked for is another's.
        people.TooManyTenantsError: the owner has as many as one may have.
    """
    owner_id = new.owner_user_id
    if owner_id is not None:
        await people.refuse_too_many(tx, owner_id)
    tenant_id = new_id()
    here = tx.scope
    await tx.enter(Scope((tenant_id,), None))
    slug = await _take_slug(tx, new)
    await enter(tx, new, slug, at)
    emit(
        tx,
        ConfigurationChanged(
            action="tenant.created",
            actor=new.created_by,
            object_id=str(tenant_id),
            after={"slug": slug, "type": new.tenant_type, "currency": new.currency},
        ),
        effective_at=at,
    )
    invited = None
    if new.owner_email is not None and owner_id is None:
        owner_id = await _owner(tx, new.owner_email, at)
        if not await people.is_settled(tx, new.owner_email):
            invited = await invitations.make_for_owner(tx, new.owner_email, new.created_by, at)
    if owner_id is not None:
        await people_store.insert_member(tx, owner_id, "owner", at)
    await snapshot.publish(tx, at)
    await tx.enter(here)
    return SignedUp(tenant_id, None if invited is None else invited.token)


async def _owner(tx: Tx, email: str, at: datetime) -> UUID | None:
    """The user that an operator named as the owner, entered when absent.

    None for an account that somebody opened under an e-mail which nobody has vouched for: it becomes
    the owner with the operator's invitation only.
    """
    account = await people_store.find_account(tx, email)
    if account is not None and account["password_hash"] and not account["email_proved"]:
        return None
    return await people.ensure_user(tx, email, at)


async def enter(tx: Tx, new: NewTenant, slug: str, at: datetime) -> None:
    """Enter the tenant in scope with its self customer, and tell that it was created.

    It is not published yet: whoever enters a tenant publishes it when all of it is there.
    """
    self_customer_id = new_id()
    await store.insert_tenant(
        tx,
        slug=slug,
        name=new.name,
        tenant_type=new.tenant_type,
        currency=new.currency,
        locale=new.locale,
        self_customer_id=self_customer_id,
        billing_email=new.billing_email,
        tax_region=new.tax_region,
        created_by=new.created_by,
        at=at,
    )
    here = tx.scope
    # A tenant begins in test mode.
    await tx.enter(Scope(here.tenants, "test"))
    emit(
        tx,
        TenantCreated(
            name=new.name,
            slug=slug,
            tenant_type=new.tenant_type,
            currency=new.currency,
            locale=new.locale,
            self_customer_id=self_customer_id,
        ),
        effective_at=at,
    )
    await tx.enter(here)


async def _take_slug(tx: Tx, new: NewTenant) -> str:
    """The slug asked for, or the first free one that resembles the name.

    A concurrent sign-up that tries the same slug waits here for the other's commit.
    """
    if new.slug is not None:
        if not await store.take_slug(tx, new.slug):
            raise SlugTakenError
        return new.slug
    for slug in slugs.candidates(new.name):
        if await store.take_slug(tx, slug):
            return slug
    raise SlugTakenError


async def follow_subscription(tx: Tx, fact: SubscriptionChanged, at: datetime) -> None:
    """Take a newer state of the subscription that the platform bills the tenant for."""
    if fact.billed_by != "platform" or not await store.keep_subscription(tx, fact):
        return
    tenant = await store.lock_tenant(tx)
    if tenant is None or tenant["self_customer_id"] != fact.customer_id:
        return
    await _follow_deciding(tx, tenant, at)


async def keep_active(tx: Tx, wanted: bool, at: datetime) -> None:
    """Hold the tenant in scope `active` whatever its subscription says, or let it follow again."""
    tenant = await store.lock_tenant(tx)
    if tenant is not None and tenant["always_active"] != wanted:
        await store.set_always_active(tx, wanted)
        await _follow_deciding(tx, {**tenant, "always_active": wanted}, at)


async def _follow_deciding(tx: Tx, tenant: Row, at: datetime) -> None:
    """Plan and status as the deciding subscription has them; where nothing changes, nothing."""
    deciding = await store.deciding_subscription(tx, tenant["self_customer_id"])
    plan_key, status = tenant["plan_key"], tenant["status"]
    if deciding is not None:
        plan_key, status = deciding["plan_key"], STATUS_OF_SUBSCRIPTION[deciding["status"]]
    if tenant["always_active"]:
        status = "active"
    if (tenant["plan_key"], tenant["status"]) == (plan_key, status):
        return
    await store.set_subscription(tx, plan_key=plan_key, status=status)
    if status != tenant["status"]:
        changed = TenantStatusChanged(from_status=tenant["status"], to_status=status)
        emit(tx, changed, effective_at=at)
    await snapshot.publish(tx, at)


async def link_customer(tx: Tx, fact: StripeCustomerLinked, at: datetime) -> None:
    """Remember the tenant itself as a customer in the platform's Stripe account.

    Customers of its own that pay there for want of another account are not told to everybody: there
    may be many, and their objects name the tenant.
    """
    if fact.account != PLATFORM_ACCOUNT:
        return
    tenant = await store.lock_tenant(tx)
    if tenant is not None and tenant["self_customer_id"] == fact.customer_id:
        await _link(tx, "customer", fact.stripe_customer_id, fact.customer_id, at)


async def link_subscription(tx: Tx, fact: StripeSubscriptionChanged, at: datetime) -> None:
    """Remember the tenant's subscription in the platform's Stripe account."""
    if fact.account == PLATFORM_ACCOUNT:
        await _link(tx, "subscription", fact.stripe_subscription_id, fact.customer_id, at)


async def _link(tx: Tx, kind: str, stripe_id: str, customer_id: UUID, at: datetime) -> None:
    linked = await store.link_stripe_object(tx, kind, stripe_id, customer_id, at)
    if linked and await store.lock_tenant(tx) is not None:
        await snapshot.publish(tx, at)


async def find(tx: Tx, mode: str) -> Row | None:
    """The tenant in scope, with its Stripe objects of this mode."""
    return await store.find_tenant(tx, mode)


async def list_all(tx: Tx, mode: str, after: tuple[datetime, UUID] | None, limit: int) -> list[Row]:
    """The tenants that the transaction may see, oldest first."""
    return await store.list_tenants(tx, mode, after, limit)
