"""Which user somebody is who was identified elsewhere.

An identity that is known decides alone. An unknown one needs an e-mail that its provider has verified
and belongs to that e-mail's user from then on. Where nobody had vouched for that user's e-mail
before, whoever opened the account may be somebody else: its password and its sessions end (the
"pre-hijacking" of Sudhodanan and Paverd, 2022).
"""

from datetime import datetime
from uuid import UUID

from pydantic import TypeAdapter, ValidationError

from libs.db.pool import Tx
from libs.ids import new_id
from services.tenants import sessions
from services.tenants import store_identities as store
from services.tenants import store_people as people_store
from services.tenants.oidc import Identity, OidcError
from services.tenants.people import EmailAddress

_EMAIL: TypeAdapter[str] = TypeAdapter(EmailAddress)


async def user_of(tx: Tx, identity: Identity, at: datetime) -> UUID:
    """The user, entered where the e-mail has none.

    Raises:
        OidcError: the e-mail is not verified, or its user is somebody else at this provider.
    """
    known = await store.find_user(tx, identity.issuer, identity.subject)
    if known is not None:
        return known
    user_id = await _by_email(tx, identity, at)
    if not await store.insert_identity(tx, identity.issuer, identity.subject, user_id, at):
        raise OidcError("sign_in_failed")
    await people_store.insert_email_proof(tx, user_id, at)
    return user_id


async def _by_email(tx: Tx, identity: Identity, at: datetime) -> UUID:
    if identity.email is None:
        raise OidcError("email_unverified")
    try:
        email = _EMAIL.validate_python(identity.email)
    except ValidationError:
        raise OidcError("email_unverified") from None
    account = await people_store.find_account(tx, email)
    if account is None:
        new_user_id = new_id()
        if not await people_store.insert_user(tx, new_user_id, email, identity.name, None, at):
            raise OidcError("sign_in_failed")
        return new_user_id
    user_id: UUID = account["user_id"]
    if await store.has_identity(tx, user_id, identity.issuer):
        # An address that was given to somebody else does not bring the account along.
        raise OidcError("email_taken")
    if not account["email_proved"]:
        await people_store.insert_password(tx, new_id(), user_id, None, at)
        await sessions.end_all(tx, user_id, at)
    return user_id
