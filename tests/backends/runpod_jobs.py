"""Jobs at the loopback RunPod."""

import json
from typing import Any

from kaggleops.backends.base import RemoteRun
from kaggleops.backends.lookup import backend_named
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from tests.fakes.runpod_server import RunPodServer

from .world import TRACKING, World


def submit(outside: World, **fields: Any) -> RemoteRun:
    backend = backend_named("runpod")
    config = backend.read_config(fields, "a test")
    return backend.submit(find_commit(outside.repository.folder), Launch(TRACKING), config)


def runs(outside: World) -> set[str]:
    keys = [key.split("/") for key in outside.gcs.objects("our-bucket")]
    found = [key[2] for key in keys if key[0] == "mlruns" and len(key) == 3]
    return {name.removesuffix(".tar.gz") for name in found}


def change(runpod: RunPodServer, run: RemoteRun, **job: Any) -> None:
    """Let a pod have been made to do something else."""
    environment = runpod.pod(f"kaggleops-{run.run_id}").body["env"]
    given = json.loads(environment["KAGGLEOPS_JOB"])
    environment["KAGGLEOPS_JOB"] = json.dumps(given | job)
