"""Few-step students inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import importlib
import shutil
from typing import Any

from inside import FOLDER, MODELS, load_pack, relative, write

# isort: split
import comfy.model_management as management
import families
import torch
from models import NARROW, sd15_unet

import nodes

found: dict[str, Any] = {}
SETTINGS = {
    "prompts": "a red fruit\na tall fruit\na fruit at night", "method": "trajectory", "few_steps": 2, "guidance": 3.0, "steps": 3,
    "batch_size": 2, "lr": 0.2, "size": 64, "teacher_steps": 4, "drawn": 4, "network": "LoRA", "rank": 2, "layers": "all", "seed": 0,
    "save_every": 500, "resume": True,
}  # fmt: skip


class Texts:
    """A stand-in for a CLIP: conditionings of a family, by the text's length."""

    def __init__(self, name: str) -> None:
        self.name = name

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, text: str, **_: Any) -> Any:
        return families.conditioning(self.name, seed=len(text))


def run() -> None:
    ours = load_pack()
    distill, load = (nodes.NODE_CLASS_MAPPINGS[f"RapidDraw{name}"]().execute for name in ("DistillFewSteps", "LoadFewStepModel"))
    host, progress = ours("core.host").current(), ours("core.progress")
    stock = nodes.LoraLoaderModelOnly().load_lora_model_only
    merge = importlib.import_module("comfy_extras.nodes_model_merging").ModelMergeSimple().merge
    loras = FOLDER / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    clip = host.load_bundles(*(MODELS / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))[1]

    def drawn(model: Any, texts: Any, latent: Any, cfg: float = 1.0) -> torch.Tensor:
        encoded = [host.clip.encode(texts, text) for text in ("a red fruit", "")]
        return nodes.common_ksampler(model, 1, 2, cfg, "euler", "sgm_uniform", *encoded, latent)[0]["samples"]

    def tried(name: str, model: Any, other: Any, texts: Any, latent: Any, **changes: Any) -> None:
        before = drawn(model, texts, latent)
        student, file, report, plot, _ = distill(model, texts, filename=name, **{**SETTINGS, **changes})["result"]
        shutil.copy(FOLDER / "output" / "loras" / file, loras / file)
        mine, sampler, sigmas, cfg = load(model, file, 0, 0.0)
        by_stock, merged = stock(model, file, 1.0)[0], merge(model, other, 0.5)[0]
        found[name] = {
            "unchanged": bool(torch.equal(drawn(model, texts, latent), before)), "report": report, "plot": list(plot.shape), "cfg": cfg,
            "differs": relative(drawn(by_stock, texts, latent), before),
            "ours_is_stock": relative(drawn(mine, texts, latent), drawn(by_stock, texts, latent)),
            "strength_0": bool(torch.equal(drawn(stock(model, file, 0.0)[0], texts, latent), before)),
            "node_is_file": relative(drawn(student, texts, latent), drawn(mine, texts, latent)),
            "layers": len(mine.patches), "sigmas": len(sigmas), "sampler": type(sampler).__name__,
            "merged": relative(drawn(load(merged, file, 0, 0.0)[0], texts, latent), drawn(stock(merged, file, 1.0)[0], texts, latent)),
            "on_merged": relative(drawn(stock(merged, file, 1.0)[0], texts, latent), drawn(merged, texts, latent)),
        }  # fmt: skip

    small = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    tried("sd15", sd15_unet(), sd15_unet(seed=1), clip, small)
    tried("sdxl", families.model("SDXL"), families.model("SDXL", seed=1), Texts("SDXL"), families.latent("SDXL"))
    tried("sd3", families.model("SD 3"), families.model("SD 3", seed=1), Texts("SD 3"), families.latent("SD 3"))

    distill(sd15_unet(), clip, filename="lcm", **{**SETTINGS, "method": "consistency"})
    model, sampler, sigmas, _ = load(sd15_unet(), "lcm.safetensors", 4, 0.0)
    found["lcm"] = [len(sigmas), len(model.get_model_object("model_sampling").sigmas), sampler.sampler_function.__name__]
    distill(sd15_unet(), clip, filename="told", **{**SETTINGS, "method": "guidance_embedded"})
    two = [drawn(load(sd15_unet(), "told.safetensors", 0, scale)[0], clip, small) for scale in (2.0, 14.0)]
    found["told"] = relative(*two)
    found["refused"] = []
    for base in (sd15_unet({**NARROW, "model_channels": 64}), families.model("Flux")):
        try:
            load(base, "sd15.safetensors", 0, 0.0)
            found["refused"].append("it loaded")
        except Exception as error:
            found["refused"].append(f"{type(error).__name__}: {error}")

    # A cancel, as ComfyUI raises it.
    make = progress._make_reporter

    class Interrupting:
        def __init__(self, inner: Any, train: bool) -> None:
            self.inner, self.train, self.done = inner, train, 0

        def advance(self, count: int, info: Any, preview: Any = None) -> None:
            self.inner.advance(count, info, preview)
            self.done += count
            if self.train and self.done == 2:
                management.interrupt_current_processing(True)

        def close(self) -> None:
            self.inner.close()

    progress.set_reporter(lambda total, label, unit: Interrupting(make(total, label, unit), label.startswith("train")))
    try:
        distill(sd15_unet(), clip, filename="stopped", **SETTINGS)
        found["interrupt"] = "it ran to its end"
    except (Exception, management.InterruptProcessingException) as error:  # newer versions' is no Exception
        found["interrupt"] = type(error).__name__
    progress.set_reporter(make)
    management.interrupt_current_processing(False)
    found["unfinished"] = not (FOLDER / "output" / "loras" / "stopped.safetensors").exists()
    distill(sd15_unet(), clip, filename="stopped", **SETTINGS)
    read = ours("core.lowrank.lora_file").read_lora
    one, two = (read(FOLDER / "output" / "loras" / f"{name}.safetensors") for name in ("sd15", "stopped"))
    found["resumed"] = max(relative(a, b) for key in one for a, b in zip(two[key][:2], one[key][:2], strict=True))
    write(found)


with torch.inference_mode():
    run()
