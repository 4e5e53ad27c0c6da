"""ComfyUI's own API: a prompt from its arrival to its picture, as ComfyUI's clients ask for it."""

from __future__ import annotations

import io
import struct
import uuid

import pytest
from PIL import Image

WS = "ws://127.0.0.1/ws"


def png(size: tuple[int, int] = (8, 8)) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", size, (255, 0, 0)).save(out, "PNG")
    return out.getvalue()


def until_idle(socket) -> list[dict]:
    """The messages of a WebSocket until a prompt has ended."""
    messages = []
    while True:
        message = socket.receive_json()
        messages.append(message)
        if message["type"] == "executing" and message["data"]["node"] is None:
            return messages


def test_a_prompt_with_its_messages(serving, graph):
    client, _ = serving()
    with client.websocket_connect(f"{WS}?clientId=me") as socket, client.websocket_connect(f"{WS}?clientId=other") as other:
        first = socket.receive_json()
        assert first == {"type": "status", "data": {"status": {"exec_info": {"queue_remaining": 0}}, "sid": "me"}}
        answer = client.post("/prompt", json={"prompt": graph, "client_id": "me"}).json()
        assert answer["node_errors"] == {} and uuid.UUID(answer["prompt_id"])
        heard = until_idle(socket)
        assert other.receive_json()["type"] == "status"
    mine = [message for message in heard if message["type"] != "status"]
    kinds = [message["type"] for message in mine]
    assert kinds == ["execution_start", "executing", "executing", "execution_cached", "executed", "execution_success", "executing"]
    assert all(message["data"]["prompt_id"] == answer["prompt_id"] for message in mine)
    assert [message["data"]["node"] for message in mine if message["type"] == "executing"] == ["1", "2", None]
    saved = mine[4]["data"]["output"]["images"][0]
    picture = client.get("/view", params=saved)
    assert Image.open(io.BytesIO(picture.content)).getpixel((0, 0)) == (0, 0, 255)
    entry = client.get(f"/history/{answer['prompt_id']}").json()[answer["prompt_id"]]
    assert entry["outputs"] == {"2": {"images": [saved]}} and entry["status"]["status_str"] == "success" and entry["prompt"][2] == graph
    assert list(client.get("/history").json()) == [answer["prompt_id"]]
    assert client.get("/queue").json() == {"queue_running": [], "queue_pending": []}
    assert client.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}}


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_what_clients_ask_first(serving, prefix):
    client, _ = serving()
    info = client.get(f"{prefix}/object_info").json()
    assert info["EmptyImage"]["input"]["required"]["width"][0] == "INT" and info["SaveImage"]["output_node"] is True
    assert client.get(f"{prefix}/object_info/SaveImage").json() == {"SaveImage": info["SaveImage"]}
    assert client.get(f"{prefix}/object_info/Nothing").json() == {}
    assert {"system", "devices"} == client.get(f"{prefix}/system_stats").json().keys()
    assert client.get(f"{prefix}/embeddings").json() == [] and client.post(f"{prefix}/free").status_code == 200


def test_object_info_agrees_with_what_comfyui_says_of_a_class(serving):
    """The keys of ComfyUI's own answer, without those that only its editor reads."""
    client, _ = serving()
    entry = client.get("/object_info/RapidDrawESRGANUpscale").json()["RapidDrawESRGANUpscale"]
    keys = {"input", "input_order", "output", "output_is_list", "output_name", "name", "display_name", "description", "python_module"}
    assert keys | {"category", "output_node", "output_tooltips", "search_aliases"} == entry.keys()
    assert len(entry["output"]) == len(entry["output_name"]) == len(entry["output_is_list"]) == len(entry["output_tooltips"])


def test_wrong_prompts_are_explained_per_node(serving, graph):
    client, _ = serving(allowed=())
    assert client.post("/prompt", json={}).json()["error"]["type"] == "no_prompt"
    wrong = {**graph, "1": {"class_type": "EmptyImage", "inputs": {**graph["1"]["inputs"], "width": -1}}}
    answer = client.post("/prompt", json={"prompt": wrong})
    assert answer.status_code == 400 and answer.json()["error"]["type"] == "prompt_outputs_failed_validation"
    assert answer.json()["node_errors"]["1"]["errors"][0]["type"] == "value_smaller_than_min"
    assert client.post("/prompt", json={"prompt": graph, "prompt_id": "mine"}).status_code == 400
    given = str(uuid.uuid4())
    assert client.post("/prompt", json={"prompt": graph, "prompt_id": given}).json()["prompt_id"] == given
    assert client.post("/prompt", json={"prompt": graph, "prompt_id": given}).status_code == 400


def test_an_uploaded_picture_is_offered_drawn_and_seen(serving):
    graph = {
        "1": {"class_type": "LoadImage", "inputs": {"image": "red.png"}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    client, server = serving(allowed=("LoadImage", "PreviewImage"))
    assert client.post("/prompt", json={"prompt": graph}).status_code == 400
    sent = client.post("/upload/image", files={"image": ("red.png", png())})
    assert sent.json() == {"name": "red.png", "subfolder": "", "type": "input"}
    assert client.post("/upload/image", files={"image": ("red.png", png())}).json()["name"] == "red.png"
    assert client.post("/upload/image", files={"image": ("red.png", png((4, 4)))}).json()["name"] == "red (1).png"
    assert client.get("/object_info/LoadImage").json()["LoadImage"]["input"]["required"]["image"][0] == ["red (1).png", "red.png"]
    assert client.get("/view", params={"filename": "red.png", "type": "input"}).content == png()
    job = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"])
    shown = job.outputs["2"]["images"][0]
    assert shown["type"] == "temp" and Image.open(io.BytesIO(client.get("/view", params=shown).content)).getpixel((1, 1)) == (255, 0, 0)


def test_the_queue_is_cleared_and_history_deleted(serving, graph):
    client, server = serving()
    server.service.backend.wake = lambda: None  # the worker looks again after some seconds: the jobs wait
    first = server.ended(client.post("/prompt", json={"prompt": graph}).json()["prompt_id"]).id
    server.service.claim = lambda: None
    waiting = [client.post("/prompt", json={"prompt": graph}).json()["prompt_id"] for _ in range(3)]
    queue = client.get("/queue").json()
    assert [entry[1] for entry in queue["queue_pending"]] == waiting and queue["queue_pending"][0][4] == ["2"]
    client.post("/queue", json={"delete": [waiting[1]]})
    assert [entry[1] for entry in client.get("/queue").json()["queue_pending"]] == [waiting[0], waiting[2]]
    client.post("/queue", json={"clear": True})
    assert client.get("/queue").json()["queue_pending"] == []
    client.post("/history", json={"delete": [first]})
    assert client.get("/history").json() == {}


def test_previews_are_binary_frames(serving, graph):
    from rapiddraw.serve.store import NewJob

    client, server = serving()
    with client.websocket_connect(f"{WS}?clientId=me") as socket:
        socket.receive_json()
        server.service.claim = lambda: None
        job, _ = server.service.store.add(NewJob("local", "", graph, {"client_id": "me"}), 9, 9)
        server.service.tell(job, "preview", {"node": "2", "jpeg": "SlBFRw=="})
        assert socket.receive_bytes() == struct.pack(">II", 1, 1) + b"JPEG"
