"""The gate before every route: who asks, from where, how often, and how large and how slow the body is. Plain ASGI.

On loopback without keys it answers to this machine's names only, so that a web page of another site cannot reach it through the browser,
neither directly (Origin) nor by a name that points here (Host).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from .keys import Client, Keys
from .service import LOCAL, Service
from .settings import LOOPBACK

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
OPEN_PATHS = ("/", "/health", "/ready")
"""Pages without a key: the web page asks for one itself."""
UPLOADS = ("/upload/", "/api/upload/", "/api/v2/assets", "/api/assets")
_MOST_BUCKETS = 10_000


class Rates:
    """Buckets of tokens: each client may make `per_minute` requests a minute, and as many at once after a quiet minute."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute, self._clock = per_minute, clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def wait(self, name: str) -> float:
        """Count a request and return 0.0, or return the seconds until the next one is allowed."""
        now = self._clock()
        tokens, since = self._buckets.pop(name, (float(self._per_minute), now))
        tokens = min(self._per_minute, tokens + (now - since) * self._per_minute / 60)
        self._buckets[name] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > _MOST_BUCKETS:
            self._buckets.popitem(last=False)
        return 0.0 if tokens >= 1 else (1 - tokens) * 60 / self._per_minute


class Guard:
    """The gate of one service; `state.client` of every admitted request says who asks."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], service: Service, keys: Keys) -> None:
        self._app, self._service, self._keys = app, service, keys
        self._settings = service.settings
        self._rates = Rates(service.settings.limits.rate)
        self._strangers = Rates(60)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            self._service.meters.refused.labels(refusal.headers.get("x-reason", "")).inc()
            if scope["type"] == "websocket":
                await receive()
                await send({"type": "websocket.close", "code": 1008})
            else:
                await refusal(scope, receive, send)
            return
        await self._app(scope, self._bounded(scope, receive) if scope["type"] == "http" else receive, send)

    def _refusal(self, scope: Scope, headers: Headers) -> JSONResponse | None:
        """The answer to a request that goes no further; None for one that does, whose client is then in its state."""
        path, address = scope["path"], (scope.get("client") or ("unknown",))[0]
        if not self._is_own_site(headers):
            return _answer(403, "foreign_origin", "this request comes from a page of another site; name that site with --allow-origin")
        client = Client(LOCAL, priority=1000.0)
        if len(self._keys):
            given = _given_key(scope, headers)
            known = self._keys.client(given) if given else None
            if known is None and path not in OPEN_PATHS and not path.startswith("/page/"):
                wait = self._strangers.wait(address)
                if wait:
                    return _answer(429, "rate", "too many requests without a valid key", wait)
                text = "the key is not valid" if given else "a key is needed: send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"
                return _answer(401, "wrong_key" if given else "no_key", text)
            client = known or Client("")
        wait = self._rates.wait(client.name or f"address {address}")
        if wait:
            return _answer(429, "rate", f"more than {self._settings.limits.rate} requests in a minute", wait)
        length = headers.get("content-length", "0")
        if not length.isascii() or not length.isdigit() or int(length) > self._most(path):
            return _answer(413, "too_large", f"the body may have {self._most(path)} bytes")
        scope.setdefault("state", {})["client"] = client
        return None

    def _is_own_site(self, headers: Headers) -> bool:
        host, origin = headers.get("host", ""), headers.get("origin")
        if self._settings.is_local and not len(self._keys) and _hostname(f"//{host}") not in LOOPBACK:
            return False
        if origin is not None:
            return origin in self._settings.origins or "*" in self._settings.origins or urlsplit(origin).netloc == host
        return headers.get("sec-fetch-site") not in ("cross-site", "same-site") or headers.get("sec-fetch-mode") == "navigate"

    def _most(self, path: str) -> int:
        limits = self._settings.limits
        return limits.upload_bytes if path.startswith(UPLOADS) else limits.body_bytes

    def _bounded(self, scope: Scope, receive: Receive) -> Receive:
        """`receive` that ends a body which is too large or too slow."""
        most, got, ends = self._most(scope["path"]), 0, time.monotonic() + self._settings.limits.body_seconds
        is_whole = False

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal got, is_whole
            if is_whole:
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), max(0.0, ends - time.monotonic()))
            except asyncio.TimeoutError:
                raise HTTPException(408, "the body did not arrive in time") from None
            got += len(message.get("body", b""))
            is_whole = not message.get("more_body", False)
            if got > most:
                raise HTTPException(413, f"the body may have {most} bytes")
            return message

        return bounded


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _given_key(scope: Scope, headers: Headers) -> str:
    """The key of a request. Browsers cannot set headers of a WebSocket, an event stream or a picture: `?api_key=` stands in there."""
    scheme, _, bearer = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and bearer.strip():
        return bearer.strip()
    if headers.get("x-api-key"):
        return headers["x-api-key"]
    query = parse_qs(scope.get("query_string", b"").decode("latin-1"), max_num_fields=20)
    return (query.get("api_key") or query.get("token") or [""])[0]


def _answer(status: int, reason: str, text: str, wait: float = 0.0) -> JSONResponse:
    headers = {"x-reason": reason}
    if wait:
        headers["Retry-After"] = str(max(1, int(wait + 0.999)))
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return JSONResponse({"error": {"type": reason, "message": text}}, status, headers)
