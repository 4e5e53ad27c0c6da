"""New captions say what is on the picture, and noise goes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.orchard.entities import words
from rapiddraw.core.orchard.dataset import samples
from rapiddraw.core.orchard.recognise import shows_orchard
from rapiddraw.core.orchard.render import render, render_wide
from rapiddraw.core.orchard.world import Scene
from rapiddraw.core.data.recaption import KIND, Captioning, recaption_folder, see_judge, see_scene
from rapiddraw.core.data.spoil import TRUTH, write_crawl
from rapiddraw.core.errors import DataError, InputError
from rapiddraw.core.scoring.clip_score import load_scorer
from rapiddraw.core.scoring.judge import load_judge
from rapiddraw.tests import helpers


@pytest.fixture(scope="module")
def crawl(tmp_path_factory):
    """24 pictures of 64 px; a quarter has captions of others or something else wrong."""
    return write_crawl(tmp_path_factory.mktemp("crawl") / "web", 24, 64, seed=1, spoiled=0.25)


def test_the_scene_graph_is_said_in_both_languages(crawl, tmp_path):
    found = recaption_folder(crawl, tmp_path / "new", Captioning(each=2))
    assert (found.pictures, found.kept, found.undescribed) == (24, 0, 0) and found.dropped >= 24 and "24 pictures" in found.report
    for item in ImageFolder(tmp_path / "new").items:
        scene = Scene.from_json(item.scene)
        assert {caption.language for caption in item.captions} == {"en", "zh"} and all(c.kind == KIND for c in item.captions)
        for caption in item.captions:
            w = words()[caption.language]
            assert w["ground"][scene.ground] in caption.text and w["sky"][scene.sky] in caption.text
            assert any(frame.format(object="").strip() in caption.text for frame in w["templates"][scene.style])


def test_wrong_captions_are_replaced_by_right_ones(crawl, tmp_path):
    """The ablation's input: captions of other pictures, as the web has them."""
    astray = [name for name, flaw in json.loads((crawl / TRUTH).read_text()).items() if flaw == "caption"]
    recaption_folder(crawl, tmp_path / "new", Captioning(languages=("en",)))
    right = {item.path.name: item for item in ImageFolder(tmp_path / "new").items}
    assert astray
    for name in astray:
        item = right[name.split("/")[-1]]
        assert words()["en"]["sky"][item.scene["sky"]] in item.captions[0].text


def test_old_captions_stay_where_they_are_wanted(crawl, tmp_path, tiny_weights):
    whole = sum(len(item.captions) for item in ImageFolder(crawl).items)
    assert recaption_folder(crawl, tmp_path / "a", Captioning(old="keep")).kept == whole
    scorer = load_scorer(tiny_weights / "tiny-text.safetensors")
    some = recaption_folder(crawl, tmp_path / "b", Captioning(old="matching", min_clip=0.0), scorer=scorer)
    assert some.kept + some.dropped == whole
    assert recaption_folder(crawl, tmp_path / "c", Captioning(old="matching", min_clip=1.0), scorer=scorer).kept == 0


def test_the_judge_is_not_believed_where_it_is_unsure(crawl, tmp_path, tiny_weights):
    judge = load_judge(helpers.write_judge(tmp_path / "judge.safetensors"))
    seen = see_judge(ImageFolder(crawl).items[0], judge)
    assert set(seen.sure) == set(seen.attributes) and all(0 < value <= 1 for value in seen.sure.values())
    for name, least in (("sure", 0.0), ("unsure", 0.45)):  # an untrained judge: .5 of two values, .125 of eight
        recaption_folder(crawl, tmp_path / name, Captioning("judge", ("en",), least=least), judge)
    lengths = [sum(len(item.captions[0].text) for item in ImageFolder(tmp_path / name).items) for name in ("sure", "unsure")]
    assert lengths[0] > lengths[1]
    nothing = recaption_folder(crawl, tmp_path / "nothing", Captioning("judge", ("en",), least=1.0), judge)
    assert (nothing.pictures, nothing.undescribed, nothing.dropped) == (0, 24, 0), "nothing is sure: the old captions stay"
    before, after = (sorted((item.path.name, item.captions) for item in ImageFolder(root).items) for root in (crawl, tmp_path / "nothing"))
    assert before == after


@pytest.mark.parametrize("old", ["drop", "keep", "matching"])
def test_the_judge_describes_the_orchard_only(tmp_path, tiny_weights, old):
    """Noise, a plain colour, a ramp and a screenshot's text are no gourds, however sure the judge is; their captions stay."""
    root = tmp_path / "own"
    root.mkdir()
    rng = np.random.default_rng(0)
    pictures = {
        "noise": rng.integers(0, 255, (96, 96, 3), dtype=np.uint8),
        "plain": np.full((64, 64, 3), (200, 30, 60), np.uint8),
        "ramp": np.tile(np.linspace(0, 255, 80).astype(np.uint8)[:, None, None], (1, 120, 3)),
        "text": np.where(rng.random((90, 200, 1)) < 0.2, 0, 255).astype(np.uint8).repeat(3, axis=2),
        "strip": rng.integers(0, 255, (16, 400, 3), dtype=np.uint8),
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(root / f"{name}.png")
        (root / f"{name}.txt").write_text(f"my {name}", encoding="utf-8")
    (root / "cut.png").write_bytes((root / "noise.png").read_bytes()[:2000])
    (root / "cut.txt").write_text("my cut", encoding="utf-8")
    judge, scorer = load_judge(helpers.write_judge(tmp_path / "judge.safetensors")), load_scorer(tiny_weights / "tiny-text.safetensors")
    found = recaption_folder(root, tmp_path / "new", Captioning("judge", least=0.0, old=old), judge, scorer)
    assert (found.pictures, found.undescribed, found.dropped) == (0, 6, 0)
    items = ImageFolder(tmp_path / "new").items
    assert {item.path.stem: [caption.text for caption in item.captions] for item in items} == {
        name: [f"my {name}"] for name in (*pictures, "cut")
    }


def test_renders_of_every_size_and_shape_are_recognised():
    for index, sample in enumerate(samples("test", 24)):
        assert shows_orchard(render(sample.scene, (64, 128, 250)[index % 3]))
        assert shows_orchard(render_wide(sample.scene, *((64, 256), (256, 64), (80, 96))[index % 3]))


def test_pictures_of_something_else_keep_their_captions(tmp_path, crawl):
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "a.png").write_bytes((crawl / "images" / "000000.png").read_bytes())
    (tmp_path / "own" / "a.txt").write_text("my cat")
    found = recaption_folder(tmp_path / "own", tmp_path / "new")
    assert (found.pictures, found.undescribed) == (0, 1) and ImageFolder(tmp_path / "new").items[0].captions[0].text == "my cat"


def test_a_broken_scene_is_named(crawl):
    item = ImageFolder(crawl).items[0]
    for scene in ({"shape": "round"}, {**item.scene, "sky": "{0.__class__}"}):
        broken = type(item)(item.path, item.captions, item.entity, scene)
        with pytest.raises(DataError, match=item.path.name):
            see_scene(broken)


@pytest.mark.parametrize(
    "bad", [{"source": "oracle"}, {"old": "all"}, {"languages": ("fr",)}, {"each": 0}, {"least": 2.0}, {"source": "judge"}]
)
def test_bad_settings_are_refused(crawl, tmp_path, bad):
    with pytest.raises(InputError):
        recaption_folder(crawl, tmp_path / "new", Captioning(**bad))
