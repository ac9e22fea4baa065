"""`/api/v1/billing/config`: the tenant's own Stripe keys, proved, kept sealed, never shown again."""

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import AliasChoices, Field, SecretStr

from libs.clock import utc_now
from libs.crypto.errors import MasterKeyUnavailableError, SecretStoreUnavailableError
from libs.db.pool import Tx
from libs.web.auth import Access, Gate, Requires
from libs.web.idempotency import idempotency_key, remember, request_hash, reserve
from libs.web.problems import (
    Conflict,
    Forbidden,
    InvalidFields,
    InvalidRequest,
    NotFound,
    Unavailable,
    problem_responses,
)
from services.tenants import (
    config_view,
    connection_states,
    connections,
    raw_keys,
    secrets,
    webhooks,
)
from services.tenants.answers import stamp
from services.tenants.bodies import StrictBody, TenantReference
from services.tenants.config_view import BillingConfigBody
from services.tenants.means import Means
from services.tenants.stripe_api import StripeError

router = APIRouter(tags=["stripe connection"])

Reader = Annotated[Access, Depends(Requires("billing:read"))]
Manager = Annotated[Access, Depends(Requires("billing:manage"))]

OVERLAP_SECONDS_MAX = int(raw_keys.OVERLAP_MAX.total_seconds())


def _either(snake: str, camel: str) -> Any:
    return AliasChoices(snake, camel)


class NewBillingConfigBody(StrictBody):
    """The tenant's own keys at Stripe. What is left out stays as it is."""

    tenant_id: TenantReference | None = Field(
        default=None, validation_alias=_either("tenant_id", "tenantId")
    )
    stripe_secret_key: SecretStr | None = Field(
        default=None,
        validation_alias=_either("stripe_secret_key", "stripeSecretKey"),
        min_length=1,
        max_length=500,
        description="sk_… or, restricted, rk_…; its mode is that of your API key.",
    )
    stripe_publishable_key: str | None = Field(
        default=None,
        validation_alias=_either("stripe_publishable_key", "stripePublishableKey"),
        min_length=1,
        max_length=500,
        description="pk_… of the same mode.",
    )
    webhook_secret: SecretStr | None = Field(
        default=None,
        validation_alias=_either("webhook_secret", "webhookSecret"),
        min_length=1,
        max_length=500,
        description="whsec_… of an endpoint you made yourself; without it Sluice makes one.",
    )
    confirm_account_change: bool = Field(
        default=False,
        validation_alias=_either("confirm_account_change", "confirmAccountChange"),
        description="The key belongs to another account than before, and that is meant.",
    )
    overlap_seconds: int = Field(
        default=OVERLAP_SECONDS_MAX,
        validation_alias=_either("overlap_seconds", "overlapSeconds"),
        ge=0,
        le=OVERLAP_SECONDS_MAX,
        description="How long the secrets that are replaced stay in use where they are needed.",
    )


class BillingConfigChange(StrictBody):
    """Switching the connection off and on again; its keys are kept."""

    is_active: bool = Field(validation_alias=_either("is_active", "isActive"))


class WebhookRotationBody(StrictBody):
    """How a webhook is registered anew."""

    overlap_seconds: int = Field(
        default=OVERLAP_SECONDS_MAX,
        ge=0,
        le=OVERLAP_SECONDS_MAX,
        description="How long the webhook before goes on to be taken.",
    )


class _Digest(StrictBody):
    """What makes two requests the same, without their secrets."""

    body: NewBillingConfigBody
    secrets: tuple[str, ...]


