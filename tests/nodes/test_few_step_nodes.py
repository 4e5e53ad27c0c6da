"""Distill Few Steps and Load Few-Step Model on tiny models, under inference mode as ComfyUI runs nodes."""

from __future__ import annotations

import json
import logging
import shutil

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.format import Schedule
from rapiddraw.core.bundles.lora_about import read_about as told_of_lora
from rapiddraw.core.errors import BundleError, Cancelled, DataError, InputError, TrainingError
from rapiddraw.core.fewstep.about import KEY, METHODS, About, read_about, scale_to_use
from rapiddraw.core.fewstep.find import list_students, read_student
from rapiddraw.core.host import current
from rapiddraw.core.lowrank.lora_file import read_lora, save_lora
from rapiddraw.core.operations import few_step
from rapiddraw.core.operations.checkpointing import checkpoint_blocks
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.progress import set_reporter
from rapiddraw.nodes.few_step import LINKED, DistillFewSteps, LoadFewStepModel
from rapiddraw.nodes.few_step import METHODS as SHOWN
from rapiddraw.tests import helpers
from rapiddraw.tests.core.train.toy import StopAfter
from safetensors.torch import save_file

SETTINGS = {
    "prompts": "a red fruit\na tall fruit at night", "filename": "student", "method": "trajectory", "few_steps": 2, "guidance": 3.0,
    "steps": 3, "batch_size": 2, "lr": 1e-3, "size": 64, "teacher_steps": 4, "drawn": 4, "network": "LoRA", "rank": 2,
    "layers": "attention", "seed": 0, "save_every": 500, "resume": True,
}  # fmt: skip


@pytest.fixture
def parts(tiny_weights, tiny_pack):
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def run(parts, **changes):
    model, clip, vae = parts
    with torch.inference_mode():
        return DistillFewSteps().execute(model, clip, vae=vae, **{**SETTINGS, **changes})["result"]


def load(model, **given):
    with torch.inference_mode():
        return LoadFewStepModel().execute(model, **{"student": "student.safetensors", "steps": 0, "scale": 0.0, **given})


def drawn(model, clip, sampler, sigmas, cfg, seed=3):
    host = current()
    guider = host.sampling.make_guider(model, host.clip.encode(clip, "a red fruit"), host.clip.encode(clip, ""), cfg)
    with torch.inference_mode():
        return host.sampling.sample_custom(guider, sampler, sigmas, {"samples": torch.zeros(1, 4, 8, 8)}, seed)["samples"]


def denoised(model):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def log_of(name):
    lines = (paths.made_weights_dir() / f"{name}-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def test_the_student_learns_and_its_teacher_is_as_before(parts):
    before = denoised(parts[0])
    student, file, report, plot, samples = run(parts, steps=30, lr=1e-2, layers="all", rank=8)
    assert torch.equal(denoised(parts[0]), before) and not torch.equal(denoised(student), before)
    losses = [line["loss"] for line in log_of("student")]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5]) and "eval_heldout" in log_of("student")[-1]
    assert file == "student.safetensors" and list_students() == [file]
    for word in (
        "trajectory: 2 steps, sampler euler",
        "guidance scale 1",
        "30 training steps on 4 latents and 2 prompts",
        "not trained on",
    ):
        assert word in report
    assert plot.shape[-1] == 3 and samples.shape[1:] == (2 * 64, 64, 3) and 0 <= samples.min() <= samples.max() <= 1
    assert list((paths.made_weights_dir() / "student-run").glob("samples-*.png"))
    model, sampler, sigmas, cfg = load(parts[0])
    assert torch.equal(denoised(model), denoised(student)) and cfg == 1.0 and len(sigmas) == 3
    assert drawn(model, parts[1], sampler, sigmas, cfg).isfinite().all()


def test_at_strength_0_the_student_is_its_teacher_bit_for_bit(parts):
    run(parts, steps=2, lr=1e-2)
    file, surgery = paths.output_dir() / "loras" / "student.safetensors", current().surgery
    assert not torch.equal(denoised(surgery.add_lora(parts[0], None, file, 1.0, 0.0)[0]), denoised(parts[0]))
    assert torch.equal(denoised(surgery.add_lora(parts[0], None, file, 0.0, 0.0)[0]), denoised(parts[0]))


