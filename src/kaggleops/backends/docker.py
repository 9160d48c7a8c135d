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
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property, partial
from http import HTTPStatus
from pathlib import Path
from typing import IO, Annotated, Any

from pydantic import Field

from kaggleops.backends.answers import number, text
from kaggleops.backends.base import Backend
from kaggleops.backends.config import Count, KeyConfig
from kaggleops.backends.downloads import Downloaded
from kaggleops.backends.interface import UNKNOWN, Finding, JobState, Offer, RefusedError
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms import keys_of
from kaggleops.platforms.http import NotThereError
from kaggleops.platforms.local import KaggleImage
from kaggleops.platforms.platform import KEY_FILE

VERSION = "v170"
"""The version of Kaggle's images (June 2026), the same as in infra/kaggle-image/compose.yaml."""

_LONGEST_LINE = 1 << 16


@dataclass(frozen=True)
class DockerConfig(KeyConfig):
    """The fields of config/backend/docker.yaml, where each is explained."""

    platform = KaggleImage

    image: str = ""
    gpus: Annotated[str, Field(pattern=r"^(all|[1-9]\d*)?$")] = ""
    input: Annotated[str, Field(min_length=1)] = "~/kaggle/input"
    output: Annotated[str, Field(min_length=1)] = "~/kaggle/output"
    shm_size: Annotated[str, Field(pattern=r"^[1-9]\d*[bkmg]$")] = "8g"
    sessions: Count = 1

    @property
    def image_name(self) -> str:
        """The image: the one that is named, or Kaggle's own."""
        kind = "kaggle-gpu-images" if self.gpus else "kaggle-images"
        return self.image or f"gcr.io/{kind}/python:{VERSION}"

    @property
    def input_folder(self) -> Path:
        """What is mounted at /kaggle/input."""
        return Path(self.input).expanduser().absolute()

    @property
    def output_folder(self) -> Path:
        """Where the outputs of all runs are kept."""
        return Path(self.output).expanduser().absolute()


@contextmanager
def explained(doing: str, *, refusing: bool = False) -> Iterator[None]:
    """Turn what the client raises into one line.

    Raises:
        UsageError: the client is not installed.
        NotThereError: there is no such container or image.
        RefusedError: with `refusing`, the engine said no to what would run there.
        KaggleOpsError: it said no to anything else, or did not answer.
    """
    try:
        from docker import errors
        from requests import exceptions
    except ModuleNotFoundError as error:
        hint = "Install it: pip install 'kaggleops[docker]'."
        raise UsageError("using Docker", f"{error.name} is not installed", hint) from None
    try:
        yield
    except KaggleOpsError:
        raise
    except errors.NotFound as error:
        raise NotThereError(doing, str(error.explanation)) from error
    except errors.APIError as error:
        said, hint = str(error.explanation or error), ""
        if "could not select device driver" in said:
            said = "the engine gives no GPU to containers"
            hint = "Install NVIDIA's container toolkit, or take a configuration without `gpus`."
        # One of that name is there, whatever the engine said when it was asked.
        refused = refusing and error.status_code != HTTPStatus.CONFLICT
        raise (RefusedError if refused else KaggleOpsError)(doing, said, hint) from error
    except (errors.DockerException, exceptions.RequestException, OSError) as error:
        problem = "no engine answers"
        hint = "Start Docker, or name another engine's socket in DOCKER_HOST."
        if "Permission denied" in str(error):
            problem = "you may not use its socket"
            hint = "Let an administrator add you to the group docker, and sign in again."
        raise KaggleOpsError(doing, problem, hint) from error
    except Exception as error:  # the client takes what it expects for granted
        problem = f"the engine's answer cannot be read ({type(error).__name__})"
        raise KaggleOpsError(doing, problem, "Is it Docker that answers there?") from error


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
    **dict.fromkeys(("running", "paused", "restarting"), "RUNNING"),
}


