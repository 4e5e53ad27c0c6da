"""Choices of knowledge graphs and projections: their names, loading one by name, and writing a projection that was fitted."""

from __future__ import annotations

from pathlib import Path

from ..bundles.find import list_bundles, resolve_bundle
from ..errors import KnowledgeError
from ..paths import input_dir, made_bundle_path, made_weights_dir, model_files, model_path, say_searched, weights_dirs
from .graph import KnowledgeGraph, load_knowledge
from .projection import Projection, load_projection, save_projection
from .triples import load_triples

TRIPLE_SUFFIXES = (".tsv", ".jsonl")
NO_PROJECTION = "none"


def list_graphs() -> list[str]:
    """Return the names of the bundles of kind `kg`, then of the .tsv and .jsonl files in the weights folders and the input folder."""
    files = {
        name for folder in _folders() for name, path in model_files(folder) if path.suffix.lower() in TRIPLE_SUFFIXES and path.is_file()
    }
    return [*list_bundles("kg"), *sorted(files)]


def resolve_graph(name: str) -> Path:
    """Return the file of a name from :func:`list_graphs`. Raises :class:`BundleError`, :class:`KnowledgeError` or :class:`InputError`."""
    if Path(name).suffix.lower() not in TRIPLE_SUFFIXES:
        return resolve_bundle(name, "kg")
    for folder in _folders():
        path = model_path(folder, name)
        if path.is_file():
            return path
    where = say_searched(_folders())
    raise KnowledgeError(f"no knowledge file named {name!r} ({where}). Put the file into one of these folders")


def load_graph(name: str) -> KnowledgeGraph:
    """Return the graph of that name. A graph that is read from triples has no vectors until it is trained."""
    path = resolve_graph(name)
    return load_triples(path) if path.suffix.lower() in TRIPLE_SUFFIXES else load_knowledge(path)


def describe_graph(graph: KnowledgeGraph) -> str:
    """Return a few lines that say what a graph holds."""
    names: dict[str, int] = {}
    for by in graph.aliases.values():
        for language, aliases in by.items():
            names[language] = names.get(language, 0) + len(aliases)
    spoken = ", ".join(f"{count} {language}" for language, count in sorted(names.items())) or "none"
    vectors = f"{graph.dim} features an entity" if graph.dim else "none yet; train them with `python -m rapiddraw train kg`"
    return (
        f"entities: {len(graph.entities)}, of which {len(graph.connected)} are in a triple\n"
        f"relations: {len(graph.relations)}\ntriples: {len(graph.triples)}\nnames: {spoken}\nvectors: {vectors}"
    )


def list_projections() -> list[str]:
    """Return `none`, then the names of the bundles of kind `projection`."""
    return [NO_PROJECTION, *list_bundles("projection")]


def load_chosen_projection(name: str) -> Projection | None:
    """Return the projection of that name; `None` for `none`. Raises :class:`BundleError` or :class:`InputError`."""
    return None if name == NO_PROJECTION else load_projection(resolve_bundle(name, "projection"))


def write_projection(projection: Projection, filename: str) -> str:
    """Save a projection as `filename` (a relative name, `.safetensors` added) in the folder where nodes write bundles.

    Returns its name in :func:`list_projections`. Raises :class:`InputError` for a name that leaves that folder, :class:`BundleError` where
    it would replace anything but a projection.
    """
    return save_projection(made_bundle_path(filename), projection).relative_to(made_weights_dir().resolve()).as_posix()


def _folders() -> list[Path]:
    return [*weights_dirs(), *([input_dir()] if input_dir().is_dir() else [])]
