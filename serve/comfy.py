"""ComfyUI's own API, as its clients know it: prompts, queue, history, pictures, uploads. :mod:`.sockets` has its WebSocket."""

from __future__ import annotations

import uuid
from typing import Any

from fastapi import APIRouter, HTTPException, Request, UploadFile
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from ..core.errors import InputError
from ..core.graph.validate import output_nodes
from ..core.paths import safe_join
from .http import REFUSALS, client_of, error_answer, file_answer, json_object, submitted
from .object_info import ObjectInfo
from .service import Service
from .store import ENDED, Job
from .system import machine_stats
from .uploads import keep_picture, uploaded


def router(service: Service, info: ObjectInfo) -> APIRouter:
    """Return the routes; ComfyUI has each of them below `/api` too."""
    routes = APIRouter(tags=["ComfyUI"])
    store, registry = service.store, service.backend.registry

    @routes.get("/prompt")
    def remaining() -> dict[str, Any]:
        return {"exec_info": {"queue_remaining": store.count("queued", "running")}}

    @routes.post("/prompt")
    async def prompt(request: Request) -> Response:
        body = await json_object(request)
        if not isinstance(body.get("prompt"), dict):
            error = {"type": "no_prompt", "message": "No prompt provided", "details": "", "extra_info": {}}
            return JSONResponse({"error": error, "node_errors": {}}, 400)
        given = body.get("extra_data") if isinstance(body.get("extra_data"), dict) else {}
        pnginfo = given.get("extra_pnginfo") if isinstance(given, dict) else None
        workflow = pnginfo.get("workflow") if isinstance(pnginfo, dict) else None
        extra = {"client_id": str(body.get("client_id") or "")[:200], "workflow": workflow if isinstance(workflow, dict) else None}
        try:
            if body.get("partial_execution_targets"):
                raise InputError("partial_execution_targets are not supported here: send a graph with the outputs that you want alone")
            options = {"extra": extra, "job_id": _prompt_id(body.get("prompt_id"), service), "priority": 1.0 if body.get("front") else 0.0}
            job, _ = await submitted(service, request, lambda: service.graph_of(body["prompt"]), options)
        except REFUSALS as error:
            return error_answer(error)
        return JSONResponse({"prompt_id": job.id, "number": job.number, "node_errors": {}})

    @routes.get("/queue")
    def queue(request: Request) -> dict[str, Any]:
        name = client_of(request).name
        running, waiting = (store.listed(name, (state,)) for state in ("running", "queued"))
        return {"queue_running": [_entry(job, registry) for job in running], "queue_pending": [_entry(job, registry) for job in waiting]}

    @routes.post("/queue")
    async def change_queue(request: Request) -> Response:
        body, name = await json_object(request), client_of(request).name
        wanted = [job.id for job in store.listed(name, ("queued",), 10_000)] if body.get("clear") else _ids(body.get("delete"))
        for job_id in wanted:
            if store.cancel_waiting(job_id, name):
                service.forget(job_id, name)
        service.tell_status()
        return Response()

    @routes.post("/interrupt")
    async def interrupt(request: Request) -> Response:
        body = await json_object(request) if await request.body() else {}
        name, wanted = client_of(request).name, body.get("prompt_id")
        for job in store.listed(name, ("running",)):
            if wanted in (None, "", job.id):
                service.cancel(job.id, name)
        return Response()

    @routes.get("/history")
    def history(request: Request, max_items: int = 200, offset: int = 0) -> dict[str, Any]:
        found = store.listed(client_of(request).name, ENDED, max(0, min(max_items, 1000)), max(0, offset), newest=True)
        return {job.id: _past(job, registry) for job in reversed(found)}

    @routes.get("/history/{job_id}")
    def history_of(job_id: str, request: Request) -> dict[str, Any]:
        job = store.get(job_id, client_of(request).name)
        return {job.id: _past(job, registry)} if job is not None and job.is_over else {}

    @routes.post("/history")
    async def change_history(request: Request) -> Response:
        body, name = await json_object(request), client_of(request).name
        wanted = [job.id for job in store.listed(name, ENDED, 10_000)] if body.get("clear") else _ids(body.get("delete"))
        for job_id in wanted:
            await run_in_threadpool(service.forget, job_id, name)
        return Response()

    @routes.get("/view")
    def view(request: Request, filename: str, subfolder: str = "", type: str = "output") -> Response:  # noqa: A002 - ComfyUI's name
        name = client_of(request).name
        if type == "input":
            path = safe_join(service.uploads(name), f"{subfolder}/{filename}".strip("/"))
            return file_answer(path if path.is_file() else None, filename)
        job_id, _, inner = subfolder.replace("\\", "/").strip("/").partition("/")
        job = store.get(job_id, name)
        found = None if job is None else service.file(job, "/".join(filter(None, (type, inner, filename))))
        return file_answer(found, filename)

    @routes.post("/upload/image")
    async def upload(request: Request) -> dict[str, str]:
        form = await request.form(max_files=1, max_fields=10)
        image, subfolder = form.get("image"), str(form.get("subfolder") or "")
        if not hasattr(image, "read") or str(form.get("type") or "input") not in ("input", "temp"):
            raise HTTPException(400, "send one picture as the field 'image', with the type 'input'")
        overwrite = str(form.get("overwrite") or "").lower() in ("true", "1")
        return await _keep(service, request, image, subfolder, overwrite)  # type: ignore[arg-type]

    @routes.get("/object_info")
    def object_info(request: Request) -> dict[str, Any]:
        return info.all(uploaded(service.uploads(client_of(request).name)))

    @routes.get("/object_info/{node_class}")
    def one_class(node_class: str, request: Request) -> dict[str, Any]:
        entry = info.one(node_class, uploaded(service.uploads(client_of(request).name)))
        return {node_class: entry} if entry else {}

    @routes.get("/system_stats")
    def system_stats() -> dict[str, Any]:
        return machine_stats(service.settings.engine)

    @routes.get("/features")
    def features() -> dict[str, Any]:
        return {"supports_preview_metadata": False, "max_upload_size": service.settings.limits.upload_bytes}

    @routes.get("/embeddings")
    @routes.get("/extensions")
    def none_here() -> list[str]:
        return []

    @routes.post("/free")
    def free() -> Response:
        """Accepted and without effect: models stay warm here."""
        return Response()

    return routes


