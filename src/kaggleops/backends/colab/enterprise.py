"""Executions on Colab Enterprise: nobody's machine holds them, and a Google Cloud project pays.

Asked of Vertex AI (REST v1, `notebookExecutionJobs`) with the credentials of who runs the command.
An execution is called after its run, so one that is there is not made twice; it ends at its
`executionTimeout`, whoever forgets it.
"""

import base64
import functools
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kaggleops.backends.answers import objects, text
from kaggleops.backends.colab.cli import ColabConfig
from kaggleops.backends.colab.job import JOB
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import UNKNOWN, JobState, RefusedError
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.bucket import open_bucket
from kaggleops.errors import KaggleOpsError, UsageError

OUTPUT = "colab_output"
"""The tag of a run that says where its executed notebook goes."""

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
# The variable by which gcloud itself is led elsewhere.
_ENDPOINT = "CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM"
_TIMEOUT = 60  # seconds for one answer
_PAUSE = 10.0  # seconds between two looks at an execution that is followed
_DELETING = 60  # seconds that deleting one may take

_STATES = {
    "JOB_STATE_QUEUED": "SCHEDULED",
    "JOB_STATE_PENDING": "SCHEDULED",
    "JOB_STATE_RUNNING": "RUNNING",
    "JOB_STATE_UPDATING": "RUNNING",
    "JOB_STATE_PAUSED": "RUNNING",
    "JOB_STATE_CANCELLING": "RUNNING",
    "JOB_STATE_SUCCEEDED": "FINISHED",
    "JOB_STATE_PARTIALLY_SUCCEEDED": "FINISHED",
    "JOB_STATE_FAILED": "FAILED",
    "JOB_STATE_EXPIRED": "FAILED",
    "JOB_STATE_CANCELLED": "KILLED",
}


class _NotThereError(KaggleOpsError):
    """There is no such thing."""


def check(config: ColabConfig) -> None:
    """Make sure that there is the runtime template, and that the user may ask for it."""
    doing = "submitting to Colab Enterprise"
    try:
        _ask(doing, "GET", f"{_location(config)}/{_template(config)}")
    except _NotThereError:
        problem = f"there is no runtime template {config.enterprise.template!r}"
        raise UsageError(doing, problem, "gcloud colab runtime-templates list") from None


def announce(config: ColabConfig) -> str:
    """Return who is billed for what, and for how long at most."""
    where = config.enterprise
    return (
        f"Colab Enterprise bills the project {where.project} for the machine of the template "
        f"{where.template}, for {config.session_hours:g} h at most: "
        "https://cloud.google.com/colab/pricing"
    )


def name_of(run_id: str, config: ColabConfig) -> str:
    """Return what the execution of a run is called."""
    return f"{_location(config)}/notebookExecutionJobs/kaggleops-{run_id}"


def send(tags: Mapping[str, str], notebook: str, config: ColabConfig) -> dict[str, str]:
    """Ask for an execution, unless there is one, and return the tag with its output."""
    name = tags[JOB]
    values = parameters_of(notebook)
    output = f"{values['bucket']}/colab/{values['run_id']}"
    try:
        before = state(name)
        if not before.ended:
            return {OUTPUT: output}
        _delete(name)
    except _NotThereError:
        pass
    parent, _, execution_id = name.rpartition("/")
    body = {
        "displayName": execution_id,
        "directNotebookSource": {"content": base64.b64encode(notebook.encode()).decode()},
        "notebookRuntimeTemplateResourceName": f"{_location(config)}/{_template(config)}",
        "gcsOutputUri": output,
        "serviceAccount": config.enterprise.service_account,
        "executionTimeout": f"{config.session_hours * 3600:.0f}s",
    }
    doing = f"asking for {execution_id}"
    _ask(doing, "POST", parent, params={"notebookExecutionJobId": execution_id}, json=body)
    return {OUTPUT: output}


def state(name: str) -> JobState:
    """Return how far an execution is."""
    found = _ask(f"asking Colab Enterprise about {name.rpartition('/')[2]}", "GET", name)
    said = text(found, "jobState")
    shown = said.removeprefix("JOB_STATE_") or "no state"
    return JobState(_STATES.get(said, UNKNOWN), shown, text(found, "status", "message"))


def remove(name: str) -> bool:
    """Delete an execution, and tell whether there was one; what it left in the bucket stays."""
    try:
        _delete(name)
    except _NotThereError:
        return False
    return True


