"""Puts the documents together in build/pages, as they lie in the repository, and has mkdocs make build/site of them.

`python docs/build_site.py [DIRECTORY]`, build where none is named.

Links between documents are those of the repository, so both read the same; what they link to besides (an alert file, a
proxy's configuration) is taken along. Every warning is an error: a link or an anchor that leads nowhere above all.
"""

import re
import shutil
import sys
from pathlib import Path

from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort

ROOT = Path(__file__).parents[1]
_AT_THE_TOP = ("README.md", "ARCHITECTURE.md", "SECURITY.md", "CHANGELOG.md")
_LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


def main() -> None:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build"
    pages, site = directory / "pages", directory / "site"
    gather(pages)
    try:
        build(load_config(str(ROOT / "mkdocs.yml"), docs_dir=str(pages), site_dir=str(site), strict=True))
    except Abort as error:
        sys.exit(str(error))


def gather(pages: Path) -> None:
    """Copy the documents, and what they link to."""
    shutil.rmtree(pages, ignore_errors=True)
    documents = [ROOT / name for name in _AT_THE_TOP] + sorted((ROOT / "docs").rglob("*.md"))
    for document in documents:
        _copy(document, pages)
        for target in _LINK.findall(document.read_text()):
            linked = (document.parent / target).resolve()
            if linked.is_file() and linked.suffix != ".md" and linked.is_relative_to(ROOT):
                _copy(linked, pages)


def _copy(path: Path, pages: Path) -> None:
    copied = pages / path.relative_to(ROOT)
    copied.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, copied)


if __name__ == "__main__":
    main()
