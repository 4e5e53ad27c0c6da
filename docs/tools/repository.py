"""Hook of MkDocs that lets pages link to the repository as on its own web page: other documents, pictures, help pages of nodes.

A link that leaves docs/ (`../workflows/text_to_image.jpg`) is resolved in the repository. Its target becomes a file of the site under the
same path, and documents outside docs/ become pages. `<!-- measured: retrieval, orchard -->` becomes these benchmarks' tables of checks.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE = ("CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md", "weights/README.md", "benchmarks/BENCHMARKS.md", "web/docs/*.md")
"""Documents outside docs/ that are pages of the site."""
LINK = re.compile(r"(\]\()(?![a-z]+:|#)([^)\s#]+)")
MEASURED = re.compile(r"<!-- measured: ([\w, ]+) -->")


def outside() -> list[str]:
    """Return the paths of the documents outside docs/, from the repository's root."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in OUTSIDE for path in ROOT.glob(pattern))


def in_repository(src_uri: str, link: str) -> str:
    """Return the path from the repository's root that `link` on the page `src_uri` leads to."""
    page = src_uri if (ROOT / src_uri).is_file() and src_uri in outside() else f"docs/{src_uri}"
    return posixpath.normpath(posixpath.join(posixpath.dirname(page), link))


def in_site(path: str) -> str:
    """Return where a path of the repository stands in the site."""
    return "index.md" if path == "README.md" else path.removeprefix("docs/")


def measured(names: str) -> str:
    """Return the tables of checks of the benchmarks `names`, from benchmarks/BENCHMARKS.md."""
    text, parts = (ROOT / "benchmarks" / "BENCHMARKS.md").read_text(encoding="utf-8"), []
    for name in re.split(r", ?", names.strip()):
        found = re.search(rf"^## {name}\n\n(`.+`)\n\n((?:\|.*\n)+)", text, re.MULTILINE)
        if found is None:
            raise PluginError(f"benchmarks/BENCHMARKS.md has no chapter {name} with a table")
        parts.append(f"**{name}**, measured by {found[1]}:\n\n{found[2]}")
    return "\n".join(parts)


def on_files(files: Any, config: Any) -> Any:
    """Add the documents outside docs/, and every file that a page links to."""
    for path in outside():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    for page in [file for file in files if file.is_documentation_page()]:
        for link in LINK.findall(page.content_string):
            path = in_repository(page.src_uri, link[1])
            if files.get_file_from_path(in_site(path)) is None and (ROOT / path).is_file():
                files.append(File.generated(config, in_site(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Lead the links of a page to their places in the site, and put in what was measured."""
    folder = posixpath.dirname(page.file.src_uri)

    def moved(match: re.Match[str]) -> str:
        path = in_site(in_repository(page.file.src_uri, match[2]))
        return match[1] + posixpath.relpath(path, folder or ".")

    return MEASURED.sub(lambda match: measured(match[1]), LINK.sub(moved, markdown))
