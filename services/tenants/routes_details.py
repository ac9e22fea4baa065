"""`PUT /api/v1/tenants/{tenant}`: makes a tenant under a slug, or changes what people may change."""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field

from libs.clock import utc_now
from libs.contracts.tenants import TenantType
from libs.db.pool import Database
from libs.directory.local import Directory
from libs.ids import parse_uuid
from libs.money import Currency
from libs.web.auth import ANYONE_SIGNED_IN, Access, Gate, Requires
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    PreconditionFailed,
    problem_responses,
)
from services.tenants import details, people, slugs
from services.tenants.answers import stamp
from services.tenants.bodies import Name, StrictBody, TenantPath
from services.tenants.people import EmailAddress
from services.tenants.routes_tenants import (
    Locale,
    NewTenantBody,
    TaxRegion,
    TenantBody,
    TenantSettings,
    create_tenant,
    read_tenant,
    tenant_body,
)

router = APIRouter(tags=["tenants"])

PERMISSION: Literal["tenants:manage"] = "tenants:manage"

AnyoneAnywhere = Annotated[Access, Depends(Requires(ANYONE_SIGNED_IN, path_names_tenant=False))]


class TenantDetailsBody(StrictBody):
    """A tenant to make or to change; what is left out of a change stays as it is."""

    name: Name
    type: TenantType | None = Field(default=None, description="Settled when the tenant is made.")
    owner_email: EmailAddress | None = Field(
        default=None, description="For operators who make a tenant; later it must be an owner's."
    )
    currency: Currency | None = Field(
        default=None, description="Until the tenant has bought something."
    )
    locale: Locale | None = None
    tax_region: TaxRegion | None = None
    settings: TenantSettings | None = None


@router.put(
    "/api/v1/tenants/{tenant}",
    response_model=TenantBody,
    responses=problem_responses(Forbidden, NotFound, Conflict, PreconditionFailed)
    | {201: {"model": TenantBody, "description": "Made"}},
)
async def put_tenant(
    request: Request, tenant: TenantPath, body: TenantDetailsBody, access: AnyoneAnywhere
) -> JSONResponse:
    """Make the tenant with this slug, or change the one there is; again: nothing happens.

    `If-Match` with the `ETag` that was read refuses to overwrite what somebody else changed
    meanwhile; `If-None-Match: *` only makes, and changes nothing.
    """
    directory: Directory = request.app.state.directory
    gate: Gate = request.app.state.gate
    if await directory.by_reference(tenant) is None:
        made = await _make(request, tenant, body, access)
        if made is not None:
            return made
        # Somebody made it a moment ago, and this service's own directory has not heard of it yet.
        await directory.wait_for("slug", tenant.lower())
    if request.headers.get("if-none-match") == "*":
        raise PreconditionFailed("There is such a tenant. Leave `If-None-Match` out to change it.")
    access = await gate.for_tenant(request, access, tenant)
    if not access.caller.may(PERMISSION):
        await gate.refuse(request, access, PERMISSION)
    return await _change(request, body, access)


@router.put("/api/tenants/{tenant}", response_model=TenantBody)
async def put_tenant_alias(
    request: Request, tenant: TenantPath, body: TenantDetailsBody, access: AnyoneAnywhere
) -> JSONResponse:
    """The same as `PUT /api/v1/tenants/{tenant}`."""
    return await put_tenant(request, tenant, body, access)


async def _make(
    request: Request, reference: str, body: TenantDetailsBody, access: Access
) -> JSONResponse | None:
    """The answer to a tenant that was made; None where the slug is taken after all."""
    if parse_uuid(reference) is not None:
        raise NotFound("There is no such tenant. To make one, name a slug.")
    if request.headers.get("if-match") is not None:
        raise PreconditionFailed("There is no such tenant. Leave `If-Match` out to make it.")
    try:
        slug = slugs.check(reference)
    except slugs.InvalidSlugError as error:
        problem = FieldProblem(field="path.tenant", detail=str(error))
        raise InvalidFields(fields=[problem]) from None
    given = {
        field: getattr(body, field)
        for field in body.model_fields_set
        if getattr(body, field) is not None
    }
    new = NewTenantBody.model_validate(given | {"slug": slug})
    try:
        return await create_tenant(request, new, access)
    except Conflict as conflict:
        if conflict.code != "slug_taken":
            raise
        return None


async def _change(request: Request, body: TenantDetailsBody, access: Access) -> JSONResponse:
    database: Database = request.app.state.database
    wanted = _wanted(body)
    try:
        async with database.tenant(access.tenant_id, None) as tx:
            row = await read_tenant(tx, access.tenant_id, access.mode)
            if body.type is not None and body.type != row["type"]:
                sentence = "The type of a tenant is settled. Leave `type` out."
                raise Conflict(sentence, code="type_settled")
            if body.owner_email is not None and not await people.is_owner(tx, body.owner_email):
                sentence = "Owners are changed under `/api/v1/members`. Leave `owner_email` out."
                raise Conflict(sentence, code="owner_settled")
            await details.change(
                tx,
                wanted,
                expected=request.headers.get("if-match"),
                actor=access.caller.actor,
                at=utc_now(),
            )
            row = await read_tenant(tx, access.tenant_id, access.mode)
    except details.ChangedMeanwhileError:
        raise PreconditionFailed from None
    except details.CurrencySettledError:
        raise Conflict(
            "The tenant has bought something in its currency, which stays. Leave `currency` out.",
            code="currency_settled",
        ) from None
    answer = JSONResponse(
        tenant_body(row).model_dump(mode="json"), headers={"ETag": details.etag_of(row)}
    )
    await stamp(answer, database, access.tenant_id)
    return answer


def _wanted(body: TenantDetailsBody) -> dict[str, str | None]:
    """What was named. A region or an e-mail may be taken away with null, nothing else."""
    wanted: dict[str, str | None] = {"name": body.name}
    if body.locale is not None:
        wanted["locale"] = body.locale
    if body.currency is not None:
        wanted["currency"] = body.currency
    if "tax_region" in body.model_fields_set:
        wanted["tax_region"] = body.tax_region
    if body.settings is not None and "billing_email" in body.settings.model_fields_set:
        wanted["billing_email"] = body.settings.billing_email
    return wanted
