"""Routes for those who run the service: is it alive, is it ready, what does it do. And the web page."""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter
from starlette.responses import HTMLResponse, JSONResponse, Response

from .service import Service

_PAGE_MAY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src blob: data:; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/health")
    def health() -> JSONResponse:
        """200 as long as the process works and has a worker."""
        is_alive = service.backend.replicas() > 0
        return JSONResponse({"status": "ok" if is_alive else "no worker"}, 200 if is_alive else 503)

    @routes.get("/ready")
    def ready() -> JSONResponse:
        """200 once the warm-up graph has run, until the service stops."""
        is_ready = service.is_ready.is_set()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    @routes.get("/metrics")
    def metrics() -> Response:
        """Meters for Prometheus."""
        return Response(service.meters.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/", include_in_schema=False)
    def page() -> HTMLResponse:
        headers = {"Content-Security-Policy": _PAGE_MAY, "X-Content-Type-Options": "nosniff"}
        return HTMLResponse((Path(__file__).parent / "page.html").read_text(encoding="utf-8"), headers=headers)

    return routes
