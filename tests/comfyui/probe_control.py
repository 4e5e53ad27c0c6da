"""Control adapters inside a ComfyUI process; started as inside.py says."""

from __future__ import annotations

from typing import Any

from inside import MODELS, RESULT, load_pack, relative, write

# isort: split
import comfy.model_management as management
import torch

import nodes

found: dict[str, Any] = {}
LATENT = {"samples": torch.zeros(2, 4, 8, 8)}
IMAGE = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(3))
OTHER = torch.rand(2, 48, 80, 3, generator=torch.Generator().manual_seed(4))


def conds() -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(8)
    return tuple([[torch.randn(1, 7, 32, generator=generator), {}]] for _ in range(2))


def drawn(model: Any, positive: Any, negative: Any) -> torch.Tensor:
    return nodes.KSampler().sample(model, 5, 3, 3.0, "euler", "normal", positive, negative, LATENT)[0]["samples"].clone()


def refused(run: Any) -> str:
    try:
        run()
    except (Exception, management.InterruptProcessingException) as error:  # newer versions' is no Exception
        return f"{type(error).__name__}: {error}"
    return "accepted"


def run() -> None:
    ours = load_pack()

    from diffusers import UNet2DConditionModel

    host, bundle = ours("core.host").current(), ours("core.bundles.format")
    adapter_of, files, factorize = ours("core.control.adapter"), ours("core.control.bundle"), ours("core.lowrank.factorize")
    weights, scratch = MODELS, RESULT.parent
    model = host.model.load(weights / "tiny-unet.safetensors")
    loader, apply = (nodes.NODE_CLASS_MAPPINGS[f"RapidDrawControlAdapter{name}"]() for name in ("Loader", "Apply"))
    stock = nodes.ControlNetApplyAdvanced()
    (net,) = loader.execute("tiny-control.safetensors", "edges")
    found["is_control_base"] = isinstance(net, __import__("comfy.controlnet").controlnet.ControlBase)

    base = ours("core.bundles.load").load_bundle(weights / "tiny-unet.safetensors")
    unet = ours("core.networks").network_of(UNet2DConditionModel, base)
    fresh, config = adapter_of.copy_of_unet(unet, 8)
    untrained = host.control.load(files.save_control(scratch / "fresh.safetensors", fresh, config, base.info, {}), "edges")
    plain = drawn(model, *conds())
    found["untrained_is_base"] = bool(torch.equal(plain, drawn(model, *apply.execute(*conds(), untrained, 1.0, 0.0, 1.0, edges=IMAGE))))
    given = conds()
    found["strength_0"] = all(a is b for a, b in zip(given, apply.execute(*given, net, 0.0, 0.0, 1.0, edges=IMAGE), strict=True))

    whole = drawn(model, *apply.execute(*conds(), net, 1.0, 0.0, 1.0, edges=IMAGE))
    found["changes"] = relative(whole, plain)
    stock_way = stock.apply_controlnet(*conds(), net, IMAGE, 1.0, 0.0, 1.0)
    found["stock_equals_ours"] = bool(torch.equal(drawn(model, *stock_way), whole))
    found["stock_alone"] = relative(
        drawn(model, *[nodes.ControlNetApply().apply_controlnet(c, net, IMAGE, 1.0)[0] for c in conds()]), whole
    )
    first = apply.execute(*conds(), net, 0.5, 0.0, 1.0, edges=IMAGE)
    found["chain"] = relative(drawn(model, *stock.apply_controlnet(*first, net, IMAGE, 0.5, 0.0, 1.0)), whole)
    found["after_the_end"] = bool(torch.equal(plain, drawn(model, *apply.execute(*conds(), net, 1.0, 0.0, 0.0, edges=IMAGE))))
    half = drawn(model, *apply.execute(*conds(), net, 1.0, 0.5, 1.0, edges=IMAGE))
    found["half"] = [relative(half, plain), relative(half, whole)]
    found["other_size_and_batch"] = bool(
        drawn(model, *apply.execute(*conds(), net, 1.0, 0.0, 1.0, edges=OTHER, sketch=IMAGE)).isfinite().all()
    )
    found["again"] = bool(torch.equal(drawn(model, *stock_way), whole))
    control = stock_way[0][0][1]["control"]
    found["cleaned"] = control.cond_hint is None and control.model_sampling_current is None and control.timestep_range is None
    found["models"] = len(control.get_models()) == 1 and control.get_models()[0] is net.patcher
    found["original_untouched"] = net.cond_hint_original is None and net.previous_controlnet is None

    # The same residuals as the embedded host's.
    hint = ours("core.control.hints").merge_hints({"edges": IMAGE}, net.conditions)
    x, tokens, t = torch.randn(2, 4, 8, 8), torch.randn(2, 7, 32), torch.tensor([30.0, 800.0])
    theirs = files.build_control(files.load_control(weights / "tiny-control.safetensors"))(x, t, tokens, hint.expand(2, -1, -1, -1))
    management.load_models_gpu([net.patcher])
    mine = net.network(x, t, tokens, hint.expand(2, -1, -1, -1), {})
    found["hosts_agree"] = max(relative(a, b) for a, b in zip([*mine[0], mine[1]], [*theirs[0], theirs[1]], strict=True))

    # Low-rank models and adapters; weights that stay where they are.
    low = host.surgery.rebuild(model, lambda network: factorize.factorize(network, "param_ratio", 0.7))
    found["on_low_rank_model"] = relative(drawn(low, *apply.execute(*conds(), net, 1.0, 0.0, 1.0, edges=IMAGE)), drawn(low, *conds()))
    with torch.no_grad():
        for zero in fresh.zero:
            zero.weight.normal_(std=0.2, generator=torch.Generator().manual_seed(2))
    factorize.factorize(fresh.encoder, "param_ratio", 0.6)
    lean = host.control.load(files.save_control(scratch / "lean.safetensors", fresh, config, base.info, {}), "edges")
    found["factored_adapter"] = sum(isinstance(m, ours("core.lowrank.layers").FACTORED) for m in lean.network.modules())
    fast = drawn(model, *apply.execute(*conds(), lean, 1.0, 0.0, 1.0, edges=IMAGE))
    management.unload_all_models()
    given = lean.network(x, t, tokens, hint.expand(2, -1, -1, -1), {})
    lean.patcher.patch_model(lowvram_model_memory=1)
    slow = lean.network(x, t, tokens, hint.expand(2, -1, -1, -1), {})
    lean.patcher.unpatch_model()
    found["low_vram"] = max(relative(a, b) for a, b in zip(slow[0], given[0], strict=True))
    found["factored_changes"] = relative(fast, plain)

    # A run that is stopped leaves nothing behind.
    stopped, calls = model.clone(), []

    def stop(call: Any, arguments: dict[str, Any]) -> Any:
        calls.append("control" in arguments["c"])
        if len(calls) == 2:
            raise management.InterruptProcessingException
        return call(arguments["input"], arguments["timestep"], **arguments["c"])

    stopped.set_model_unet_function_wrapper(stop)
    found["stopped"] = refused(lambda: drawn(stopped, *stock_way)).split(":")[0]
    found["seen_by_wrappers"] = calls
    found["after_a_stop"] = bool(torch.equal(drawn(model, *stock_way), whole)) and control.timestep_range is None

    found["other_model"] = refused(lambda: drawn(host.model.load(weights / "x0-unet.safetensors"), *stock_way))
    found["no_condition"] = refused(lambda: apply.execute(*conds(), net, 1.0, 0.0, 1.0))
    found["unknown_condition"] = refused(lambda: host.control.load(weights / "tiny-control.safetensors", "depth"))
    from dataclasses import replace

    good = ours("core.bundles.load").load_bundle(weights / "tiny-control.safetensors")

    def bad(tensors: Any = None, **changes: Any) -> str:
        info = replace(good.info, config={**good.info.config, **changes})
        path = bundle.save_bundle(scratch / "bad.safetensors", tensors or good.tensors, info)
        return refused(lambda: host.control.load(path, "edges"))

    missing = {key: tensor for key, tensor in good.tensors.items() if key != "zero.0.weight"}
    huge = {**good.info.config["unet"], "block_out_channels": [32, 2**20]}
    strange = {**good.tensors, "encoder.strange.weight": torch.zeros(3)}
    small = {"block_out_channels": [31]}
    found["refused"] = [bad(missing), bad(unet=huge), bad(strange), bad(features=[4]), bad(unet=small), bad(features=[4, 9])]
    write(found)


with torch.inference_mode():
    run()
