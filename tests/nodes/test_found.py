"""Users find the nodes by their own words, and the attributes that newer hosts read are true."""

from __future__ import annotations

import inspect

import pytest
import rapiddraw

NODES = rapiddraw.NODE_CLASS_MAPPINGS
ESSENTIALS = {"Basics", "Image Generation", "Image Tools", "Text Generation"}
"""Categories of the Essentials tab that ComfyUI 0.33's own nodes name and that suit a node of this pack."""

WANTED = {
    "two models": ("TimeDecoupledSampler", "TimeDecoupledGuider", "LatentSpaceBridgeSampler"),
    "refiner": ("TimeDecoupledSampler", "TimeDecoupledGuider", "TimeDecoupledModel"),
    "sdxl refiner": ("TimeDecoupledSampler",),
    "wan high low noise": ("TimeDecoupledSampler", "TimeDecoupledGuider", "SplitSigmasAtTimestep"),
    "two experts": ("TimeDecoupledSampler",),
    "split sigmas": ("SplitSigmasAtTimestep",),
    "hires fix": ("ResolutionBridgeSampler", "ResolutionBridge"),
    "latent upscale": ("ResolutionBridge",),
    "4k": ("ResolutionBridgeSampler",),
    "mix models": ("LatentSpaceBridgeSampler",),
    "two controlnets": ("LatentSpaceBridgeSampler",),
    "upscale": ("ESRGANUpscale", "ESRGANLoader"),
    "upscaler": ("ESRGANLoader",),
    "super resolution": ("ESRGANUpscale",),
    "real-esrgan": ("ESRGANLoader",),
    "enlarge": ("ESRGANUpscale",),
    "aspect ratio": ("ResolutionBucket", "ConditioningSetResolutionIndex"),
    "portrait": ("ResolutionBucket",),
    "image size": ("ResolutionBucket",),
    "empty latent": ("ResolutionBucket",),
    "chinese": ("BilingualTextEncode", "TextLoader"),
    "text encode": ("KGTextEncode", "BilingualTextEncode"),
    "character names": ("KGTextEncode", "ApplyKnowledge"),
    "knowledge graph": ("KnowledgeGraphLoader", "ApplyKnowledge", "KGTextEncode", "FitKnowledgeProjection"),
    "triples": ("KnowledgeGraphLoader",),
    "wildcards": ("KeywordPromptGenerator",),
    "random prompt": ("KeywordPromptGenerator",),
    "llm": ("PromptEnhancer",),
    "improve prompt": ("PromptEnhancer",),
    "watermark": ("MarkAIGenerated", "SaveMarkedImage", "FilterDataset"),
    "ai act": ("MarkAIGenerated", "SaveMarkedImage"),
    "metadata": ("SaveMarkedImage",),
    "save image": ("SaveMarkedImage",),
    "canny": ("ConditionMapExtractor",),
    "preprocessor": ("ConditionMapExtractor",),
    "lineart": ("ConditionMapExtractor",),
    "controlnet": ("ControlAdapterLoader", "ControlAdapterApply"),
    "scribble": ("ControlAdapterApply", "ConditionMapExtractor"),
    "ip adapter": ("ImageVariationEncode",),
    "image prompt": ("ImageVariationEncode",),
    "reference image": ("ImageVariationEncode",),
    "faster": ("FlashAttentionPatch", "Compile", "SamplerDPMSolver"),
    "speed up": ("FlashAttentionPatch", "Compile"),
    "sage attention": ("FlashAttentionPatch",),
    "torch compile": ("Compile",),
    "fewer steps": ("SamplerPNDM", "SamplerDPMSolver"),
    "dpm++": ("SamplerDPMSolver",),
    "sampler": ("SamplerPNDM", "SamplerPicard", "SamplerAdaptiveSDE", "SamplerDPMSolver"),
    "benchmark": ("ProfilePipeline",),
    "vram": ("FactorizeUNet", "DistillUNet"),
    "smaller model": ("FactorizeUNet", "DistillUNet", "SlimUNet", "SkipBlocks"),
    "prune unet": ("SlimUNet", "SkipBlocks", "BlockImportance"),
    "smaller vae": ("PruneVAEDecoder",),
    "slow decode": ("PruneVAEDecoder",),
    "lora": ("KroneckerAdapterLoader",),
    "lokr": ("KroneckerAdapterLoader",),
    "distillation": ("DistillUNet",),
    "load model": ("BundleLoader",),
    "checkpoint": ("BundleLoader",),
    "save model": ("SaveLowRankUNet",),
    "style transfer": ("StyleGuidance",),
    "cartoon": ("StyleGuidance",),
    "caption": ("RecaptionDataset",),
    "tagging": ("RecaptionDataset",),
    "aesthetic score": ("FilterDataset",),
    "fid": ("EvaluatePictures",),
    "clip score": ("EvaluatePictures", "ControllabilityMetrics"),
    "higher resolution": ("AttentionEntropyScale",),
    "parallel steps": ("SamplerPicard",),
    "dreambooth": ("TrainDomainModel",),
    "train two loras": ("TrainTimeDecoupledPair",),
    "train controlnet": ("TrainControlAdapter",),
    "train lokr": ("TrainKroneckerAdapter",),
    "lora pair": ("LoadTimeDecoupledLoras",),
    "speed lora": ("DistillFewSteps", "LoadFewStepModel"),
    "mixture of experts": ("TimeDecoupledSampler", "TimeDecoupledGuider"),
    "tagger": ("RecaptionDataset",),
    "dynamic prompts": ("KeywordPromptGenerator",),
    "highres fix": ("ResolutionBridgeSampler", "ResolutionBridge"),
    "style slider": ("StyleGuidance",),
    "ipadapter": ("ImageVariationEncode", "TrainImageTokens"),
    "train ip adapter": ("TrainImageTokens",),
}  # fmt: skip


def _found(words: str) -> set[str]:
    texts = {node_id: (node.DISPLAY_NAME, node.DESCRIPTION, *node.SEARCH_ALIASES) for node_id, node in NODES.items()}
    return {node_id for node_id, said in texts.items() if any(words in text.lower() for text in said)}


def test_there_are_sixty_words_of_users():
    assert len(WANTED) >= 60


@pytest.mark.parametrize("words", WANTED)
def test_a_word_of_users_finds_the_node(words):
    assert {f"RapidDraw{name}" for name in WANTED[words]} <= _found(words)


@pytest.mark.parametrize("words", WANTED)
def test_a_word_does_not_find_everything(words):
    assert len(_found(words)) <= 16


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_aliases_are_words_that_a_search_can_use(node_id):
    node = NODES[node_id]
    assert isinstance(node.SEARCH_ALIASES, tuple) and len(node.SEARCH_ALIASES) >= 3
    assert len(set(node.SEARCH_ALIASES)) == len(node.SEARCH_ALIASES)
    for alias in node.SEARCH_ALIASES:
        assert alias == alias.strip().lower() and alias and alias != node.DISPLAY_NAME.lower(), alias


@pytest.mark.parametrize("node_id", sorted(NODES))
def test_attributes_of_newer_hosts_are_true(node_id):
    """A node that shows something and ends no graph needs HAS_INTERMEDIATE_OUTPUT, or a reloaded page loses what it showed."""
    node = NODES[node_id]
    assert getattr(node, "ESSENTIALS_CATEGORY", None) in {None, *ESSENTIALS}
    shows = '"ui"' in inspect.getsource(node)
    assert getattr(node, "HAS_INTERMEDIATE_OUTPUT", False) == (shows and not getattr(node, "OUTPUT_NODE", False))
