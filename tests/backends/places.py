"""The platforms of the conformance suite: how a test lets what was submitted there happen."""

import fcntl
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePath
from typing import IO, Any

import psutil
import pytest

from kaggleops.backends import local
from kaggleops.backends.base import RemoteRun
from kaggleops.backends.colab.supervisor import Job
from kaggleops.backends.lookup import backend_named
from kaggleops.git.commits import find_commit
from kaggleops.launch.launcher import Launch
from kaggleops.launch.overrides import Overrides
from tests import secrets_of, warm
from tests.canaries import found_below
from tests.fakes import platforms
from tests.fakes.colab.account import FakeColab
from tests.fakes.docker_engine import DockerEngine
from tests.fakes.runpod_server import RunPodServer
from tests.fakes.skypilot import SkyPilot

from .world import TRACKING, World


class Place(ABC):
    """One backend, and its platform."""

    name = ""
    has_logs = True
    output: tuple[str, ...] = ()
    """The files that the toy leaves on the platform."""
    machine = ""
    """What its machines are, for the tag `backend`."""
    stores: tuple[str, ...] = ()
    """Where its keys lie below the world's folder, while a run goes on: in what the platform keeps
    them in, and in the private files that are made of it."""
    home = ""
    """Below the world's folder, the state of the machine that the platform is, if it is one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.backend = backend_named(self.name)
        self.own: dict[str, Any] = {}
        """The fields that name a person's own credentials, where those are a service account's."""

    @property
    @abstractmethod
    def fields(self) -> dict[str, Any]:
        """The fields of the backend's configuration."""

    @abstractmethod
    def start(self, run: RemoteRun) -> None:
        """Let a machine take it, if none has."""

    @abstractmethod
    def wait(self, run: RemoteRun) -> None:
        """Return when nothing of it runs any more."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing running."""

    def submit(self, *overrides: str, entry_point: str = "main", **fields: Any) -> RemoteRun:
        """Submit the toy, with these fields of the configuration instead."""
        what = Launch(TRACKING, Overrides(overrides, None), entry_point)
        config = self.backend.read_config(self.fields | fields, "a test")
        return self.backend.submit(find_commit(self.world.repository.folder), what, config)

    def kept_elsewhere(self) -> set[str]:
        """Return the files of all machines that hold a secret, but for the platforms' stores."""
        folder = self.world.folder
        kept = {PurePath(name).relative_to(folder) for name in found_below(folder)}
        stores = {store for each in Place.__subclasses__() for store in each.stores}
        return {str(each) for each in kept if not any(map(each.match, stores))}


class OnKaggle(Place):
    """The loopback Kaggle, whose sessions wait until they are started."""

    name = "kaggle"
    stores = (
        "kaggle/machines/*/kaggle/input/datasets/ada/bucket-key/kaggleops-key.json",
        "kaggle/machines/*/*/.local/state/kaggleops/credentials/kaggleops-key.json",
    )
    machine = "kaggle"
    output = ("output/predictions.csv",)

    @property
    def fields(self) -> dict[str, Any]:
        return {"credentials": "ada/bucket-key", "machine_shape": ""}

    def start(self, run: RemoteRun) -> None:
        self.world.kaggle.session(run.tags["kaggle_notebook"]).start()

    def wait(self, run: RemoteRun) -> None:
        self.world.kaggle.session(run.tags["kaggle_notebook"]).wait()

    def close(self) -> None:
        """The server ends its sessions itself."""


