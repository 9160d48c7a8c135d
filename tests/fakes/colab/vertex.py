"""Vertex AI on a loopback port, as far as executions of notebooks go.

    with VertexServer(folder, gcs) as vertex:
        vertex.environment(folder)  # of somebody who may ask it

Strict: an operation or a field that it does not know is refused. The messages' fields stand in the
reference of `projects.locations.notebookExecutionJobs` (v1).
"""

import base64
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tests.fakes import platforms
from tests.fakes.gcs_server import GcsServer
from tests.fakes.token_server import TokenServer
from tests.fakes.wire import Delivery, Request, Response

_FIELDS = {
    "displayName",
    "directNotebookSource",
    "notebookRuntimeTemplateResourceName",
    "gcsOutputUri",
    "serviceAccount",
    "executionTimeout",
}
_LOCATION = "projects/our-project/locations/us-central1"
TEMPLATE = f"{_LOCATION}/notebookRuntimeTemplates/t4"


class VertexServer(TokenServer):
    """The server, from `with` until its end.

    Args:
        folder: for its machines.
        gcs: where it puts what was executed.
    """

    def __init__(self, folder: Path, gcs: GcsServer) -> None:
        super().__init__()
        self._folder = folder
        self._gcs = gcs
        self.executions: dict[str, dict[str, Any]] = {}
        """What it was asked for, by name, with `jobState`."""
        self.requests: list[str] = []
        self.refuse: tuple[int, str] | None = None
        """The status and the message of its next answer to a creation."""
        self.lose = False
        """Whether its next answer to a creation is lost."""

    def environment(self, folder: Path) -> dict[str, str]:
        """Return what leads Google's client here, signed in."""
        endpoint = {"CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM": f"{self.url}/"}
        return {**super().environment(folder), **endpoint}

    def end(self, name: str, state: str, message: str = "", executed: bytes = b"") -> None:
        """End an execution, with what it printed."""
        execution = self.executions[name]
        execution["jobState"] = f"JOB_STATE_{state}"
        if message:
            execution["status"] = {"code": 13, "message": message}
        if executed:
            place = urlsplit(execution["gcsOutputUri"])
            key = f"{place.path.lstrip('/')}/{execution['displayName']}.ipynb"
            self._gcs.put(place.netloc, key, executed)

    def execute(self, name: str, **outside: str) -> None:
        """Execute it truly, on a machine of Colab Enterprise's."""
        root = self._folder / name.rpartition("/")[2]
        environment = platforms.colab(root, VERTEX_PRODUCT="COLAB_ENTERPRISE", **outside)
        source, target = root / "notebook.ipynb", root / "executed.ipynb"
        content = self.executions[name]["directNotebookSource"]["content"]
        source.write_bytes(base64.b64decode(content))
        command = [sys.executable, "-m", "papermill", str(source), str(target)]
        done = subprocess.run(command, cwd=root / "content", env=environment, capture_output=True)
        state = "FAILED" if done.returncode else "SUCCEEDED"
        self.end(name, state, executed=target.read_bytes())

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        if request.path == "/token":
            return super()._answer(request)
        given = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if given not in self._tokens:
            return _error(401, "Request had invalid authentication credentials."), "whole"
        self.requests.append(f"{request.method} {request.path.rpartition('/')[2]}")
        path = request.path.removeprefix("/v1/")
        if request.method == "POST" and path == f"{_LOCATION}/notebookExecutionJobs":
            answer = self._create(f"{path}/{request.query['notebookExecutionJobId']}", request.body)
            if self.lose:
                self.lose = False
                return answer, "not"
            return answer, "whole"
        if request.method == "GET" and path in (TEMPLATE, f"{_LOCATION}/operations/1"):
            return _json({"name": path, "done": True}), "whole"
        execution = self.executions.get(path)
        if execution is None:
            return _error(404, f"The NotebookExecutionJob does not exist: {path}"), "whole"
        if request.method == "DELETE":
            del self.executions[path]
            return _json({"name": f"{_LOCATION}/operations/1"}), "whole"
        if request.method == "GET":
            return _json({"name": path, **execution}), "whole"
        return _error(400, f"unknown: {request.method} {path}"), "whole"

    def _create(self, name: str, body: bytes) -> Response:
        if self.refuse:
            refused, self.refuse = self.refuse, None
            return _error(*refused)
        asked = json.loads(body)
        if name in self.executions:
            return _error(409, "The NotebookExecutionJob already exists.")
        wrong = [*(asked.keys() ^ _FIELDS)]
        wrong += [] if asked["gcsOutputUri"].startswith("gs://") else ["gcsOutputUri"]
        wrong += [] if re.fullmatch(r"\d+s", asked["executionTimeout"]) else ["executionTimeout"]
        if wrong or asked["notebookRuntimeTemplateResourceName"] != TEMPLATE:
            return _error(400, f"Invalid value: {wrong}")
        self.executions[name] = {**asked, "jobState": "JOB_STATE_QUEUED"}
        return _json({"name": f"{_LOCATION}/operations/1", "done": False})


def _json(content: object, status: int = 200) -> Response:
    return Response(status, [("Content-Type", "application/json")], json.dumps(content).encode())


def _error(status: int, message: str) -> Response:
    return _json({"error": {"code": status, "message": message}}, status)