@router.post(
    "/api/v1/billing/config",
    status_code=201,
    response_model=BillingConfigBody,
    responses={
        200: {"model": BillingConfigBody, "description": "It was there and is changed."},
        **problem_responses(InvalidRequest, Forbidden, Conflict, Unavailable),
    },
)
async def set_billing_config(
    request: Request, body: NewBillingConfigBody, access: Manager
) -> JSONResponse:
    """Keep the tenant's own Stripe keys, after a real call has proved them; a rotation likewise."""
    gate: Gate = request.app.state.gate
    means: Means = request.app.state.means
    access = await gate.for_tenant(request, access, body.tenant_id)
    presented = _presented(body)
    proof = await _prove(means, presented, access)
    new = await _keep(means, presented, access)
    change = raw_keys.Change(
        presented=presented,
        proof=proof,
        secrets=new,
        actor=access.caller.actor,
        overlap=timedelta(seconds=body.overlap_seconds),
        confirm_account_change=body.confirm_account_change,
    )
    saved: raw_keys.Saved | None = None
    name = idempotency_key(request)
    try:
        async with means.database.tenant(access.tenant_id, access.mode) as tx:
            stored = None
            if name is not None:
                digest = _Digest(body=body, secrets=tuple(each.fingerprint for each in new))
                stored = await reserve(tx, access, name, request_hash(request, digest))
            if stored is None:
                saved = await _save(tx, change)
                status = 201 if saved.created else 200
                shown = await config_view.read(tx, saved.connection)
                if name is not None:
                    await remember(tx, access, name, status, shown.model_dump(mode="json"))
    finally:
        for each in new if saved is None else saved.unused:
            await secrets.discard(means.sealer, access.tenant_id, each)
    if stored is not None or saved is None:
        return _answer(stored)
    url = webhooks.url_of(means, saved.webhook_token) if saved.webhook_token else None
    if saved.connection["webhook_state"] == "wanted":
        url = await webhooks.register(means, access.tenant_id, access.mode)
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        shown = await config_view.read(tx, await connections.find(tx), webhook_url=url)
    answer = _answer(JSONResponse(shown.model_dump(mode="json"), 201 if saved.created else 200))
    await stamp(answer, means.database, access.tenant_id)
    return answer


@router.post("/api/billing/config", status_code=201, response_model=BillingConfigBody)
async def set_billing_config_alias(
    request: Request, body: NewBillingConfigBody, access: Manager
) -> JSONResponse:
    """The same as `POST /api/v1/billing/config`."""
    return await set_billing_config(request, body, access)


@router.get("/api/v1/billing/config", responses=problem_responses(NotFound))
async def get_billing_config(request: Request, access: Reader) -> BillingConfigBody:
    """The tenant's own Stripe account in this mode: what names its secrets, never the secrets."""
    means: Means = request.app.state.means
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        return await config_view.read(tx, await _found(tx))


@router.get("/api/billing/config", responses=problem_responses(NotFound))
async def get_billing_config_alias(request: Request, access: Reader) -> BillingConfigBody:
    """The same as `GET /api/v1/billing/config`."""
    return await get_billing_config(request, access)


@router.patch(
    "/api/v1/billing/config",
    response_model=BillingConfigBody,
    responses=problem_responses(NotFound, Forbidden),
)
async def change_billing_config(
    request: Request, body: BillingConfigChange, access: Manager
) -> JSONResponse:
    """Switch the tenant's own account off or on again; everywhere within two seconds."""
    means: Means = request.app.state.means
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        await _found(tx)
        await connection_states.set_active(tx, body.is_active, access.caller.actor, utc_now())
        shown = await config_view.read(tx, await _found(tx))
    answer = JSONResponse(shown.model_dump(mode="json"))
    await stamp(answer, means.database, access.tenant_id)
    return answer


@router.post(
    "/api/v1/billing/config/webhook",
    status_code=202,
    response_model=BillingConfigBody,
    responses=problem_responses(NotFound, Forbidden, Conflict),
)
async def rotate_webhook(
    request: Request, access: Manager, body: WebhookRotationBody | None = None
) -> JSONResponse:
    """Register the webhook that Sluice made at Stripe anew: a new address and a new secret."""
    means: Means = request.app.state.means
    overlap = timedelta(seconds=(body or WebhookRotationBody()).overlap_seconds)
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        await _found(tx)
        try:
            wanted = await webhooks.want_another(
                tx, access.caller.actor, utc_now(), overlap=overlap
            )
        except secrets.OverlapError as error:
            raise _roll_under_way(error) from None
    if not wanted:
        raise Conflict(
            "Sluice did not register this webhook. Roll its secret in Stripe's dashboard and send the "
            "new one as `webhook_secret` to POST /api/v1/billing/config.",
            code="webhook_not_ours",
        )
    url = await webhooks.register(means, access.tenant_id, access.mode)
    async with means.database.tenant(access.tenant_id, access.mode) as tx:
        shown = await config_view.read(tx, await _found(tx), webhook_url=url)
    answer = _answer(JSONResponse(shown.model_dump(mode="json"), 202))
    await stamp(answer, means.database, access.tenant_id)
    return answer


