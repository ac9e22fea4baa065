"""People's e-mails and names: sealed on their way in, opened on their way out, nowhere in the clear.

An account's stand under the person's own key. The e-mail of an invitation, and of a tenant's bills,
stands under a key of that row: there may be no account, and the row is what is erased.

The composition root unlocks them once per process; stores call `keys()`.
"""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from libs.crypto.personal import Fields, PersonalKeys
from libs.db.pool import Row

_UNLOCKED: list[PersonalKeys] = []


def unlock(pepper: bytes) -> None:
    """Let this process read and write personal data; called by `app.build`."""
    _UNLOCKED[:] = [PersonalKeys(pepper)]


def keys() -> PersonalKeys:
    """What personal data of this installation is sealed, opened and found with."""
    assert _UNLOCKED, "app.build unlocks personal data"
    return _UNLOCKED[0]


def opened(row: Row) -> dict[str, Any]:
    """A row of a person with `email` and `name` in the clear instead of what they are sealed in.

    Both are None of a person that was erased. A row from before sealing has them already.
    """
    person = dict(row)
    sealed, wrapped = person.pop("personal"), person.pop("wrapped")
    if sealed is not None and wrapped is not None:
        fields = keys().open(bytes(sealed), bytes(wrapped), person["user_id"])
        person["email"], person["name"] = fields["email"], fields["name"]
    return person


@dataclass(frozen=True)
class SealedEmail:
    """An e-mail as a row holds it: found by its digest, sealed under the key beside it."""

    digest: bytes | None
    personal: bytes | None
    wrapped: bytes | None


NO_EMAIL = SealedEmail(None, None, None)


def seal_email(email: str | None, row_id: UUID) -> SealedEmail:
    """An e-mail sealed for one row, under a key of the row's own."""
    if email is None:
        return NO_EMAIL
    wrapped = keys().new_key(row_id)
    sealed = keys().seal({"email": email}, wrapped, row_id)
    return SealedEmail(keys().digest(email.lower()), sealed, wrapped)


def invited(row: Row) -> dict[str, Any]:
    """A row of an invitation with its `email` in the clear."""
    invitation = dict(row)
    sealed, wrapped = invitation.pop("personal"), invitation.pop("wrapped")
    del invitation["email_digest"]
    if sealed is not None and wrapped is not None:
        invitation["email"] = _email(sealed, wrapped, invitation["invitation_id"])
    return invitation


def billed(row: Row) -> dict[str, Any]:
    """A row of a tenant with its `billing_email` in the clear."""
    tenant = dict(row)
    sealed, wrapped = tenant.pop("billing_personal"), tenant.pop("billing_wrapped")
    del tenant["billing_email_digest"]
    if sealed is not None and wrapped is not None:
        tenant["billing_email"] = _email(sealed, wrapped, tenant["tenant_id"])
    return tenant


def _email(sealed: bytes, wrapped: bytes, row_id: UUID) -> str | None:
    return keys().open(bytes(sealed), bytes(wrapped), row_id)["email"]


def of_account(email: str, name: str | None) -> Fields:
    """What is sealed of an account."""
    return {"email": email, "name": name}
