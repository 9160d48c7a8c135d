"""What the shell is told when somebody presses Tab."""

import pytest
from click.shell_completion import BashComplete

from kaggleops.cli import main


@pytest.mark.parametrize(
    ("typed", "begun", "told"),
    [
        ([], "sta", {"status"}),
        (["run"], "--fol", {"--follow"}),
        (["run", "-b"], "k", {"kaggle"}),
        (["status", "--backend"], "", {"kaggle", "colab", "runpod", "docker", "local", "manual"}),
    ],
)
def test_commands_options_and_backends_are_completed(
    typed: list[str], begun: str, told: set[str]
) -> None:
    completing = BashComplete(main, {}, "kaggleops", "_KAGGLEOPS_COMPLETE")
    assert told <= {each.value for each in completing.get_completions(typed, begun)}
