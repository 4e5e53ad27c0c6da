"""Tensor names and shapes of single-file checkpoints of SD 1.5 and SDXL, written down from the papers' own code, in any size.

Nothing here uses diffusers or the code under test, so that a file of this layout is a check of both; that the layout is right, a real
ComfyUI says, which loads it (tests/comfyui).
"""

from __future__ import annotations

from collections.abc import Sequence

Shapes = dict[str, tuple[int, ...]]


def _linear(name: str, out: int, into: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into)} | ({f"{name}.bias": (out,)} if bias else {})


def _conv(name: str, out: int, into: int, size: int = 3) -> Shapes:
    return {f"{name}.weight": (out, into, size, size), f"{name}.bias": (out,)}


def _norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _res(name: str, into: int, out: int, time: int) -> Shapes:
    shapes = _norm(f"{name}.in_layers.0", into) | _conv(f"{name}.in_layers.2", out, into) | _linear(f"{name}.emb_layers.1", out, time)
    shapes |= _norm(f"{name}.out_layers.0", out) | _conv(f"{name}.out_layers.3", out, out)
    return shapes | (_conv(f"{name}.skip_connection", out, into, 1) if into != out else {})


def _transformer(name: str, width: int, depth: int, context: int, is_linear: bool) -> Shapes:
    shapes = _norm(f"{name}.norm", width)
    for end in ("proj_in", "proj_out"):
        shapes |= _linear(f"{name}.{end}", width, width) if is_linear else _conv(f"{name}.{end}", width, width, 1)
    for block in (f"{name}.transformer_blocks.{number}" for number in range(depth)):
        for attention, keys in (("attn1", width), ("attn2", context)):
            shapes |= _linear(f"{block}.{attention}.to_q", width, width, bias=False)
            shapes |= _linear(f"{block}.{attention}.to_k", width, keys, bias=False)
            shapes |= _linear(f"{block}.{attention}.to_v", width, keys, bias=False) | _linear(f"{block}.{attention}.to_out.0", width, width)
        shapes |= _linear(f"{block}.ff.net.0.proj", 8 * width, width) | _linear(f"{block}.ff.net.2", width, 4 * width)
        shapes |= _norm(f"{block}.norm1", width) | _norm(f"{block}.norm2", width) | _norm(f"{block}.norm3", width)
    return shapes


def unet(
    widths: Sequence[int], depths: Sequence[int], middle: int, layers: int, context: int, adm: int = 0, is_linear: bool = False
) -> Shapes:
    """`depths`: transformer blocks of each level, 0 for none; `middle`: of the middle block; `adm`: features of SDXL's vector."""
    first, time = widths[0], 4 * widths[0]
    shapes = _linear("time_embed.0", time, first) | _linear("time_embed.2", time, time)
    if adm:
        shapes |= _linear("label_emb.0.0", time, adm) | _linear("label_emb.0.2", time, time)
    shapes |= _conv("input_blocks.0.0", first, 4)
    number, width, skips = 1, first, [first]
    for level, (out, depth) in enumerate(zip(widths, depths, strict=True)):
        for _ in range(layers):
            shapes |= _res(f"input_blocks.{number}.0", width, out, time)
            shapes |= _transformer(f"input_blocks.{number}.1", out, depth, context, is_linear) if depth else {}
            number, width = number + 1, out
            skips.append(width)
        if level + 1 < len(widths):
            shapes |= _conv(f"input_blocks.{number}.0.op", width, width)
            number += 1
            skips.append(width)
    shapes |= _res("middle_block.0", width, width, time) | _transformer("middle_block.1", width, middle, context, is_linear)
    shapes |= _res("middle_block.2", width, width, time)
    number = 0
    for level in reversed(range(len(widths))):
        out, depth = widths[level], depths[level]
        for layer in range(layers + 1):
            shapes |= _res(f"output_blocks.{number}.0", width + skips.pop(), out, time)
            shapes |= _transformer(f"output_blocks.{number}.1", out, depth, context, is_linear) if depth else {}
            if level and layer == layers:
                shapes |= _conv(f"output_blocks.{number}.{2 if depth else 1}.conv", out, out)
            number, width = number + 1, out
    return shapes | _norm("out.0", first) | _conv("out.2", 4, first)


