"""The contact sheet: the lot is fair and repeatable, and every cell shows a picture beside its render."""

from __future__ import annotations

import numpy as np
import torch
from rapiddraw.core.metrics import contact_sheet as sheets
from rapiddraw.core.metrics.orchard import render_batch


def test_the_lot_takes_every_kind_of_name_and_is_the_same_each_time():
    pairs = sheets.scenes_by_lot(10, seed=3)
    assert [entity.split for entity, _ in pairs] == ["seen", "rare", "unseen"] * 3 + ["seen"]
    assert [entity.id for entity, _ in pairs] == [entity.id for entity, _ in sheets.scenes_by_lot(10, seed=3)]
    assert [entity.id for entity, _ in pairs] != [entity.id for entity, _ in sheets.scenes_by_lot(10, seed=4)]


def test_a_cell_holds_the_picture_beside_its_render(monkeypatch):
    grey = torch.zeros(3, 3, 128, 128)
    monkeypatch.setattr(sheets, "sample_pictures", lambda *_, **__: grey)
    monkeypatch.setattr(sheets, "upscale", lambda _, images: images.repeat_interleave(4, 1).repeat_interleave(4, 2))
    pixels = np.asarray(sheets.contact_sheet(None, None, None, count=3, seed=0, columns=2))
    assert pixels.shape == (2 * 512, 2 * (128 + 512 + 512), 3)
    scene = sheets.scenes_by_lot(3, 0)[0][1]
    render = ((render_batch([scene], 512)[0] / 2 + 0.5) * 255).round().permute(1, 2, 0).numpy()
    assert np.abs(pixels[:512, 128:640].astype(int) - render).max() <= 1
    assert (pixels[128:256, :128] == 128).all() and (pixels[:512, 640:1152] == 128).all()
    assert (pixels[512:, 1152:] == 255).all()  # the place of a fourth cell stays white
