"""New captions say what is on the picture, and noise goes."""

from __future__ import annotations

import json

import pytest
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.orchard.entities import words
from rapiddraw.core.orchard.world import Scene
from rapiddraw.core.data.recaption import KIND, recaption_folder, see_judge, see_scene
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
    found = recaption_folder(crawl, tmp_path / "new", each=2)
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
    recaption_folder(crawl, tmp_path / "new", languages=("en",))
    right = {item.path.name: item for item in ImageFolder(tmp_path / "new").items}
    assert astray
    for name in astray:
        item = right[name.split("/")[-1]]
        assert words()["en"]["sky"][item.scene["sky"]] in item.captions[0].text


def test_old_captions_stay_where_they_are_wanted(crawl, tmp_path, tiny_weights):
    whole = sum(len(item.captions) for item in ImageFolder(crawl).items)
    assert recaption_folder(crawl, tmp_path / "a", old="keep").kept == whole
    scorer = load_scorer(tiny_weights / "tiny-text.safetensors")
    some = recaption_folder(crawl, tmp_path / "b", old="matching", min_clip=0.0, scorer=scorer)
    assert some.kept + some.dropped == whole
    assert recaption_folder(crawl, tmp_path / "c", old="matching", min_clip=1.0, scorer=scorer).kept == 0


def test_the_judge_is_not_believed_where_it_is_unsure(crawl, tmp_path, tiny_weights):
    judge = load_judge(helpers.write_judge(tmp_path / "judge.safetensors"))
    seen = see_judge(ImageFolder(crawl).items[0], judge)
    assert set(seen.sure) == set(seen.attributes) and all(0 < value <= 1 for value in seen.sure.values())
    recaption_folder(crawl, tmp_path / "sure", "judge", least=0.0, judge=judge, languages=("en",))
    recaption_folder(crawl, tmp_path / "unsure", "judge", least=1.0, judge=judge, languages=("en",))
    lengths = [sum(len(item.captions[0].text) for item in ImageFolder(tmp_path / name).items) for name in ("sure", "unsure")]
    assert lengths[0] > lengths[1]


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
        recaption_folder(crawl, tmp_path / "new", **bad)
