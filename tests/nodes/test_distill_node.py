"""The distillation node on tiny models, under inference mode as ComfyUI runs nodes: it learns, resumes, and leaves its teacher alone."""

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.bundles.load import load_bundle
from rapiddraw.core.errors import BundleError, Cancelled, DataError, InputError, WriteError
from rapiddraw.core.host import current
from rapiddraw.core.host.denoiser import together
from rapiddraw.core.lowrank.layers import has_factors
from rapiddraw.core.operations import distill
from rapiddraw.core.operations import distill_data as model_data
from rapiddraw.core.orchard.dataset import write_dataset
from rapiddraw.core.progress import set_reporter
from rapiddraw.nodes.distill import DistillUNet
from rapiddraw.tests.core.train.toy import StopAfter

SETTINGS = {
    "folder": "fruit", "filename": "student", "steps": 4, "batch_size": 2, "lr": 1e-3, "size": 64, "mode": "param_ratio", "value": 0.7,
    "weighting": "none", "feature_weight": 0.0, "task_weight": 0.0, "seed": 0, "save_every": 500, "resume": True,
}  # fmt: skip


@pytest.fixture
def parts(tiny_weights, tiny_pack):
    write_dataset("train", 4, 64, tiny_pack / "input" / "fruit")
    return current().load_bundles(*(tiny_weights / f"tiny-{kind}.safetensors" for kind in ("unet", "text", "vae")))


def run(parts, **changes):
    with torch.inference_mode():
        return DistillUNet().execute(*parts, **{**SETTINGS, **changes})["result"]


def denoised(model):
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    return model.model.apply_model(x, torch.tensor([2.0]), torch.ones(1, 3, model.model.context_width))


def test_the_student_learns_and_its_teacher_is_as_before(parts):
    before = denoised(parts[0])
    student, report, plot = run(parts, steps=20, feature_weight=0.1, task_weight=0.01)
    assert torch.equal(denoised(parts[0]), before) and not current().speed.network_of("model", parts[0]).training
    network = current().speed.network_of("model", student)
    assert has_factors(network) and not any(weight.requires_grad for weight in network.parameters())
    assert not has_factors(current().speed.network_of("model", parts[0]))
    log = (paths.made_weights_dir() / "student-run" / "log.jsonl").read_text(encoding="utf-8").splitlines()
    noise = [float(line.split('"noise": ')[1].split(",")[0]) for line in log]
    assert sum(noise[-5:]) < 0.8 * sum(noise[:5])
    for word in ("parameters", "20 steps on 4 pictures", "features", "task", "student.safetensors"):
        assert word in report
    assert plot.ndim == 4 and plot.shape[-1] == 3 and 0 <= plot.min() <= plot.max() <= 1
    again = current().model.load(paths.made_weights_dir() / "student.safetensors")
    assert torch.allclose(denoised(again), denoised(student), atol=5e-3)  # stored in half precision


def test_a_cancelled_run_goes_on_when_it_is_queued_again(parts):
    whole, _, _ = run(parts, filename="whole")

    set_reporter(lambda _, label, __: StopAfter(2 if label.startswith("train") else 10**9, Cancelled("enough")))
    try:
        with pytest.raises(Cancelled):
            run(parts)
    finally:
        set_reporter(None)
    assert not (paths.made_weights_dir() / "student.safetensors").exists()
    assert list((paths.made_weights_dir() / "student-run").glob("checkpoint-00000002*"))
    student, report, _ = run(parts)
    assert torch.equal(denoised(student), denoised(whole)) and "4 steps" in report