def controlnet(shapes: Shapes) -> Shapes:
    """A ControlNet for a U-Net of these shapes (Zhang et al. 2023): its encoder, a way in for the picture, a 1 x 1 convolution behind each
    block."""
    out = {name: shape for name, shape in shapes.items() if not name.startswith(("output_blocks.", "out."))}
    widths = (3, 16, 16, 32, 32, 96, 96, 256, shapes["input_blocks.0.0.weight"][0])
    for number, (into, width) in enumerate(zip(widths, widths[1:], strict=False)):
        out |= _conv(f"input_hint_block.{2 * number}", width, into)
    ends = ("0.weight", "0.out_layers.3.weight", "0.op.weight")
    blocks = [name for name in shapes if name.startswith("input_blocks.") and name.split(".", 2)[2] in ends]
    for number, name in enumerate(blocks):
        out |= _conv(f"zero_convs.{number}.0", shapes[name][0], shapes[name][0], 1)
    width = shapes["middle_block.2.out_layers.3.weight"][0]
    return out | _conv("middle_block_out.0", width, width, 1)


def _vae_res(name: str, into: int, out: int) -> Shapes:
    shapes = (
        _norm(f"{name}.norm1", into) | _conv(f"{name}.conv1", out, into) | _norm(f"{name}.norm2", out) | _conv(f"{name}.conv2", out, out)
    )
    return shapes | (_conv(f"{name}.nin_shortcut", out, into, 1) if into != out else {})


def _vae_middle(name: str, width: int) -> Shapes:
    shapes = _vae_res(f"{name}.block_1", width, width) | _vae_res(f"{name}.block_2", width, width) | _norm(f"{name}.attn_1.norm", width)
    for part in ("q", "k", "v", "proj_out"):
        shapes |= _conv(f"{name}.attn_1.{part}", width, width, 1)
    return shapes


def vae(widths: Sequence[int], layers: int = 2, channels: int = 4) -> Shapes:
    """Encoder and decoder; every level but the last halves the size."""
    shapes, width, last = _conv("encoder.conv_in", widths[0], 3), widths[0], widths[-1]
    for level, out in enumerate(widths):
        for block in range(layers):
            shapes |= _vae_res(f"encoder.down.{level}.block.{block}", width, out)
            width = out
        shapes |= _conv(f"encoder.down.{level}.downsample.conv", out, out) if level + 1 < len(widths) else {}
    shapes |= _vae_middle("encoder.mid", last) | _norm("encoder.norm_out", last) | _conv("encoder.conv_out", 2 * channels, last)
    shapes |= _conv("decoder.conv_in", last, channels) | _vae_middle("decoder.mid", last)
    for level in reversed(range(len(widths))):
        for block in range(layers + 1):
            shapes |= _vae_res(f"decoder.up.{level}.block.{block}", width, widths[level])
            width = widths[level]
        shapes |= _conv(f"decoder.up.{level}.upsample.conv", width, width) if level else {}
    shapes |= _norm("decoder.norm_out", width) | _conv("decoder.conv_out", 3, width)
    return shapes | _conv("quant_conv", 2 * channels, 2 * channels, 1) | _conv("post_quant_conv", channels, channels, 1)


def clip(width: int, layers: int, vocabulary: int, length: int = 77) -> Shapes:
    """OpenAI's text transformer under transformers' names."""
    shapes: Shapes = {
        "embeddings.token_embedding.weight": (vocabulary, width), "embeddings.position_embedding.weight": (length, width),
    }  # fmt: skip
    for block in (f"encoder.layers.{number}" for number in range(layers)):
        shapes |= _norm(f"{block}.layer_norm1", width) | _norm(f"{block}.layer_norm2", width)
        for part in ("q_proj", "k_proj", "v_proj", "out_proj"):
            shapes |= _linear(f"{block}.self_attn.{part}", width, width)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * width, width) | _linear(f"{block}.mlp.fc2", width, 4 * width)
    return {f"text_model.{name}": shape for name, shape in (shapes | _norm("final_layer_norm", width)).items()}


def open_clip(width: int, layers: int, vocabulary: int, length: int = 77) -> Shapes:
    """The same under OpenCLIP's names, with its projection."""
    shapes: Shapes = {
        "token_embedding.weight": (vocabulary, width), "positional_embedding": (length, width), "text_projection": (width, width),
        "logit_scale": (), **_norm("ln_final", width),
    }  # fmt: skip
    for block in (f"transformer.resblocks.{number}" for number in range(layers)):
        shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
        shapes |= {f"{block}.attn.in_proj_weight": (3 * width, width), f"{block}.attn.in_proj_bias": (3 * width,)}
        shapes |= _linear(f"{block}.attn.out_proj", width, width)
        shapes |= _linear(f"{block}.mlp.c_fc", 4 * width, width) | _linear(f"{block}.mlp.c_proj", width, 4 * width)
    return shapes
