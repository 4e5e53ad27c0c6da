"""The service on Ray Serve, in processes of its own: jobs end, a killed replica loses none, and none ends twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from pathlib import Path

import pytest

pytest.importorskip("ray", reason="the extra 'ray' is not installed")
SECONDS = 1200


def replicas(marker: str) -> list[int]:
    """Process ids of the replicas that draw; only those of this test carry its marker."""
    found = []
    for place in Path("/proc").iterdir():
        try:
            is_ours = place.name.isdigit() and marker.encode() in (place / "environ").read_bytes()
            if is_ours and b"ServeReplica:rapiddraw:Worker" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="processes are found in /proc")
def test_a_killed_replica_loses_no_job(tmp_path, make_graph):
    import socket

    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    base, marker = f"http://127.0.0.1:{port}", uuid.uuid4().hex
    options = ["--port", str(port), "--data", str(tmp_path / "data"), "--warm-up", "", "--ray", "--max", "1"]
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(  # noqa: S603 - our own command
        [sys.executable, "-m", "rapiddraw", "serve", make_graph, *options], stdout=log, stderr=log,
        env={**os.environ, "RAPIDDRAW_TEST_MARKER": marker},
    )  # fmt: skip

    def ask(path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        asked = urllib.request.Request(base + path, data, {"Content-Type": "application/json"})  # noqa: S310 - loopback
        return json.loads(urllib.request.urlopen(asked, timeout=120).read())  # noqa: S310 - loopback

    def until(true, what: str) -> None:
        ends = time.monotonic() + SECONDS
        while time.monotonic() < ends:
            assert process.poll() is None, (tmp_path / "log").read_text()[-3000:]
            try:
                if true():
                    return
            except OSError:
                pass
            time.sleep(0.5)
        raise AssertionError(what + (tmp_path / "log").read_text()[-3000:])

    try:
        until(lambda: ask("/ready")["ready"], "the service did not become ready")
        ids = [ask("/generate", {"graph": "blue", "set": {"Colour.color": number}})["id"] for number in range(20)]
        until(lambda: any(ask(f"/jobs/{job}")["state"] == "done" for job in ids), "no job ended")
        for pid in replicas(marker):
            os.kill(pid, signal.SIGKILL)
        until(lambda: all(job["state"] == "done" for job in ask("/jobs")), "a job was lost")
        jobs = ask("/jobs")
        assert {job["id"] for job in jobs} == set(ids) and all(len(job["images"]) == 1 and job["attempts"] <= 2 for job in jobs)
    finally:
        process.terminate()
        assert process.wait(120) == 0
        log.close()
