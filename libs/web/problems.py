"""Every error of the HTTP API: problem+json (RFC 9457) with a stable `code` and a sentence that helps.

A route raises a `Problem`; `answers.py` turns it, and whatever else goes wrong, into one shape:

    {"type": "/docs/problems#not_found", "title": "Not found", "status": 404, "code": "not_found",
     "detail": "There is no such object. Check the id.", "request_id": "…"}

Callers branch on `code`, people read `detail`. Nothing a caller sent is repeated in an answer.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import BaseModel, Field

MEDIA_TYPE = "application/problem+json"


class FieldProblem(BaseModel):
    """One field that is wrong: its path (`body.prices.0.kind`) and what it should be."""

    field: str
    detail: str


class ProblemBody(BaseModel):
    """The body of every answer that is not a success (RFC 9457)."""

    type: str = Field(description="Where the problem is explained, relative to the origin.")
    title: str
    status: int
    code: str = Field(description="Stable; branch on this.")
    detail: str = Field(description="What is wrong and what to do about it.")
    request_id: str | None = None
    fields: list[FieldProblem] | None = None


class Problem(Exception):  # noqa: N818 - the word of RFC 9457
    """An answer that is not a success, raised anywhere below a route.

    `detail` is a sentence that says what to do. `code` and `title` replace the class's own where a
    route has a more exact word (`Conflict("…", code="slug_taken")`). `extra` are further members of
    the body (`{"permission": "billing:manage"}`); they must not repeat what the caller sent.
    """

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"
    default_title: ClassVar[str] = "Internal error"
    default_detail: ClassVar[str] = (
        "Something failed on our side. Try again; if it stays, report the request id."
    )

    def __init__(
        self,
        detail: str | None = None,
        *,
        code: str | None = None,
        title: str | None = None,
        fields: Sequence[FieldProblem] = (),
        extra: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self.detail = detail or self.default_detail
        self.code = code or self.default_code
        self.title = title or self.default_title
        self.fields = tuple(fields)
        self.extra = dict(extra or {})
        self.headers = dict(headers or {})
        super().__init__(f"{self.status} {self.code}: {self.detail}")

    def body(self, request_id: str | None = None) -> dict[str, Any]:
        """The members of the answer, `request_id` for the people who look it up in the logs."""
        members: dict[str, Any] = dict(self.extra)
        members |= {
            "type": f"/docs/problems#{self.code}",
            "title": self.title,
            "status": self.status,
            "code": self.code,
            "detail": self.detail,
        }
        if request_id is not None:
            members["request_id"] = request_id
        if self.fields:
            members["fields"] = [field.model_dump() for field in self.fields]
        return members


class InvalidRequest(Problem):
    """400: the request cannot be understood or asks for something that is not allowed."""

    status = 400
    default_code = "invalid_request"
    default_title = "Invalid request"
    default_detail = "The request is not valid. Correct it and send it again."


class InvalidFields(InvalidRequest):
    """422: well-formed, but one or more fields do not hold what they must; `fields` names them."""

    status = 422
    default_detail = "Some fields are not valid. Correct those listed under `fields`."


class Unauthorized(Problem):
    """401: no credentials, or none that are valid now."""

    status = 401
    default_code = "unauthorized"
    default_title = "Not authenticated"
    default_detail = (
        "Send a valid API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`; "
        "this one is missing, unknown, expired or revoked."
    )

    def __init__(self, detail: str | None = None, **parts: Any) -> None:
        headers = {"WWW-Authenticate": "Bearer"} | dict(parts.pop("headers", None) or {})
        super().__init__(detail, headers=headers, **parts)


class PaymentDeclined(Problem):
    """402: the payer's bank said no; the answer names the payment and the bank's reason."""

    status = 402
    default_code = "payment_declined"
    default_title = "Payment declined"
    default_detail = (
        "The payer's bank declined the payment; `failure_code` says why. Ask the payer for another "
        "payment method and confirm the payment with it."
    )


class Forbidden(Problem):
    """403: the caller's role or scope is too low; the answer names the permission that is missing.

    Permissions of the `billing:` family answer `insufficient_billing_permissions`.
    """

    status = 403
    default_code = "insufficient_permissions"
    default_title = "Permission missing"

    def __init__(self, permission: str, detail: str | None = None, **parts: Any) -> None:
        self.permission = permission
        if permission.startswith("billing:"):
            parts.setdefault("code", "insufficient_billing_permissions")
        parts["extra"] = {"permission": permission} | dict(parts.get("extra") or {})
        sentence = (
            f"This needs the permission `{permission}`. Ask an owner or admin of the tenant to "
            "grant it, or use a key that has it."
        )
        super().__init__(detail or sentence, **parts)


class TenantForbidden(Problem):
    """403: the tenant named is not among the caller's; the same whether or not it exists."""

    status = 403
    default_code = "tenant_forbidden"
    default_title = "Not your tenant"
    default_detail = "You are not a member of this tenant. Name one of yours in `X-Tenant-ID`."


