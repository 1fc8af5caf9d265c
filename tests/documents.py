"""The documents' code blocks, for the tests that run or read them as they stand there."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

ROOT = Path(__file__).parents[1]
#: All of them but the runbooks.
PAGES = [
    path
    for path in (ROOT / "README.md", ROOT / "ARCHITECTURE.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md")))
    if path.parent.name != "runbooks"
]
_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<mark>.+?) -->\n)?^(?P<indent> *)```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    page: Path
    line: int
    language: str
    text: str
    #: What the comment above it says.
    mark: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    found = [
        Block(
            page,
            text.count("\n", 0, match.start("indent")) + 1,
            match["language"],
            re.sub(rf"^{match['indent']}", "", match["text"], flags=re.MULTILINE),
            match["mark"] or "",
        )
        for match in _BLOCK.finditer(text)
    ]
    assert len(found) * 2 == len(re.findall(r"^ *```", text, re.MULTILINE)), f"{page}: a block does not end"
    return found


def block(name: str) -> str:
    """Return the one block that has `<!-- tested: NAME -->` above it."""
    (found,) = [block.text for page in PAGES for block in blocks_of(page) if block.mark == f"tested: {name}"]
    return found


def with_values(text: str, values: Mapping[str, str]) -> str:
    """Put what a test has in the place of what a document makes up, in assignments to variables of these names."""

    def ours(found: re.Match[str]) -> str:
        return f"{found[1]}={quote(values[found[1]])}" if found[1] in values else found[0]

    return re.sub(r"\b(\w+)=\S+", ours, text)


def with_texts(text: str, ours: Mapping[str, str]) -> str:
    """Put other texts in the place of those that stand for them, each of which must be there."""
    for placeholder, other in ours.items():
        assert placeholder in text, placeholder
        text = text.replace(placeholder, other)
    return text


def checkout(directory: Path) -> Path:
    """Make `directory` one: what the documents' reader stands in, and may build in."""
    made = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "rayhaul-data")
    return Path(shutil.copytree(ROOT, directory, ignore=made))
