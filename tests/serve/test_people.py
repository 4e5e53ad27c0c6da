"""The thin API: from a request to a picture."""

from __future__ import annotations

import io

import pytest
from PIL import Image


def test_a_picture_from_a_request(serving):
    client, server = serving()
    answer = client.post("/generate", json={"graph": "blue", "set": {"Colour.color": 0xFF0000}})
    assert answer.status_code == 202 and answer.headers["location"] == f"/jobs/{answer.json()['id']}"
    job = server.ended(answer.json()["id"])
    assert job.state == "done" and job.attempt == 1
    shown = client.get(f"/jobs/{job.id}").json()
    assert shown["state"] == "done" and len(shown["images"]) == 1
    picture = client.get(shown["images"][0])
    assert picture.headers["content-type"] == "image/png" and picture.headers["x-content-type-options"] == "nosniff"
    pixels = Image.open(io.BytesIO(picture.content))
    assert pixels.size == (16, 16) and pixels.getpixel((3, 3)) == (255, 0, 0)


def test_the_same_request_twice_saves_twice(serving):
    client, server = serving()
    jobs = [server.ended(client.post("/generate", json={"graph": "blue"}).json()["id"]) for _ in range(2)]
    assert all(client.get(f"/jobs/{job.id}/image").status_code == 200 for job in jobs)
    assert list((server.settings.data / "scratch").rglob("*.png")) == []


def test_an_idempotency_key_gives_the_earlier_job(serving):
    client, server = serving()
    first, second = (client.post("/generate", json={"graph": "blue"}, headers={"Idempotency-Key": "k"}) for _ in range(2))
    assert (first.status_code, second.status_code) == (202, 200) and first.json()["id"] == second.json()["id"]
    assert server.service.store.count("queued", "running", "done") == 1


def test_jobs_are_kept_for_as_many_days_as_were_asked_for(serving):
    client, server = serving(keep_days=2)
    old, new = (server.ended(client.post("/generate", json={"graph": "blue"}).json()["id"]) for _ in range(2))
    with server.service.store.changing() as db:
        db.execute("UPDATE jobs SET finished = finished - 3 * 86400 WHERE id = ?", (old.id,))
    server.service._tidied = float("-inf")  # an hour later
    server.service.tidy()
    assert [client.get(f"/jobs/{job.id}").status_code for job in (old, new)] == [404, 200]
    assert [path.name for path in (server.settings.data / "results").iterdir()] == [new.id]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"graph": "blue", "set": {"Colour.colour": 1}}, 400, "has no input 'colour'"),
        ({"graph": "red"}, 400, "this service draws blue"),
        ({"graph": "blue", "set": {"Colour.width": 0}}, 400, "width"),
        ({"graph": "blue", "set": {"Colour.width": 4096, "Colour.height": 4096}}, 400, "are the most"),
        ({"graph": "blue", "prompt": "a pear"}, 400, "has no text"),
        ({"graph": "blue", "seed": -1}, 422, "greater than"),
        ({"graph": "blue", "set": {"Colour.color": [1]}}, 422, "valid"),
    ],
)
def test_wrong_requests_are_explained(serving, body, status, said):
    client, server = serving()
    answer = client.post("/generate", json=body)
    assert answer.status_code == status and said in answer.text
    assert server.service.store.count("queued", "running", "done", "failed") == 0


def test_the_shipped_graphs_prompt_is_found():
    from rapiddraw.core.graph.formats import read_graph
    from rapiddraw.nodes.registry import registry
    from rapiddraw.serve.people import prompt_input

    assert prompt_input(read_graph("text_to_image"), registry()) == "3.text"


def test_a_job_that_does_not_exist(serving):
    client, _ = serving()
    for path in ("/jobs/x", "/jobs/x/image", "/jobs/..%2f..%2fetc"):
        assert client.get(path).status_code == 404
    assert client.delete("/jobs/x").status_code == 404


def test_a_job_is_deleted_with_its_files(serving):
    client, server = serving()
    job = server.ended(client.post("/generate", json={"graph": "blue"}).json()["id"])
    assert list((server.settings.data / "results").rglob("*.png"))
    assert client.delete(f"/jobs/{job.id}").json() == {"id": job.id, "deleted": True}
    assert client.get(f"/jobs/{job.id}").status_code == 404 and not list((server.settings.data / "results").rglob("*.png"))
