"""The fake Kaggle through the real command `kaggle`, as a user types it."""

import json
import subprocess
import sys
from pathlib import Path

from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.kaggle_uses import dataset_folder, kernel_folder

# The command's own main, several times in one process: importing it takes seconds.
COMMANDS = """
import contextlib, io, json, os, sys
import kaggle.cli
for line in os.fdopen(os.dup(0)):  # sys.stdin does not outlive an upload
    sys.argv = ["kaggle", *json.loads(line)]
    code, output, errors = 0, io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            kaggle.cli.main()
        except SystemExit as ended:
            code = ended.code
    print(json.dumps([code, output.getvalue(), errors.getvalue()]), flush=True)
"""


class Command:
    """`kaggle`, in a process with the environment of one user."""

    def __init__(self, environment: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", COMMANDS],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __call__(self, *arguments: str) -> str:
        """Run a command; return what it printed."""
        code, output, errors = self.run(*arguments)
        assert code == 0, errors
        return output

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run a command; return its exit code, its output and its errors."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(arguments) + "\n")
        self._process.stdin.flush()
        code, output, errors = json.loads(self._process.stdout.readline())
        return code, output, errors

    def end(self) -> None:
        self._process.communicate()


def test_every_command(kaggle: KaggleServer, tmp_path: Path) -> None:
    command = Command(kaggle.environment("ada"))
    source = "print('hello'); open('kept.txt', 'w').write('1')"
    folder = kernel_folder(tmp_path / "push", "ada/my-script", source)
    assert "Kernel version 1 successfully pushed" in command("kernels", "push", "-p", folder)
    assert command("kernels", "logs", "-f", "ada/my-script") == "hello\n"
    assert '"KernelWorkerStatus.COMPLETE"' in command("kernels", "status", "ada/my-script")
    assert '"data": "hello\\n"' in command("kernels", "logs", "ada/my-script")
    command("kernels", "output", "ada/my-script", "-p", str(tmp_path / "output"))
    assert (tmp_path / "output/kept.txt").read_text() == "1"
    assert "kept.txt" in command("kernels", "files", "ada/my-script")
    command("kernels", "pull", "ada/my-script/1", "-p", str(tmp_path / "pulled"), "-m")
    assert (tmp_path / "pulled/my-script.py").read_text() == source
    assert "ada/my-script" in command("kernels", "list", "--mine")
    assert "30.00h" in command("quota")
    assert "deleted successfully" in command("kernels", "delete", "ada/my-script", "-y")
    code, _, errors = command.run("kernels", "status", "ada/my-script")
    assert code == 1
    assert "denied" in errors

    data = dataset_folder(tmp_path / "data", "ada/my-credentials", key_json="{}")
    assert "private Dataset is being created" in command("datasets", "create", "-p", data)
    created = command("datasets", "version", "-p", data, "-m", "again")
    assert "version is being created" in created
    assert command("datasets", "status", "ada/my-credentials") == "ready"
    assert "key.json" in command("datasets", "files", "ada/my-credentials")
    assert "ada/my-credentials" in command("datasets", "list", "--mine")
    assert "deleted" in command("datasets", "delete", "ada/my-credentials", "-y")

    kaggle.add_competition("nlp", "Some NLP", {}, score=lambda sent: 0.5)
    sent = command("competitions", "submit", "nlp", "-f", f"{data}/key.json", "-m", "best")
    assert "Successfully submitted to Some NLP" in sent
    assert "0.50000" in command("competitions", "submissions", "nlp")
    assert "ada" in command("competitions", "leaderboard", "nlp", "--show")
    command.end()


def test_a_refused_push_ends_well(kaggle: KaggleServer, tmp_path: Path) -> None:
    folder = kernel_folder(tmp_path / "push", "ada/my-script", "1")
    kaggle.refuse_push("Maximum batch GPU session count of 2 reached.")
    done = subprocess.run(
        [sys.executable, "-m", "kaggle", "kernels", "push", "-p", folder],
        env=kaggle.environment("ada", token=True),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    refused = "Kernel push error: Maximum batch GPU session count of 2 reached.\n"
    assert done.stdout == refused
    assert kaggle.kernels == []
    assert kaggle.count("IntrospectToken") == 1