def _delete(name: str) -> None:
    doing = f"deleting {name.rpartition('/')[2]}"
    operation = _ask(doing, "DELETE", name)
    deadline = time.monotonic() + _DELETING
    while not operation.get("done"):
        if time.monotonic() > deadline:
            raise KaggleOpsError(
                doing, f"the deletion did not finish in {_DELETING} s", "Try again."
            )
        time.sleep(1)
        name = text(operation, "name") or name
        try:
            operation = _ask(doing, "GET", name)
        except _NotThereError:
            return  # what was being deleted
    if operation.get("error"):
        raise KaggleOpsError(doing, text(operation, "error", "message") or "Google refuses it")


def page(tags: Mapping[str, str]) -> str:
    """Return the address of the project's executions."""
    project = tags[JOB].split("/")[1]
    return f"https://console.cloud.google.com/vertex-ai/colab/execution-jobs?project={project}"


def logs(tags: Mapping[str, str], follow: bool) -> Iterator[str]:
    """Yield what the executed notebook shows; it is in the bucket once the execution has ended."""
    while not state(tags[JOB]).ended:
        if not follow:
            hint = "Its metrics are there now: `kaggleops ui`."
            problem = "Colab Enterprise shows it when the execution has ended"
            raise KaggleOpsError("reading the log", problem, hint)
        time.sleep(_PAUSE)
    for key, content in _outputs(tags):
        if key.endswith(".ipynb"):
            yield from _printed(content)


def _printed(notebook: bytes) -> Iterator[str]:
    try:
        found = json.loads(notebook)
    except ValueError as error:
        raise KaggleOpsError("reading the log", "the executed notebook is damaged") from error
    for cell in objects(found, "cells") or ():
        for output in objects(cell, "outputs") or ():
            lines = output.get("text") or output.get("traceback") or ()
            some = lines if isinstance(lines, list) else [lines]
            yield from "".join(each for each in some if isinstance(each, str)).splitlines()


def download(tags: Mapping[str, str], directory: Path) -> Downloaded:
    """Bring the executed notebook."""
    brought = Downloaded()
    for key, content in _outputs(tags):
        brought.keep(directory, key, lambda file, content=content: file.write(content))  # type: ignore[misc]
    return brought


def _outputs(tags: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    if OUTPUT not in tags:  # whoever submitted it died before it knew
        return
    bucket = open_bucket(tags[OUTPUT])
    for entry in bucket.list():
        found = bucket.read(entry.key)
        if found is not None:
            yield entry.key, found.data


# -- asking --------------------------------------------------------------------------------------


def _location(config: ColabConfig) -> str:
    return f"projects/{config.enterprise.project}/locations/{config.enterprise.location}"


def _template(config: ColabConfig) -> str:
    return f"notebookRuntimeTemplates/{config.enterprise.template}"


def _ask(doing: str, method: str, path: str, **request: Any) -> Mapping[str, Any]:
    from google.auth import exceptions

    location = path.split("/")[3]
    endpoint = os.environ.get(_ENDPOINT) or f"https://{location}-aiplatform.googleapis.com/"
    url = f"{endpoint.rstrip('/')}/v1/{path}"
    try:
        answer = _session().request(method, url, timeout=_TIMEOUT, **request)
    except (exceptions.DefaultCredentialsError, exceptions.RefreshError):
        hint = "Run `gcloud auth application-default login`, and try again."
        raise UsageError(doing, "you are not signed in to Google Cloud", hint) from None
    except (exceptions.TransportError, OSError) as error:
        raise KaggleOpsError(doing, f"Vertex AI cannot be reached ({error})") from None
    said = _said(answer)
    if answer.ok:
        if said is None:
            raise KaggleOpsError(doing, "Vertex AI's answer cannot be read", "Try again.")
        return said
    problem = text(said, "error", "message") or f"Vertex AI answered {answer.status_code}"
    if answer.status_code == 404 and said:  # not a page of whoever stands between
        raise _NotThereError(doing, problem)
    if answer.status_code == 409:  # an answer was lost, and this is the second request
        return {}
    if answer.status_code >= 500 or answer.status_code == 429:
        raise KaggleOpsError(doing, problem, "Try again later.")
    hint = ""
    if answer.status_code == 403:
        hint = "Ask for the role Colab Enterprise User (roles/aiplatform.colabEnterpriseUser)."
    # Where it was only asked about, nothing was refused that runs there or not.
    raise (RefusedError if method == "POST" else KaggleOpsError)(doing, problem, hint)


@functools.cache
def _session() -> Any:
    import google.auth
    from google.auth.transport.requests import AuthorizedSession

    credentials, _ = google.auth.default(scopes=[_SCOPE])
    return AuthorizedSession(credentials)


def _said(answer: Any) -> Mapping[str, Any] | None:
    """Return the object that an answer holds, an empty one for none, None for anything else."""
    try:
        found = answer.json() if answer.content else {}
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
