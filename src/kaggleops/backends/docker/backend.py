"""Kaggle's image on a machine of your own, as a backend.

A run's container is called after the run, so whoever submits it again finds it there. The engine
keeps its state and its log until `kaggleops cleanup`; /kaggle/working is a folder of the host, and
everything else that the container wrote goes with it.
"""

import codecs
import shutil
import tarfile
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import IO, Any, ClassVar

from kaggleops.backends.answers import number, text
from kaggleops.backends.base import Backend, RefusedError
from kaggleops.backends.docker.config import DockerConfig
from kaggleops.backends.docker.engine import GoneError, connect, explained
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.jobs import UNKNOWN, JobState
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.sign_in import KEY_FILE

CONTAINER = "container"
"""The tag of a run that names its container."""

ENGINE = "container_engine"
"""The tag of a run with the id of the engine that has its container."""

WORKING = "/kaggle/working"
_INPUT = "/kaggle/input"
_NOTEBOOK = "/kaggle/src/run.ipynb"
_KEY = f"/{KEY_FILE}"

_ENDED = ("exited", "dead")
_STATUSES = {
    "created": "SCHEDULED",
    "running": "RUNNING",
    "paused": "RUNNING",
    "restarting": "RUNNING",
}


class DockerBackend(Backend[DockerConfig]):
    """Runs commits in Kaggle's image."""

    name: ClassVar[str] = "docker"
    config_type = DockerConfig

    @cached_property
    def _engine(self) -> Any:
        return connect()

    # -- submitting ---------------------------------------------------------------------------

    def check(self, tracking_uri: str, config: DockerConfig) -> None:
        """Make sure that there are an engine, the image and the bucket's key."""
        doing = "submitting to a container"
        if not tracking_uri.startswith("gs://"):
            hint = "Take a bucket of Cloud Storage: --bucket gs://BUCKET; or run without -b."
            raise UsageError(doing, f"it cannot reach {tracking_uri}", hint)
        if not config.key_file.is_file():
            problem = f"there is no key of the bucket, {config.key_file}"
            raise UsageError(doing, problem, "Make it: `kaggleops credentials create docker`.")
        engine = self._engine
        try:
            with explained(doing):
                engine.images.get(config.image_name)
        except GoneError:
            # It is tens of gigabytes: nobody should wait for it unasked.
            problem = f"the image {config.image_name} is not on this machine"
            raise UsageError(doing, problem, f"docker pull {config.image_name}") from None

    def place(self, run_id: str, config: DockerConfig) -> dict[str, str]:
        """Return the tags that name the container, and the engine that has it."""
        return {CONTAINER: f"kaggleops-{run_id}", ENGINE: self._engine_id()}

    def _engine_id(self) -> str:
        engine = self._engine
        with explained("asking the container engine"):
            return text(engine.info(), "ID")

    def send(self, tags: Mapping[str, str], notebook: str, config: DockerConfig) -> None:
        """Start a container, unless one of this run is at work."""
        name = tags[CONTAINER]
        try:
            there = self._container(tags)
            if _status(there) in _ENDED:  # this is another attempt
                with explained(f"removing the container {name}"):
                    there.remove(v=True)
                there = None
        except GoneError:
            there = None
        if there is None:
            there = self._created(name, notebook, config)
        if _status(there) == "created":
            try:
                with explained(f"starting the container {name}", refusing=True):
                    there.start()
            except RefusedError:
                with explained(f"removing the container {name}"):
                    there.remove(v=True)
                raise

    def _created(self, name: str, notebook: str, config: DockerConfig) -> Any:
        from docker.types import DeviceRequest, Mount

        kept = config.output_folder / name
        source = kept / "notebook"
        try:
            for folder in (config.input_folder, kept / "working", source):
                folder.mkdir(parents=True, exist_ok=True)
            (source / Path(_NOTEBOOK).name).write_text(notebook)
        except OSError as error:
            raise KaggleOpsError(f"preparing {kept}", str(error)) from error
        # Not by the short syntax: for a folder that is missing, it would make an empty one.
        mounts = [
            Mount(WORKING, str(kept / "working"), type="bind"),
            Mount(str(Path(_NOTEBOOK).parent), str(source), type="bind"),
            Mount(_INPUT, str(config.input_folder), type="bind", read_only=True),
            Mount(_KEY, str(config.key_file), type="bind", read_only=True),
        ]
        gpus = [DeviceRequest(count=config.gpu_count, capabilities=[["gpu"]])]
        streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
        with explained(f"creating the container {name}", refusing=True):
            return self._engine.containers.create(
                config.image_name,
                # As Kaggle runs it; the copy with its outputs takes the notebook's place.
                ["python3", "-m", "papermill", _NOTEBOOK, _NOTEBOOK, "--no-progress-bar", *streams],
                name=name,
                entrypoint=["/usr/bin/env"],
                working_dir=WORKING,
                environment={"GOOGLE_APPLICATION_CREDENTIALS": _KEY},
                mounts=mounts,
                shm_size=config.shm_size,
                device_requests=gpus if config.gpu_count else None,
                init=True,  # a training's children are reaped, and a signal reaches it
            )

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the container with its log; what is in /kaggle/working stays on the host."""
        try:
            container = self._container(tags)
            with explained(f"removing the container {tags[CONTAINER]}"):
                container.remove(v=True, force=True)
        except GoneError:
            return False
        return True

    def _container(self, tags: Mapping[str, str]) -> Any:
        doing = f"looking for the container {tags[CONTAINER]}"
        if tags.get(ENGINE) != self._engine_id():
            raise KaggleOpsError(
                doing,
                "the engine of this machine does not have it",
                "Ask on the machine that it was submitted from.",
            )
        with explained(doing):
            return self._engine.containers.get(tags[CONTAINER])

    # -- watching -----------------------------------------------------------------------------

    def state(self, tags: Mapping[str, str]) -> JobState | None:
        """Return how far the container is, None on another machine than the engine's."""
        if tags.get(ENGINE) != self._engine_id():
            return None
        container = self._container(tags)
        status = _status(container)
        if status not in _ENDED:
            return JobState(_STATUSES.get(status, UNKNOWN), status or "no status")
        said = container.attrs["State"]
        code = number(said, "ExitCode")
        if code == 0:
            return JobState("FINISHED", status)
        reason = "exit code unknown" if code is None else f"exit code {code:.0f}"
        if said.get("OOMKilled") is True:
            reason = "the machine's memory was full"
        return JobState("FAILED", status, text(said, "Error") or reason)

    def page(self, tags: Mapping[str, str]) -> str:
        """Return "": an engine has no page."""
        return ""

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        """Yield the lines that the container printed."""
        container = self._container(tags)
        with explained(f"reading the log of {tags[CONTAINER]}"):
            yield from _lines(container.logs(stream=True, follow=follow))

    # -- bringing home ------------------------------------------------------------------------

    def download(self, tags: Mapping[str, str], directory: Path) -> Downloaded:
        """Bring what the container left in /kaggle/working, as this user's own files."""
        container = self._container(tags)
        with tempfile.TemporaryFile() as archive:
            doing = f"copying {WORKING} of {tags[CONTAINER]}"
            with explained(doing):
                chunks, _ = container.get_archive(WORKING)
                archive.writelines(chunks)
            archive.seek(0)
            try:
                return _unpacked(archive, directory)
            except tarfile.TarError as error:
                raise KaggleOpsError(doing, f"it came damaged ({error})", "Try again.") from error


def _status(container: Any) -> str:
    """Return the engine's word, "" where it tells none."""
    return text(container.attrs, "State", "Status")


def _lines(chunks: Iterable[bytes]) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    line = ""
    for chunk in chunks:
        *whole, line = (line + decoder.decode(chunk)).split("\n")
        yield from whole
    if line:
        yield line


def _unpacked(archive: IO[bytes], directory: Path) -> Downloaded:
    brought = Downloaded()
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            name = member.name.partition("/")[2]  # below the folder's own name
            if member.isdir():
                continue
            source = tar.extractfile(member) if member.isfile() else None
            brought.keep(directory, name, partial(_write, name, source))
    return brought


def _write(name: str, source: IO[bytes] | None, target: IO[bytes]) -> None:
    if source is None:
        problem = "it is a link or a device, so it is left there"
        raise KaggleOpsError(f"downloading {name!r}", problem)
    shutil.copyfileobj(source, target)