def test_a_cancelled_run_goes_on_and_ends_with_the_same_file(parts):
    run(parts, filename="whole", steps=4, method="consistency")
    set_reporter(lambda _, label, __: StopAfter(2 if label.startswith("train") else 10**9, Cancelled("enough")))
    try:
        with pytest.raises(Cancelled):
            run(parts, steps=4, method="consistency")
    finally:
        set_reporter(None)
    assert list((paths.made_weights_dir() / "student-run").glob("checkpoint-00000002*"))
    run(parts, steps=4, method="consistency")
    one, other = (read_lora(paths.output_dir() / "loras" / f"{name}.safetensors") for name in ("whole", "student"))
    assert all(torch.equal(a, b) for key in one for a, b in zip(one[key][:2], other[key][:2], strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_is_sampled_as_its_file_says(parts, method, caplog):
    changes = {"teacher_steps": 8} if method == "progressive" else {}
    student, file, *_ = run(parts, method=method, steps=4, **changes)
    model, sampler, sigmas, cfg = load(parts[0], scale=3.0)
    about, is_lora = read_student(paths.output_dir() / "loras" / file)
    assert is_lora and about.method == method and about.prediction == "v" and about.taught_scale == 3
    assert cfg == (3.0 if method == "cfg_aware" else 1.0)
    assert about.sampler == ("lcm" if method in ("consistency", "adversarial") else "euler")
    warned = [record for record in caplog.records if "learned guidance" in record.message]
    assert len(warned) == (0 if method in ("cfg_aware", "guidance_embedded") else 1)
    assert drawn(model, parts[1], sampler, sigmas, cfg).isfinite().all()
    assert all(weight.isfinite().all() for weight in denoised(student))


def test_blocks_that_are_computed_twice_learn_the_same(parts, monkeypatch):
    run(parts, filename="plain")
    asked = []

    def spare(learner, once, batch):
        once()
        asked.append(batch)
        checkpoint_blocks(learner.network)

    monkeypatch.setattr(few_step, "_spare", spare)
    run(parts, filename="spared")
    one, other = (read_lora(paths.output_dir() / "loras" / f"{name}.safetensors") for name in ("plain", "spared"))
    assert asked == [2]
    assert all(torch.allclose(a, b, atol=1e-4) for key in one for a, b in zip(one[key][:2], other[key][:2], strict=True))


def test_rounds_halve_the_steps(parts):
    run(parts, method="progressive", few_steps=1, teacher_steps=4, steps=6)
    assert [line["lr"] for line in log_of("student")][0] == pytest.approx([line["lr"] for line in log_of("student")][3])  # it rises again


def test_a_told_scale_changes_the_picture_and_guidance_is_warned_about_once(parts, caplog):
    run(parts, method="guidance_embedded", steps=8, lr=1e-2)
    pictures = []
    for scale in (2.0, 14.0):
        model, sampler, sigmas, cfg = load(parts[0], scale=scale)
        pictures.append(drawn(model, parts[1], sampler, sigmas, cfg))
    assert not torch.equal(*pictures)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            drawn(model, parts[1], sampler, sigmas, 5.0)
    assert sum("set cfg to 1" in record.message for record in caplog.records) == 1


def test_a_whole_network_is_a_bundle_of_its_own(parts):
    student, file, report, *_ = run(parts, network="whole", filename="big")
    about, is_lora = read_student(paths.made_weights_dir() / file)
    assert not is_lora and about.steps == 2 and "saved as big.safetensors" in report
    loaded = current().model.load(paths.made_weights_dir() / file)
    assert torch.allclose(denoised(loaded), denoised(student), atol=5e-3)


def test_pictures_and_a_file_of_prompts(parts, tiny_pack):
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")
    (tiny_pack / "input" / "prompts.txt").write_text("one\n\ntwo\none\n", encoding="utf-8")
    _, _, report, *_ = run(parts, folder="fruit", prompts="", method="progressive", teacher_steps=4)
    assert "on 4 latents" in report
    assert run(parts, folder="fruit", prompts="not a caption", method="progressive", teacher_steps=4)[2] == report
    _, _, report, *_ = run(parts, prompts="prompts.txt", filename="other")
    assert "2 prompts" in report
    first = DistillFewSteps.IS_CHANGED(prompts="prompts.txt")
    (tiny_pack / "input" / "prompts.txt").write_text("three", encoding="utf-8")
    assert DistillFewSteps.IS_CHANGED(prompts="prompts.txt") != first != DistillFewSteps.IS_CHANGED(prompts="a\nb")
    assert DistillFewSteps.IS_CHANGED(prompts="../../x.txt") == ""


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"prompts": ""}, "0 prompts were given"),
        ({"prompts": "missing.txt"}, "cannot be read"),
        ({"prompts": "../secret.txt"}, "plain relative name"),
        ({"filename": "../out"}, "plain relative name"),
        ({"method": "magic"}, "method='magic'"),
        ({"few_steps": 0}, "few must be"),
        ({"few_steps": 8}, "teacher_steps must be"),
        ({"method": "progressive", "teacher_steps": 6}, "times a power of 2"),
        ({"method": "adversarial", "network": "whole"}, "network=lora"),
        ({"guidance": float("nan")}, "guidance must be"),
        ({"drawn": 10**9}, "drawn must be"),
        ({"rank": 0}, "rank must be"),
        ({"method": "guidance_embedded", "guidance": 20.0}, "scales from 2 to 14"),
        ({"layers": "none of them"}, "expected some of"),
        ({"steps": 0}, "steps must be"),
    ],
)
def test_bad_settings_are_refused_in_one_line(parts, changes, words):
    with pytest.raises(InputError, match=words) as caught:
        run(parts, **changes)
    assert "\n" not in str(caught.value)


