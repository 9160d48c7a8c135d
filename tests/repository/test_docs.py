"""The docs lead to what is there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_link_to_a_file_leads_somewhere(page: Path) -> None:
    # What is in a block of code is no link.
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text)
    gone = [
        link for link in links if "://" not in link and not (page.parent / link).resolve().exists()
    ]
    assert gone == []


def test_a_file_that_is_named_in_a_page_exists() -> None:
    named = re.compile(
        r"`((?:src/kaggleops|infra|docs|benchmarks)/[a-z0-9_./-]+\.(?:py|md|ya?ml|sh))`"
    )
    history = ("CHANGELOG.md", "lab-notes.md", "benchmarks.md", "results.md")
    gone = [
        f"{page.name}: {name}"
        for page in PAGES
        if page.name not in history
        for name in named.findall(page.read_text())
        if not (ROOT / name).exists()
    ]
    assert gone == []
