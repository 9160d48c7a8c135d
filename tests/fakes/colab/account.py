"""Colab as its CLI shows it: a program in place of the CLI, and an account in a folder.

The program answers as google-colab-cli 0.7.5 does, its habits included: an unknown GPU is an A100,
`exec` ends with 0 whatever its code did, `stop` of what is not there is no error. What it executes
is truly executed, by IPython in a folder shaped like a runtime.

    with FakeColab(tmp_path) as colab:
        colab.program  # what to run instead of `colab`
"""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes.colab.fifo import make_fifo
from tests.fakes.processes import end_processes_of

_REPOSITORY = Path(__file__).parents[3]
VARIABLE = "FAKE_COLAB"


class FakeColab:
    """An account on Colab, from `with` until its end; then nothing of it runs.

    Args:
        folder: where it is.
        outside: environment variables that lead its runtimes to other services.
    """

    def __init__(self, folder: Path, outside: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.outside = dict(outside or {})
        self.program = folder / "colab"
        self._open: list[int] = []

    def __enter__(self) -> "FakeColab":
        self.folder.mkdir(parents=True)
        self.behave()
        (self.folder / "outside.json").write_text(json.dumps(self.outside))
        self.program.write_text(
            f"#!/bin/sh\n{VARIABLE}='{self.folder}' PYTHONPATH='{_REPOSITORY}' "
            f"exec '{sys.executable}' -m tests.fakes.colab.program \"$@\"\n"
        )
        self.program.chmod(0o755)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._open:
            os.close(each)
        end_processes_of(self.folder, VARIABLE)
        for each in self.runtimes:
            end_processes_of(Path(each["root"]))

    def behave(self, **how: Any) -> None:
        """Behave so from now on, and as usual in everything else.

        Args:
            how: `signed_out` (true), `hold` (true: `new` waits for `let_go`),
                `refuse` (what `new` says), `gives` (hardware), `upload` ("fails"), `exec` ("lose",
                "done", "failed", or a gate's path to hang at), `stop_fails` (how many times).
        """
        (self.folder / "behaviour.json").write_text(json.dumps(how))

    @property
    def runtimes(self) -> list[dict[str, Any]]:
        """The runtimes that it has allocated and not released."""
        found = sorted(self.folder.glob("runtimes/*.json"))
        return [json.loads(each.read_text()) for each in found]

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of every call so far, without the options that stand before the command."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line)["arguments"] for line in lines]

    def forget_calls(self) -> None:
        """Begin to count anew."""
        (self.folder / "calls").unlink(missing_ok=True)

    def let_go(self, session: str) -> None:
        """Let `new` of a session go on, now or when it comes there."""
        fifo = self.folder / "held" / session
        make_fifo(fifo)
        # Opened for both it waits for nobody, and keeps what is written until somebody reads.
        self._open.append(os.open(fifo, os.O_RDWR))
        os.write(self._open[-1], b"!")
