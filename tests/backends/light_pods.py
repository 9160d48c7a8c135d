"""Pods whose job costs nothing: the real start script, and in place of what it starts a toy.

The toys are modules that a pod's Python finds before the real ones. They do what the pod's variable
TOY says, and leave word on the volume.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.backends.runpod.client import RunPod
from kaggleops.backends.runpod.pod import Offer, RunPodConfig, pod_body
from tests.fakes.runpod.pod import Pod
from tests.fakes.runpod_server import RunPodServer

RUN = "0" * 32

_PAPERMILL = """
import os, signal, subprocess, sys
from pathlib import Path
toy = os.environ["TOY"]
word = Path(os.environ["WORD"])
with (word / "jobs").open("a") as file:
    print(os.environ["RUNPOD_POD_ID"], file=file)
(word / "variables").write_text("\\n".join(os.environ))
print("the job begins", flush=True)
if toy == "fails":
    sys.exit(3)
if toy == "breaks the wrapper":
    begun = Path(os.environ["KAGGLEOPS_HOME"]).parents[1] / "begun"
    begun.unlink()
    os.mkfifo(begun)  # who reads it waits for ever
if toy == "talks":
    for _ in range(5):
        print("again and again", flush=True)
if toy in ("waits", "is deaf", "talks"):
    kernel = '''
import signal, sys, time
def end(*_):
    print("the last words", flush=True)
    sys.exit()
signal.signal(signal.SIGTERM, signal.SIG_IGN if sys.argv[1] == "is deaf" else end)
print("the kernel waits", flush=True)
time.sleep(600)
'''
    # A kernel has a session of its own.
    command = [sys.executable, "-c", kernel, toy]
    subprocess.Popen(command, start_new_session=True).wait()
"""

_REPORT = """
import json, os, sys, time
from pathlib import Path
if sys.argv[1] == "claim":
    try:
        Path(os.environ["WORD"], "claimed").touch(exist_ok=False)
    except FileExistsError:
        sys.exit(3)
    sys.exit()
said = json.loads(sys.argv[1])
said["log"] = Path(said["log"]).read_text()
said["pod"] = os.environ["RUNPOD_POD_ID"]
with Path(os.environ["WORD"], "reports").open("a") as file:
    print(json.dumps(said), file=file)
if os.environ["TOY"] == "has no bucket":
    time.sleep(600)
"""


@dataclass(frozen=True)
class LightPods:
    """A RunPod of light pods.

    Args:
        server: it.
        word: the folder where pods leave word.
        volume: the id of their volume.
    """

    server: RunPodServer
    word: Path
    volume: str

    def create(self, toy: str, *, volume: bool | str = True, **job: Any) -> Pod:
        """Create a pod whose job is a toy; `job` is what its start script finds otherwise.

        `volume` is whether it has the volume, or the id of another.
        """
        config = RunPodConfig(packages=[], keep=bool(job.get("keep")))
        offer = Offer("NVIDIA L4", "EU-RO-1", 0.40)
        notebook = ready_notebook({"bucket": job.get("bucket", "gs://b")})
        mounted = self.volume if volume is True else volume or ""
        body = pod_body(RUN, notebook, config, offer, mounted, time.time())
        given = json.loads(body["env"]["KAGGLEOPS_JOB"]) | {"packages": []} | job
        body["env"] |= {"TOY": toy, "WORD": str(self.word), "KAGGLEOPS_JOB": json.dumps(given)}
        return self.server.pods[RunPod().create_pod(body).id]

    @property
    def jobs(self) -> list[str]:
        """The pods that began the job, in order."""
        file = self.word / "jobs"
        return file.read_text().splitlines() if file.is_file() else []

    @property
    def reports(self) -> list[dict[str, Any]]:
        """What the bucket was told."""
        return [json.loads(line) for line in (self.word / "reports").read_text().splitlines()]


def light_pods(folder: Path, server: RunPodServer, *, told: bool = False) -> LightPods:
    """Make the volume, and the toys in a folder that the server's pods look in for modules.

    Args:
        folder: for all of it.
        server: whose pods.
        told: whether the bucket is told by what really tells it.
    """
    room = folder / "toys/kaggleops/backends/runpod"
    (folder / "toys").mkdir()
    (folder / "toys/papermill.py").write_text(_PAPERMILL)
    if not told:
        room.mkdir(parents=True)
        for package in (room, room.parent, room.parent.parent):
            (package / "__init__.py").touch()  # else the real ones would be found first
        (room / "report.py").write_text(_REPORT)
    word = folder / "word"
    word.mkdir()
    volume = RunPod().create_volume("kaggleops", "EU-RO-1", 10)
    return LightPods(server, word, volume)
