"""Comfy API v2: jobs with idempotency keys, their events, and assets. `comfy-sdk` speaks it, as it does with `comfy-api-proxy`."""

from __future__ import annotations

import asyncio
import json
import mimetypes
from collections.abc import AsyncIterator
from datetime import datetime, timezone
from typing import Any

from fastapi import APIRouter, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response, StreamingResponse

from ..core.errors import GraphError, InputError, InvalidGraphError
from .assets import Asset, Assets
from .catalog import Refused
from .http import REFUSALS, RETRY_SECONDS, client_of, file_answer, json_object, submitted
from .hub import PREVIEW, Message
from .service import Service
from .store import Full, Job

_STATUS = {"queued": "queued", "running": "running", "done": "succeeded", "failed": "failed", "cancelled": "canceled"}
_KEPT_SECONDS = 10 * 365 * 86400
_BEAT_SECONDS = 10.0
_LONGEST_KEY = 255
_PREFIX = "/api/v2"


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes, assets, store = APIRouter(prefix=_PREFIX, tags=["Comfy API v2"]), Assets(service), service.store

    def own(job_id: str, request: Request) -> Job | None:
        return store.get(job_id, client_of(request).name)

    @routes.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @routes.post("/jobs")
    async def submit(request: Request) -> Response:
        body, owner = await json_object(request), client_of(request).name
        workflow, metadata = body.get("workflow"), body.get("metadata") or {}
        if not isinstance(workflow, dict) or not isinstance(metadata, dict):
            return _error(400, "invalid_request", "send {'workflow': {...}} with a graph in API format")
        if "nodes" in workflow:
            return _error(422, "workflow_format_ui", "this is the editor's format; export the workflow in API format")
        key = request.headers.get("idempotency-key")
        if key is not None and not 0 < len(key) <= _LONGEST_KEY:
            return _error(400, "invalid_request", f"Idempotency-Key must have 1 to {_LONGEST_KEY} characters")
        extra = {"metadata": {str(name)[:100]: str(value)[:500] for name, value in list(metadata.items())[:50]}}
        try:
            options = {"extra": extra, "idempotency": key}
            job, is_new = await submitted(service, request, lambda: service.graph_of(assets.resolve(workflow, owner)), options)
        except REFUSALS as error:
            return _refusal(error)
        if not is_new:  # the API's keys are used once: a client that lost the answer finds its job by the details
            text = "this Idempotency-Key was used before; poll the job that it made"
            return _error(422, "idempotency_key_reuse", text, details={"job_id": job.id})
        return JSONResponse(_job(service, job, request), 201)

    @routes.get("/jobs")
    def jobs(request: Request, limit: int = 50, cursor: str = "0") -> dict[str, Any]:
        offset, limit = int(cursor) if cursor.isdigit() else 0, max(1, min(limit, 200))
        wanted = {name[9:-1]: value for name, value in request.query_params.items() if name.startswith("metadata[") and name.endswith("]")}
        found = store.listed(client_of(request).name, tuple(_STATUS), limit, offset, newest=True)
        page: dict[str, Any] = {"jobs": [_summary(job) for job in found if wanted.items() <= job.extra.get("metadata", {}).items()]}
        return page | ({"next_cursor": str(offset + limit)} if len(found) == limit else {})

    @routes.get("/jobs/{job_id}")
    def job(job_id: str, request: Request) -> Response:
        found = own(job_id, request)
        return _error(404, "not_found", "there is no such job") if found is None else JSONResponse(_job(service, found, request))

    @routes.get("/jobs/{job_id}/workflow")
    def workflow(job_id: str, request: Request) -> Response:
        found = own(job_id, request)
        return (
            _error(404, "not_found", "there is no such job") if found is None else JSONResponse({"workflow": found.graph, "format": "api"})
        )

    @routes.post("/jobs/{job_id}/cancel")
    async def cancel(job_id: str, request: Request) -> Response:
        if own(job_id, request) is None:
            return _error(404, "not_found", "there is no such job")
        await run_in_threadpool(service.cancel, job_id, client_of(request).name)
        return JSONResponse(_job(service, own(job_id, request) or _gone(), request))

    @routes.get("/jobs/{job_id}/events")
    async def events(job_id: str, request: Request) -> Response:
        if own(job_id, request) is None:
            return _error(404, "not_found", "there is no such job")
        if len(service.hub) >= service.settings.limits.clients:
            return _error(429, "queue_full", "too many streams are open", RETRY_SECONDS)
        return StreamingResponse(_events(service, job_id, request), media_type="text/event-stream", headers={"Cache-Control": "no-store"})

    @routes.post("/assets", status_code=201)
    async def upload(request: Request) -> Response:
        form = await request.form(max_files=1, max_fields=50)
        file, name = form.get("file"), str(form.get("file_path") or "")
        if not hasattr(file, "read"):
            return _error(400, "invalid_request", "send the picture as the field 'file'")
        data, owner = await file.read(), client_of(request).name  # type: ignore[union-attr]
        try:
            asset, is_new = await run_in_threadpool(assets.add, owner, name, data, str(form.get("expected_hash") or ""))
        except REFUSALS as error:
            return _refusal(error)
        return JSONResponse({**_asset(asset, request), "created_new": is_new}, 201)

    @routes.post("/assets/from-hash")
    async def from_hash(request: Request) -> Response:
        body = await json_object(request)
        known = assets.by_hash(str(body.get("hash")), client_of(request).name)
        if known is None:
            return _error(404, "blob_not_found", "there is no picture with this hash")
        return JSONResponse({**_asset(assets.again(known, str(body.get("file_path") or "")), request), "created_new": False}, 201)

    @routes.head("/assets/by-hash/{digest}")
    def has_hash(digest: str, request: Request) -> Response:
        return Response(status_code=200 if assets.by_hash(digest, client_of(request).name) else 404)

    @routes.get("/assets/{asset_id}")
    def asset(asset_id: str, request: Request) -> Response:
        owner = client_of(request).name
        found = assets.get(asset_id, owner)
        if found is not None:
            return JSONResponse(_asset(found, request))
        output = _output_of(service, asset_id, owner)
        if output is None:
            return _error(404, "not_found", "there is no such asset")
        job, name = output
        entry = {key: value for key, value in _output(job, name, "", request).items() if key not in ("node_id", "name", "type")}
        return JSONResponse({**entry, "file_path": name, "created_at": _iso(job.finished)})

    @routes.get("/assets/{asset_id}/content")
    def content(asset_id: str, request: Request) -> Response:
        owner = client_of(request).name
        found = assets.get(asset_id, owner)
        if found is not None:
            return file_answer(assets.file(found), found.path)
        output = _output_of(service, asset_id, owner)
        return _error(404, "not_found", "there is no such asset") if output is None else file_answer(service.file(*output), output[1])

    @routes.delete("/assets/{asset_id}")
    def delete(asset_id: str, request: Request) -> Response:
        found = assets.get(asset_id, client_of(request).name)
        if found is None:
            return _error(404, "not_found", "there is no such asset")
        assets.remove(found)
        return Response(status_code=204)

    return routes


