"""Colab behind its CLI: `/tun/m/*` on a loopback port, with real Jupyter servers as the runtimes.

Read in google-colab-cli 0.7.5: each change is asked for twice, first for a token and then with it,
and answers may begin with `)]}'`.

    with ColabService(folder, python, outside) as colab:
        colab.write_program(folder / "colab")  # the real CLI, led here

The CLI's process makes /content on this machine, as it does on Colab's.
"""

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.fakes import platforms
from tests.fakes.processes import end_processes_of
from tests.fakes.token_server import TokenServer
from tests.fakes.wire import Delivery, Request, Response

_VARIANTS = {"DEFAULT": 0, "GPU": 1, "TPU": 2}
_PREFIX = b")]}'\n"
# The CLI knows one address of Colab's, and no option for another.
_LAUNCHER = """
import sys
from colab_cli import client
client.Prod.__init__.__defaults__ = ({url!r}, {url!r})
from colab_cli.cli import main
sys.argv[0] = "colab"
main()
"""


class ColabService(TokenServer):
    """The service, from `with` until its end; then no runtime runs.

    Args:
        folder: for its runtimes.
        python: an interpreter with google-colab-cli and jupyter_server.
        outside: environment variables that lead the runtimes to other services.
    """

    def __init__(self, folder: Path, python: Path, outside: Mapping[str, str]) -> None:
        super().__init__()
        self._folder = folder
        self._python = python
        self._outside = dict(outside)
        self.assignments: dict[str, dict[str, Any]] = {}

    def __exit__(self, *_: object) -> None:
        for endpoint in list(self.assignments):
            self._release(endpoint)
        super().__exit__()

    def write_program(self, path: Path) -> Path:
        """Write a program that is the real CLI, but for Colab's address."""
        launcher = self._folder / "launcher.py"
        launcher.write_text(_LAUNCHER.format(url=self.url))
        path.write_text(f"#!/bin/sh\nexec '{self._python}' '{launcher}' \"$@\"\n")
        path.chmod(0o755)
        return path

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        if request.path == "/token":
            return super()._answer(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given not in self._tokens:
            return Response(401), "whole"
        return self._asked(request), "whole"

    def _asked(self, request: Request) -> Response:
        what = request.path.removeprefix("/tun/m/")
        if what == "ccu-info":
            rate = 1.2 * len(self.assignments)
            count = len(self.assignments)
            return _json(currentBalance=87.5, consumptionRateHourly=rate, assignmentsCount=count)
        if what == "assignments":
            return _json(assignments=list(self.assignments.values()))
        if what != "assign" and not what.startswith("unassign/"):
            return Response(400)
        if request.method == "GET":
            token = {"acc": "NONE", "nbh": request.query.get("nbh", ""), "variant": "DEFAULT"}
            return _json(token="xsrf", **token) if what == "assign" else _json(token="xsrf")
        if request.headers.get("X-Goog-Colab-Token") != "xsrf":
            return Response(403)
        if what == "assign":
            return _json(**self._assign(request.query))
        self._release(what.removeprefix("unassign/"))
        return _json()

    def _assign(self, query: Mapping[str, str]) -> dict[str, Any]:
        endpoint = f"m-s-{secrets.token_hex(6)}"
        proxy = {"token": "t", "tokenExpiresInSeconds": 3600, "url": self._start(endpoint)}
        self.assignments[endpoint] = {
            "accelerator": query.get("accelerator", "NONE"),
            "endpoint": endpoint,
            "variant": _VARIANTS[query.get("variant", "DEFAULT")],
            "machineShape": 0,
            "runtimeProxyInfo": proxy,
        }
        return self.assignments[endpoint]

    def _start(self, endpoint: str) -> str:
        """Start a runtime, and return its address."""
        root = self._folder / endpoint
        environment = platforms.colab(root, **self._outside)
        kernel = root / "jupyter/kernels/python3"
        kernel.mkdir(parents=True)
        # The project and what it needs is in this interpreter.
        argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        described = {"argv": argv, "display_name": "Python 3", "language": "python"}
        (kernel / "kernel.json").write_text(json.dumps(described))
        options = {
            "ServerApp.root_dir": root,
            "ServerApp.port": 0,
            "ServerApp.allow_root": True,
            "ServerApp.disable_check_xsrf": True,
            "ServerApp.open_browser": False,
            # Colab's proxy has checked the token by then.
            "IdentityProvider.token": "",
        }
        command = [str(self._python), "-m", "jupyter_server"]
        process = subprocess.Popen(
            [*command, *(f"--{name}={value}" for name, value in options.items())],
            env={**environment, "JUPYTER_PATH": str(root / "jupyter")},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if "http://127.0.0.1:" in line:
                port = line.split("http://127.0.0.1:")[1].split("/")[0]
                # What it prints from now on, nobody reads: it must not wait for that.
                os.set_blocking(process.stderr.fileno(), False)
                return f"http://127.0.0.1:{port}"
        raise AssertionError("the Jupyter server did not start")

    def _release(self, endpoint: str) -> None:
        self.assignments.pop(endpoint)
        end_processes_of(self._folder / endpoint)


def _json(**content: Any) -> Response:
    body = _PREFIX + json.dumps(content).encode()
    return Response(200, [("Content-Type", "application/json")], body)
