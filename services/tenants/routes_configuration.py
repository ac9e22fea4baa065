"""`/api/v1/tenants/{tenant}/config`: a tenant's settings by namespace, with their versions."""

import re
from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import BaseModel, Field

from libs.clock import utc_now
from libs.contracts.configuration import NAMESPACES
from libs.contracts.tenants import PLATFORM_TENANT_ID
from libs.db.pool import Database, Row
from libs.directory.configuration import merged
from libs.web.auth import OPERATOR, Access, Gate, Requires
from libs.web.pagination import Page, PageRequest, page_request
from libs.web.problems import (
    Conflict,
    FieldProblem,
    Forbidden,
    InvalidFields,
    NotFound,
    PreconditionFailed,
    PreconditionRequired,
    problem_responses,
)
from services.tenants import configuration
from services.tenants.answers import stamp
from services.tenants.bodies import StrictBody, TenantPath

router = APIRouter(tags=["configuration"])

Reader = Annotated[Access, Depends(Requires("tenants:read"))]
NamespacePath = Annotated[
    str,
    Path(max_length=60, description=f"One of {', '.join(NAMESPACES)}, or `custom.<name>`."),
]
_ETAG = re.compile(r'"([0-9]{1,9})"')


class ValuesBody(StrictBody):
    """What the tenant sets in a namespace; what it leaves out is as the platform has it."""

    values: dict[str, Any] = Field(description="Replaces what was set before, all of it.")


class ConfigurationBody(BaseModel):
    """A namespace of a tenant's configuration."""

    namespace: str
    version: int = Field(description="0 until the tenant sets something.")
    values: dict[str, Any] = Field(description="What the tenant has set itself.")
    effective: dict[str, Any] = Field(
        description="What holds: the tenant's own over the platform's over the defaults."
    )
    operator_only: bool = Field(description="Only the platform sets this namespace.")
    changed_by: str | None
    changed_at: datetime | None


class DescribedConfigurationBody(ConfigurationBody):
    """A namespace with what may stand in it."""

    description: str
    json_schema: dict[str, Any] | None = Field(description="JSON Schema; null for free JSON.")


class ConfigurationList(BaseModel):
    """Every namespace with a schema, and the tenant's own."""

    items: list[DescribedConfigurationBody]


class ConfigurationVersionBody(BaseModel):
    """What a namespace held in one version."""

    version: int
    values: dict[str, Any]
    changed_by: str
    changed_at: datetime


@router.get("/api/v1/tenants/{tenant}/config", responses=problem_responses(NotFound))
async def list_configuration(
    request: Request,
    access: Reader,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
) -> ConfigurationList:
    """Every namespace: what it means, what is set, what holds."""
    database: Database = request.app.state.database
    async with database.tenant(access.tenant_id, access.mode) as tx:
        rows = {row["namespace"]: row for row in await configuration.list_set(tx)}
    bodies = [
        await _body(request, access, namespace, rows.get(namespace))
        for namespace in [*NAMESPACES, *sorted(rows.keys() - NAMESPACES.keys())]
    ]
    return ConfigurationList(items=[_described(body) for body in bodies])


@router.get("/api/v1/tenants/{tenant}/config/{namespace}", responses=problem_responses(NotFound))
async def get_configuration(
    request: Request,
    response: Response,
    access: Reader,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    namespace: NamespacePath,
) -> ConfigurationBody:
    """One namespace; its `ETag` is the version, for `If-Match` at the next change."""
    database: Database = request.app.state.database
    try:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            row = await configuration.find(tx, namespace)
    except configuration.UnknownNamespaceError:
        raise _unknown() from None
    body = await _body(request, access, namespace, row)
    response.headers["ETag"] = f'"{body.version}"'
    return body