class InDocker(Place):
    """A container engine on this machine, whose containers wait until they are started."""

    name = "docker"
    stores = (
        "docker/key.json",
        "docker/*/kaggleops-key.json",
    )
    machine = "kaggle-image"
    output = ("output/predictions.csv",)

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.folder = world.folder / "docker"
        self.folder.mkdir()
        (self.folder / "key.json").write_text(secrets_of.AUTHORIZED_USER)
        outside = {"STORAGE_EMULATOR_HOST": world.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
        self.engine = DockerEngine(self.folder, ["an/image"], outside, held=True)
        self.engine.__enter__()
        self._patch = pytest.MonkeyPatch()
        self._patch.setenv("DOCKER_HOST", self.engine.url)

    @property
    def fields(self) -> dict[str, Any]:
        folders = {each: str(self.folder / each) for each in ("input", "output")}
        return {"image": "an/image", "credentials": str(self.folder / "key.json"), **folders}

    def start(self, run: RemoteRun) -> None:
        self.engine.session(run.tags["container"]).start()

    def wait(self, run: RemoteRun) -> None:
        self.engine.session(run.tags["container"]).wait()

    def close(self) -> None:
        self._patch.undo()
        self.engine.__exit__()


class OnColab(Place):
    """An account on Colab, whose runtimes wait to be allocated until they are started."""

    name = "colab"
    home = "home"
    stores = (
        "colab-account/key.json",
        "colab-account/own.json",
        "colab-account/machines/*/content/kaggleops-key.json",
    )
    machine = "colab"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        outside = {"STORAGE_EMULATOR_HOST": world.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
        self.colab = FakeColab(world.folder / "colab-account", outside)
        self.colab.__enter__()
        self.colab.behave(hold=True)
        self.key = self.colab.folder / "key.json"
        self.key.write_text(secrets_of.SERVICE_ACCOUNT)
        (own := self.colab.folder / "own.json").write_text(secrets_of.AUTHORIZED_USER)
        self.own = {"credentials": str(own)}
        self._jobs: list[Job] = []

    @property
    def fields(self) -> dict[str, Any]:
        return {"cli": str(self.colab.program), "credentials": str(self.key), "accelerator": ""}

    def submit(self, *overrides: str, entry_point: str = "main", **fields: Any) -> RemoteRun:
        run = super().submit(*overrides, entry_point=entry_point, **fields)
        self._jobs.append(self.job(run))
        return run

    def job(self, run: RemoteRun) -> Job:
        """Return the job of a run."""
        return Job(Path(run.tags["colab_job"].partition(":")[2]))

    def start(self, run: RemoteRun) -> None:
        self.colab.let_go(self.job(run).session)

    def wait(self, run: RemoteRun) -> None:
        self.job(run).wait()

    def close(self) -> None:
        for job in self._jobs:
            end_supervisor(job)
        self.colab.__exit__()


def end_supervisor(job: Job) -> None:
    """End a supervisor without a word, as a machine that loses power does."""
    for each in psutil.process_iter():
        with suppress(psutil.Error):
            if str(job.folder) in each.cmdline():
                each.kill()
                each.wait()


class ByHand(Place):
    """Somebody who takes the notebook to Colab."""

    name = "manual"
    stores = (
        "colab/*/colab-key.json",
        "colab/*/*/.config/gcloud/application_default_credentials.json",
    )
    machine = "colab"
    has_logs = False

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.folder = world.folder / "notebooks"
        self.folder.mkdir()
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def fields(self) -> dict[str, Any]:
        return {"folder": str(self.folder)}

    def start(self, run: RemoteRun) -> None:
        if run.run_id in self._running:
            return
        file = Path(run.tags["notebook_file"])
        root = self.world.folder / "colab" / run.run_id
        key = secrets_of.SERVICE_ACCOUNT
        environment = platforms.colab(root, key=key, STORAGE_EMULATOR_HOST=self.world.gcs.url)
        self._running[run.run_id] = subprocess.Popen(
            [sys.executable, "-m", "papermill", str(file), str(root / "executed.ipynb")],
            cwd=root,
            env={**environment, "KAGGLEOPS_FLUSH_SECONDS": "1"},
            stderr=subprocess.DEVNULL,
        )

    def wait(self, run: RemoteRun) -> None:
        self._running[run.run_id].wait(timeout=280)

    def close(self) -> None:
        for process in self._running.values():
            with suppress(psutil.NoSuchProcess):
                own = psutil.Process(process.pid)
                for each in [own, *own.children(recursive=True)]:
                    each.kill()
            process.wait()


class OnRunPod(Place):
    """The loopback RunPod, whose pods wait for a machine until they are started."""

    name = "runpod"
    stores = ("runpod/machines/*/*/.kaggleops/credentials/kaggleops-key.json",)
    machine = "runpod"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        outside = {"STORAGE_EMULATOR_HOST": world.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
        self.wheels = world.folder / "wheels"
        """All that its pods can install."""
        outside |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)}
        self.server = RunPodServer(world.folder / "runpod", outside)
        self.server.__enter__()
        self.server.held = True
        self.server.secrets["kaggleops_key"] = secrets_of.SERVICE_ACCOUNT
        self.server.secrets["own_key"] = secrets_of.AUTHORIZED_USER
        self.own = {"secret": "own_key"}
        self._patch = pytest.MonkeyPatch()
        for name, value in self.server.environment().items():
            self._patch.setenv(name, value)

    @property
    def fields(self) -> dict[str, Any]:
        return {"packages": []}

    def start(self, run: RemoteRun) -> None:
        self.server.pod(run.tags["runpod_name"]).start()

    def wait(self, run: RemoteRun) -> None:
        self.server.pod(run.tags["runpod_name"]).wait()

    def close(self) -> None:
        self._patch.undo()
        self.server.__exit__()


_SLOTS = 6  # more than are started at once


def open_slot(number: int) -> IO[str]:
    """Hold a slot of this machine until what is returned is closed."""
    path = local._slot(number)
    path.touch()
    held = path.open("r+")
    fcntl.flock(held, fcntl.LOCK_EX)
    return held


def job_of(run: RemoteRun) -> local.Job:
    """Return a run's job on this machine."""
    return local.Job.known(run.tags[local.JOB], gone=True)


def end_job(job: local.Job) -> None:
    """End a job's process without a word, and all that it has started."""
    while job.exists and job.alive:  # what stands for it may not have said yet which process it is
        for each in psutil.process_iter():
            with suppress(psutil.Error):
                if str(job.folder) in each.cmdline() and (own := warm.forked(each.pid)) != each.pid:
                    for one in [*psutil.Process(own).children(recursive=True), psutil.Process(own)]:
                        one.kill()
                    each.wait()


class Here(Place):
    """This machine, whose slots are all taken until a job is started."""

    name = "local"
    machine = "local"
    home = "home"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._held = [open_slot(number) for number in range(_SLOTS)]
        self._submitted: list[RemoteRun] = []

    @property
    def fields(self) -> dict[str, Any]:
        return {"jobs": _SLOTS}

    def submit(self, *overrides: str, entry_point: str = "main", **fields: Any) -> RemoteRun:
        run = super().submit(*overrides, entry_point=entry_point, **fields)
        self._submitted.append(run)
        return run

    def start(self, run: RemoteRun) -> None:
        while self._held:
            self._held.pop().close()

    def wait(self, run: RemoteRun) -> None:
        job_of(run).wait()

    def close(self) -> None:
        for run in self._submitted:
            end_job(job_of(run))


class OnSkyPilot(Place):
    """SkyPilot, whose managed jobs wait for a machine until they are started."""

    name = "skypilot"
    stores = (
        "skypilot/key.json",
        "skypilot/jobs/*/secrets.json",
        "skypilot/machines/*/*/.local/state/kaggleops/credentials/kaggleops-key.json",
    )
    machine = "skypilot"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        outside = {"STORAGE_EMULATOR_HOST": world.gcs.url, "KAGGLEOPS_FLUSH_SECONDS": "1"}
        self.sky = SkyPilot(world.folder / "skypilot", outside)
        self.key = self.sky.folder / "key.json"
        self.key.write_text(secrets_of.AUTHORIZED_USER)
        self._patch = pytest.MonkeyPatch()
        before = os.environ["PATH"]  # another machine's `sky` is on its PATH, too
        self._patch.setenv("PATH", f"{self.sky.folder}{os.pathsep}{before}")

    @property
    def fields(self) -> dict[str, Any]:
        return {"credentials": str(self.key), "resources": {"accelerators": "L4:1"}}

    def start(self, run: RemoteRun) -> None:
        self.sky.start(run.tags["skypilot_name"])

    def wait(self, run: RemoteRun) -> None:
        self.sky.wait(run.tags["skypilot_name"])

    def close(self) -> None:
        self._patch.undo()
        self.sky.close()


PLACES: dict[str, Callable[[World], Place]] = {
    "colab": OnColab,
    "docker": InDocker,
    "kaggle": OnKaggle,
    "local": Here,
    "manual": ByHand,
    "runpod": OnRunPod,
    "skypilot": OnSkyPilot,
}
