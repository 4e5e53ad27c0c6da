"""Jobs while they run: stopped at the next step, ended by the clock, given back, drained; and none lost when the process is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request

import pytest
from rapiddraw.core.errors import DataError
from rapiddraw.core.progress import Progress
from rapiddraw.serve.settings import Limits
from rapiddraw.serve.store import JobStore, NewJob
from rapiddraw.serve.worker import Done, failure


class Slow:
    """A node of many steps that waits until it is stopped."""

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "execute"
    INPUT_TYPES = classmethod(lambda cls: {"required": {"seconds": ("FLOAT", {"default": 30.0})}})

    def execute(self, seconds):
        import torch

        with Progress(int(seconds * 100)) as bar:
            for _ in range(bar.total):
                time.sleep(0.01)
                bar.update()
        return (torch.zeros(1, 8, 8, 3),)


SLOW = {
    "1": {"class_type": "Slow", "inputs": {"seconds": 30.0}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0], "filename_prefix": "slow"}},
}


def slow(serving, **settings):
    client, server = serving(allowed=("all",), **settings)
    server.service.backend.registry["Slow"] = Slow
    return client, server


def running(server, job_id: str) -> None:
    while server.service.store.get(job_id).state != "running" or server.service.progress.get(job_id, {}).get("value") is None:
        time.sleep(0.01)


@pytest.mark.parametrize("way", ["people", "comfy", "v2"])
def test_a_running_job_is_stopped_at_its_next_step(serving, graph, way):
    client, server = slow(serving)
    job_id = client.post("/prompt", json={"prompt": SLOW}).json()["prompt_id"]
    running(server, job_id)
    assert client.get(f"/jobs/{job_id}").json()["progress"]["max"] == 3000
    ask = {"people": ("DELETE", f"/jobs/{job_id}"), "comfy": ("POST", "/interrupt"), "v2": ("POST", f"/api/v2/jobs/{job_id}/cancel")}
    assert client.request(*ask[way]).status_code == 200
    assert server.ended(job_id).state == "cancelled"
    assert client.get(f"/history/{job_id}").json()[job_id]["status"]["messages"][-1][0] == "execution_interrupted"
    assert server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"]).state == "done"


def test_a_waiting_job_is_cancelled_without_running(serving, graph):
    client, server = slow(serving)
    first = client.post("/prompt", json={"prompt": SLOW}).json()["prompt_id"]
    second = client.post("/prompt", json={"prompt": graph}).json()["prompt_id"]
    assert client.get(f"/api/v2/jobs/{second}").json()["queue_position"] == 1
    assert client.delete(f"/jobs/{second}").json()["cancelled"]
    assert server.service.store.get(second).attempt == 0
    client.delete(f"/jobs/{first}")
    assert server.ended(first).state == "cancelled"


def test_a_cancel_before_the_worker_has_begun_is_kept(serving):
    _, server = slow(serving)
    worker = server.service.backend._worker
    worker.cancel("soon")
    job, _ = server.service.store.add(NewJob("local", "", SLOW, id="soon"), 9, 9)
    server.service.backend.wake()
    assert server.ended(job.id).state == "cancelled"


def test_a_job_has_an_end_by_the_clock(serving, graph):
    client, server = slow(serving, limits=Limits(job_seconds=0.2))
    job = server.ended(client.post("/prompt", json={"prompt": SLOW}).json()["prompt_id"])
    assert job.state == "failed" and "longer than 0.2 s" in job.error["message"]


def test_stopping_gives_a_running_job_back(serving):
    client, server = slow(serving, drain_seconds=0.1)
    job_id = client.post("/prompt", json={"prompt": SLOW}).json()["prompt_id"]
    running(server, job_id)
    server.service.is_stopping.set()
    server.service.backend.stop(0.1)
    job = server.service.store.get(job_id)
    assert (job.state, job.attempt, job.deaths) == ("queued", 1, 0)


def test_a_result_of_an_attempt_that_was_overtaken_is_dropped(serving, graph):
    _, server = serving()
    server.service.claim = lambda: None
    job, _ = server.service.store.add(NewJob("local", "", graph), 9, 9)
    first = server.service.store.claim()
    server.service.lost(first, "the worker died")
    second = server.service.store.claim()
    server.service.finished(first, Done({}, [("output", "a.png", b"first")]))
    assert server.service.store.get(job.id).state == "running"
    server.service.finished(second, Done({}, [("output", "a.png", b"second")]))
    ended = server.service.store.get(job.id)
    assert (ended.state, ended.attempt) == ("done", 2) and server.service.file(ended, "output/a.png").read_bytes() == b"second"


def test_metrics_and_logs_tell_of_jobs(serving, graph, caplog):
    client, server = serving()
    with caplog.at_level("INFO", logger="rapiddraw.serve"):
        job = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    text = client.get("/metrics").text
    assert 'rapiddraw_jobs_total{state="done"} 1.0' in text and "rapiddraw_queue_length 0.0" in text and "rapiddraw_replicas 1.0" in text
    assert [record.message for record in caplog.records if getattr(record, "job", "") == job.id][:2] == ["job accepted", "job started"]


def start(folder, graph: str, port: int) -> subprocess.Popen:
    options = ["--port", str(port), "--data", str(folder), "--warm-up", "", "--per-key", "100"]
    command = [sys.executable, "-m", "rapiddraw", "serve", graph, *options]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)  # noqa: S603 - our own command
    for _ in range(1200):
        assert process.poll() is None
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()  # noqa: S310 - loopback
            return process
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the server did not start")


def test_a_killed_process_loses_no_job_and_draws_none_twice(tmp_path, make_graph, graph):
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    process = start(tmp_path / "data", make_graph, port)
    ids = []
    for number in range(60):
        body = json.dumps({"graph": "blue", "set": {"Colour.color": number}}).encode()
        asked = urllib.request.Request(f"http://127.0.0.1:{port}/generate", body, {"Content-Type": "application/json"})  # noqa: S310
        ids.append(json.loads(urllib.request.urlopen(asked, timeout=60).read())["id"])  # noqa: S310 - loopback
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process = start(tmp_path / "data", make_graph, port)
    try:
        for job_id in ids:
            for _ in range(600):
                state = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{port}/jobs/{job_id}", timeout=60).read())["state"]  # noqa: S310
                if state == "done":
                    break
                time.sleep(0.05)
            assert state == "done"
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    store = JobStore(tmp_path / "data" / "jobs.sqlite")
    jobs = store.listed(None, ("done",))
    assert {job.id for job in jobs} == set(ids) and all(job.attempt <= 2 and len(job.files) == 1 for job in jobs)
    pictures = list((tmp_path / "data" / "results").rglob("*.png"))
    kept = [path for path in pictures if any(path.parts[-4:-2] == (job.id, str(job.attempt)) for job in jobs)]
    assert len(kept) == 60
    store.close()


def test_previews_of_a_run_reach_its_client(serving):
    """A node that shows a picture of each step."""
    import base64
    import io

    from PIL import Image

    class Shown(Slow):
        def execute(self, seconds):
            import torch

            with Progress(1) as bar:
                bar.update(preview=Image.new("RGB", (16, 8), (255, 0, 0)))
            return (torch.zeros(1, 8, 8, 3),)

    _, server = slow(serving)
    server.service.backend.registry["Slow"] = Shown
    told = []
    server.service.hub.send = told.append
    job, _ = server.service.store.add(NewJob("local", "", SLOW), 9, 9)
    server.service.backend.wake()
    server.ended(job.id)
    preview = next(message for message in told if message.kind == "preview")
    picture = Image.open(io.BytesIO(base64.b64decode(preview.data["jpeg"])))
    assert preview.data["node"] == "1" and picture.format == "JPEG" and picture.size == (256, 128) and picture.getpixel((5, 5))[0] > 240


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("/srv/uploads/a/b.png is not a readable image ('/srv/uploads/a/b.png')", "b.png is not a readable image ('b.png')"),
        (r"cannot write C:\Users\me\out\a.png", "cannot write a.png"),
        ("see https://example.org/a/b and loras/x and/or y", "see https://example.org/a/b and loras/x and/or y"),
    ],
)
def test_an_error_tells_no_folder_of_this_machine(said, kept):
    assert failure(DataError(said))["message"] == kept
