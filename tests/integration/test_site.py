"""The documents as a site: built strictly, with links that lead somewhere, and with nothing from the internet."""

import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

pytest.importorskip("mkdocs", reason="mkdocs-material is not here (the extra `docs`)")

ROOT = Path(__file__).parents[2]
#: Elements whose addresses a browser goes to by itself.
_LOADED = {"script": "src", "link": "href", "img": "src", "iframe": "src", "source": "src", "video": "src"}
_IN_STYLE = re.compile(r"url\(\s*[\"']?(?:https?:)?//|@import\s+[\"'](?:https?:)?//")


class Links(HTMLParser):
    """What a page loads, where it leads, and what can be led to in it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.leads_to: list[str] = []
        self.anchors: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = {name: value or "" for name, value in attrs}
        self.anchors |= {told[name] for name in ("id", "name") if name in told}
        if tag == "a" and told.get("href"):
            self.leads_to.append(told["href"])
        # The address of the page itself is told, not loaded.
        elif tag in _LOADED and _LOADED[tag] in told and told.get("rel") != "canonical":
            self.loads.append(told[_LOADED[tag]])


@dataclass(frozen=True)
class Site:
    root: Path
    pages: Mapping[Path, Links]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site, built by the command of `make site`; its warnings are errors."""
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "docs/build_site.py", str(directory)]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "WARNING" not in ran.stdout + ran.stderr, ran.stderr
    root = directory / "site"
    return Site(root, {path: Links(path.read_text()) for path in root.rglob("*.html")})


def test_nothing_is_loaded_from_elsewhere(site: Site) -> None:
    """Scripts, styles, pictures, frames and fonts are the site's own."""
    elsewhere = {load for links in site.pages.values() for load in links.loads if urlsplit(load).netloc}
    assert elsewhere == set()
    for style in site.root.rglob("*.css"):
        assert not _IN_STYLE.search(style.read_text()), style


def test_every_link_within_leads_somewhere(site: Site) -> None:
    """Pages, files and anchors; the front page is the README."""
    assert site.root / "index.html" in site.pages
    count, broken = 0, []
    for page, links in site.pages.items():
        for link in links.leads_to + links.loads:
            parts = urlsplit(link)
            # The page for what is not found is told by absolute paths, which a server at the root would have.
            if parts.scheme or parts.netloc or page.name == "404.html":
                continue
            count += 1
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            anchor = unquote(parts.fragment)
            if not target.is_file() or (anchor and target in site.pages and anchor not in site.pages[target].anchors):
                broken.append(f"{page.relative_to(site.root)} -> {link}")
    print(f"{len(site.pages)} pages, {count} links within")
    assert broken == []


def test_every_document_has_its_page(site: Site) -> None:
    """A document that nobody added to the site's order would be a warning; here it is by name."""
    for document in [*ROOT.glob("docs/**/*.md"), ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md"]:
        name = "index.html" if document.name == "README.md" else f"{document.stem}.html"
        assert site.root / document.relative_to(ROOT).with_name(name) in site.pages