class NotLive(Problem):
    """403: live mode is not open to this tenant yet."""

    status = 403
    default_code = "not_live"
    default_title = "Not live yet"
    default_detail = (
        "This tenant has not gone live, so live mode is closed to it. Work in test mode; "
        "`GET /api/v1/tenants/{tenant}/live` says what is missing."
    )


class NotFound(Problem):
    """404: absent, or another tenant's, which is the same to the caller."""

    status = 404
    default_code = "not_found"
    default_title = "Not found"
    default_detail = "There is no such object. Check the id, the tenant and the mode of your key."


class RouteNotFound(NotFound):
    """404: no such path."""

    default_code = "route_not_found"
    default_detail = "There is no such path. The paths are listed in `/openapi.json`."


class MethodNotAllowed(Problem):
    """405: the path exists, the method does not; `Allow` lists those that do."""

    status = 405
    default_code = "method_not_allowed"
    default_title = "Method not allowed"
    default_detail = "This path does not take this method. The header `Allow` lists those it takes."


class RequestTimeout(Problem):
    """408: the head or the body came too slowly."""

    status = 408
    default_code = "request_timeout"
    default_title = "Request too slow"
    default_detail = "The body did not arrive in time. Send it again, in smaller parts if need be."


class Conflict(Problem):
    """409: the object's present state does not allow this."""

    status = 409
    default_code = "conflict"
    default_title = "Conflict"
    default_detail = "The object is in a state that does not allow this. Read it again and decide."


class IdempotencyMismatch(Conflict):
    """409: an `Idempotency-Key` came back with another body."""

    default_code = "idempotency_key_reused"
    default_title = "Idempotency key reused"
    default_detail = (
        "This `Idempotency-Key` was already used for a different request. Use a new key."
    )


class PreconditionFailed(Problem):
    """412: `If-Match` names a version that is no longer the present one."""

    status = 412
    default_code = "precondition_failed"
    default_title = "Changed meanwhile"
    default_detail = "Somebody changed this since you read it. Read it again and repeat the change."


class TooLarge(Problem):
    """413: the body is over this path's limit."""

    status = 413
    default_code = "body_too_large"
    default_title = "Body too large"
    default_detail = "The body is larger than this path takes. Send it in smaller parts."


class UnsupportedMediaType(Problem):
    """415: a content type that this path does not read."""

    status = 415
    default_code = "unsupported_media_type"
    default_title = "Unsupported media type"
    default_detail = "This path does not read this content type. Send `application/json`."


class PreconditionRequired(Problem):
    """428: a change of something people edit must say which version it changes."""

    status = 428
    default_code = "precondition_required"
    default_title = "Version needed"
    default_detail = "Send the `ETag` you read as `If-Match`."


class HeadersTooLarge(Problem):
    """431: the headers together are over the limit."""

    status = 431
    default_code = "headers_too_large"
    default_title = "Headers too large"
    default_detail = "The headers are too large. Send fewer or shorter ones."


class _RetryLater(Problem):
    """A problem that time cures: `Retry-After` says when to come back, in whole seconds."""

    default_retry_after_seconds: ClassVar[int] = 1

    def __init__(
        self, detail: str | None = None, *, retry_after_seconds: int | None = None, **parts: Any
    ) -> None:
        seconds = self.default_retry_after_seconds
        self.retry_after_seconds = max(1, retry_after_seconds or seconds)
        headers = {"Retry-After": str(self.retry_after_seconds)}
        super().__init__(detail, headers=headers | dict(parts.pop("headers", None) or {}), **parts)


class RateLimited(_RetryLater):
    """429: too many requests for this key or address."""

    status = 429
    default_code = "rate_limited"
    default_title = "Too many requests"
    default_detail = "Too many requests. Wait as long as `Retry-After` says, then go on."


class Unavailable(_RetryLater):
    """503: something this needs is down or behind; nothing was done."""

    status = 503
    default_code = "unavailable"
    default_title = "Temporarily unavailable"
    default_detail = "This is not available right now and nothing was done. Try again shortly."
    default_retry_after_seconds = 5


class InternalError(Problem):
    """500: our fault."""


def problem_responses(*problems: type[Problem]) -> dict[int | str, dict[str, Any]]:
    """What a route may answer besides success, for its `responses=` and so for the OpenAPI."""
    responses: dict[int | str, dict[str, Any]] = {}
    for problem in problems:
        known = responses.get(problem.status, {}).get("description")
        words = problem.default_code if known is None else f"{known}, {problem.default_code}"
        responses[problem.status] = {
            "description": words,
            "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemBody"}}},
        }
    return responses
