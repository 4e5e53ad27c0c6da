"""Style guidance, attention entropy and control adapters on models of every family; started as inside.py says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from inside import MODELS, WORDS, load_pack, relative, write

# isort: split
import families
import torch

ours = load_pack()
host = ours("core.host").current()
found: dict[str, Any] = {"stock": {}, "masked": {}, "references": {}, "acts": {}, "entropy": {}, "control": {}, "variation": {}}


def drawn(name: str, model: Any, positive: Any, latent: Any) -> torch.Tensor:
    sigmas = host.sampling.calculate_sigmas(model, "simple", 4)[-3:]
    guider = host.sampling.make_guider(model, positive, families.conditioning(name, 9), 2.0)
    return host.sampling.sample_custom(guider, host.sampling.named_sampler("euler"), sigmas, latent, 5)["samples"]


def caught(work: Callable[[], Any]) -> Any:
    try:
        return work()
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def style(name: str, model: Any) -> None:
    prompt, other, latent = families.conditioning(name, 0), families.conditioning(name, 1), families.latent(name, seed=5)
    mask = torch.zeros(1, *latent["samples"].shape[-2:])
    mask[..., : mask.shape[-1] // 2] = 1
    masked = {**latent, "noise_mask": mask}
    pictures = {
        "reference_latents": [families.latent(name, seed=7)["samples"]],
        "concat_latent_image": families.latent(name, seed=8)["samples"],
    }
    shown = [[tokens, {**more, **pictures}] for tokens, more in prompt]

    def neutral(positive: Any, given: Any) -> float:
        return relative(drawn(name, host.style.guide(model, prompt, 4.0, 0.0, 1.0), positive, given), drawn(name, model, positive, given))

    for case, positive in (("masked", prompt), ("references", shown)):
        if isinstance(said := caught(lambda p=positive: drawn(name, model, p, masked) is None), str):
            found["stock"][f"{name}, {case}"] = said  # ComfyUI itself cannot draw this
            return
    found["masked"][name] = caught(lambda: neutral(prompt, masked))
    found["references"][name] = caught(lambda: neutral(shown, masked))
    styled = host.style.guide(model, other, 4.0, 0.0, 1.0)
    found["acts"][name] = caught(lambda: relative(drawn(name, styled, shown, masked), drawn(name, model, shown, masked)))


def entropy(name: str, model: Any) -> Any:
    """[the change at the size of training, the change at another size], or what is said to a model that cannot be served."""
    latent = families.latent(name)
    factor = getattr(model.get_model_object("latent_format"), "spacial_downscale_ratio", None) or 8
    rows, columns = (side * factor for side in latent["samples"].shape[-2:])
    same, smaller = (host.attention.scale_entropy(model, columns // part, rows // part) for part in (1, 4))
    plain = drawn(name, model, families.conditioning(name), latent)
    return [relative(drawn(name, one, families.conditioning(name), latent), plain) for one in (same, smaller)]


def control(name: str, model: Any) -> Any:
    """What a control adapter for our own U-Nets says to a model of another family."""
    net = host.control.load(MODELS / "tiny-control.safetensors", "edges").copy()
    net.set_cond_hint(torch.rand(1, 3, 64, 64), 1.0, (0.0, 1.0))
    prompt = [[tokens, {**more, "control": net}] for tokens, more in families.conditioning(name)]
    return list(drawn(name, model, prompt, families.latent(name)).shape)


def run() -> None:
    for name in families.available():
        if not WORDS or name in WORDS:
            model = families.model(name)
            style(name, model)
            found["entropy"][name] = caught(lambda n=name: entropy(n, families.model(n, std=0.2)))
            found["control"][name] = caught(lambda n=name, m=model: control(n, m))
            found["variation"][name] = [host.model.attended_width(model), families.conditioning(name)[0][0].shape[-1],
                                        host.model.pooled_width(model), families.FAMILIES[name].extra.get("pooled_output", 0)]  # fmt: skip


with torch.inference_mode():
    run()
write(found)
