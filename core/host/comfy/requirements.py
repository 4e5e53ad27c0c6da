"""Everything of ComfyUI that this pack relies on, in one list, checked once when the host is first used."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import reduce

from ...errors import MissingPackageError

TESTED = ("0.8.0", "0.18.1", "0.33.0")
"""The versions that the tests have run against."""

REQUIRED = (
    # models
    "comfy.model_base:BaseModel",
    "comfy.model_base:ModelType.EPS",
    "comfy.model_base:ModelType.V_PREDICTION",
    "comfy.model_sampling:ModelSamplingDiscrete",
    "comfy.model_sampling:X0",
    "comfy.supported_models_base:BASE",
    "comfy.supported_models_base:ClipTarget",
    "comfy.latent_formats:LatentFormat",
    "comfy.ldm.modules.diffusionmodules.openaimodel:UNetModel",
    "comfy.model_patcher:ModelPatcher",
    "comfy.controlnet:ControlBase",
    "comfy.controlnet:ControlBase.set_cond_hint",
    "comfy.controlnet:ControlBase.pre_run",
    "comfy.controlnet:ControlBase.cleanup",
    "comfy.controlnet:ControlBase.copy_to",
    "comfy.controlnet:ControlBase.get_models",
    "comfy.controlnet:ControlBase.control_merge",
    "comfy.ldm.modules.diffusionmodules.openaimodel:forward_timestep_embed",
    "comfy.ldm.modules.diffusionmodules.openaimodel:timestep_embedding",
    "comfy.model_patcher:ModelPatcher.add_wrapper_with_key",
    "comfy.model_patcher:ModelPatcher.add_object_patch",
    "comfy.model_patcher:ModelPatcher.set_model_attn1_patch",
    "comfy.model_base:BaseModel.encode_adm",
    "comfy.patcher_extension:WrappersMP.APPLY_MODEL",
    "comfy.model_patcher:ModelPatcher.get_wrappers",
    "comfy.model_patcher:ModelPatcher.remove_wrappers_with_key",
    "comfy.ldm.modules.attention:wrap_attn",
    "comfy.model_patcher:ModelPatcher.add_patches",
    "comfy.model_patcher:ModelPatcher.add_hook_patches",
    "comfy.model_patcher:ModelPatcher.get_key_patches",
    "comfy.model_patcher:ModelPatcher.patch_weight_to_device",
    "comfy.lora:calculate_weight",
    "comfy.sd:load_lora_for_models",
    "comfy.weight_adapter:WeightAdapterBase",
    "comfy.weight_adapter:LoRAAdapter",
    "comfy.supported_models:models",
    "comfy.utils:unet_to_diffusers",
    "comfy.utils:weight_dtype",
    "comfy.utils:detect_layer_quantization",
    "comfy.ops:disable_weight_init.Linear",
    "comfy.model_base:SDXL",
    "comfy.model_base:SDXLRefiner",
    # training
    "comfy.ldm.flux.math:apply_rope",
    "comfy.model_base:BaseModel.extra_conds",
    "comfy.ldm.modules.attention:attention_pytorch",
    "comfy.model_sampling:EPS",
    "comfy.model_sampling:V_PREDICTION",
    "comfy.model_sampling:EDM",
    # pictures and texts
    "comfy.sd:VAE.encode",
    "comfy.sd:VAE.decode",
    "comfy.sd:VAE.encode_tiled",
    "comfy.sd:VAE.decode_tiled",
    "comfy.sd:VAE.spacial_compression_encode",
    "comfy.sd:VAE.spacial_compression_decode",
    "comfy.ldm.models.autoencoder:AutoencoderKL",
    "comfy.sd:CLIP.clone",
    "comfy.sd:CLIP.tokenize",
    "comfy.sd:CLIP.encode_from_tokens_scheduled",
    "comfy.clip_model:CLIPTextModel.get_input_embeddings",
    "comfy.ops:manual_cast",
    "comfy.sd1_clip:SDClipModel",
    "comfy.sd1_clip:SD1ClipModel",
    "comfy.sd1_clip:SDTokenizer",
    "comfy.sd1_clip:SD1Tokenizer",
    # running
    "comfy.samplers:KSAMPLER",
    "comfy.samplers:KSampler.SAMPLERS",
    "comfy.samplers:KSampler.SCHEDULERS",
    "comfy.samplers:sampler_object",
    "comfy.samplers:CFGGuider.sample",
    "comfy.samplers:CFGGuider.inner_sample",
    "comfy.samplers:CFGGuider.outer_predict_noise",
    "comfy.samplers:CFGGuider.predict_noise",
    "comfy.samplers:calc_cond_batch",
    "comfy.samplers:process_conds",
    "comfy.samplers:encode_model_conds",
    "comfy.samplers:preprocess_conds_hooks",
    "comfy.samplers:get_total_hook_groups_in_conds",
    "comfy.samplers:filter_registered_hooks_on_conds",
    "comfy.samplers:cast_to_load_options",
    "comfy.sampler_helpers:convert_cond",
    "comfy.sampler_helpers:prepare_model_patcher",
    "comfy.sampler_helpers:prepare_sampling",
    "comfy.sampler_helpers:cleanup_models",
    "comfy.model_patcher:create_model_options_clone",
    "comfy.model_patcher:ModelPatcher.restore_hook_patches",
    "comfy.model_patcher:ModelPatcher.pre_run",
    "comfy.patcher_extension:copy_nested_dicts",
    "comfy.patcher_extension:merge_nested_dicts",
    "comfy.hooks:EnumHookMode.MinVram",
    "comfy.conds:CONDRegular._copy_with",
    "comfy_extras.nodes_custom_sampler:SamplerCustomAdvanced.sample",
    "comfy_extras.nodes_custom_sampler:Noise_EmptyNoise",
    "comfy_extras.nodes_custom_sampler:Noise_RandomNoise",
    "comfy_extras.nodes_model_advanced:ModelSamplingDiscrete.patch",
    "comfy.samplers:CFGGuider",
    "comfy.sample:prepare_noise",
    "comfy.sample:fix_empty_latent_channels",
    "latent_preview:get_previewer",
    "comfy.model_management:intermediate_device",
    "comfy.model_management:current_loaded_models",
    "comfy.model_management:load_models_gpu",
    "comfy.utils:ProgressBar",
    "comfy.model_management:throw_exception_if_processing_interrupted",
    "comfy.model_management:get_torch_device",
    "comfy.model_management:unet_dtype",
    "comfy.model_management:unet_manual_cast",
    "comfy.model_management:unet_offload_device",
    "comfy.model_management:dtype_size",
    "comfy.model_management:module_size",
    "comfy.model_management:free_memory",
    "comfy.model_patcher:ModelPatcher.is_clone",
    "comfy.model_management:get_total_memory",
    "comfy.model_management:unload_all_models",
    "comfy.cli_args:args.disable_metadata",
    # files
    "nodes:NODE_CLASS_MAPPINGS",
    "folder_paths:models_dir",
    "folder_paths:folder_names_and_paths",
    "folder_paths:add_model_folder_path",
    "folder_paths:get_folder_paths",
    "folder_paths:get_filename_list",
    "folder_paths:get_full_path",
    "folder_paths:get_input_directory",
    "folder_paths:get_output_directory",
    "folder_paths:get_temp_directory",
    "folder_paths:get_user_directory",
)
"""`module:attribute`, dots in the attribute meaning attributes of it. Each was seen in every version of :data:`TESTED`."""

OPTIONAL = {
    "comfy.model_management:in_training": ("0.18.1", "0.33.0"),
    "comfy.model_patcher:ModelPatcher.cached_patcher_init": ("0.18.1", "0.33.0"),
    "comfy.model_patcher:ModelPatcherDynamic.get_non_dynamic_delegate": ("0.18.1", "0.33.0"),
    "comfy.model_patcher:ModelPatcher.deepclone_multigpu": ("0.33.0",),
    "comfy.sampler_helpers:prepare_model_patcher_multigpu_clones": ("0.33.0",),
}
"""What newer versions have besides and the pack takes part in, with the tested versions that it was seen in."""


def missing(required: Iterable[str] = REQUIRED) -> list[str]:
    """Return those of `required` that this ComfyUI does not have."""
    return [name for name in required if not _has(name)]


def check_requirements(required: Iterable[str] = REQUIRED) -> None:
    """Raise :class:`MissingPackageError` naming what is missing, this ComfyUI's version and the tested ones."""
    absent = missing(required)
    if absent:
        raise MissingPackageError(
            f"this ComfyUI ({comfyui_version()}) lacks {', '.join(absent)}, which RapidDraw needs. RapidDraw is tested on ComfyUI "
            f"{', '.join(TESTED[:-1])} and {TESTED[-1]}: update RapidDraw or ComfyUI"
        )


def comfyui_version() -> str:
    """Return the running ComfyUI's version, or "unknown version"."""
    try:
        return str(importlib.import_module("comfyui_version").__version__)
    except (ImportError, AttributeError):
        return "unknown version"


def _has(name: str) -> bool:
    module, _, attribute = name.partition(":")
    try:
        reduce(getattr, attribute.split("."), importlib.import_module(module))
    except (ImportError, AttributeError):
        return False
    return True
