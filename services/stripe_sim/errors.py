"""Stripe's errors, with the status, type, code and wording its API answers with."""

from typing import Any

_DOCS = "https://stripe.com/docs/error-codes/"


class ApiError(Exception):
    """A refusal of the API.

    `keeps_effects` is true for a declined payment: the attempt is a fact (a failed charge, an
    event) although the call fails. Every other refusal leaves nothing behind.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        keeps_effects: bool = False,
        **details: Any,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.kind = kind
        self.code = code
        self.param = param
        self.keeps_effects = keeps_effects
        self.details = details

    def body(self, request_id: str) -> dict[str, Any]:
        """Return the JSON body, keys sorted as Stripe sorts them."""
        error: dict[str, Any] = {"message": self.message, "type": self.kind, **self.details}
        if self.code is not None:
            error["code"] = self.code
            error["doc_url"] = _DOCS + self.code.replace("_", "-")
        if self.param is not None:
            error["param"] = self.param
        error["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
        return {"error": dict(sorted(error.items()))}


def invalid(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """Return the 400 for a parameter or a state that does not allow the call."""
    return ApiError(400, message, param=param, code=code)


def no_such(noun: str, object_id: str, param: str = "id") -> ApiError:
    """Return the error for an id that is absent, or another account's: the two look the same.

    Stripe answers 404 where the id is the path's own and 400 where it is a parameter.
    """
    status = 404 if param == "id" else 400
    return ApiError(status, f"No such {noun}: '{object_id}'", code="resource_missing", param=param)


def missing_parameter(param: str) -> ApiError:
    """Return the 400 for a required parameter that was not sent."""
    return invalid(f"Missing required param: {param}.", param, "parameter_missing")


def unknown_parameter(param: str) -> ApiError:
    """Return the 400 for a parameter the endpoint does not take."""
    return invalid(f"Received unknown parameter: {param}", param, "parameter_unknown")


def unknown_path(method: str, path: str) -> ApiError:
    """Return the 404 for a path that is no endpoint."""
    return ApiError(
        404,
        f"Unrecognized request URL ({method}: {path}). Please see https://stripe.com/docs or we "
        "can help at https://support.stripe.com/.",
    )


def no_key() -> ApiError:
    """Return the 401 for a request without credentials."""
    return ApiError(
        401,
        "You did not provide an API key. You need to provide your API key in the Authorization "
        "header, using Bearer auth (e.g. 'Authorization: Bearer YOUR_SECRET_KEY').",
    )


def bad_key(key: str) -> ApiError:
    """Return the 401 for a key that belongs to no account, showing its last four only."""
    masked = f"{key[:8]}{'*' * max(len(key) - 12, 4)}{key[-4:]}" if len(key) > 12 else "****"
    return ApiError(401, f"Invalid API Key provided: {masked}")


def expired_key(key: str) -> ApiError:
    """Return the 401 for a key that was rolled or revoked."""
    return ApiError(
        401, f"Expired API Key provided: {key[:8]}****{key[-4:]}", code="api_key_expired"
    )


def no_access(key: str, account: str) -> ApiError:
    """Return the 403 for an account that is absent or no longer connected to the platform."""
    return ApiError(
        403,
        f"The provided key '{key[:8]}****{key[-4:]}' does not have access to account "
        f"'{account}' (or that account does not exist). Application access may have been revoked.",
        code="account_invalid",
    )


def no_permission(key: str, permission: str) -> ApiError:
    """Return the 403 for what a restricted key may not do."""
    return ApiError(
        403,
        f"The provided key '{key[:8]}****{key[-4:]}' does not have the required permissions for "
        f"this endpoint. Having the 'rak_{permission}' permission would allow this request to "
        "continue.",
        code="more_permissions_required",
    )


def idempotency_mismatch(key: str) -> ApiError:
    """Return the 400 for a used idempotency key that came with other parameters."""
    return ApiError(
        400,
        "Keys for idempotent requests can only be used with the same parameters they were first "
        f"used with. Try using a key other than '{key}' if you meant to execute a different "
        "request.",
        kind="idempotency_error",
    )


def idempotency_in_use(key: str) -> ApiError:
    """Return the 409 for an idempotency key whose first request is still being worked on."""
    return ApiError(
        409,
        f"There is currently another in-progress request using this Idempotent Key '{key}'. "
        "Please try again later.",
        kind="idempotency_error",
        code="idempotency_key_in_use",
    )


def too_many_requests() -> ApiError:
    """Return the 429 of the rate limiter."""
    return ApiError(
        429,
        "Request rate limit exceeded. You can learn more about rate limits here "
        "https://stripe.com/docs/rate-limits.",
        code="rate_limit",
    )


def broken() -> ApiError:
    """Return the 500 Stripe answers with when it fails itself."""
    return ApiError(
        500,
        "An unknown error occurred. Please retry the request with the same idempotency key.",
        kind="api_error",
    )
