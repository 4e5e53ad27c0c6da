"""Distillation inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

import importlib
import json
from typing import Any

from inside import FOLDER, MODELS, load_pack, relative, write

# isort: split
import comfy.cldm.cldm
import comfy.controlnet
import comfy.lora
import comfy.model_management as management
import comfy.model_patcher
import comfy.ops
import comfy.sd
import comfy.supported_models
import safetensors.torch
import torch
from models import sd15_unet

import nodes

found: dict[str, Any] = {}
OUT = FOLDER / "output" / "rapiddraw"
SETTINGS = {
    "folder": "fruit", "filename": "student", "steps": 4, "batch_size": 2, "lr": 1e-3, "size": 64, "mode": "param_ratio", "value": 0.7,
    "weighting": "none", "feature_weight": 0.1, "task_weight": 0.01, "seed": 0, "save_every": 500, "resume": True,
}  # fmt: skip


def sampled(model: Any, clip: Any, seed: int = 1) -> torch.Tensor:
    encode = nodes.CLIPTextEncode().encode
    latent = nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    return nodes.common_ksampler(model, seed, 3, 2.0, "euler", "normal", encode(clip, "a red fruit")[0], encode(clip, "")[0], latent)[0][
        "samples"
    ]


def log_of(name: str) -> list[dict[str, float]]:
    return [json.loads(line) for line in (OUT / f"{name}-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def run() -> None:
    ours = load_pack()
    node = nodes.NODE_CLASS_MAPPINGS["RapidDrawDistillUNet"]

    host, layers, progress = ours("core.host").current(), ours("core.lowrank.layers"), ours("core.progress")
    ours("core.orchard.dataset").write_dataset("train", 4, 64, FOLDER / "input" / "fruit")
    model, clip, vae = host.load_bundles(*(MODELS / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))

    def distilled(teacher: Any, **changes: Any) -> Any:
        student, report, plot = node().execute(teacher, clip, vae, **{**SETTINGS, **changes})["result"]
        found.setdefault("report", report)
        found.setdefault("plot", list(plot.shape))
        return student

    before = sampled(model, clip)
    whole = distilled(model, filename="whole", steps=20)
    found["log"] = log_of("whole")
    drawn = sampled(whole, clip)
    found["classes"] = [type(whole).__name__, type(whole.model).__name__]
    found["teacher_unchanged"] = bool(torch.equal(sampled(model, clip), before))
    found["student_differs"] = relative(drawn, before)
    found["factored"] = sum(isinstance(module, layers.FACTORED) for module in host.speed.network_of("model", whole).modules())
    found["trainable_left"] = sum(weight.requires_grad for weight in host.speed.network_of("model", whole).parameters())
    found["reloaded"] = relative(sampled(host.model.load(OUT / "whole.safetensors"), clip), drawn)

    # A cancel: ComfyUI raises it wherever it next looks, which may be in the middle of a network.
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

    straight = sampled(distilled(model, filename="straight"), clip)
    progress.set_reporter(lambda total, label, unit: Interrupting(make(total, label, unit), label.startswith("train")))
    try:
        distilled(model)
        found["interrupt"] = "it ran to its end"
    except (Exception, management.InterruptProcessingException) as error:  # newer versions' is no Exception
        found["interrupt"] = type(error).__name__
    progress.set_reporter(make)
    management.interrupt_current_processing(False)
    found["kept"] = sorted(path.name for path in (OUT / "student-run").glob("checkpoint-*"))
    found["unfinished"] = not (OUT / "student.safetensors").exists()
    found["resumed"] = relative(sampled(distilled(model), clip), straight)

    # A LoRA on the teacher is taught; one on the student works.
    lora = loras(model)
    patched = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    taught = distilled(patched, filename="patched", steps=1, lr=0.0)
    wanted = host.surgery.rebuild(
        patched, lambda network: ours("core.lowrank.factorize").factorize(network, "param_ratio", 0.7, split="symmetric")
    )
    found["lora_is_taught"] = relative(sampled(taught, clip), sampled(wanted, clip))
    found["lora_on_student"] = relative(sampled(comfy.sd.load_lora_for_models(whole, None, lora, 1.0, 0)[0], clip), drawn)

    stock(whole, model, clip, lora)

    foreign = distilled(sd15_unet(), filename="foreign", steps=6)
    found["foreign_log"] = log_of("foreign")
    found["foreign_dtype"] = str(next(host.speed.network_of("model", foreign).parameters()).dtype)
    found["foreign_reloaded"] = relative(sampled(host.model.load(OUT / "foreign.safetensors"), clip), sampled(foreign, clip))
    half = distilled(sd15_unet(stored=torch.float16, computes=torch.float32), filename="half", steps=2)
    found["half_dtypes"] = sorted({str(weight.dtype) for weight in host.speed.network_of("model", half).parameters()})
    found["half_samples"] = bool(sampled(half, clip).isfinite().all())
    write(found)


def stock(student: Any, teacher: Any, clip: Any, lora: dict[str, Any]) -> None:
    """ComfyUI's own nodes on a student: Load LoRA from a file, ModelMergeSimple, Apply ControlNet; KSampler draws everything here."""
    plain = sampled(student, clip)
    folder = FOLDER / "models" / "loras"
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(lora, folder / "probe.safetensors")
    loaded = nodes.LoraLoader().load_lora(student, clip, "probe.safetensors", 1.0, 0.0)[0]
    wanted = comfy.sd.load_lora_for_models(student, None, lora, 1.0, 0)[0]
    found["stock_lora"] = relative(sampled(loaded, clip), sampled(wanted, clip))
    merge = importlib.import_module("comfy_extras.nodes_model_merging").ModelMergeSimple().merge
    found["stock_merge"] = [relative(sampled(merge(student, teacher, ratio)[0], clip), plain) for ratio in (1.0, 0.5)]
    shape = {k: v for k, v in student.model.model_config.unet_config.items() if k not in ("out_channels", "operations", "device")}
    network = comfy.cldm.cldm.ControlNet(
        **{**shape, "dtype": torch.float32, "hint_channels": 3, "operations": comfy.ops.disable_weight_init}
    )
    for parameter in network.parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.05)
    control = comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())
    image, latent = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0)), nodes.EmptyLatentImage().generate(64, 64, 1)[0]
    texts = [nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a red fruit", "")]
    found["stock_control"] = []
    for strength in (1.0, 0.0):
        both = nodes.ControlNetApplyAdvanced().apply_controlnet(*texts, control, image, strength, 0.0, 1.0)
        drawn = nodes.common_ksampler(student, 1, 3, 2.0, "euler", "normal", *both, latent)[0]["samples"]
        found["stock_control"].append(relative(drawn, plain))


def loras(model: Any) -> dict[str, Any]:
    """A LoRA for the attention projections."""
    generator, made = torch.Generator().manual_seed(9), {}
    for name, key in comfy.lora.model_lora_keys_unet(model.model, {}).items():
        if name.startswith("lora_unet_") and key.endswith("attn1.to_q.weight"):
            weight = model.model.state_dict()[key]
            made |= {f"{name}.lora_down.weight": torch.randn(2, weight.shape[1], generator=generator)}
            made |= {f"{name}.lora_up.weight": torch.randn(weight.shape[0], 2, generator=generator), f"{name}.alpha": torch.tensor(2.0)}
    return made


with torch.inference_mode():
    run()
