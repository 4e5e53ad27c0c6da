"""Owner's addresses in pyproject.toml, filled in by one command before the first release.

    python .github/owner.py https://github.com/NAME/rapiddraw --publisher NAME

The registry of ComfyUI shows `[project.urls]` and `Icon`; `PublisherId` is the publisher's own id at registry.comfy.org. Doing so again
replaces what stands there.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

PROJECT = Path(__file__).resolve().parent.parent / "pyproject.toml"
_URL = re.compile(r"https://[\w.-]+(/[\w.~%-]+)+")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]*", re.IGNORECASE)
_URLS = re.compile(r"(?:^#[^\n]*\n)?^\[project\.urls\]\n(?:(?!\[)[^\n]*\n)*", re.MULTILINE)
_PUBLISHER = re.compile(r'^PublisherId = "[^"\n]*"[^\n]*', re.MULTILINE)
_ICON = re.compile(r'^Icon = "[^"\n]*"[^\n]*', re.MULTILINE)


def filled_in(text: str, url: str, publisher: str, icon: str | None = None) -> str:
    """Return the text of pyproject.toml with the repository's address, the publisher's id and the icon's address in it.

    Raises ValueError for an address that is not https, an id with other characters than letters, digits and hyphens, and a text that lacks
    one of the places.
    """
    url = url.rstrip("/").removesuffix(".git")
    for address in (url, *([icon] if icon else [])):
        if not _URL.fullmatch(address):
            raise ValueError(f"{address!r} is no address; give one such as https://github.com/NAME/rapiddraw")
    if not _NAME.fullmatch(publisher):
        raise ValueError(f"{publisher!r} is no publisher's id; give letters, digits and hyphens, as registry.comfy.org shows it")
    urls = {"Homepage": url, "Repository": url, "Documentation": f"{url}/tree/main/docs", '"Bug Tracker"': f"{url}/issues"}
    block = "[project.urls]\n" + "".join(f'{name} = "{address}"\n' for name, address in urls.items()) + "\n"
    places = [(_URLS, block), (_PUBLISHER, f'PublisherId = "{publisher}"')]
    for pattern, new in [*places, *([(_ICON, f'Icon = "{icon}"')] if icon else [])]:
        if len(pattern.findall(text)) != 1:
            raise ValueError(f"pyproject.toml must have one place that matches {pattern.pattern!r}")
        text = pattern.sub(lambda _, new=new: new, text)
    return text


def main() -> int:
    """Fill pyproject.toml in; exit code 2 for a wrong argument."""
    parser = argparse.ArgumentParser(description="Fill in the owner's addresses in pyproject.toml.")
    parser.add_argument("url", help="the repository's address: https://github.com/NAME/rapiddraw")
    parser.add_argument("--publisher", required=True, help="the publisher's id at registry.comfy.org")
    parser.add_argument("--icon", help="the address of a square picture, at most 400 px; left as it is without this")
    args = parser.parse_args()
    try:
        text = filled_in(PROJECT.read_text(encoding="utf-8"), args.url, args.publisher, args.icon)
    except ValueError as error:
        parser.error(str(error))
    PROJECT.write_text(text, encoding="utf-8")
    sys.stdout.write(f"{PROJECT}: filled in. Look at it with git diff, then commit it\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
