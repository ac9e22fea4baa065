"""`/healthz`, `/readyz` and `/metrics` of a process, on its own port, never through the origin."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response

from libs.observability.health import Health
from libs.observability.metrics import EXPOSITION_MEDIA_TYPE, exposition

PATHS = ("/healthz", "/readyz", "/metrics")


def router(health: Health) -> APIRouter:
    """The three routes; none of them is part of the public API."""
    routes = APIRouter(include_in_schema=False)

    @routes.get("/healthz")
    async def healthz() -> JSONResponse:
        """The process answers."""
        return JSONResponse({"status": "ok"})

    @routes.get("/readyz")
    async def readyz() -> JSONResponse:
        """200 when every check passes, else 503; the failing ones are named."""
        checks = await health.run()
        failing = [name for name, check in checks.items() if not check.ok]
        return JSONResponse(
            {
                "status": "not_ready" if failing else "ready",
                "failing": failing,
                "checks": {
                    name: {"ok": check.ok, "detail": check.detail} for name, check in checks.items()
                },
            },
            status_code=503 if failing else 200,
            headers={"Cache-Control": "no-store"},
        )

    @routes.get("/metrics")
    async def metrics() -> Response:
        """Prometheus's text format."""
        return Response(exposition(), media_type=EXPOSITION_MEDIA_TYPE)

    return routes
