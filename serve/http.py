"""What the routes share: JSON bodies, errors as answers, files as answers."""

from __future__ import annotations

import json
import mimetypes
from pathlib import Path
from typing import Any

from fastapi import HTTPException, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, JSONResponse, Response

from ..core.errors import GraphError, InputError, InvalidGraphError
from .catalog import Refused
from .keys import Client
from .service import Service
from .store import Full, Job

RETRY_SECONDS = 5
_INLINE = ("image/png", "image/jpeg", "image/webp", "image/gif", "video/mp4", "video/webm", "audio/mpeg", "audio/wav", "audio/flac")


def client_of(request: Request) -> Client:
    """Return who asks."""
    return request.state.client


def no_constant(name: str) -> Any:
    """Refuse NaN and infinities, which JSON does not have."""
    raise ValueError(f"{name} is no JSON")


async def json_object(request: Request) -> dict[str, Any]:
    """Return the body as an object. Raises a 400 for anything else."""
    body = await request.body()
    try:
        data = json.loads(body, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"the body is no JSON ({str(error)[:100]})") from error
    if not isinstance(data, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return data


async def submitted(service: Service, request: Request, graph: Any, options: dict[str, Any]) -> tuple[Job, bool]:
    """Put a client's graph into the queue away from the event loop. `options`: see :meth:`Service.submit`; a `priority` is bounded by what
    the client's key allows."""
    client = client_of(request)
    priority = min(float(options.pop("priority", 0.0)), client.priority)

    def submit() -> tuple[Job, bool]:
        return service.submit(client.name, graph() if callable(graph) else graph, priority=priority, **options)

    return await run_in_threadpool(submit)


def error_answer(error: Exception) -> JSONResponse:
    """Return the answer to a request that :meth:`Service.submit` refused: 429 for a full queue, 400 or 403 for a graph."""
    if isinstance(error, Full):
        return JSONResponse({"error": {"type": "queue_full", "message": str(error)}}, 429, {"Retry-After": str(RETRY_SECONDS)})
    entry: dict[str, Any] = {"type": "invalid_prompt", "message": str(error), "details": "", "extra_info": {}}
    node_errors: dict[str, Any] = {}
    if isinstance(error, InvalidGraphError):
        entry |= {"type": "prompt_outputs_failed_validation", "message": "Prompt outputs failed validation"}
        for problem in error.problems:
            node_id = str(getattr(problem, "node_id", ""))
            known = node_errors.setdefault(
                node_id, {"errors": [], "dependent_outputs": [], "class_type": getattr(problem, "class_type", "")}
            )
            kind, field = getattr(problem, "type", "invalid"), getattr(problem, "input_name", "")
            known["errors"].append({"type": kind, "message": str(problem), "details": field, "extra_info": {"input_name": field}})
        entry["details"] = "; ".join(str(problem) for problem in error.problems)[:2000]
    elif isinstance(error, Refused):
        entry["type"] = error.kind
    status = 403 if isinstance(error, Refused) and error.kind in ("not_allowed", "forbidden_class", "blocked") else 400
    return JSONResponse({"error": entry, "node_errors": node_errors}, status)


REFUSALS: tuple[type[Exception], ...] = (Full, GraphError, InputError)
"""Errors that :func:`error_answer` turns into answers."""


def file_answer(found: Path | bytes | None, name: str) -> Response:
    """Return a file as an answer that no browser runs. Raises a 404 where there is none."""
    if found is None:
        raise HTTPException(404, "there is no such file")
    guessed = mimetypes.guess_type(name)[0] or "application/octet-stream"
    kind = guessed if guessed in _INLINE else "application/octet-stream"
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in name.rpartition("/")[2])
    headers = {
        "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox; default-src 'none'",
        "Content-Disposition": f'inline; filename="{plain}"' if kind in _INLINE else f'attachment; filename="{plain}"',
    }  # fmt: skip
    if isinstance(found, bytes):
        return Response(found, media_type=kind, headers=headers)
    return FileResponse(found, media_type=kind, headers=headers)
