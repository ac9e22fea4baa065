"""`/api/v1/tenants`: sign up, read, list, and the gate that product code asks."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, Request, Response
from fastapi.responses import JSONResponse
from pydantic import AfterValidator, BaseModel, Field, StringConstraints

from libs.clock import utc_now
from libs.contracts.tenants import TenantStatus, TenantType
from libs.db.pool import Database, Row, Tx
from libs.db.tenant import Scope
from libs.ids import parse_public_id, public_id
from libs.money import Currency
from libs.web.auth import ANYONE_SIGNED_IN, OPERATOR, Access, Caller, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import Conflict, Forbidden, NotFound, problem_responses
from services.tenants import details, people, slugs, tenancy
from services.tenants.answers import stamp
from services.tenants.answers_sealed import Shown, answer_sealed_once
from services.tenants.bodies import Name, StrictBody, TenantPath
from services.tenants.people import EmailAddress
from services.tenants.routes_invitations import address_of
from services.tenants.settings import Settings

router = APIRouter(tags=["tenants"])

SignedIn = Annotated[Access, Depends(Requires(ANYONE_SIGNED_IN))]
Reader = Annotated[Access, Depends(Requires("tenants:read"))]
PageWanted = Annotated[PageRequest, Depends(page_request)]

Locale = Annotated[
    str,
    StringConstraints(max_length=35, pattern=r"^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*$"),
    Field(description="A BCP 47 language tag.", examples=["en", "de-CH"]),
]


TaxRegion = Annotated[
    str,
    StringConstraints(to_upper=True, max_length=6, pattern=r"^[A-Za-z]{2}(-[A-Za-z0-9]{1,3})?$"),
    Field(description="ISO 3166: a country, or a part of one.", examples=["DE", "US-CA"]),
]


class TenantSettings(StrictBody):
    """Settings of a tenant; there are no others."""

    billing_email: EmailAddress | None = None


class NewTenantBody(StrictBody):
    """A tenant to sign up; only `name` is required."""

    name: Name
    type: TenantType = "organization"
    slug: Annotated[str, AfterValidator(slugs.check), Field(max_length=100)] | None = Field(
        default=None, description="Derived from the name, and made unique, where absent."
    )
    owner_email: EmailAddress | None = Field(
        default=None, description="For operators; a signed-in user is the owner of what it makes."
    )
    currency: Currency | None = None
    locale: Locale = "en"
    tax_region: TaxRegion | None = None
    settings: TenantSettings = TenantSettings()


class TenantBody(BaseModel):
    """A tenant. The Stripe objects are those of the caller's mode."""

    id: UUID
    slug: str
    name: str
    type: TenantType
    status: TenantStatus
    plan_key: str | None
    currency: str
    locale: str
    tax_region: str | None
    settings: TenantSettings
    self_customer_id: str
    stripe_customer_id: str | None
    stripe_subscription_id: str | None
    stripe_account_id: str | None = Field(description="The tenant's own account at Stripe.")
    stripe_onboarding_status: Literal["NOT_CONNECTED", "PENDING", "CONNECTED", "REVOKED"]
    stripe_account_type: Literal["CONNECT_STANDARD", "CONNECT_EXPRESS", "RAW_KEYS"] | None
    version: int = Field(description="Of the tenant's record in every service's directory.")
    created_by: str
    created_at: datetime
    updated_at: datetime


class MadeTenantBody(TenantBody):
    """A tenant that was just made."""

    owner_invitation_url: str | None = Field(
        description="Where the owner an operator named chooses a password; hand it over. Null where "
        "none is needed. In this answer only: the same request sent again within a day under the "
        "same `Idempotency-Key` gets it again."
    )


class TenantStatusBody(BaseModel):
    """Whether the product should serve the tenant, and on which plan."""

    tenant_id: UUID
    status: TenantStatus
    plan_key: str | None


@router.post(
    "/api/v1/tenants",
    status_code=201,
    response_model=MadeTenantBody,
    responses=problem_responses(Forbidden, Conflict),
)
async def create_tenant(request: Request, body: NewTenantBody, access: SignedIn) -> JSONResponse:
    """Sign a tenant up: owner, self customer, free plan and accounts follow by themselves."""
    gate: Gate = request.app.state.gate
    settings: Settings = request.app.state.settings
    owner_user_id = await _owner(gate, request, access, body)
    new = _new_tenant(body, access.caller, owner_user_id, settings)

    async def work(tx: Tx) -> Shown:
        made = await tenancy.sign_up(tx, new, utc_now())
        token = made.owner_token
        url = None if token is None else address_of(settings, token)
        return tenant_body(await read_tenant(tx, made.tenant_id, access.mode)), url

    try:
        answer = await answer_sealed_once(
            request, access, body, work, field="owner_invitation_url", personal=("settings",)
        )
    except tenancy.SlugTakenError:
        raise Conflict("Another tenant has this slug. Choose another.", code="slug_taken") from None
    except people.TooManyTenantsError:
        raise Conflict(
            f"One user is a member of at most {people.TENANTS_PER_USER_MAX} tenants. "
            "Ask an operator for more.",
            code="too_many_tenants",
        ) from None
    await stamp(answer, request.app.state.database, _id_of(answer))
    return answer


@router.post("/api/tenants", status_code=201, response_model=MadeTenantBody)
async def create_tenant_alias(
    request: Request, body: NewTenantBody, access: SignedIn
) -> JSONResponse:
    """The same as `POST /api/v1/tenants`."""
    return await create_tenant(request, body, access)