@router.put(
    "/api/v1/tenants/{tenant}/config/{namespace}",
    responses=problem_responses(
        Forbidden, NotFound, Conflict, PreconditionFailed, PreconditionRequired
    ),
)
async def put_configuration(
    request: Request,
    response: Response,
    body: ValuesBody,
    access: Annotated[Access, Depends(Requires("billing:manage"))],
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    namespace: NamespacePath,
) -> ConfigurationBody:
    """Replace what the tenant sets in a namespace; known to every service within two seconds.

    Where something is set already, `If-Match` must name the version that is replaced (`*`: any).
    """
    database: Database = request.app.state.database
    gate: Gate = request.app.state.gate
    if configuration.is_operator_only(namespace) and not access.caller.operator:
        await gate.refuse(request, access, OPERATOR, "Only operators set this namespace.")
    expected, any_version = _expected(request)
    wanted = configuration.Change(
        namespace, body.values, expected, access.caller.actor, any_version=any_version
    )
    try:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            row = await configuration.change(tx, wanted, utc_now())
    except configuration.UnknownNamespaceError:
        raise _unknown() from None
    except configuration.InvalidValuesError as error:
        fields = [FieldProblem(field=f"body.{at}", detail=why) for at, why in error.problems[:50]]
        raise InvalidFields(fields=fields) from None
    except configuration.VersionNeededError:
        raise PreconditionRequired from None
    except configuration.ChangedMeanwhileError:
        raise PreconditionFailed from None
    except configuration.ConfigurationTooLargeError:
        raise Conflict(
            f"All configuration of a tenant takes at most {configuration.TENANT_BYTES_MAX} bytes "
            f"and {configuration.CUSTOM_MAX} custom namespaces. Empty one first.",
            code="configuration_too_large",
        ) from None
    changed = await _body(request, access, namespace, row)
    response.headers["ETag"] = f'"{changed.version}"'
    await stamp(response, database, access.tenant_id)
    return changed


@router.get(
    "/api/v1/tenants/{tenant}/config/{namespace}/versions", responses=problem_responses(NotFound)
)
async def list_configuration_versions(
    request: Request,
    access: Reader,
    tenant: TenantPath,  # noqa: ARG001 - the gate reads it
    namespace: NamespacePath,
    page: Annotated[PageRequest, Depends(page_request)],
) -> Page[ConfigurationVersionBody]:
    """What was set in a namespace before, the newest version first."""
    database: Database = request.app.state.database
    position = page.after(int)
    before = position[0] if position else None
    try:
        async with database.tenant(access.tenant_id, access.mode) as tx:
            rows = await configuration.list_versions(tx, namespace, before, page.limit + 1)
    except configuration.UnknownNamespaceError:
        raise _unknown() from None
    return Page[ConfigurationVersionBody].of(
        rows,
        page.limit,
        lambda row: (row["version"],),
        lambda row: ConfigurationVersionBody(
            version=row["version"],
            values=row["content"],
            changed_by=row["changed_by"],
            changed_at=row["changed_at"],
        ),
    )


def _expected(request: Request) -> tuple[int | None, bool]:
    """The version that the request means to replace, and whether any will do."""
    wanted = request.headers.get("if-match")
    if wanted is None:
        return (0, False) if request.headers.get("if-none-match") == "*" else (None, False)
    if wanted.strip() == "*":
        return None, True
    found = _ETAG.fullmatch(wanted.strip())
    if found is None:
        raise PreconditionFailed
    return int(found[1]), False


def _unknown() -> NotFound:
    names = ", ".join(NAMESPACES)
    return NotFound(
        f"There is no such namespace. There are {names}, and custom.<name> for your own.",
        code="unknown_namespace",
    )


async def _body(
    request: Request, access: Access, namespace: str, row: Row | None
) -> ConfigurationBody:
    own: dict[str, Any] = {} if row is None else row["content"]
    return ConfigurationBody(
        namespace=namespace,
        version=0 if row is None else row["version"],
        values=own,
        effective=await _effective(request, access.tenant_id, namespace, own),
        operator_only=configuration.is_operator_only(namespace),
        changed_by=None if row is None else row["changed_by"],
        changed_at=None if row is None else row["changed_at"],
    )


async def _effective(
    request: Request, tenant_id: UUID, namespace: str, own: dict[str, Any]
) -> dict[str, Any]:
    """What holds; the platform's own settings are at most two seconds old."""
    platforms: dict[str, Any] = {}
    if tenant_id != PLATFORM_TENANT_ID:
        platform = await request.app.state.directory.platform()
        record = None if platform is None else platform.config(namespace)
        platforms = {} if record is None else record.values
    model = NAMESPACES.get(namespace)
    if model is None:
        return platforms | own
    return merged(model, platforms, own).model_dump(mode="json")


def _described(body: ConfigurationBody) -> DescribedConfigurationBody:
    model = NAMESPACES.get(body.namespace)
    return DescribedConfigurationBody(
        **body.model_dump(),
        description="Free JSON of your own." if model is None else str(model.__doc__),
        json_schema=None if model is None else model.model_json_schema(),
    )
