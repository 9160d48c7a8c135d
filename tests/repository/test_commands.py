"""Every command and option is explained, in its help and in docs/commands.md."""

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path

import click

from kaggleops.cli import main

REPOSITORY = Path(__file__).parents[2]


def commands(
    group: click.Group = main, path: str = "kaggleops"
) -> Iterator[tuple[str, click.Command]]:
    for name, each in group.commands.items():
        yield f"{path} {name}", each
        if isinstance(each, click.Group):
            yield from commands(each, f"{path} {name}")


def test_the_page_is_the_commands_own_help() -> None:
    spec = importlib.util.spec_from_file_location("commands", REPOSITORY / "infra/commands.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    again = "python infra/commands.py >docs/commands.md"
    assert (REPOSITORY / "docs/commands.md").read_text() == module.page(), again


def test_every_option_is_explained() -> None:
    for path, command in commands():
        options = [each for each in command.params if isinstance(each, click.Option)]
        assert [each.opts for each in options if not each.help] == [], path


def test_no_line_of_the_lists_is_cut() -> None:
    firsts: dict[str, str] = {}
    for path, command in commands():
        said = command.get_short_help_str(70 if path.count(" ") == 1 else 65)
        assert "..." not in said, path
        start = " ".join(said.split()[:5])
        assert firsts.setdefault(start, path) == path


def test_every_command_has_an_example() -> None:
    for name, command in main.commands.items():
        help_ = command.help or ""
        assert f"  kaggleops {name} " in help_.partition("Example")[2], name


def shown(text: str) -> Iterator[list[str]]:
    """Yield the words of each `kaggleops …` that a page shows, in a line of code or a block."""
    blocks = re.findall(r"^```.*?\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.M | re.S))
    for line in [part for each in lines for part in re.split("&&|;", each)]:
        command = re.search(r"(?:^|[ $/])kaggleops ([a-z].*)", line.partition(" #")[0])
        if command and not line.lstrip().startswith(("#", "import", "from", "pip")):
            yield re.split(r"\s+", command[1].replace("|", " "))


def test_what_the_pages_show_is_there() -> None:
    pages = [*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md")]
    unknown = []
    for page in pages:
        if page.name in ("CHANGELOG.md", "lab-notes.md", "commands.md"):
            continue
        for words in shown(page.read_text()):
            command: click.Command = main
            while isinstance(command, click.Group) and words and words[0] in command.commands:
                command = command.commands[words.pop(0)]
            known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
            options = {
                option for word in words if (option := re.match(r"\[?(--?[a-z][a-z-]*)", word))
            }
            wrong = {each[1] for each in options} - known - {"--help", "-h"}
            if isinstance(command, click.Group) and words and not wrong:
                wrong = {words[0]}
            unknown += [f"{page.name}: {command.name} {each}" for each in wrong]
    assert sorted(unknown) == []
