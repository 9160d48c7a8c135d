"""The docs lead to what is there."""

import ast
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


def spoken() -> str:
    """Return all texts that the program has, one a line, `…` where a value stands in one."""
    found = []
    for file in (ROOT / "src/kaggleops").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.JoinedStr):
                found.append(
                    "".join(
                        part.value if isinstance(part, ast.Constant) else "…"
                        for part in node.values
                    )
                )
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return "\n".join(found)


def test_an_error_on_its_page_is_one_that_the_program_says() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    quoted = [
        text
        for line in re.findall("^### (.*)$", page, re.MULTILINE)
        for text in re.findall("`([^`]+)`", line)
    ]
    assert len(quoted) > 20
    known = spoken()
    unknown = [
        text
        for text in quoted
        for part in re.split("…|: ", text)
        if len(part.strip()) > 3 and part.strip() not in known
    ]
    assert unknown == []
