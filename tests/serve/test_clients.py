"""Clients from PyPI, unchanged, against a server in a process of its own: comfy-cli, comfy-sdk, comfy-api-proxy, websocket-client, curl.

They live in a virtual environment of their own: `make test-clients` makes it, and RAPIDDRAW_CLIENTS names its folder.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from rapiddraw.core.paths import pack_root

VENV = Path(os.environ.get("RAPIDDRAW_CLIENTS", "none")) / "bin"
pytestmark = pytest.mark.skipif(not (VENV / "python").is_file(), reason="RAPIDDRAW_CLIENTS names no environment with the clients")
FORMS = [pytest.param((), id="one process"), pytest.param(("--ray",), id="Ray Serve")]
FAST = {"Steps.steps": 2}

SDK = """
import json, sys
from comfy_sdk import Comfy
from comfy_sdk.exceptions import IdempotencyKeyReuse
client = Comfy()
job = client.submit(client.workflows.from_file(sys.argv[1]), idempotency_key="once")
kinds = {type(event).__name__ for event in job.events()}
job.result()
try:
    client.submit(client.workflows.from_file(sys.argv[1]), idempotency_key="once")
    refused = ""
except IdempotencyKeyReuse as error:
    refused = type(error).__name__
asset = client.assets.from_file(sys.argv[2])
again = client.assets.from_file(sys.argv[2])
ids = [asset.commit(), again.commit()]
print(json.dumps({"status": job.status, "kinds": sorted(kinds), "png": job.outputs[0].to_bytes()[:8].hex(), "refused": refused,
    "new": [asset.created_new, again.created_new], "listed": [entry.id for entry in client.list_jobs()], "id": job.id}))
"""

SOCKET = """
import json, sys, urllib.request, urllib.parse, uuid, websocket
base, me = sys.argv[1], str(uuid.uuid4())
socket = websocket.WebSocket()
socket.connect(f"ws://{base}/ws?clientId={me}")
body = json.dumps({"prompt": json.load(open(sys.argv[2])), "client_id": me}).encode()
wanted = json.loads(urllib.request.urlopen(urllib.request.Request(f"http://{base}/prompt", data=body)).read())["prompt_id"]
kinds = []
while True:
    out = socket.recv()
    if isinstance(out, str):
        message = json.loads(out)
        kinds.append(message["type"])
        if message["type"] == "executing" and message["data"]["node"] is None and message["data"]["prompt_id"] == wanted:
            break
history = json.loads(urllib.request.urlopen(f"http://{base}/history/{wanted}").read())[wanted]
images = [image for output in history["outputs"].values() for image in output.get("images", [])]
data = urllib.request.urlopen(f"http://{base}/view?" + urllib.parse.urlencode(images[0])).read()
print(json.dumps({"kinds": sorted(set(kinds)), "png": data[:8].hex()}))
"""


def free_port() -> int:
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@pytest.fixture(scope="module", params=FORMS)
def server(request, tmp_path_factory):
    """Address of a server that draws text_to_image."""
    if request.param:
        pytest.importorskip("ray", reason="the extra 'ray' is not installed")
    port, folder = free_port(), tmp_path_factory.mktemp("served")
    command = [
        sys.executable,
        "-m",
        "rapiddraw",
        "serve",
        "text_to_image",
        "--port",
        str(port),
        "--data",
        str(folder / "data"),
        *request.param,
    ]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stderr=log, stdout=log)  # noqa: S603 - our own command
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5).read()  # noqa: S310 - loopback
                break
            except OSError:
                assert process.poll() is None, (folder / "log").read_text()[-3000:]
                time.sleep(0.5)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def workflow(tmp_path_factory) -> Path:
    """The shipped graph with few steps."""
    graph = json.loads((pack_root() / "workflows" / "api" / "text_to_image.json").read_text(encoding="utf-8"))
    for node in graph.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    path = tmp_path_factory.mktemp("graph") / "few_steps.json"
    path.write_text(json.dumps(graph), encoding="utf-8")
    return path


def ran(*command: str, **environment: str) -> str:
    env = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "COMFY_API_KEY")} | environment
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=env, check=False)  # noqa: S603 - our own commands
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


PNG = "89504e470d0a1a0a"


def test_a_websocket_client(server, workflow):
    said = json.loads(ran(str(VENV / "python"), "-c", SOCKET, server, str(workflow)))
    assert said["png"] == PNG and {"execution_start", "executing", "progress", "executed", "execution_success"} <= set(said["kinds"])


def test_comfy_sdk(server, workflow, tmp_path):
    picture = tmp_path / "picture.png"
    make_picture(picture)
    said = json.loads(ran(str(VENV / "python"), "-c", SDK, str(workflow), str(picture), COMFY_BASE_URL=f"http://{server}"))
    assert said["status"] == "succeeded" and said["png"] == PNG and said["id"] in said["listed"]
    assert said["refused"] == "IdempotencyKeyReuse"
    assert {"Progress", "StatusChange", "OutputReady"} <= set(said["kinds"]) and said["new"] == [True, False]


def test_comfy_sdk_through_comfy_api_proxy(server, workflow, tmp_path):
    port, picture = free_port(), tmp_path / "picture.png"
    make_picture(picture)
    env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {"HOME": str(tmp_path)}
    command = [str(VENV / "comfy-api-proxy"), "run", "--port", str(port), "--comfyui", f"http://{server}"]
    with (tmp_path / "log").open("w") as log:
        proxy = subprocess.Popen(command, env=env, stdout=log, stderr=log, cwd=tmp_path)  # noqa: S603 - our own command
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v2/health", timeout=5).read()  # noqa: S310 - loopback
                break
            except OSError:
                assert proxy.poll() is None, (tmp_path / "log").read_text()[-3000:]
                time.sleep(0.25)
        said = json.loads(ran(str(VENV / "python"), "-c", SDK, str(workflow), str(picture), COMFY_BASE_URL=f"http://127.0.0.1:{port}"))
        assert said["status"] == "succeeded" and said["png"] == PNG
    finally:
        proxy.terminate()
        proxy.wait(30)


def test_comfy_cli_run(server, workflow, tmp_path):
    host, port = server.split(":")
    command = [str(VENV / "comfy"), "--skip-prompt", "run", "--workflow", str(workflow), "--host", host, "--port", port, "--wait"]
    said = ran(*command, HOME=str(tmp_path), DO_NOT_TRACK="1")
    assert ".png" in said


@pytest.mark.skipif(shutil.which("curl") is None, reason="there is no curl")
def test_curl(server, tmp_path):
    body = json.dumps({"prompt": "a red pear on snow", "seed": 7, "set": FAST})
    job = json.loads(ran("curl", "-sf", f"http://{server}/generate", "-H", "Content-Type: application/json", "-d", body))["id"]
    for _ in range(600):
        state = json.loads(ran("curl", "-sf", f"http://{server}/jobs/{job}"))["state"]
        if state not in ("queued", "running"):
            break
        time.sleep(0.2)
    assert state == "done"
    ran("curl", "-sf", "-o", str(tmp_path / "out.png"), f"http://{server}/jobs/{job}/image")
    assert (tmp_path / "out.png").read_bytes()[:8].hex() == PNG


def make_picture(path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (32, 32), (10, 200, 30)).save(path)
