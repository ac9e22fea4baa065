"""Users and their memberships. A user is one e-mail address; it belongs to no tenant."""

from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, cast
from uuid import UUID

from email_validator import EmailNotValidError, validate_email
from pydantic import AfterValidator, StringConstraints

from libs.db.pool import Tx
from libs.ids import new_id
from services.tenants import store_people as store
from services.tenants.roles import Role, permissions_of

EMAIL_LENGTH_MAX = 254
TENANTS_PER_USER_MAX = 50


class TooManyTenantsError(Exception):
    """The user is a member of as many tenants as one may be."""


def _normal_email(text: str) -> str:
    """The address in the form it is stored and compared in: lower case.

    Addresses of a house's own domains (`.local`, `.test`) are addresses too.
    """
    try:
        found = validate_email(
            text, check_deliverability=False, globally_deliverable=False, test_environment=True
        )
    except EmailNotValidError:
        raise ValueError("must be an e-mail address such as ada@example.com") from None
    email = found.normalized.lower()
    if len(email) > EMAIL_LENGTH_MAX:
        raise ValueError(f"must be at most {EMAIL_LENGTH_MAX} characters")
    return email


EmailAddress = Annotated[
    str,
    StringConstraints(strip_whitespace=True, min_length=3, max_length=EMAIL_LENGTH_MAX),
    AfterValidator(_normal_email),
]


@dataclass(frozen=True)
class Membership:
    """A user's place in a tenant."""

    tenant_id: UUID
    role: Role
    extra: frozenset[str] = frozenset()

    @property
    def all_permissions(self) -> frozenset[str]:
        """By the role, and beyond it."""
        return permissions_of(self.role, self.extra)


async def ensure_user(
    tx: Tx, email: str, at: datetime, *, name: str | None = None, password_hash: str | None = None
) -> UUID:
    """The user with this e-mail, entered if there is none; an existing one is left as it is.

    A user without a password cannot sign in.
    """
    user_id = new_id()
    if await store.insert_user(tx, user_id, email, name, password_hash, at):
        return user_id
    known = await store.find_account(tx, email)
    assert known is not None, "the e-mail is taken, so its user is there"
    return cast("UUID", known["user_id"])


async def memberships(tx: Tx, user_id: UUID) -> list[Membership]:
    """The user's memberships, the primary one first."""
    rows = await store.memberships(tx, user_id)
    return [
        Membership(row["tenant_id"], row["role"], frozenset(row["permissions"])) for row in rows
    ]


async def refuse_too_many(tx: Tx, user_id: UUID) -> None:
    """Keep a user within the tenants that one may be a member of.

    Raises:
        TooManyTenantsError: `TENANTS_PER_USER_MAX` are reached.
    """
    if len(await memberships(tx, user_id)) >= TENANTS_PER_USER_MAX:
        raise TooManyTenantsError


async def find_email(tx: Tx, user_id: UUID) -> str | None:
    """The e-mail of a user."""
    user = await store.find_user(tx, user_id)
    return None if user is None else cast("str", user["email"])


async def is_settled(tx: Tx, email: str) -> bool:
    """Whether the e-mail's user has a password and somebody has vouched for the e-mail."""
    account = await store.find_account(tx, email)
    return bool(account is not None and account["password_hash"] and account["email_proved"])


async def is_owner(tx: Tx, email: str) -> bool:
    """Whether the e-mail's user is an owner of the tenant in scope."""
    account = await store.find_account(tx, email)
    if account is None:
        return False
    places = await memberships(tx, account["user_id"])
    return any(each.tenant_id == tx.tenant_id and each.role == "owner" for each in places)
