"""The thin API for people: name a graph, set values, get a job, get its picture."""

from __future__ import annotations

import json
from typing import Any

from fastapi import APIRouter, HTTPException, Request
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response

from ..api.engines import changed
from ..core.errors import InputError
from ..core.graph.formats import Graph
from ..core.graph.inputs import MAX_SEED, Registry, title_of
from ..core.graph.validate import output_nodes
from .http import REFUSALS, client_of, error_answer, file_answer, submitted
from .service import Service
from .store import STATES, Job

_PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif")


class Generate(BaseModel):
    """What to draw. `set` has values by `NODE.INPUT`, where NODE is an id, a class or a title of the graph."""

    graph: str = Field("text_to_image", max_length=200, description="the name of a registered graph")
    set: dict[str, str | int | float | bool | None] = Field(
        default_factory=dict, max_length=200, description='such as {"KSampler.steps": 20}'
    )
    prompt: str | None = Field(None, max_length=10_000, description="the text of the graph's prompt, instead of its NODE.INPUT in `set`")
    seed: int | None = Field(None, ge=0, le=MAX_SEED, description="for every seed of the graph")
    priority: float = Field(0.0, ge=-1000, le=1000, description="higher runs first, up to what the key allows")


def router(service: Service) -> APIRouter:
    """Return the routes."""
    routes = APIRouter(tags=["people"])
    registry = service.backend.registry

    @routes.get("/graphs")
    def graphs() -> dict[str, Any]:
        """The registered graphs, and the texts of each that a prompt replaces."""
        return {name: {"prompt": prompt_input(graph, registry)} for name, graph in service.catalog.graphs.items()}

    @routes.post("/generate", status_code=202)
    async def generate(wanted: Generate, request: Request) -> Response:
        """Draw a registered graph with other values. The answer is a job; `GET /jobs/{id}` says how it stands."""

        def graph() -> Graph:
            named, texts = service.catalog.named(wanted.graph), dict(wanted.set)
            if wanted.prompt is not None:
                place = prompt_input(named, registry)
                if not place:
                    raise InputError(f"the graph {wanted.graph} has no text that a prompt could replace; give values in 'set'")
                texts[place] = wanted.prompt
            return changed(named, registry, [f"{name}={json.dumps(value)}" for name, value in texts.items()], wanted.seed)

        try:
            job, is_new = await submitted(
                service, request, graph,
                {"extra": {}, "priority": wanted.priority, "idempotency": request.headers.get("idempotency-key")},
            )  # fmt: skip
        except REFUSALS as error:
            return error_answer(error)
        return JSONResponse(shown(service, job), 202 if is_new else 200, {"Location": f"/jobs/{job.id}"})

    def own(job_id: str, request: Request) -> Job:
        job = service.store.get(job_id, client_of(request).name)
        if job is None:
            raise HTTPException(404, "there is no such job")
        return job

    @routes.get("/jobs")
    def jobs(request: Request, limit: int = 50) -> list[dict[str, Any]]:
        """Your newest jobs."""
        found = service.store.listed(client_of(request).name, STATES, max(1, min(limit, 500)), newest=True)
        return [shown(service, job) for job in found]

    @routes.get("/jobs/{job_id}")
    def job(job_id: str, request: Request) -> dict[str, Any]:
        """How a job stands, and what it gave."""
        return shown(service, own(job_id, request))

    @routes.delete("/jobs/{job_id}")
    async def remove(job_id: str, request: Request) -> dict[str, Any]:
        """Cancel a job that waits or runs; delete one that has ended."""
        name = client_of(request).name
        if await run_in_threadpool(service.cancel, job_id, name):
            return {"id": job_id, "cancelled": True}
        if await run_in_threadpool(service.forget, job_id, name):
            return {"id": job_id, "deleted": True}
        raise HTTPException(404, "there is no such job")

    @routes.get("/jobs/{job_id}/image")
    def image(job_id: str, request: Request, number: int = 0) -> Response:
        """A picture of a job that is done: the first one, or that of this number."""
        found = own(job_id, request)
        names = pictures(found)
        if not found.is_over:
            raise HTTPException(409, f"the job is {found.state}; ask again later", {"Retry-After": "1"})
        if not 0 <= number < len(names):
            raise HTTPException(404, f"the job is {found.state} and has {len(names)} pictures")
        return file_answer(service.file(found, names[number]), names[number])

    return routes


def prompt_input(graph: Graph, registry: Registry) -> str:
    """Return the `NODE.INPUT` of the text that a person would call the prompt: the text of the node titled so, else the first text that is
    not empty; "" where there is none."""
    api = graph.to_api(registry)
    outputs, found = output_nodes(api, registry), []
    for node_id, node in api.items():
        title = title_of(node).lower()
        is_titled = ("prompt" in title or "positive" in title) and "negative" not in title
        for name in ("text", "prompt"):
            value = node.get("inputs", {}).get(name)
            if isinstance(value, str) and value.strip() and node_id not in outputs:
                found.append((not is_titled, f"{node_id}.{name}"))
    return min(found, key=lambda entry: entry[0])[1] if found else ""


def pictures(job: Job) -> list[str]:
    """Return the names of a job's pictures, saved ones before previews."""
    names = [name for name in job.files if name.lower().endswith(_PICTURES)]
    return sorted(names, key=lambda name: not name.startswith("output/"))


def shown(service: Service, job: Job) -> dict[str, Any]:
    """Return a job as this API shows it."""
    texts = [str(text) for ui in job.outputs.values() for text in ui.get("text", ())]
    images = [f"/jobs/{job.id}/image?number={number}" for number in range(len(pictures(job)))]
    entry: dict[str, Any] = {
        "id": job.id, "state": job.state, "graph": job.name, "created": job.created, "started": job.started, "finished": job.finished,
        "attempts": job.attempt, "images": images, "texts": texts,
    }  # fmt: skip
    progress = service.progress.get(job.id)
    if progress and not job.is_over:
        entry["progress"] = {key: progress[key] for key in ("node", "value", "max") if key in progress}
    if job.error:
        entry["error"] = job.error
    return entry