def test_without_a_folder_the_orchard_is_drawn(parts, tiny_pack, monkeypatch):
    monkeypatch.setattr(model_data, "DEMONSTRATION", 3)
    assert "on 3 pictures" in run(parts, folder="", steps=1)[1]
    assert (tiny_pack / "temp" / "rapiddraw-orchard-3-64" / "captions.jsonl").is_file()
    assert DistillUNet.IS_CHANGED(folder="") == "" != DistillUNet.IS_CHANGED(folder="fruit")
    assert DistillUNet.IS_CHANGED(folder="../..") == ""


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"folder": "../input/fruit"}, InputError, "plain relative name"),
        ({"folder": "/etc"}, InputError, "plain relative name"),
        ({"folder": "nothing"}, DataError, "no such folder"),
        ({"filename": "../out"}, InputError, "plain relative name"),
        ({"steps": 0}, InputError, "steps must be .*, 0 was given"),
        ({"steps": 10**9}, InputError, "steps must be .*, 1000000000 was given"),
        ({"batch_size": 10**6}, InputError, "batch_size"),
        ({"lr": float("nan")}, InputError, "lr"),
        ({"size": 2**20}, InputError, "size="),
        ({"value": 7.0}, InputError, "value=7.0"),
        ({"weighting": "snr"}, InputError, "min_snr"),
        ({"feature_weight": -1.0}, InputError, "features"),
    ],
)
def test_hostile_and_impossible_values_are_refused(parts, changes, error, words):
    with pytest.raises(error, match=words):
        run(parts, **changes)


def test_another_kind_of_bundle_is_not_replaced_and_other_settings_do_not_resume(parts, tiny_weights):
    from rapiddraw.core.errors import TrainingError

    folder = paths.made_weights_dir()
    folder.mkdir(parents=True)
    (folder / "mine.safetensors").write_bytes((tiny_weights / "tiny-vae.safetensors").read_bytes())
    with pytest.raises(BundleError, match="another kind"):
        run(parts, filename="mine")
    run(parts, steps=1)
    with pytest.raises(TrainingError, match="lr was"):
        run(parts, steps=2, lr=2e-3)
    run(parts, steps=2, lr=2e-3, resume=False)
    assert load_bundle(folder / "student.safetensors").info.provenance["steps"] == 2


def test_a_place_that_cannot_be_written_is_named_before_anything_is_encoded(parts, monkeypatch):
    monkeypatch.setattr("rapiddraw.core.operations.distill.encode_folder", lambda *_: pytest.fail("encoded first"))
    paths.made_weights_dir().write_text("a file in the way")
    with pytest.raises(WriteError, match="cannot write"):
        run(parts)


def test_a_student_whose_place_is_gone_lies_beside_its_run_and_the_report_says_so(parts, monkeypatch):
    from rapiddraw.core.operations.distill import ModelDistillation

    finish = ModelDistillation.finish

    def gone(self, out, provenance):
        if out.parent == paths.made_weights_dir():
            raise OSError("No space left on device")
        return finish(self, out, provenance)

    monkeypatch.setattr(ModelDistillation, "finish", gone)
    student, report, _ = run(parts)
    path = paths.made_weights_dir() / "student-run" / "student.safetensors"
    assert f"the student is in {path}" in report
    assert torch.allclose(denoised(current().model.load(path)), denoised(student), atol=5e-3)


def test_texts_of_several_lengths_stand_in_one_batch():
    short, long = torch.randn(1, 2, 3), torch.randn(1, 6, 3)
    joined = together([{"tokens": short, "y": short[:, 0]}, {"tokens": long, "y": long[:, 0]}])
    assert joined["tokens"].shape == (2, 6, 3) and torch.equal(joined["tokens"][0], short[0].repeat(3, 1)) and joined["y"].shape == (2, 3)


def test_the_default_rate_is_what_the_tooltip_advises_for_users_models():
    default, tip = DistillUNet.INPUT_TYPES()["required"]["lr"][1]["default"], DistillUNet.INPUT_TYPES()["required"]["lr"][1]["tooltip"]
    assert default == distill.ModelDistillation().lr == 1e-5 and f"{default:.5f} suits models of the size of SD 1.5" in tip


def test_an_output_that_cannot_be_written_is_refused_before_any_work(parts, monkeypatch):
    def work(*_, **__):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(distill, "encode_folder", work)
    monkeypatch.setattr(distill.ModelDistillation, "factor", work)
    folder = paths.made_weights_dir()
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(WriteError, match="cannot write"):
        run(parts)
