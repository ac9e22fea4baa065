"""Taking a webhook in: verify, read, find its tenant, keep it."""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import structlog

from libs.clock import utc_now
from libs.contracts.envelope import Mode
from libs.contracts.stripe_sync import PLATFORM_ACCOUNT
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.directory.local import Directory, Tenant
from libs.messaging.key_use import KEY_USES
from services.gateway import keeping, signature
from services.gateway.arrivals import Arrivals
from services.gateway.endpoints import EndpointSecret, TenantEndpoint
from services.gateway.keeping import UNKNOWN_ACCOUNT, Outcome, Place, Taken
from services.gateway.stripe_event import StripeEvent, parse

log = structlog.get_logger()


class EndpointClosedError(Exception):
    """No secret is configured, so nothing can be verified."""


class SignatureRefusedError(Exception):
    """The signature is missing, wrong or outside the tolerance."""


class OtherAccountError(Exception):
    """A tenant's secret signed an event that names an account which is not the tenant's."""


class Webhook(msgspec.Struct, frozen=True):
    """A request as it came: raw bytes and the headers worth keeping."""

    body: bytes
    signature_header: bytes | None
    headers: Mapping[str, str]


async def take(
    webhook: Webhook,
    secrets: Sequence[EndpointSecret],
    arrivals: Arrivals,
    directory: Directory,
) -> Outcome:
    """Verify and keep one webhook of the platform's URL; when this returns, the event is durable.

    Raises:
        EndpointClosedError: no secret is configured.
        SignatureRefusedError: not signed by Stripe, or too long ago, or in the future.
        NotAnEventError: signed, but not an event.
        OSError and its kin: Postgres is away; nothing was kept and Stripe must try again.
    """
    matched = _verify(webhook, [secret.value for secret in secrets], closed=not secrets)
    event = parse(webhook.body)
    signers = [secrets[place] for place in matched]
    reason = _quarantine_reason(event, signers)
    mode = signers[0].mode if reason == "livemode_mismatch" else event.mode
    tenant = None
    if reason is None and event.account is not None:
        tenant = await directory.find("account", f"{mode}:{event.account}")
        reason = UNKNOWN_ACCOUNT if tenant is None else None
    place = None
    if reason is not None:
        place = Place(PLATFORM_TENANT_ID, "unassigned")
    elif tenant is not None:
        _note_use(tenant, mode, event)
        place = Place(tenant.id, "account")
    taken = _taken(webhook, event, event.account or PLATFORM_ACCOUNT, reason)
    return await arrivals.keep(taken, mode, place)


async def take_for_tenant(
    webhook: Webhook,
    endpoint: TenantEndpoint | None,
    arrivals: Arrivals,
    admit: Callable[[TenantEndpoint], None],
) -> Outcome:
    """The same at the URL of a tenant's own account; the account is the URL's, not the body's.

    Args:
        endpoint: None where the URL is nobody's: answered like a wrong signature.
        admit: raises where the endpoint has had too much; only asked of what the tenant's secret
            signed, so that no stranger can use up what is the tenant's.

    Raises:
        SignatureRefusedError, NotAnEventError, OSError and its kin: see `take`.
        OtherAccountError: the event names an account that is not the endpoint's.
    """
    found = endpoint.secrets if endpoint else ()
    matched = _verify(webhook, [secret.value for secret in found])
    assert endpoint is not None, "only a secret of an endpoint can have signed"
    admit(endpoint)
    event = parse(webhook.body)
    if event.account not in (None, endpoint.account):
        async with arrivals.database.tenant(endpoint.tenant_id, endpoint.mode) as tx:
            keeping.raise_alarm(tx, "stripe_event_of_another_account", event)
        log.error("webhook_of_another_account", account=endpoint.account, named=event.account)
        raise OtherAccountError
    KEY_USES.note(
        endpoint.tenant_id,
        endpoint.mode,
        "stripe_webhook_secret",
        endpoint.connection_id,
        version=found[matched[0]].version,
    )
    reason = None if event.mode == endpoint.mode else "livemode_mismatch"
    place = Place(endpoint.tenant_id, "account" if reason is None else "unassigned")
    taken = _taken(webhook, event, endpoint.account, reason)
    return await arrivals.keep(taken, endpoint.mode, place)


def _verify(webhook: Webhook, secrets: Sequence[bytes], *, closed: bool = False) -> tuple[int, ...]:
    """The places of the secrets that signed; as long over nothing as over a wrong signature."""
    verdict = signature.verify(
        webhook.signature_header, webhook.body, secrets, int(utc_now().timestamp())
    )
    if closed:
        raise EndpointClosedError
    if verdict.outcome != "valid":
        log.warning("webhook_refused", reason=verdict.outcome, bytes=len(webhook.body))
        raise SignatureRefusedError(verdict.outcome)
    return verdict.matched


def _note_use(tenant: Tenant, mode: Mode, event: StripeEvent) -> None:
    """A webhook of a connected account came, signed with the platform's secret (version 0)."""
    connection = tenant.connection(mode)
    if connection is not None and connection.account_id == event.account:
        KEY_USES.note(tenant.id, mode, "stripe_webhook_secret", connection.connection_id, version=0)


def _quarantine_reason(event: StripeEvent, signers: Sequence[EndpointSecret]) -> str | None:
    """Why a signed event is kept aside: its account or mode is not what the secret stands for."""
    if all(event.mode not in signer.modes for signer in signers):
        return "livemode_mismatch"
    wanted = "platform" if event.account is None else "connect"
    if any(signer.scope == wanted and event.mode in signer.modes for signer in signers):
        return None
    return "account_missing" if event.account is None else "account_unexpected"


def _taken(webhook: Webhook, event: StripeEvent, account: str, reason: str | None) -> Taken:
    return Taken(event, account, webhook.body, webhook.headers, utc_now(), reason)