@router.get("/api/v1/tenants")
async def list_tenants(request: Request, access: Reader, page: PageWanted) -> Page[TenantBody]:
    """The caller's tenants, oldest first; an operator who names none sees all of them."""
    database: Database = request.app.state.database
    position = page.after(datetime, UUID)
    after = (position[0], position[1]) if position else None
    if access.whole_platform:
        async with database.maintenance() as tx:
            rows = await tenancy.list_all(tx, access.mode, after, page.limit + 1)
    else:
        async with database.tenant(access.tenant_id, None) as tx:
            await tx.enter(Scope(await _own_tenants(tx, access), None))
            rows = await tenancy.list_all(tx, access.mode, after, page.limit + 1)
    return Page[TenantBody].of(
        rows, page.limit, lambda row: (row["created_at"], row["tenant_id"]), tenant_body
    )


@router.get("/api/tenants")
async def list_tenants_alias(
    request: Request, access: Reader, page: PageWanted
) -> Page[TenantBody]:
    """The same as `GET /api/v1/tenants`."""
    return await list_tenants(request, access, page)


@router.get("/api/v1/tenants/{tenant}", responses=problem_responses(NotFound))
async def get_tenant(
    request: Request,
    access: Reader,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    response: Response,
) -> TenantBody:
    """One tenant, by id or slug; its `ETag` is that of what people may change."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, None) as tx:
        row = await read_tenant(tx, access.tenant_id, access.mode)
    response.headers["ETag"] = details.etag_of(row)
    return tenant_body(row)


@router.get("/api/tenants/{tenant}", responses=problem_responses(NotFound))
async def get_tenant_alias(
    request: Request, access: Reader, tenant: TenantPath, response: Response
) -> TenantBody:
    """The same as `GET /api/v1/tenants/{tenant}`."""
    return await get_tenant(request, access, tenant, response)


@router.get("/api/v1/tenants/{tenant}/status", responses=problem_responses(NotFound))
async def get_tenant_status(
    access: SignedIn,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
) -> TenantStatusBody:
    """The gate of product code: one cheap call, answered from memory, at most two seconds old."""
    snapshot = access.tenant.snapshot
    return TenantStatusBody(
        tenant_id=access.tenant_id, status=snapshot.status, plan_key=snapshot.plan_key
    )


async def _owner(gate: Gate, request: Request, access: Access, body: NewTenantBody) -> UUID | None:
    """The signed-in user whose tenant it will be; None where an operator names the owner, or none.

    Raises:
        Forbidden: the caller may not make tenants, or not for the owner named.
    """
    caller = access.caller
    if caller.operator:
        return None
    if caller.role is None:
        sentence = "Tenants are made by operators, or by a signed-in user for itself."
        await gate.refuse(request, access, OPERATOR, sentence)
    user_id = parse_public_id("user", caller.actor)
    if body.owner_email is not None:
        async with gate.database.transaction() as tx:
            own_email = await people.find_email(tx, user_id)
        if own_email != body.owner_email:
            sentence = "Only operators make tenants for others. Leave `owner_email` out."
            await gate.refuse(request, access, OPERATOR, sentence)
    return user_id


def _new_tenant(
    body: NewTenantBody, caller: Caller, owner_user_id: UUID | None, settings: Settings
) -> tenancy.NewTenant:
    return tenancy.NewTenant(
        name=body.name,
        tenant_type=body.type,
        currency=body.currency or settings.default_currency,
        locale=body.locale,
        created_by=caller.actor,
        slug=body.slug,
        billing_email=body.settings.billing_email,
        tax_region=body.tax_region,
        owner_user_id=owner_user_id,
        owner_email=body.owner_email,
    )


async def _own_tenants(tx: Tx, access: Access) -> tuple[UUID, ...]:
    """The tenant the request is for; a person who names none has all of its own."""
    if access.named or access.caller.role is None:
        return (access.tenant_id,)
    user_id = parse_public_id("user", access.caller.actor)
    return tuple(each.tenant_id for each in await people.memberships(tx, user_id))


async def read_tenant(tx: Tx, tenant_id: UUID, mode: str) -> Row:
    """A tenant as `tenant_body` shows it, whatever the scope.

    Raises:
        NotFound: there is none.
    """
    here = tx.scope
    await tx.enter(Scope((tenant_id,), None))
    row = await tenancy.find(tx, mode)
    await tx.enter(here)
    if row is None:
        raise NotFound
    return row


def _id_of(answer: JSONResponse) -> UUID:
    return MadeTenantBody.model_validate_json(bytes(answer.body)).id


def tenant_body(row: Row) -> TenantBody:
    """A tenant as the API shows it."""
    return TenantBody(
        id=row["tenant_id"],
        slug=row["slug"],
        name=row["name"],
        type=row["type"],
        status=row["status"],
        plan_key=row["plan_key"],
        currency=row["currency"],
        locale=row["locale"],
        tax_region=row["tax_region"],
        settings=TenantSettings(billing_email=row["billing_email"]),
        self_customer_id=public_id("customer", row["self_customer_id"]),
        stripe_customer_id=row["stripe_customer_id"],
        stripe_subscription_id=row["stripe_subscription_id"],
        stripe_account_id=row["stripe_account_id"],
        stripe_onboarding_status=row["stripe_onboarding_status"],
        stripe_account_type=row["stripe_account_type"],
        version=row["version"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