async def _keep(service: Service, request: Request, image: UploadFile, subfolder: str, overwrite: bool) -> dict[str, str]:
    data, name = await image.read(), f"{subfolder}/{image.filename or ''}".lstrip("/") if subfolder else image.filename or ""
    kept = await run_in_threadpool(keep_picture, service.uploads(client_of(request).name), name, data, overwrite)
    folder, _, last = kept.rpartition("/")
    return {"name": last, "subfolder": folder, "type": "input"}


def _prompt_id(given: Any, service: Service) -> str:
    """A client's own id for its job, which must be a new UUID."""
    if given is None:
        return ""
    try:
        job_id = str(uuid.UUID(str(given)))
    except ValueError as error:
        raise InputError("prompt_id must be a UUID") from error
    if service.store.get(job_id) is not None:
        raise InputError("prompt_id must be new: there is a job with this id")
    return job_id


def _ids(given: Any) -> list[str]:
    return [str(one) for one in given[:1000]] if isinstance(given, list) else []


def _entry(job: Job, registry: Any) -> list[Any]:
    """A job as ComfyUI's queue has it."""
    extra = {"client_id": job.extra.get("client_id", ""), "create_time": int(job.created * 1000)}
    return [job.number, job.id, job.graph, extra, output_nodes(job.graph, registry)]


def _past(job: Job, registry: Any) -> dict[str, Any]:
    """A job as ComfyUI's history has it."""
    began = {"prompt_id": job.id, "timestamp": int((job.started or job.created) * 1000)}
    ended: dict[str, Any] = {"prompt_id": job.id, "timestamp": int((job.finished or job.created) * 1000)}
    kind = {"done": "execution_success", "failed": "execution_error"}.get(job.state, "execution_interrupted")
    if job.state == "failed":
        error = job.error or {}
        ended |= {
            "node_id": error.get("node_id", ""), "node_type": error.get("class_type", ""), "exception_type": error.get("type", ""),
            "exception_message": error.get("message", ""), "traceback": [], "executed": [],
        }  # fmt: skip
    meta = {name: {"node_id": name, "display_node": name, "parent_node": None, "real_node_id": name} for name in job.outputs}
    status = {"status_str": "success" if job.state == "done" else "error", "completed": job.state == "done"}
    return {
        "prompt": _entry(job, registry), "outputs": job.outputs, "meta": meta,
        "status": {**status, "messages": [["execution_start", began], [kind, ended]]},
    }  # fmt: skip
