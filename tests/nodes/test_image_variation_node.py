"""The node of image variation on tiny bundles."""

import pytest
import torch
from rapiddraw.core import paths
from rapiddraw.core.host import SamplingRun, current
from rapiddraw.nodes.image_variation import ImageVariationEncode


@pytest.fixture(autouse=True)
def _pack(tiny_pack):
    return tiny_pack


def test_a_picture_prompts_the_model():
    pictures = torch.rand(2, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    arguments = {"tokens_name": "tiny-image_tokens.safetensors", "tower_name": "tiny-image.safetensors"}
    model = current().model.load(paths.weights_dirs()[0] / "tiny-unet.safetensors")
    prompt = ImageVariationEncode().execute(pictures[:1], **arguments, strength=1.0)[0]
    text = [[torch.randn(1, 32, 32), {}]]
    both = ImageVariationEncode().execute(pictures[:1], **arguments, strength=1.0, conditioning=text)[0]
    latent = {"samples": torch.zeros(1, 4, 4, 4)}
    for positive in (prompt, both):
        drawn = current().sampling.sample(
            current().sampling.make_guider(model, positive, text, 3.0), latent, SamplingRun(1, 2, "euler", "normal")
        )
        assert drawn["samples"].isfinite().all()
    assert ImageVariationEncode().execute(pictures, **arguments, strength=0.0, conditioning=text)[0] is text
