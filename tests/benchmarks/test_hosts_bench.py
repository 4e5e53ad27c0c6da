"""`bench hosts`: which saved graphs it draws. No ComfyUI is started."""

from __future__ import annotations

import pytest
from rapiddraw.benchmarks.common import chosen_names
from rapiddraw.cli import main
from rapiddraw.core.errors import InputError

KNOWN = ["latent_bridge", "lowrank_vs_dense", "text_to_image", "time_decoupled"]


def test_only_names_graphs_with_commas_between_them() -> None:
    assert chosen_names(None, KNOWN, "graph") == KNOWN
    assert chosen_names(" time_decoupled,text_to_image, time_decoupled,", KNOWN, "graph") == ["time_decoupled", "text_to_image"]


@pytest.mark.parametrize(
    ("only", "said"), [("text_to_imgae", "text_to_image"), ("text_to_image,none", "nearest"), (" , ", "names no graph")]
)
def test_an_unknown_name_is_refused_with_the_nearest(only: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen_names(only, KNOWN, "graph")


def test_names_are_looked_at_before_any_work(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    assert main(["bench", "hosts", "--only", "text_to_imag"]) == 1
    assert "text_to_image" in capsys.readouterr().err
    assert main(["bench", "hosts", "--only", "text_to_image"]) == 1
    assert "needs a ComfyUI" in capsys.readouterr().err
