"""What a distillation that resumes recognises: the same student, pictures and captions, by their content."""

from __future__ import annotations

import pytest
from rapiddraw.core.data.folder import ImageFolder
from rapiddraw.core.errors import DataError
from rapiddraw.core.operations.distill import fingerprint
from torch.nn import Flatten


def test_other_pictures_or_captions_of_the_same_names_and_sizes_are_others(tmp_path):
    def taken():
        return fingerprint(Flatten(), ImageFolder(tmp_path))

    from PIL import Image

    picture, caption = tmp_path / "a.bmp", tmp_path / "a.txt"
    Image.new("RGB", (16, 16), "red").save(picture)
    caption.write_text("a red square", encoding="utf-8")
    first = taken()
    assert taken() == first
    Image.new("RGB", (16, 16), "tan").save(picture)
    second = taken()
    caption.write_text("a tan square", encoding="utf-8")
    assert len({first, second, taken()}) == 3
    picture.unlink()
    with pytest.raises(DataError, match="no images"):
        taken()
