"""The nodes of small networks on tiny models: skip blocks, rate them, save and load what is left."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import BundleInfo, read_info, save_bundle
from rapiddraw.core.errors import BundleError, InputError
from rapiddraw.core.host import current
from rapiddraw.core.operations import slim as operations
from rapiddraw.core.operations.factorize import factorize_model, save_model
from rapiddraw.core.operations.slim import Rate, rate_blocks
from rapiddraw.core.slim.blocks import RESIDUAL, TRANSFORMER, blocks_of
from rapiddraw.core.slim.changes import Changes, apply_changes, changes_of
from rapiddraw.core.slim.rating import WHOLE, Rating, table
from rapiddraw.core.slim.switches import SWITCHES, switched
from rapiddraw.nodes.slim import BlockImportance, SkipBlocks
from rapiddraw.nodes.slim_train import PruneVAEDecoder

NAMES = "down_blocks.0.attentions.0\nup_blocks.*.resnets.1, mid_block.attentions.0.transformer_blocks.0.attn1"


@pytest.fixture
def parts(tiny_weights: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, Any]:
    for name, folder in (("input", "in"), ("output", "out"), ("temp", "temp")):
        monkeypatch.setitem(paths._dirs, name, tmp_path / folder)
    monkeypatch.setattr("rapiddraw.core.slim.rating.cache_dir", lambda: tmp_path)
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def denoised(model: Any) -> torch.Tensor:
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def test_skipping_leaves_the_given_model_alone_and_can_be_saved(parts: Any) -> None:
    model = parts[0]
    before = denoised(model)
    small, blocks = SkipBlocks().execute(model, NAMES)
    assert torch.equal(denoised(model), before) and not torch.equal(denoised(small), before)
    removed = [line.split()[0] for line in blocks.splitlines() if line.endswith("removed")]
    assert removed == [
        "down_blocks.0.attentions.0", "mid_block.attentions.0.transformer_blocks.0.attn1", "up_blocks.0.resnets.1", "up_blocks.1.resnets.1",
    ]  # fmt: skip
    path = save_model(small, "small", False)
    assert read_info(path).extra["slim"]["removed"] == removed
    assert torch.allclose(denoised(current().model.load(path)), denoised(small), atol=5e-3)  # stored in half precision


def test_without_names_the_model_itself_comes_back_with_the_list(parts: Any) -> None:
    same, blocks = SkipBlocks().execute(parts[0], " ")
    assert same is parts[0] and "up_blocks.1.attentions.1 " in blocks and "removed" not in blocks
    with pytest.raises(InputError, match="no block of this U-Net is named 'nothing'"):
        SkipBlocks().execute(parts[0], "nothing")


def test_a_skipped_model_is_factored_and_saved(parts: Any) -> None:
    small = SkipBlocks().execute(parts[0], NAMES)[0]
    low, _ = factorize_model(small, "param_ratio", 0.8)
    again = current().model.load(save_model(low, "both", False))
    assert torch.allclose(denoised(again), denoised(low), atol=5e-3)
    assert changes_of(again.model.diffusion_model) == changes_of(small.model.diffusion_model)


def test_every_change_survives_a_bundle(parts: Any) -> None:
    host = current()

    def slim(network: Any) -> None:
        apply_changes(network, switched(network, list(SWITCHES)))

    made = host.surgery.rebuild(parts[0], slim)
    again = host.model.load(save_model(made, "every", False))
    assert changes_of(again.model.diffusion_model) == changes_of(made.model.diffusion_model) != Changes()
    assert torch.allclose(denoised(again), denoised(made), atol=5e-3)


def test_a_record_that_does_not_fit_is_refused(parts: Any, tmp_path: Any) -> None:
    unet = parts[0].model.diffusion_model
    config = {key: value for key, value in dict(unet.config).items() if not key.startswith("_")}
    tensors = {key: value.clone() for key, value in unet.state_dict().items()}
    for removed, message in ((["up_blocks.7.resnets.0"], "does not fit its network"), (["up_blocks.1.resnets.0"], "do not make a UNet")):
        info = BundleInfo(
            "unet", config, parts[0].model.latent_format, parts[0].model.model_sampling.schedule, extra={"slim": {"removed": removed}}
        )
        with pytest.raises(BundleError, match=message):
            current().model.load(save_bundle(tmp_path / "false.safetensors", tensors, info))


def test_blocks_are_rated_and_nothing_is_changed(parts: Any) -> None:
    model, clip, _ = parts
    before = denoised(model)
    text, chart = BlockImportance().execute(model, clip, "a round red fruit\na hill", 64, True, 0)
    assert torch.equal(denoised(model), before)
    names = [block.name for block in blocks_of(model.model.diffusion_model)]
    assert [line.split()[0] for line in text.splitlines()[1:]] == names
    assert text.count("first to remove") == 1 and chart.ndim == 4 and chart.shape[-1] == 3


def test_a_block_that_gives_nothing_has_no_importance(parts: Any) -> None:
    model, clip, _ = parts
    network = model.model.diffusion_model
    silent = network.up_blocks[1].attentions[1].proj_out
    kept = {name: weight.clone() for name, weight in silent.state_dict().items()}
    try:
        for weight in silent.parameters():
            weight.data.zero_()
        rows = {row.name: row for row in rate_blocks(model, clip, "a fruit", Rate(64, kinds=(RESIDUAL, TRANSFORMER)))}
    finally:
        silent.load_state_dict(kept)
    assert rows["up_blocks.1.attentions.1"].change == 0 < rows["up_blocks.1.attentions.0"].change
    assert {row.kind for row in rows.values()} == {RESIDUAL, TRANSFORMER}
    assert all(0 < row.share < 1.5 and row.parameters > 0 for row in rows.values())


def test_a_scorer_sees_pictures_without_each_block(parts: Any) -> None:
    class Scorer:
        calls = 0

        def score(self, pictures: torch.Tensor, texts: list[str]) -> torch.Tensor:
            assert pictures.shape == (1, 3, 64, 64) and pictures.min() >= -1 and texts == ["a fruit"]
            self.calls += 1
            return torch.tensor([1.0 if self.calls == 1 else 0.25])

    model, clip, vae = parts
    rows = rate_blocks(model, clip, "a fruit", Rate(64, kinds=(TRANSFORMER,), steps=1), vae, Scorer())
    assert [row.drop for row in rows] == [0.75] * 4 and "-0.750" in table(rows)


def test_times_are_measured_once_for_a_machine(parts: Any) -> None:
    host, runs = current(), []
    model = parts[0]
    once = host.surgery.evaluate(model, {"samples": torch.zeros(1, 4, 8, 8)})
    network = model.model.diffusion_model
    blocks = blocks_of(network)

    def counted() -> None:
        runs.append(1)
        once()

    from rapiddraw.core.slim.rating import REPEATS, latencies

    first = latencies(network, blocks, counted, torch.device("cpu"), "8x8")
    assert latencies(network, blocks, counted, torch.device("cpu"), "8x8") == first and len(runs) == REPEATS + 1
    latencies(network, blocks, counted, torch.device("cpu"), "16x16")
    assert len(runs) == 2 * (REPEATS + 1)
    inner = [first[block.name] for block in blocks if block.kind in (RESIDUAL, TRANSFORMER)]
    assert 0 < sum(inner) < first[WHOLE] * 1.5


@pytest.mark.parametrize(
    ("prompts", "more", "message"),
    [
        ("", {}, "0 prompts were given"),
        ("a\n" * 17, {}, "17 prompts were given"),
        ("a", {"rate": Rate(31)}, "size"),
        ("a", {"rate": Rate(64, kinds=("colour",))}, "kinds=colour"),
        ("a", {"vae": object()}, "needs both a vae and a scorer"),
    ],
)
def test_bad_input_is_refused_before_any_work(parts: Any, prompts: str, more: Any, message: str) -> None:
    given = {"rate": Rate(64), **more}
    with pytest.raises(InputError, match=message):
        rate_blocks(parts[0], None, prompts, **given)
    assert operations.MAX_PROMPTS == 16


def test_the_least_loss_for_a_millisecond_goes_first() -> None:
    rows = [
        Rating("a", RESIDUAL, 10, 2.0, 0.2, 0.4),
        Rating("b", RESIDUAL, 10, 8.0, 0.8, 0.8),
        Rating("c", RESIDUAL, 10, 1.0, 0.1, 0.1, 0.5),
    ]
    assert [row.worth for row in rows] == [0.2, 0.1, 0.5]
    marked = [line for line in table(rows).splitlines() if "first to remove" in line]
    assert len(marked) == 1 and marked[0].startswith("b ")


PRUNED = {
    "share": 0.5, "latents_from": "drawn", "folder": "", "size": 64, "filename": "pruned", "steps": 3, "batch_size": 2, "lr": 1e-3,
    "seed": 0, "resume": True,
}  # fmt: skip


@pytest.fixture
def wide_vae(parts: Any, tmp_path: Any) -> Any:
    from rapiddraw.tests.helpers import write_vae

    path = write_vae(tmp_path / "wide-vae.safetensors", block_out_channels=[64, 64, 64, 64], mid_block_add_attention=True)
    return current().vae.load(path)


def test_a_decoder_is_pruned_trained_saved_and_loaded(wide_vae: Any) -> None:
    latent = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    host, before = current(), wide_vae.decode(latent)
    small, report, plot = PruneVAEDecoder().execute(wide_vae, **PRUNED)
    assert torch.equal(wide_vae.decode(latent), before) and small.decode(latent).shape == before.shape
    torch.testing.assert_close(host.vae.encode(small, picture), host.vae.encode(wide_vae, picture), rtol=1e-2, atol=1e-2)  # half precision
    assert report.startswith("decoder: ") and "3 steps on 248 latents" in report and "saved as pruned.safetensors" in report
    assert plot.shape[-1] == 3
    info = read_info(paths.made_weights_dir() / "pruned.safetensors", "vae")
    assert info.extra["decoder_widths"] == [32] * 4 and info.provenance["recipe"] == "prune_vae"
    again = host.vae.export(small)
    assert again.info.extra["decoder_widths"] == [32] * 4 and again.info.config["block_out_channels"] == [64] * 4


def test_training_brings_the_pruned_decoder_nearer(wide_vae: Any) -> None:
    latents = {"samples": torch.randn(8, 4, 4, 4, generator=torch.Generator().manual_seed(0))}
    given = {**PRUNED, "steps": 40, "lr": 3e-3}
    report = PruneVAEDecoder().execute(wide_vae, **given, latent=latents)[1]
    first, last = (float(part.split()[0]) for part in report.split("loss ")[1].split(" at the start, "))
    assert last < first and "on 6 latents" in report


def test_pruning_nothing_keeps_every_weight(wide_vae: Any) -> None:
    latent = torch.randn(1, 4, 8, 8)
    made = PruneVAEDecoder().execute(wide_vae, **{**PRUNED, "share": 1.0, "steps": 1, "lr": 0.0})
    torch.testing.assert_close(made[0].decode(latent), wide_vae.decode(latent), rtol=1e-2, atol=1e-2)  # stored in half precision
    assert "(1.000)" in made[1] and "inf dB" in made[1]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"share": 1.5}, "share=1.5"),
        ({"latents_from": "dreams"}, "latents_from='dreams'"),
        ({"steps": 0}, "steps"),
        ({"filename": "../away"}, "away"),
        ({"latent": {"samples": torch.zeros(1, 5, 4, 4)}}, "VAE of 4 channels"),
    ],
)
def test_a_wrong_pruning_is_refused(wide_vae: Any, wrong: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        PruneVAEDecoder().execute(wide_vae, **{**PRUNED, **wrong})
