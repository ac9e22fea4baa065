"""How whatever goes wrong below a route becomes an answer: see `problems.py` for the shape."""

from collections.abc import Mapping, Sequence
from typing import Any

import asyncpg
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from libs.db.pool import TRANSIENT_ERRORS
from libs.observability.logging import get_logger
from libs.web.problems import (
    MEDIA_TYPE,
    FieldProblem,
    HeadersTooLarge,
    InternalError,
    InvalidFields,
    InvalidRequest,
    MethodNotAllowed,
    Problem,
    RateLimited,
    RequestTimeout,
    RouteNotFound,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)

FIELDS_MAX = 20
FIELD_PATH_LENGTH_MAX = 200

_logger = get_logger(__name__)

_BY_STATUS: Mapping[int, type[Problem]] = {
    400: InvalidRequest,
    401: Unauthorized,
    404: RouteNotFound,
    405: MethodNotAllowed,
    408: RequestTimeout,
    413: TooLarge,
    415: UnsupportedMediaType,
    422: InvalidFields,
    429: RateLimited,
    431: HeadersTooLarge,
    503: Unavailable,
}


def response_of(problem: Problem, request_id: str | None) -> JSONResponse:
    """The answer to send for `problem`."""
    return JSONResponse(
        problem.body(request_id),
        status_code=problem.status,
        headers={"Cache-Control": "no-store"} | problem.headers,
        media_type=MEDIA_TYPE,
    )


def request_id_of(request: Request) -> str | None:
    """The id that `RequestGuard` gave the request, or None outside it."""
    request_id = request.scope.get("state", {}).get("request_id")
    return request_id if isinstance(request_id, str) else None


def invalid_fields(errors: Sequence[Any]) -> InvalidRequest:
    """The problem that pydantic's `errors` amount to; no input value is repeated in it."""
    if any(error.get("type") == "json_invalid" for error in errors):
        return InvalidRequest("The body is not valid JSON. Correct it and send it again.")
    return InvalidFields(
        fields=[
            FieldProblem(field=_field_path(error), detail=_field_detail(error))
            for error in errors[:FIELDS_MAX]
        ]
    )


def _field_path(error: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in error.get("loc", ()))
    printable = "".join(char if char.isprintable() else "?" for char in path)
    return printable[:FIELD_PATH_LENGTH_MAX]


def _field_detail(error: Mapping[str, Any]) -> str:
    """Pydantic's sentence, unless it quotes the input, which may be a secret in the wrong field."""
    kind = error.get("type")
    if kind == "union_tag_invalid":
        return f"Must be one of {error.get('ctx', {}).get('expected_tags')}."
    if kind == "uuid_parsing":
        return "Must be a UUID."
    sentence = str(error.get("msg", "")).removeprefix("Value error, ")
    value = error.get("input")
    quoted = str(value) if isinstance(value, str | int | float) else ""
    if not sentence or (len(quoted) > 2 and quoted in sentence):
        return "This value is not valid here."
    return sentence


def internal_error(request: Request, error: Exception) -> JSONResponse:
    """Log `error` once, with its stack, and give the answer that says nothing of it."""
    _logger.error(
        "http_request_failed",
        request_id=request_id_of(request),
        method=request.method,
        exc_info=error,
    )
    return response_of(InternalError(), request_id_of(request))


async def answer_to(request: Request, error: Exception) -> Response | None:
    """The answer that the application has for an error of this class; None where it expects none."""
    handlers = request.app.exception_handlers
    for kind in type(error).__mro__:
        if kind in handlers:
            answer: Response = await handlers[kind](request, error)
            return answer
    return None


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, Problem)
    return response_of(error, request_id_of(request))


async def _on_invalid_request(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    # FastAPI leaves the body as bytes where the content type is not JSON.
    problem = (
        UnsupportedMediaType() if isinstance(error.body, bytes) else invalid_fields(error.errors())
    )
    return response_of(problem, request_id_of(request))


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    problem_type = _BY_STATUS.get(error.status_code)
    if problem_type is None:
        problem_type = InvalidRequest if error.status_code < 500 else InternalError
    return response_of(problem_type(headers=error.headers), request_id_of(request))


async def _on_unstorable_text(request: Request, _error: Exception) -> JSONResponse:
    # Postgres text holds every character but U+0000; found out by the database, refused as input.
    problem = InvalidFields("The text holds a NUL character, which cannot be kept. Leave it out.")
    return response_of(problem, request_id_of(request))


async def _on_transient_failure(request: Request, error: Exception) -> JSONResponse:
    _logger.warning(
        "http_request_unavailable",
        request_id=request_id_of(request),
        method=request.method,
        error=type(error).__name__,
        error_text=str(error),
    )
    return response_of(Unavailable(), request_id_of(request))


def install(app: FastAPI) -> None:
    """Make `app` answer every error it expects as problem+json; `RequestObserver` does the rest."""
    app.add_exception_handler(Problem, _on_problem)
    app.add_exception_handler(RequestValidationError, _on_invalid_request)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(asyncpg.CharacterNotInRepertoireError, _on_unstorable_text)
    app.add_exception_handler(asyncpg.UntranslatableCharacterError, _on_unstorable_text)
    for transient in TRANSIENT_ERRORS:
        assert issubclass(transient, Exception)
        app.add_exception_handler(transient, _on_transient_failure)