class DockerBackend(Backend[DockerConfig]):
    """Runs commits in Kaggle's image."""

    name = "docker"
    config_type = DockerConfig

    @cached_property
    def _engine(self) -> Any:
        """A client of the engine that `DOCKER_HOST` names, of this machine's by default."""
        with explained("asking the container engine"):
            import docker

            return docker.from_env()

    def check(self, tracking_uri: str, config: DockerConfig) -> None:
        doing = "submitting to a container"
        self._require_key(doing, config, tracking_uri)
        engine = self._engine
        try:
            with explained(doing):
                engine.images.get(config.image_name)
        except NotThereError:
            # It is tens of gigabytes: nobody should wait for it unasked.
            problem = f"the image {config.image_name} is not on this machine"
            raise UsageError(doing, problem, f"docker pull {config.image_name}") from None

    def place(self, run_id: str, config: DockerConfig) -> dict[str, str]:
        return {CONTAINER: f"kaggleops-{run_id}", ENGINE: self._engine_id()}

    def _engine_id(self) -> str:
        engine = self._engine
        with explained("asking the container engine"):
            return text(engine.info(), "ID")

    def send(self, tags: Mapping[str, str], notebook: str, config: DockerConfig) -> None:
        """Start a container, unless one of this run is at work."""
        name = tags[CONTAINER]
        there = None
        with suppress(NotThereError):
            found = self._container(tags)
            if _status(found) not in _ENDED:
                there = found
            else:  # this is another attempt
                with explained(f"removing the container {name}"):
                    found.remove(v=True)
        there = there or self._created(name, notebook, config)
        if _status(there) != "created":
            return
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
            # Where declared data arrives (resources/places.py).
            Mount(f"{_INPUT}-rw", str(config.input_folder), type="bind"),
            Mount(_KEY, str(config.key_file), type="bind", read_only=True),
        ]
        count = -1 if config.gpus == "all" else int(config.gpus or 0)  # -1 for all
        gpus = [DeviceRequest(count=count, capabilities=[["gpu"]])]
        streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
        with explained(f"creating the container {name}", refusing=True):
            return self._engine.containers.create(
                config.image_name,
                # As Kaggle runs it; the copy with its outputs takes the notebook's place.
                ["python3", "-m", "papermill", _NOTEBOOK, _NOTEBOOK, "--no-progress-bar", *streams],
                name=name,
                entrypoint=["/usr/bin/env"],
                working_dir=WORKING,
                environment={keys_of(parameters_of(notebook)["bucket"]).variable: _KEY},
                mounts=mounts,
                shm_size=config.shm_size,
                device_requests=gpus if count else None,
                init=True,  # a training's children are reaped, and a signal reaches it
            )

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the container with its log; what is in /kaggle/working stays on the host."""
        with suppress(NotThereError):
            container = self._container(tags)
            with explained(f"removing the container {tags[CONTAINER]}"):
                container.remove(v=True, force=True)
            return True
        return False

    def _container(self, tags: Mapping[str, str]) -> Any:
        doing = f"looking for the container {tags[CONTAINER]}"
        if tags.get(ENGINE) != self._engine_id():
            hint = "Ask on the machine that it was submitted from."
            raise KaggleOpsError(doing, "the engine of this machine does not have it", hint)
        with explained(doing):
            return self._engine.containers.get(tags[CONTAINER])

    def state(self, tags: Mapping[str, str]) -> JobState | None:
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

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        container = self._container(tags)
        with explained(f"reading the log of {tags[CONTAINER]}"):
            yield from _lines(container.logs(stream=True, follow=follow))

    def offers(self, tracking_uri: str, config: DockerConfig, running: int) -> list[Offer]:
        self.check(tracking_uri, config)
        with explained("asking the container engine"):
            memory = number(self._engine.info(), "MemTotal")
        # What its GPUs are, and how much memory they have, the engine does not know.
        known = None if config.gpus or memory is None else memory / 1e9
        sessions = max(0, config.sessions - running)
        return [Offer(self.name, sessions, accelerator=config.gpus and "GPU", memory_gb=known)]

    def examine(self, config: DockerConfig) -> Iterator[Finding]:
        try:
            engine = self._engine
        except KaggleOpsError as error:
            yield self._not_set_up(error)
            return
        with explained("asking the container engine"):
            yield self._found("ok", f"an engine answers, version {engine.version()['Version']}")

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
    line = ""
    for more in codecs.iterdecode(chunks, "utf-8", "replace"):
        *whole, line = (line + more).split("\n")
        yield from whole
        if len(line) > _LONGEST_LINE:  # to add to it takes as long as it is
            yield line
            line = ""
    if line:
        yield line


def _unpacked(archive: IO[bytes], directory: Path) -> Downloaded:
    brought = Downloaded()
    with tarfile.open(fileobj=archive) as tar:
        for member in tar:
            if not member.isdir():
                name = member.name.partition("/")[2]  # below the folder's own name
                source = tar.extractfile(member) if member.isfile() else None
                brought.keep(directory, name, partial(_write, name, source))
    return brought


def _write(name: str, source: IO[bytes] | None, target: IO[bytes]) -> None:
    if source is None:
        problem = "it is a link or a device, so it is left there"
        raise KaggleOpsError(f"downloading {name!r}", problem)
    shutil.copyfileobj(source, target)