async def _events(service: Service, job_id: str, request: Request) -> AsyncIterator[str]:
    """The events of a job as they come: its state first, its end last."""
    owner = client_of(request).name
    with service.hub.listening(lambda message: message.job == job_id) as queue:
        told = ""
        while True:
            job = service.store.get(job_id, owner)
            if job is None:
                return
            if job.state != told:
                if job.is_over:
                    for output in _job(service, job, request)["outputs"]:
                        yield _frame("output", output)
                told = job.state
                yield _frame("status", {"status": _STATUS[job.state], "queue_position": _position(service, job)})
            if job.is_over:
                return
            try:
                message = await asyncio.wait_for(queue.get(), _BEAT_SECONDS)
            except asyncio.TimeoutError:
                yield ": still here\n\n"
                continue
            if (frame := _event(service, job, message)) is not None:
                yield frame


def _event(service: Service, job: Job, message: Message) -> str | None:
    if message.kind in ("progress", "executing") and message.data.get("node") is not None:
        return _frame("progress", _progress(service, job))
    if message.kind == PREVIEW:
        return _frame("preview", {"node_id": message.data["node"], "content_type": "image/jpeg", "data_base64": message.data["jpeg"]})
    return None


def _frame(event: str, data: dict[str, Any]) -> str:
    return f"event: {event}\ndata: {json.dumps(data)}\n\n"


def _job(service: Service, job: Job, request: Request) -> dict[str, Any]:
    nodes = {f"{_kind(value)}/{_name(value, job.id)}": node for node, ui in job.outputs.items() for value in _named(ui)}
    base, error = f"{_PREFIX}/jobs/{job.id}", job.error or {}
    started, ended = job.started or job.finished, job.finished
    return {
        "id": job.id, "status": _STATUS[job.state], "created_at": _iso(job.created), "started_at": _iso(job.started),
        "completed_at": _iso(job.finished), "expires_at": _iso(job.created + _KEPT_SECONDS),
        "queue_position": _position(service, job), "progress": _progress(service, job),
        "outputs": [_output(job, name, nodes.get(name, ""), request) for name in job.files],
        "error": None if job.state != "failed" else {
            "code": "node_execution_error" if error.get("node_id") else "execution_error", "message": error.get("message", ""),
            "node_id": error.get("node_id"), "class_type": error.get("class_type"), "traceback": None,
        },
        "metadata": job.extra.get("metadata", {}),
        "metrics": {
            "queue_ms": None if started is None else int((started - job.created) * 1000),
            "execution_ms": None if ended is None or job.started is None else int((ended - job.started) * 1000),
        },
        "urls": {"self": base, "events": f"{base}/events", "cancel": f"{base}/cancel"},
    }  # fmt: skip


