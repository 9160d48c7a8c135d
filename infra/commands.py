"""Print docs/commands.md: the help of every command, as the command line shows it.

python infra/commands.py >docs/commands.md
"""

import click

from kaggleops.cli import GROUPS, main

_WIDTH = 90


def page() -> str:
    """Return the page, in Markdown."""
    parts = [
        "# Commands",
        "`kaggleops COMMAND --help` shows the same. This page is made from the commands themselves "
        "(`python infra/commands.py >docs/commands.md`).",
    ]
    top = click.Context(main, info_name="kaggleops", **main.context_settings)
    for title, commands in GROUPS.items():
        parts.append(f"## {title}")
        for command in commands:
            parts += _sections(command, top)
    return "\n\n".join(parts) + "\n"


def _sections(command: click.Command, parent: click.Context) -> list[str]:
    context = click.Context(
        command, parent, command.name, terminal_width=_WIDTH, max_content_width=_WIDTH
    )
    title = context.command_path
    found = [f"### {title}", f"```text\n{command.get_help(context).rstrip()}\n```"]
    if isinstance(command, click.Group):
        for each in command.commands.values():
            found += _sections(each, context)
    return found


if __name__ == "__main__":
    print(page(), end="")
