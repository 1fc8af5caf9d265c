"""The pages of docs/runbooks: their parts, their links, and a page for every alert."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from dashboards.build import built
from rayhaul.policy import runbooks

DIRECTORY = Path(__file__).parents[2] / "docs" / "runbooks"
PAGES = sorted(path for path in DIRECTORY.glob("*.md") if path.name != "README.md")
PARTS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]


def alerts() -> dict[str, str]:
    """Return each alert that is generated, with the page that it leads to."""
    rules: list[dict[str, Any]] = [
        rule for text in built().values() for group in yaml.safe_load(text)["groups"] for rule in group["rules"]
    ]
    return {rule["alert"]: rule["annotations"]["runbook_url"].rpartition("/")[2] for rule in rules if "alert" in rule}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_page_has_its_parts(page: Path) -> None:
    """Meaning, impact, diagnosis, mitigation, in this order; a command at least; links that lead somewhere."""
    text = page.read_text()
    assert [title for title in re.findall(r"^## (.+)$", text, re.MULTILINE) if title in PARTS] == PARTS
    assert "```console\n" in text
    for link in re.findall(r"\]\(([\w./-]+\.md)\)", text):
        assert (DIRECTORY / link).is_file(), link


def test_every_page_is_known() -> None:
    """The pages that alerts may lead to are those that there are."""
    assert [page.stem for page in PAGES] == sorted(runbooks.PAGES)


@pytest.mark.parametrize(("alert", "page"), sorted(alerts().items()))
def test_every_alert_has_its_page(alert: str, page: str) -> None:
    """The page is there and names the alert, in the index too."""
    name, _, window = alert.partition("BudgetBurn")
    index = (DIRECTORY / "README.md").read_text()
    if window:
        assert name in (DIRECTORY / page).read_text()
        assert f"…{window}" in index.replace("BudgetBurn", "")
    else:
        assert alert in (DIRECTORY / page).read_text()
        assert re.search(rf"^\| .*\b{alert}\b.* \[{page.removesuffix('.md')}\]", index, re.MULTILINE), alert