def _summary(job: Job) -> dict[str, Any]:
    updated = _iso(job.finished or job.started or job.created)
    return {
        "id": job.id, "status": _STATUS[job.state], "create_time": _iso(job.created), "update_time": updated,
        "metadata": job.extra.get("metadata", {}),
    }  # fmt: skip


def _position(service: Service, job: Job) -> int | None:
    return service.store.ahead(job) + 1 if job.state == "queued" else None


def _progress(service: Service, job: Job) -> dict[str, Any]:
    """Where a job stands: nodes that have begun, and the steps of the one that runs."""
    total, known = max(1, len(job.graph)), service.progress.get(job.id, {})
    if job.state == "done":
        return {"value": 1.0, "nodes_done": total, "nodes_total": total}
    begun, step, steps = int(known.get("begun", 0)), known.get("value"), known.get("max")
    inside = step / steps if step is not None and steps else 0.0
    done = max(0, begun - 1)
    entry: dict[str, Any] = {"value": min(1.0, (done + min(1.0, inside)) / total), "nodes_done": min(done, total), "nodes_total": total}
    node = known.get("node")
    if node is not None:
        kind = job.graph.get(node, {}).get("class_type", "")
        entry |= {"current_node": node, "current_node_class": kind, "message": kind if step is None else f"{kind} {step}/{steps}"}
    return entry | ({"step": step, "steps": steps} if step is not None else {})


def _named(ui: dict[str, Any]) -> list[dict[str, Any]]:
    listed = [value for values in ui.values() if isinstance(values, list) for value in values]
    return [value for value in listed if isinstance(value, dict) and "filename" in value]


def _kind(value: dict[str, Any]) -> str:
    return value.get("type", "output")


def _name(value: dict[str, Any], job_id: str) -> str:
    folder = str(value.get("subfolder") or "").removeprefix(job_id).strip("/")
    return f"{folder}/{value['filename']}" if folder else value["filename"]


def _output(job: Job, name: str, node_id: str, request: Request) -> dict[str, Any]:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    family = kind.partition("/")[0]
    asset_id = f"{job.id}-{list(job.files).index(name)}"
    return {
        "node_id": node_id, "name": name.rpartition("/")[2], "type": family if family in ("image", "video", "audio", "text") else "file",
        "content_type": kind, "size_bytes": job.files[name], "id": asset_id, "hash": None, "job_id": job.id,
        "url": f"{request.base_url}{_PREFIX[1:]}/assets/{asset_id}/content", "url_expires_at": _iso(job.created + _KEPT_SECONDS),
    }  # fmt: skip


def _output_of(service: Service, asset_id: str, owner: str) -> tuple[Job, str] | None:
    """The job and the name of a result with this id."""
    job_id, _, number = asset_id.rpartition("-")
    job = service.store.get(job_id, owner)
    names = list(job.files) if job is not None else []
    is_known = number.isascii() and number.isdigit() and len(number) < 6 and int(number) < len(names)
    return (job, names[int(number)]) if job is not None and is_known else None


def _asset(asset: Asset, request: Request) -> dict[str, Any]:
    return {
        "id": asset.id, "hash": asset.hash, "size_bytes": asset.size, "content_type": asset.type, "file_path": asset.name,
        "created_at": _iso(asset.created), "url": f"{request.base_url}{_PREFIX[1:]}/assets/{asset.id}/content",
        "url_expires_at": _iso(asset.created + _KEPT_SECONDS),
    }  # fmt: skip


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, timezone.utc).isoformat()


def _gone() -> Job:
    raise InputError("the job was deleted meanwhile")


def _refusal(error: Exception) -> JSONResponse:
    if isinstance(error, Full):
        return _error(429, "queue_full", str(error), RETRY_SECONDS)
    if isinstance(error, Refused):
        if error.kind == "hash_mismatch":
            return _error(409, error.kind, str(error))
        forbidden = error.kind in ("not_allowed", "forbidden_class", "blocked")
        return _error(403 if forbidden else 422, "forbidden" if forbidden else error.kind, str(error))
    if isinstance(error, InvalidGraphError):
        listed: dict[str, list[dict[str, str]]] = {}
        for problem in error.problems:
            entry = {"field": getattr(problem, "input_name", ""), "reason": getattr(problem, "type", "invalid")}
            listed.setdefault(str(getattr(problem, "node_id", "")), []).append(entry)
        return _error(422, "invalid_workflow", str(error), details={"node_errors": listed})
    return _error(422 if isinstance(error, GraphError) else 400, "invalid_workflow", str(error))


def _error(status: int, code: str, message: str, wait: int = 0, details: dict[str, Any] | None = None) -> JSONResponse:
    headers = {"Retry-After": str(wait)} if wait else {}
    return JSONResponse({"error": {"code": code, "message": message, "details": details}}, status, headers)
