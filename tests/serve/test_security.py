"""What a stranger, a foreign page, or a careless client cannot do."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path

import pytest
from rapiddraw.cli import main
from rapiddraw.core.errors import InputError
from rapiddraw.serve.guard import Guard, Rates
from rapiddraw.serve.keys import Keys, new_key
from rapiddraw.serve.settings import Limits
from rapiddraw.serve.store import NewJob
from starlette.websockets import WebSocketDisconnect

KEY = "rd-0123456789abcdefghijklmn"
WS = "ws://127.0.0.1/ws"
ROUTES = ["/generate", "/jobs", "/jobs/x", "/prompt", "/queue", "/history", "/view?filename=a", "/object_info", "/system_stats", "/metrics",
          "/docs", "/openapi.json", "/api/v2/jobs", "/api/prompt", "/graphs"]  # fmt: skip
UP = ["../x.png", "..\\x.png", "/etc/passwd", "C:\\x.png", "a/../../x.png", "~/x.png", "x\0.png", "%2e%2e%2fx.png", "....//x.png"]


@pytest.mark.parametrize("path", ROUTES)
def test_every_route_wants_a_key(serving, path):
    client, _ = serving(given=(KEY,))
    assert client.get(path).status_code == 401 and client.get(path).json()["error"]["type"] == "no_key"
    assert client.get(path, headers={"X-API-Key": KEY[:-1] + "x"}).status_code == 401
    assert client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code not in (401, 403)


def test_a_websocket_wants_a_key(serving):
    client, _ = serving(given=(KEY,))
    for address in (WS, f"{WS}?api_key=wrong"):
        with pytest.raises(WebSocketDisconnect), client.websocket_connect(address):
            pass
    with client.websocket_connect(f"{WS}?api_key={KEY}") as socket:
        assert socket.receive_json()["type"] == "status"


def test_without_a_key_only_health_and_the_page_are_open(serving):
    client, _ = serving(given=(KEY,))
    assert all(client.get(path).status_code in (200, 503) for path in ("/", "/health", "/ready"))


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:9999"},
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example"},
        {"Host": ""},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_a_foreign_page_is_refused(serving, headers):
    client, server = serving()
    assert client.post("/generate", json={"graph": "blue"}, headers=headers).status_code == 403
    assert server.service.store.count("queued", "running", "done") == 0
    with pytest.raises(WebSocketDisconnect), client.websocket_connect(WS, headers=headers):
        pass


def test_an_allowed_origin_and_the_own_page_are_not_refused(serving):
    client, _ = serving(origins=("https://mine.example",))
    for headers in ({"Origin": "https://mine.example"}, {"Origin": "http://127.0.0.1"}, {"Sec-Fetch-Site": "same-origin"}):
        assert client.get("/graphs", headers=headers).status_code == 200


@pytest.mark.parametrize("name", UP)
def test_no_name_leads_outside(serving, tmp_path, graph, name):
    """In every field that may become a file."""
    client, server = serving(allowed=("LoadImage",))
    secret = tmp_path / "x.png"
    secret.write_bytes(b"secret")
    done = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    for query in ({"filename": name}, {"filename": name, "type": "input"}, {"filename": "x.png", "subfolder": name, "type": "input"},
                  {"filename": name, "subfolder": done.id}, {"filename": "x.png", "subfolder": f"{done.id}/{name}"},
                  {"filename": "jobs.sqlite", "subfolder": "..", "type": "input"}, {"filename": "x.png", "type": name}):  # fmt: skip
        answer = client.get("/view", params=query)
        assert answer.status_code in (400, 404), query
    png = b"\x89PNG\r\n\x1a\n"
    for fields in ({"subfolder": name}, {"subfolder": ""}):
        sent = client.post("/upload/image", files={"image": (name.replace("\0", "%00"), png)}, data=fields)
        assert sent.status_code == 400
    client.post("/api/v2/assets", files={"file": ("a.png", png)}, data={"file_path": name})
    load = {"1": {"class_type": "LoadImage", "inputs": {"image": name}}, "2": {**graph["2"]}}
    assert client.post("/prompt", json={"prompt": load}).status_code == 400
    prefixed = {**graph, "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": name}}}
    answer = client.post("/prompt", json={"prompt": prefixed})
    if answer.status_code == 200:
        server.ended(answer.json()["prompt_id"])
    strays = [Path(folder, name) for folder, _, names in os.walk(tmp_path) for name in names]
    strays = [path for path in strays if not path.is_relative_to(server.settings.data)]
    assert strays == [secret] and secret.read_bytes() == b"secret"


@pytest.mark.parametrize("data", [b"", b"no picture", b"<svg onload=alert(1)>", b"\x89PNG\r\n\x1a\n" + b"0" * 50])
def test_only_pictures_are_kept(serving, data):
    client, server = serving()
    assert client.post("/upload/image", files={"image": ("a.png", data)}).status_code == 400
    assert client.post("/upload/image", files={"image": ("a.html", data)}).status_code == 400
    assert not list((server.settings.data / "uploads").rglob("*.*"))


def test_bodies_have_an_end(serving):
    client, _ = serving(limits=Limits(body_bytes=1000, upload_bytes=3000))
    big = json.dumps({"graph": "blue", "set": {"x": "y" * 2000}})
    assert client.post("/generate", content=big, headers={"Content-Type": "application/json"}).status_code == 413
    assert (
        client.post("/generate", content=(part for part in [big.encode()]), headers={"Content-Type": "application/json"}).status_code == 413
    )
    assert client.post("/upload/image", files={"image": ("a.png", b"0" * 4000)}).status_code == 413
    assert client.post("/generate", content=b"{}", headers={"Content-Length": "-5"}).status_code == 413


def test_a_slow_body_is_ended(serving):
    """A client that sends a byte and waits."""
    _, server = serving(limits=Limits(body_seconds=0.05))
    sent = []

    async def ask() -> None:
        first = True

        async def receive():
            nonlocal first
            if first:
                first = False
                return {"type": "http.request", "body": b"{", "more_body": True}
            await asyncio.sleep(3600)

        async def send(message):
            sent.append(message)

        scope = {
            "type": "http", "method": "POST", "path": "/prompt", "raw_path": b"/prompt", "query_string": b"", "http_version": "1.1",
            "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80), "scheme": "http", "root_path": "",
        }  # fmt: skip
        await asyncio.wait_for(server.app(scope, receive, send), 10)

    asyncio.run(ask())
    assert sent[0]["status"] == 408


def test_ten_thousand_requests_in_a_minute(serving):
    """The limit of a key holds, another key is not held up, and the answer says when to come back."""
    client, server = serving(given=(KEY, KEY.upper()), limits=Limits(rate=1000))
    passed: list[int] = []

    async def ask() -> None:
        async def inner(scope, receive, send):
            passed.append(1)

        async def receive():
            return {"type": "http.request", "body": b"", "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start":
                sent.append(message)

        guard = Guard(inner, server.service, Keys(server.settings.data / "keys.json", (KEY,)))
        guard._rates = Rates(1000, clock=lambda: 0.0)
        scope = {"type": "http", "path": "/jobs", "query_string": b"", "client": ("127.0.0.1", 1),
                 "headers": [(b"host", b"127.0.0.1"), (b"x-api-key", KEY.encode())]}  # fmt: skip
        for _ in range(10_000):
            await guard(dict(scope), receive, send)

    sent: list[dict] = []
    asyncio.run(ask())
    assert len(passed) == 1000 and len(sent) == 9000 and {message["status"] for message in sent} == {429}
    assert (b"retry-after", b"1") in sent[0]["headers"]
    assert client.get("/jobs", headers={"X-API-Key": KEY.upper()}).status_code == 200


def test_a_bucket_fills_again():
    now = [0.0]
    rates = Rates(60, clock=lambda: now[0])
    assert all(rates.wait("a") == 0 for _ in range(60)) and 0 < rates.wait("a") <= 1 and rates.wait("b") == 0
    now[0] = 1.01
    assert rates.wait("a") == 0 and rates.wait("a") > 0


def test_a_forbidden_class_is_refused_and_named(serving, graph):
    other = {**graph, "9": {"class_type": "RapidDrawOrchardDataset", "inputs": {}}}
    client, _ = serving()
    answer = client.post("/prompt", json={"prompt": other})
    assert answer.status_code == 403 and "registered graphs alone" in answer.json()["error"]["message"]


def test_allowed_classes_only(serving, graph):
    client, server = serving(allowed=("ImageScale",))
    other = {**graph, "9": {"class_type": "RapidDrawOrchardDataset", "inputs": {}}}
    answer = client.post("/prompt", json={"prompt": other})
    assert answer.status_code == 403 and "node 9 RapidDrawOrchardDataset" in answer.json()["error"]["message"]
    more = {**graph, "3": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "again"}}}
    assert len(server.ended(client.post("/prompt", json={"prompt": more}).json()["prompt_id"]).files) == 2


@pytest.mark.parametrize("values", [{"width": 8192, "height": 8192}, {"width": "8192", "height": 8192.0}, {"batch_size": 20_000}])
def test_large_pictures_are_refused_however_they_are_written(serving, graph, values):
    graph["1"]["inputs"] |= values
    client, _ = serving()
    answer = client.post("/prompt", json={"prompt": graph})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "too_large"


def test_one_key_sees_nothing_of_another(serving, graph):
    client, server = serving(given=(KEY, KEY.upper()))
    mine, theirs = {"X-API-Key": KEY}, {"X-API-Key": KEY.upper()}
    job = server.ended(client.post("/prompt", json={"prompt": graph}, headers=mine).json()["prompt_id"])
    shown = job.outputs["2"]["images"][0]
    assert client.get("/view", params=shown, headers=mine).status_code == 200
    asset = client.get(f"/api/v2/jobs/{job.id}", headers=mine).json()["outputs"][0]["id"]
    for path in (f"/jobs/{job.id}", f"/jobs/{job.id}/image", f"/api/v2/jobs/{job.id}", f"/api/v2/jobs/{job.id}/events",
                 f"/api/v2/jobs/{job.id}/workflow", f"/api/v2/assets/{asset}", f"/api/v2/assets/{asset}/content"):  # fmt: skip
        assert client.get(path, headers=mine).status_code == 200 and client.get(path, headers=theirs).status_code == 404
    assert client.get("/view", params=shown, headers=theirs).status_code == 404
    assert client.get("/history", headers=theirs).json() == {} and client.get(f"/history/{job.id}", headers=theirs).json() == {}
    assert client.get("/jobs", headers=theirs).json() == [] and client.get("/api/v2/jobs", headers=theirs).json() == {"jobs": []}
    assert client.delete(f"/jobs/{job.id}", headers=theirs).status_code == 404
    assert client.post(f"/api/v2/jobs/{job.id}/cancel", headers=theirs).status_code == 404
    client.post("/history", json={"clear": True}, headers=theirs)
    assert client.get(f"/jobs/{job.id}", headers=mine).json()["state"] == "done"


def test_priority_is_what_the_key_allows(serving, graph, tmp_path):
    key = new_key(tmp_path / "data" / "keys.json", "fast", 5)
    client, server = serving(given=(KEY,))
    server.service.claim = lambda: None
    for given in (KEY, key):
        client.post("/generate", json={"graph": "blue", "priority": 100}, headers={"X-API-Key": given})
    assert [(job.owner, job.priority) for job in server.service.store.listed(None, ("queued",))] == [("fast", 5), ("environment-1", 0)]


def test_a_full_queue_says_when_to_come_back(serving, graph):
    client, server = serving(limits=Limits(queue=2))
    server.service.claim = lambda: None
    for _ in range(2):
        server.service.store.add(NewJob("local", "", graph), 9, 9)
    for path, body in (("/prompt", {"prompt": graph}), ("/generate", {"graph": "blue"}), ("/api/v2/jobs", {"workflow": graph})):
        answer = client.post(path, json=body)
        assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b'{"prompt": NaN}', b"[" * 100_000, b'{"prompt": {"1": []}}', b'{"prompt": {"1": {"class_type": 5}}}']
)
def test_odd_bodies_are_explained(serving, body):
    client, _ = serving()
    for path in ("/prompt", "/api/v2/jobs"):
        answer = client.post(path, content=body)
        assert answer.status_code in (400, 422), answer.text


def test_pictures_are_marked_where_the_service_marks(serving, graph):
    client, server = serving(mark=True)
    job = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    assert job.state == "done" and job.graph["mark-2-images"]["class_type"] == "RapidDrawMarkAIGenerated"
    assert job.graph["2"]["inputs"]["images"] == ["mark-2-images", 0]


def test_a_mark_that_nobody_sees_does_not_count(serving, graph):
    graph["3"] = {
        "class_type": "RapidDrawMarkAIGenerated",
        "inputs": {"image": ["1", 0], "text": "AI", "position": "top_left", "opacity": 0.0},
    }
    graph["2"]["inputs"]["images"] = ["3", 0]
    client, server = serving(mark=True, allowed=("RapidDrawMarkAIGenerated",))
    job = server.service.store.get(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    assert "mark-2-images" in job.graph
    graph["3"]["inputs"]["opacity"] = 0.8
    job = server.service.store.get(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    assert "mark-2-images" not in job.graph


def test_blocked_words_are_whole_words_in_any_case(serving, graph):
    client, _ = serving(blocked=("pear",))
    for prefix, status in (("a PEAR.", 403), ("pearl", 200)):
        graph["2"]["inputs"]["filename_prefix"] = prefix
        assert client.post("/prompt", json={"prompt": graph}).status_code == status


def test_keys_are_hashed_at_rest_and_replaced(tmp_path):
    path = tmp_path / "keys.json"
    old = new_key(path, "alice")
    key = new_key(path, "alice", 3)
    assert key not in path.read_text() and path.stat().st_mode & 0o077 == 0
    keys = Keys(path)
    assert keys.client(key).name == "alice" and keys.client(key).priority == 3 and keys.client(old) is None and keys.client("") is None
    for name in ("../x", "", "local", "environment-1", "a" * 41):
        with pytest.raises(InputError):
            new_key(path, name)
    path.write_text("[]")
    with pytest.raises(InputError, match="--new-key"):
        Keys(path)
    with pytest.raises(InputError, match="characters"):
        Keys(tmp_path / "none", ("short",))


def test_the_command_refuses_an_open_address_without_keys(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("RAPIDDRAW_API_KEYS", raising=False)
    assert main(["serve", "--listen", "0.0.0.0", "--data", str(tmp_path)]) == 1  # noqa: S104 - it must be refused
    assert "--new-key" in capsys.readouterr().err
    assert main(["serve", "--new-key", "alice", "--data", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith("rd-")


def test_a_failure_tells_nothing_of_this_machine(serving, graph, tmp_path, monkeypatch):
    """A client gets the error's words, not a traceback, and no words at all of an error that nobody foresaw."""
    client, server = serving()
    worker = server.service.backend._worker
    monkeypatch.setattr(worker, "run", lambda task, tell: (_ for _ in ()).throw(OSError(f"cannot open {tmp_path}/secret")))
    job = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    answer = client.get(f"/jobs/{job.id}").text + client.get(f"/history/{job.id}").text + client.get(f"/api/v2/jobs/{job.id}").text
    assert job.state == "failed" and str(tmp_path) not in answer and "its log says why" in answer
