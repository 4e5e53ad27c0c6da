"""The Orchard: drawn exactly and always the same, and it keeps the unseen fruits' names to itself."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rapiddraw.core.data.spoil import write_crawl
from rapiddraw.core.errors import InputError
from rapiddraw.core.orchard import entities as entities_module
from rapiddraw.core.orchard.captions import KINDS, LANGUAGES, attribute_caption, caption, name_caption
from rapiddraw.core.orchard.claim import MARK
from rapiddraw.core.orchard.dataset import RARE_CAPTIONS, SPLIT_SEEDS, samples, write_dataset
from rapiddraw.core.orchard.entities import SPLITS, build_entities, entities, triples, words
from rapiddraw.core.orchard.render import render, render_maps, render_wide, segmentation_wide
from rapiddraw.core.orchard.world import ATTRIBUTES, Scene, random_scene

ENTITIES_SHA256 = "dd510584594a92420784e60533ba47c6d486fac123ee50516e2a8885edb3a315"


def test_the_list_of_fruits_is_fixed():
    path = Path(entities_module.__file__).with_name("entities.json")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == ENTITIES_SHA256, "entities.json changed: every shipped weight depends on it"
    assert list(entities()) == build_entities(), "entities.json is not what its own recipe makes"


def test_counts_of_splits():
    counts = {name: sum(e.split == name for e in entities()) for name in SPLITS}
    assert counts == SPLITS and len(entities()) == 480


def test_names_are_unique_and_share_nothing_with_attributes():
    names = [alias for e in entities() for aliases in e.aliases.values() for alias in aliases]
    assert len(set(names)) == len(names)
    spoken = [v for w in (words()["en"], words()["zh"]) for key, d in w.items() if key in ATTRIBUTES for v in d.values()]
    said = {word for phrase in spoken for word in phrase.format(colour="").lower().split()}
    assert not said & set(names)


def test_half_of_the_unseen_fruits_look_like_a_seen_one():
    seen = {tuple(e.looks().values()) for e in entities() if e.split == "seen"}
    known = [tuple(e.looks().values()) in seen for e in entities() if e.split == "unseen"]
    assert sum(known) == 40


def test_the_graph_gives_every_fruit_its_looks():
    facts = {}
    for head, relation, tail in triples():
        facts.setdefault(head, {})[relation] = tail
    for e in entities():
        own = facts[e.id]
        shape = own["has_shape"] if e.genus is None else facts[own["is_a"]]["has_shape"]
        assert shape == f"shape:{e.shape}"
        assert own["skin_colour"] == f"skin:{e.skin}" and own["has_pattern"] == f"pattern:{e.pattern}"
        assert own.get("pattern_colour") == (f"pattern_colour:{e.pattern_colour}" if e.pattern_colour else None)


def test_no_training_caption_names_an_unseen_fruit_and_rare_ones_have_three():
    hidden = [n for e in entities() if e.split == "unseen" for n in (e.name_en, e.name_zh)]
    named = {e.id: 0 for e in entities()}
    for sample in samples("train", 3000):
        for row in sample.captions:
            assert not any(name in row["text"] for name in hidden), row["text"]
            if sample.entity is not None and row["kind"] != "attributes":
                named[sample.entity.id] += 1
    assert all(named[e.id] == RARE_CAPTIONS for e in entities() if e.split == "rare")


def test_the_shipped_training_set_names_each_seen_fruit_forty_times():
    named = {e.id: 0 for e in entities() if e.split == "seen"}
    for sample in samples("train", 12_000):
        if sample.entity is not None and sample.entity.id in named:
            named[sample.entity.id] += sum(row["kind"] != "attributes" for row in sample.captions)
    assert min(named.values()) >= 40


def test_splits_do_not_share_scenes():
    scenes = [{s.scene for s in samples(split, 200)} for split in SPLIT_SEEDS]
    assert len(set.union(*scenes)) == 200 * len(scenes)


@given(seed=st.integers(0, 2**32), size=st.sampled_from([64, 96, 128]))
@settings(max_examples=15, deadline=None)
def test_rendering_is_deterministic_and_maps_fit_the_picture(seed, size):
    scene = random_scene(random.Random(seed))
    picture = render(scene, size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert np.array_equal(picture, render(Scene.from_json(json.loads(json.dumps(scene.to_json()))), size))
    maps = render_maps(scene, size)
    assert set(maps) == {"segmentation", "edges", "sketch", "depth"}
    assert all(m.shape == (size, size) and m.dtype == np.uint8 for m in maps.values())
    assert set(np.unique(maps["segmentation"])) <= {0, 1, 2, 3} and (maps["segmentation"] == 2).any() and (maps["segmentation"] == 3).any()
    assert set(np.unique(maps["edges"])) <= {0, 255} and maps["sketch"].any()
    assert (maps["depth"][maps["segmentation"] == 0] == 0).all()


def test_the_same_scene_at_two_sizes_is_a_true_pair():
    for seed in range(6):
        scene = random_scene(random.Random(seed))
        small = render(scene, 64).astype(float)
        reduced = np.asarray(Image.fromarray(render(scene, 256)).resize((64, 64), Image.Resampling.BOX), float)
        assert np.abs(small - reduced).mean() < 6.0


def test_the_fruit_shows_its_colour():
    for skin, channel in (("red", 0), ("green", 1), ("blue", 2)):
        scene = random_scene(random.Random(3), skin=skin, pattern="plain", sky="day", shape="round", style="cartoon")
        inside = render_maps(scene, 128)["segmentation"] == 2
        assert render(scene, 128)[inside].mean(axis=0).argmax() == channel


def test_scenes_obey_what_was_asked_for():
    for seed in range(40):
        scene = random_scene(random.Random(seed), shape="heart", pattern="dots", skin="blue")
        assert (scene.shape, scene.pattern, scene.skin) == ("heart", "dots", "blue") and scene.pattern_colour not in (None, "blue")
    assert random_scene(random.Random(1), pattern="plain").pattern_colour is None


@pytest.mark.parametrize("wrong", [{"shape": "cube"}, {"flavour": "sweet"}])
def test_unknown_attributes_are_refused_by_name(wrong):
    with pytest.raises(InputError, match=next(iter(wrong))):
        random_scene(random.Random(0), **wrong)


@pytest.mark.parametrize("size", [0, 63, 513, -1])
def test_sizes_out_of_range_are_refused(size):
    with pytest.raises(InputError, match="64 to 512"):
        render(random_scene(random.Random(0)), size)


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", KINDS)
def test_captions_name_the_fruit_or_do_not(language, kind):
    rng = random.Random(4)
    for e in entities()[:40]:
        text = caption(e.scene(rng), e, language, kind, rng)
        name = e.name_en if language == "en" else e.name_zh
        assert (name in text) == (kind != "attributes")
        assert "{" not in text


def test_evaluation_captions_do_not_give_the_looks_away():
    e = entities()[0]
    scene = e.scene(random.Random(0), style="fine")
    assert name_caption(scene, e) == f"a photo of {'an' if e.name_en[0] in 'aeiou' else 'a'} {e.name_en} " + " ".join(
        (words()["en"]["ground"][scene.ground], words()["en"]["sky"][scene.sky])
    )
    assert e.shape in attribute_caption(scene) and e.skin in attribute_caption(scene)
    assert e.name_en not in attribute_caption(scene)


def test_a_name_is_needed_to_name():
    with pytest.raises(InputError, match="names the fruit"):
        caption(random_scene(random.Random(0)), None, "en", "name", random.Random(0))
    with pytest.raises(InputError, match="languages"):
        caption(random_scene(random.Random(0)), None, "fr", "attributes", random.Random(0))


def test_a_written_dataset_reads_back(tmp_path):
    root = write_dataset("train", 5, 64, tmp_path / "set", maps=("edges", "segmentation"))
    lines = [json.loads(line) for line in (root / "captions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 5 and len(list((root / "images").iterdir())) == 5 and len(list((root / "maps/edges").iterdir())) == 5
    for line in lines:
        scene = Scene.from_json(line["scene"])
        assert np.array_equal(np.asarray(Image.open(root / line["file_name"])), render(scene, 64))
        assert set(scene.attributes()) == set(ATTRIBUTES)
    with pytest.raises(InputError, match="already holds"):
        write_dataset("train", 5, 64, root)


def contents(root):
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("taken", ["images/000000.png", "images/mine.txt", "maps/edges/000000.png", "captions.jsonl"])
def test_nothing_of_a_users_is_overwritten(tmp_path, taken):
    (tmp_path / taken).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / taken).write_bytes(b"mine")
    with pytest.raises(InputError, match="already holds"):
        write_dataset("train", 2, 64, tmp_path, maps=("edges",))
    assert contents(tmp_path) == {taken: b"mine"}


def test_other_files_of_a_folder_stay(tmp_path):
    (tmp_path / "notes.txt").write_bytes(b"mine")
    assert contents(write_dataset("train", 1, 64, tmp_path)).keys() == {"notes.txt", "captions.jsonl", "images/000000.png"}
    assert (tmp_path / "notes.txt").read_bytes() == b"mine"


@pytest.mark.parametrize("planted", ["images", "maps", "maps/edges", "captions.jsonl", MARK])
@pytest.mark.parametrize("unfinished", [False, True])
def test_a_link_is_not_followed_out_of_the_folder(tmp_path, planted, unfinished):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "captions.jsonl").write_bytes(b"theirs")
    root = tmp_path / "set"
    (root / planted).parent.mkdir(parents=True)
    if unfinished and planted != MARK:
        (root / MARK).touch()
    (root / planted).symlink_to(outside / "captions.jsonl" if planted in ("captions.jsonl", MARK) else outside)
    with pytest.raises(InputError, match="is a link"):
        write_dataset("train", 1, 64, root, maps=("edges",))
    assert contents(outside) == {"captions.jsonl": b"theirs"}


def test_a_link_in_a_pictures_place_is_replaced(tmp_path):
    (tmp_path / "theirs.png").write_bytes(b"theirs")
    root = tmp_path / "set"
    (root / "images").mkdir(parents=True)
    (root / MARK).touch()
    (root / "images" / "000000.png").symlink_to(tmp_path / "theirs.png")
    write_dataset("train", 1, 64, root)
    assert (tmp_path / "theirs.png").read_bytes() == b"theirs" and not (root / "images" / "000000.png").is_symlink()


@pytest.mark.parametrize("writes", range(9))
def test_a_run_that_was_broken_off_anywhere_can_be_started_again(tmp_path, monkeypatch, writes):
    """A crawl of four pictures, two of them spoiled, writes nine files; the run ends before each of them in turn."""
    whole = contents(write_crawl(tmp_path / "whole", 4, 64, spoiled=0.5))
    left = iter(range(writes))
    replace = Path.replace

    def crash(self, target):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return replace(self, target)

    with monkeypatch.context() as context, pytest.raises(KeyboardInterrupt):
        context.setattr(Path, "replace", crash)
        write_crawl(tmp_path / "set", 4, 64, spoiled=0.5)
    assert not (tmp_path / "set" / "captions.jsonl").exists(), "a folder that has it is whole"
    assert contents(write_crawl(tmp_path / "set", 4, 64, spoiled=0.5)) == whole
    with pytest.raises(InputError, match="already holds a dataset"):
        write_crawl(tmp_path / "set", 5, 64, spoiled=0.5)


def test_a_crash_after_the_last_write_is_no_dataset_for_ever(tmp_path):
    """The index is there, but the mark of an unfinished folder too: the run ended between the two."""
    root = write_dataset("train", 2, 64, tmp_path / "set")
    whole = contents(root)
    (root / MARK).touch()
    assert contents(write_dataset("train", 2, 64, root)) == whole


def test_square_shapes_give_the_pictures_of_that_size(tmp_path):
    one = write_dataset("train", 3, 64, tmp_path / "one", maps=("segmentation",))
    other = write_dataset("train", 3, 64, tmp_path / "other", maps=("segmentation",), shapes=[(64, 64)])
    assert contents(one) == contents(other)
    scene = random_scene(random.Random(4))
    assert np.array_equal(render(scene, 80), render_wide(scene, 80, 80))
    assert np.array_equal(render_maps(scene, 80)["segmentation"], segmentation_wide(scene, 80, 80))


@pytest.mark.parametrize(("split", "count", "maps"), [("dev", 1, ()), ("train", 0, ()), ("train", 1, ("normals",))])
def test_bad_requests_for_data_write_nothing(tmp_path, split, count, maps):
    with pytest.raises(InputError):
        write_dataset(split, count, 64, tmp_path / "set", maps=maps)
    assert not (tmp_path / "set").exists()


def test_several_processes_draw_the_same_pictures(tmp_path):
    one, many = (write_dataset("train", 6, 64, tmp_path / str(n), maps=("edges",), processes=n) for n in (1, 2))
    assert contents(one) == contents(many) and len(contents(one)) == 13