async def _found(tx: Tx) -> Any:
    row = await connections.find(tx)
    if row is None:
        raise NotFound(
            "This tenant has no Stripe account of its own in this mode yet. Connect one with "
            "POST /api/v1/connect/start, or give its keys to POST /api/v1/billing/config."
        )
    return row


def _presented(body: NewBillingConfigBody) -> raw_keys.Presented:
    key, webhook = body.stripe_secret_key, body.webhook_secret
    return raw_keys.Presented(
        secret_key=key.get_secret_value() if key else None,
        publishable_key=body.stripe_publishable_key,
        webhook_secret=webhook.get_secret_value() if webhook else None,
    )


async def _prove(
    means: Means, presented: raw_keys.Presented, access: Access
) -> raw_keys.Proof | None:
    """What Stripe says to the key, outside of any transaction."""
    try:
        raw_keys.check(presented, access.mode)
        if presented.secret_key is None:
            return None
        return await raw_keys.prove(means.stripe, presented.secret_key)
    except raw_keys.BadKeysError as error:
        raise InvalidRequest(str(error), code=error.code) from None
    except StripeError:
        raise Unavailable(
            "Stripe cannot be asked about this key right now, so nothing was changed. Try again "
            "shortly.",
            code="stripe_unavailable",
        ) from None


async def _keep(
    means: Means, presented: raw_keys.Presented, access: Access
) -> tuple[secrets.NewSecret, ...]:
    """The secrets sealed, or put into the store outside."""
    kept: list[secrets.NewSecret] = []
    pepper = means.settings.key_pepper_bytes
    try:
        if presented.secret_key is not None:
            kept.append(
                await secrets.keep(
                    means.sealer,
                    access.tenant_id,
                    access.mode,
                    "stripe_secret_key",
                    presented.secret_key,
                    pepper=pepper,
                    at=utc_now(),
                )
            )
        if presented.webhook_secret is not None:
            kept.append(
                await secrets.keep(
                    means.sealer,
                    access.tenant_id,
                    access.mode,
                    "stripe_webhook_secret",
                    presented.webhook_secret,
                    pepper=pepper,
                    at=utc_now(),
                )
            )
    except (MasterKeyUnavailableError, SecretStoreUnavailableError):
        for each in kept:
            await secrets.discard(means.sealer, access.tenant_id, each)
        raise Unavailable(
            "Secrets cannot be sealed right now, so nothing was kept. Try again shortly."
        ) from None
    return tuple(kept)


async def _save(tx: Tx, change: raw_keys.Change) -> raw_keys.Saved:
    try:
        return await raw_keys.save(tx, change, utc_now())
    except raw_keys.NothingToKeepError:
        raise InvalidFields(
            "Give `stripe_secret_key`: no key of this tenant is kept yet."
        ) from None
    except raw_keys.AccountDiffersError:
        raise Conflict(
            "This key belongs to another Stripe account than the one connected. If the tenant is to "
            "move there, send the same request with `confirm_account_change: true`: payments go to "
            "the new account from then on, and the history of the old one stays.",
            code="stripe_account_differs",
        ) from None
    except raw_keys.AccountUnknownError:
        raise Conflict(
            "This restricted key may not read its account, so it may belong to another one. Give it "
            "read access to the account, or send `confirm_account_change: true`: the account before is "
            "left then, and payments wait until the key may read its own.",
            code="stripe_account_unknown",
        ) from None
    except secrets.OverlapError as error:
        raise _roll_under_way(error) from None
    except raw_keys.AccountTakenError:
        raise Conflict(
            "This Stripe account is connected to another tenant. Disconnect it there first, or use "
            "another account.",
            code="stripe_account_taken",
        ) from None


def _roll_under_way(error: secrets.OverlapError) -> Conflict:
    return Conflict(
        "The webhook secret was replaced lately, and the one before stays good until "
        f"{error.until:%Y-%m-%dT%H:%M:%SZ}, as was promised. Wait until then, or send "
        "`overlap_seconds: 0`: all but the new one stop at once.",
        code="webhook_roll_under_way",
    )


def _answer(answer: JSONResponse | None) -> JSONResponse:
    assert answer is not None, "there is an answer"
    answer.headers["Cache-Control"] = "no-store"
    return answer
