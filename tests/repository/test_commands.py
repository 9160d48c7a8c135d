"""Every command and option is explained, in its help and in docs/commands.md."""

import importlib.util
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
