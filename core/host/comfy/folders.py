"""ComfyUI's folders become the pack's: bundles in `models/rapiddraw` and language models are found, pictures go where ComfyUI puts its
own.

Only names and paths, nothing heavy: this runs when ComfyUI imports the pack, so that the lists a node shows are right from the start.
"""

from __future__ import annotations

from pathlib import Path

import folder_paths

from ... import paths

KEY = "rapiddraw"
LANGUAGE_MODELS = "LLM"  # where other packs keep theirs
SUFFIXES = {".safetensors", ".pth", ".pt", ".tsv", ".jsonl"}


def register() -> None:
    """Register the model folder under the key `rapiddraw` (which extra_model_paths.yaml may extend) and adopt ComfyUI's folders.

    Doing so again changes nothing.
    """
    folder_paths.add_model_folder_path(KEY, str(Path(folder_paths.models_dir) / KEY))
    folders, suffixes = folder_paths.folder_names_and_paths[KEY]
    suffixes |= SUFFIXES  # a new key lists every file, whatever it is
    folder_paths.folder_names_and_paths[KEY] = (folders, suffixes)
    for folder in folders:
        paths.add_weights_dir(folder)
    # Read, never registered: the key belongs to other packs, and extra_model_paths.yaml may have set it.
    theirs = folder_paths.folder_names_and_paths.get(LANGUAGE_MODELS, ((), ()))[0]
    for folder in (str(Path(folder_paths.models_dir) / LANGUAGE_MODELS), *theirs):
        paths.add_language_model_dir(folder)
    paths.set_dirs(folder_paths.get_input_directory(), folder_paths.get_output_directory(), folder_paths.get_temp_directory())