def test_a_folder_is_found_in_the_output_folder_too(parts):
    write_dataset("train", 4, 64, paths.output_dir() / "made")
    assert "on 4 latents" in run(parts, folder="made")[2]
    with pytest.raises(DataError, match="no such folder"):
        run(parts, folder="nowhere")


@pytest.mark.parametrize("change", [{"guidance": 7.0}, {"seed": 5}, {"teacher_steps": 8}, {"scheduler": "karras"}])
def test_what_the_teacher_drew_is_not_used_with_other_settings(parts, change):
    run(parts, resume=False)
    run(parts, resume=False, **change)
    run(parts, filename="fresh", **change)
    one, other = (read_lora(paths.output_dir() / "loras" / f"{name}.safetensors") for name in ("student", "fresh"))
    assert all(torch.equal(a, b) for key in one for a, b in zip(one[key][:2], other[key][:2], strict=True))
    assert len(list((paths.made_weights_dir() / "student-run").glob("teacher-*"))) == 1


def test_a_run_with_other_pictures_is_not_resumed(parts, tiny_pack):
    for name in ("train", "validation"):
        write_dataset(name, 2, 64, tiny_pack / "input" / name)
        (tiny_pack / "input" / name / "captions.jsonl").unlink()
        for picture in (tiny_pack / "input" / name / "images").iterdir():
            picture.with_suffix(".txt").write_text("a fruit", encoding="utf-8")
    run(parts, folder="train")
    with pytest.raises(TrainingError, match="the pictures or the texts are others. Use the same"):
        run(parts, folder="validation")


def test_a_disk_that_is_full_does_not_end_a_run_whose_teacher_has_drawn(parts, monkeypatch):
    def full(path, states):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rapiddraw.core.train.inputs.few_step._write", full)
    assert "3 training steps" in run(parts)[2]


def test_a_lora_of_another_program_is_not_replaced(parts):
    loras = paths.output_dir() / "loras"
    loras.mkdir(parents=True)
    save_file({"x": torch.zeros(1)}, loras / "student.safetensors")
    with pytest.raises(BundleError, match="LoRA of another program"):
        run(parts)


