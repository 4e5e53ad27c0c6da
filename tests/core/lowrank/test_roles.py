"""Roles of layers by their names in many libraries and families, and layers that are left alone."""

import pytest
import torch
from rapiddraw.core.errors import InputError
from rapiddraw.core.lowrank.factorize import factorize, merge_back
from rapiddraw.core.lowrank.layers import can_factor, layer_size, quantization, replace_with_factors
from rapiddraw.core.lowrank.plan import make_plan
from rapiddraw.core.lowrank.roles import DEFAULT_TARGETS, TARGETS, role_of
from torch import nn

ROLES = {
    "attention": (
        "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_out.0", "input_blocks.1.1.transformer_blocks.0.attn2.to_k",
        "double_blocks.3.img_attn.qkv", "single_blocks.7.linear1", "joint_blocks.0.context_block.attn.qkv", "layers.4.attention.out",
        "blocks.2.self_attn.q", "blocks.2.cross_attn.k_img", "blocks.0.attn1.Wqkv", "transformer_blocks.0.attn.add_q_proj",
        "double_layers.0.attn.w1q", "visual_transformer_blocks.0.cross_attention.to_query", "blocks.block0.blocks.1.block.attn.to_q.0",
    ),
    "feed_forward": (
        "mid_block.attentions.0.transformer_blocks.0.ff.net.0.proj", "double_blocks.3.txt_mlp.2", "layers.4.feed_forward.w3",
        "blocks.2.ffn.0", "transformer_blocks.0.img_mlp.net.0.proj", "joint_blocks.0.x_block.mlp.fc1", "single_layers.0.mlp.c_proj",
        "double_stream_blocks.0.block.ff_i.experts.1.w2", "blocks.0.mlp.gate", "blocks.0.mlp.layer2",
        "layers.3.mlp.gate_proj", "blocks.1.ff_out",
    ),
    "resnet": ("down_blocks.1.resnets.0.conv1", "input_blocks.4.0.in_layers.2", "middle_block.0.out_layers.3"),
    "projection": ("input_blocks.1.1.proj_in", "up_blocks.0.attentions.0.proj_out"),
    "modulation": (
        "double_blocks.3.img_mod.lin", "single_blocks.7.modulation.lin", "layers.4.adaLN_modulation.0", "transformer_blocks.0.img_mod.1",
        "blocks.0.adaln_modulation_self_attn.1", "double_layers.0.modX.1", "time_projection.1", "input_blocks.4.0.emb_layers.1",
        "adaln_single.linear", "double_stream_modulation_img.lin", "visual_transformer_blocks.0.visual_modulation.out_layer",
    ),
}  # fmt: skip
NONE = (
    "img_in", "txt_in", "final_layer.linear", "final_layer.adaLN_modulation.1", "proj_out", "x_embedder.proj", "t_embedder.mlp.0",
    "time_embed.0", "conv_in", "input_blocks.0.0", "input_blocks.3.0.op", "head.head", "norm_out.linear", "context_embedder",
    "output_blocks.0.0.skip_connection", "patch_embedding", "y_embedder.mlp.2", "text_embedding.0",
)  # fmt: skip


@pytest.mark.parametrize(("role", "name"), [(role, name) for role, names in ROLES.items() for name in names])
def test_a_layer_is_known_by_its_name(role, name):
    assert role_of(name) == role and role_of(name, (role,)) == role
    if role != "modulation":
        assert role_of(name, ("modulation",)) is None


@pytest.mark.parametrize("name", NONE)
def test_first_and_last_layers_and_embeddings_have_no_role(name):
    assert role_of(name) is None


def test_a_fused_layer_has_two_roles_and_modulation_is_asked_for():
    assert role_of("single_blocks.0.linear2", ("feed_forward",)) == "feed_forward"
    assert "modulation" in TARGETS and "modulation" not in DEFAULT_TARGETS


class Streamed(nn.Linear):
    """A layer as newer hosts make it: without tensors until they are loaded."""

    def __init__(self, inner, out, bias=True, device=None, dtype=None):
        nn.Module.__init__(self)
        self.in_features, self.out_features = inner, out
        self.weight = self.bias = None


def network(kind=nn.Linear):
    torch.manual_seed(0)
    return nn.ModuleDict({"attn": nn.ModuleDict({"qkv": kind(16, 48), "proj": kind(16, 16)}), "mlp": nn.ModuleDict({"fc1": kind(16, 32)})})


def test_quantized_layers_stay_and_the_plan_says_so():
    layers = network()
    layers["attn"]["qkv"].weight = nn.Parameter(layers["attn"]["qkv"].weight.to(torch.float8_e4m3fn), requires_grad=False)
    assert quantization(layers["attn"]["qkv"]) == "float8_e4m3fn" and not can_factor(layers["attn"]["qkv"])
    assert quantization(layers["attn"]["proj"]) is None and quantization(layers) is None
    plan = {one.name: one for one in factorize(layers, "rank", 2)}
    assert plan["attn.qkv"].rank is None and "quantized (float8_e4m3fn)" in plan["attn.qkv"].reason
    assert plan["attn.proj"].rank == 2 and isinstance(layers["attn"]["qkv"], nn.Linear)
    whole = network()
    for layer in (whole["attn"]["qkv"], whole["attn"]["proj"], whole["mlp"]["fc1"]):
        layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)
    with pytest.raises(InputError, match=r"all 3 targeted layers are quantized \(int8\)"):
        make_plan(whole, "rank", 2)


def test_a_layer_without_tensors_gets_factors_with_tensors():
    layers = network(Streamed)
    assert can_factor(layers["attn"]["qkv"]) and layer_size(layers["attn"]["qkv"]) == (48, 16)
    made = replace_with_factors(layers["attn"], "qkv", 3, dtype=torch.float16, bias=True)
    assert made.a.weight.shape == (48, 3) and made.b.weight.shape == (3, 16) and made.a.bias.shape == (48,) and made.b.bias is None
    assert made.a.weight.dtype == torch.float16
    for weight in made.parameters():
        nn.init.ones_(weight)
    x, wanted = torch.ones(1, 16, dtype=torch.float16), made(torch.ones(1, 16, dtype=torch.float16))
    merge_back(layers)
    assert type(layers["attn"]["qkv"]) is Streamed and torch.equal(layers["attn"]["qkv"](x), wanted)
