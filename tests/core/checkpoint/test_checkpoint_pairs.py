"""Two checkpoints of a user's own together, headless: SD 1.5 with SD 1.5 and SDXL with its refiner in time, SD 1.5 bridged to SDXL."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from rapiddraw import NODE_CLASS_MAPPINGS
from rapiddraw.core.errors import InputError
from rapiddraw.core.graph.stock.registry import STOCK_NODES
from rapiddraw.core.host.embedded.checkpoint import load_checkpoint
from rapiddraw.tests import sd_helpers

CPU = torch.device("cpu")
WALK = {"seed": 1, "steps": 4, "sampler_name": "dpmpp_2m", "scheduler": "normal", "denoise": 1.0}


def run(node: str, **inputs: Any) -> Any:
    made = {**STOCK_NODES, **NODE_CLASS_MAPPINGS}[node]()
    return getattr(made, made.FUNCTION)(**inputs)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """(MODEL, CLIP, VAE) by name, from single files."""
    folder = tmp_path_factory.mktemp("checkpoints")
    size = len(json.loads((sd_helpers.write_tokenizer(folder / "tokenizer") / "vocab.json").read_text(encoding="utf-8")))
    shapes = {
        "sd15": sd_helpers.narrow_sd15(size), "other": sd_helpers.narrow_sd15(size), "sdxl": sd_helpers.narrow_sdxl(size),
        "refiner": sd_helpers.narrow_refiner(size),
    }  # fmt: skip
    return {
        name: load_checkpoint(sd_helpers.write_single_file(folder / f"{name}.safetensors", parts, seed=number), CPU)
        for number, (name, parts) in enumerate(shapes.items())
    }


def prompts(loaded: dict[str, Any], name: str) -> dict[str, Any]:
    texts = {"positive": "a (red:1.3) fruit", "negative": ""}
    return {part: run("CLIPTextEncode", clip=loaded[name][1], text=text)[0] for part, text in texts.items()}


def empty() -> Any:
    return run("EmptyLatentImage", width=32, height=48, batch_size=2)[0]


def stock(loaded: dict[str, Any], name: str, **changes: Any) -> torch.Tensor:
    given = {"model": loaded[name][0], **prompts(loaded, name), "latent_image": empty(), "cfg": 4.0, **WALK, **changes}
    return run("KSampler", **given)[0]["samples"]


def pair(loaded: dict[str, Any], one: str, other: str, **changes: Any) -> torch.Tensor:
    texture = {f"texture_{part}": cond for part, cond in prompts(loaded, other).items()}
    given = {"structure": loaded[one][0], "texture": loaded[other][0], **prompts(loaded, one), **texture, "latent_image": empty()}
    given |= {"structure_cfg": 4.0, "texture_cfg": 4.0, "t_struct": 500, "history": "keep", **WALK, **changes}
    return run("RapidDrawTimeDecoupledSampler", **given)[0]["samples"]


@pytest.mark.parametrize(("one", "other"), [("sd15", "other"), ("sdxl", "refiner")])
@pytest.mark.parametrize("name", ["dpmpp_2m", "heun"])
def test_two_checkpoints_in_time(loaded: dict[str, Any], one: str, other: str, name: str) -> None:
    assert torch.equal(pair(loaded, one, other, t_struct=0, sampler_name=name), stock(loaded, one, sampler_name=name))
    assert torch.equal(pair(loaded, one, other, t_struct=1000, sampler_name=name), stock(loaded, other, sampler_name=name))
    both = pair(loaded, one, other, sampler_name=name)
    assert both.shape == (2, 4, 6, 4) and both.isfinite().all()
    assert not torch.equal(both, stock(loaded, one, sampler_name=name))
    assert torch.equal(both, pair(loaded, one, other, sampler_name=name))


def test_a_refiner_reads_with_one_encoder_and_is_told_how_good_the_picture_is(loaded: dict[str, Any]) -> None:
    model, clip, _ = loaded["refiner"]
    assert list(clip.encoders) == ["g"] and model.model.pooled_width == 128
    ((tokens, details),) = prompts(loaded, "refiner")["positive"]
    assert tokens.shape == (1, 77, 128)
    x = torch.zeros(1, 4, 4, 6)
    for prompt_type, score in (("positive", 6.0), ("negative", 2.5)):
        assert model.model.encode_adm({**details, "prompt_type": prompt_type}, x)[0, 128:].tolist() == [32, 48, 0, 0, score]
    chosen = {**details, "prompt_type": "negative", "aesthetic_score": 4.0, "width": 100}
    assert model.model.encode_adm(chosen, x)[0, 128:].tolist() == [32, 100, 0, 0, 4]
    seen: list[torch.Tensor] = []
    watched = model.clone()
    watched.set_model_unet_function_wrapper(
        lambda run, call: seen.append(call["c"]["y"]) or run(call["input"], call["timestep"], **call["c"])
    )
    stock({**loaded, "refiner": (watched, clip, None)}, "refiner", steps=1)
    assert sorted(seen[0][:, -1].tolist()) == [2.5, 2.5, 6.0, 6.0]


def test_one_prompt_cannot_serve_base_and_refiner(loaded: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="width 192.*128.*TimeDecoupledGuider"):
        run("RapidDrawTimeDecoupledModel", structure=loaded["sdxl"][0], texture=loaded["refiner"][0], t_struct=500)


def test_sd15_and_sdxl_are_refused_in_time_and_bridged(loaded: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="LatentSpaceBridge"):
        pair(loaded, "sd15", "sdxl")
    sides: dict[str, Any] = {}
    for letter, name in (("a", "sd15"), ("b", "sdxl")):
        model, _, vae = loaded[name]
        sides |= {f"model_{letter}": model, f"vae_{letter}": vae, f"cfg_{letter}": 4.0}
        sides |= {f"{part}_{letter}": cond for part, cond in prompts(loaded, name).items()}
    sides |= {"start_percent": 0.0, "end_percent": 1.0, "bridge_every": 1}
    given = {
        "noise": run("RandomNoise", noise_seed=1)[0],
        "sampler": run("KSamplerSelect", sampler_name="dpmpp_2m")[0],
        "sigmas": run("BasicScheduler", model=loaded["sd15"][0], scheduler="normal", steps=4, denoise=1.0)[0],
        "latent_a": empty(),
    }
    alone = [stock(loaded, name) for name in ("sd15", "sdxl")]
    apart = run("RapidDrawLatentSpaceBridgeSampler", **given, **sides, strength=0.0)
    assert torch.equal(apart[0]["samples"], alone[0]) and torch.equal(apart[1]["samples"], alone[1])
    a, b, image = run("RapidDrawLatentSpaceBridgeSampler", **given, **sides, strength=0.5)
    assert image.shape == (2, 48, 32, 3) and image.isfinite().all() and b["samples"].isfinite().all()
    assert not torch.equal(a["samples"], alone[0])


def test_the_resolution_bridge_goes_from_sd15_to_sdxl(loaded: dict[str, Any]) -> None:
    low, high = loaded["sd15"], loaded["sdxl"]
    conds = {f"{part}_{at}": cond for at, name in (("low", "sd15"), ("high", "sdxl")) for part, cond in prompts(loaded, name).items()}
    given = {key: value for key, value in WALK.items() if key != "denoise"}
    out, image = run(
        "RapidDrawResolutionBridgeSampler", model_low=low[0], model_high=high[0], vae_low=low[2], vae_high=high[2], **conds,
        latent_image=empty(), cfg_low=4.0, cfg_high=4.0, t_low=500, scale_by=2.0, width=0, height=0, upscale_method="bicubic", tile=0,
        **given,
    )  # fmt: skip
    assert out["samples"].shape == (2, 4, 12, 8) and image.shape == (2, 96, 64, 3) and out["samples"].isfinite().all()