@pytest.mark.parametrize("method", ["adversarial", "guidance_embedded"])
def test_methods_for_u_nets_refuse_other_networks_before_any_work(parts, method, monkeypatch):
    monkeypatch.setattr(few_step, "is_unet", lambda network: False)
    monkeypatch.setattr(current().clip, "encode", lambda *_: pytest.fail("it began"))
    with pytest.raises(InputError, match=f"method={method} is for U-Nets"):
        run(parts, method=method)


def test_a_student_of_another_model_is_refused(parts, tmp_path):
    run(parts)
    wide = helpers.write_unet(tmp_path / "wide.safetensors", block_out_channels=[64, 64])
    flow = helpers.write_unet(tmp_path / "flow.safetensors", schedule=Schedule(prediction="flow"))
    with pytest.raises(BundleError, match=r"student.safetensors: .*another model"):
        load(current().model.load(wide))
    with pytest.raises(BundleError, match="predicts v on 4 latent channels; this model predicts flow"):
        load(current().model.load(flow))


def test_a_student_in_a_weights_folder_is_found_by_its_header(parts, tmp_path, monkeypatch):
    *_, student = (run(parts, steps=1), paths.output_dir() / "loras" / "student.safetensors")
    shipped = tmp_path / "shipped"
    (shipped / "loras").mkdir(parents=True)
    save_lora(shipped / "another.safetensors", read_lora(student), {"recipe": "domain"})
    shutil.copy(student, shipped / "orchard-2-steps.safetensors")
    shutil.move(student, shipped / "loras" / "own.safetensors")
    monkeypatch.setattr(paths, "weights_dirs", lambda: [shipped])
    assert list_students() == ["orchard-2-steps.safetensors", "own.safetensors"]
    model, _, sigmas, cfg = load(parts[0], student="orchard-2-steps.safetensors")
    assert torch.equal(denoised(model), denoised(load(parts[0], student="own.safetensors")[0])) and (len(sigmas), cfg) == (3, 1.0)
    with pytest.raises(InputError, match="plain relative name"):
        load(parts[0], student="../shipped/orchard-2-steps.safetensors")


def test_a_file_that_is_no_student_is_refused(parts):
    run(parts)
    loras = paths.output_dir() / "loras"
    factors = read_lora(loras / "student.safetensors")
    told = told_of_lora(loras / "student.safetensors")[KEY]
    save_lora(loras / "plain.safetensors", factors, {"by": "another trainer"})
    save_lora(loras / "odd.safetensors", factors, {KEY: {**told, "steps": "four"}})
    save_lora(loras / "high.safetensors", factors, {KEY: {**told, "steps": 10**6}})
    for name, words in (("plain", "no few-step student"), ("odd", "steps"), ("high", "steps must be")):
        with pytest.raises(BundleError, match=words):
            load(parts[0], student=f"{name}.safetensors")
    assert list_students() == ["student.safetensors"]
    with pytest.raises(BundleError, match="no few-step student named"):
        load(parts[0], student="nowhere.safetensors")
    with pytest.raises(InputError, match="no student was chosen"):
        load(parts[0], student=LINKED)
    assert load(parts[0], student=LINKED, file="student.safetensors")[3] == 1.0
    with pytest.raises(InputError, match="steps=-1"):
        load(parts[0], steps=-1)


def test_scales():
    def about(method, taught=4.0, low=4.0, high=4.0):
        return About(method, 4, "euler", "simple", 4.0, low, high, taught, "eps", 4)

    assert scale_to_use(about("trajectory"), 0) == (1.0, 4.0, "")
    assert "scale 1" in scale_to_use(about("trajectory"), 7.0)[2] and scale_to_use(about("trajectory"), 1.0)[2] == ""
    assert scale_to_use(about("cfg_aware", low=2, high=14), 7.0) == (7.0, 7.0, "")
    assert "from 2 to 14" in scale_to_use(about("guidance_embedded", low=2, high=14), 20.0)[2]
    assert scale_to_use(about("progressive", taught=1.0, low=1.0, high=14.0), 6.0) == (6.0, 6.0, "")
    with pytest.raises(InputError, match="scale=nan"):
        scale_to_use(about("trajectory"), float("nan"))
    with pytest.raises(BundleError, match="no few-step student"):
        read_about({}, "x.safetensors")
    assert tuple(SHOWN) == METHODS
