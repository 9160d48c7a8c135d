"""What tests/fakes/docker_engine.py assumes of a container engine."""

from typing import Any, cast

from kaggleops.backends.docker import CONTAINER, WORKING, DockerBackend
from kaggleops.first_contact.assumption import Assumptions, DiffersError, expect
from kaggleops.first_contact.job import Observed
from kaggleops.first_contact.seen import (
    ended,
    has_folder,
    in_order,
    log_is_live,
    log_is_whole,
    output_came,
    python_new_enough,
    signs_in,
)
from kaggleops.tags import BACKEND

DOCKER: Assumptions[Observed] = Assumptions()

_NOBODYS = "kaggleops-there-is-none-of-this-name"


def _engine(job: Observed) -> Any:
    return cast("DockerBackend", job.backend)._engine


def _refused(job: Observed, status: int, words: str, **what: Any) -> str:
    """Return the engine's refusal to create a container; one that it creates is removed."""
    from docker.errors import APIError

    try:
        made = _engine(job).containers.create(job.config.image_name, ["true"], **what)
    except APIError as error:
        said = f"{error.status_code}: {error.explanation}"
        return expect(error.status_code == status and words in said, said)
    made.remove(v=True, force=True)
    raise DiffersError("it is created")


@DOCKER.otherwise("a run that goes well is told as failed, or stays open for ever")
def job_finishes(job: Observed) -> str:
    """A container whose command ends with 0 is `exited`, and its run FINISHED."""
    return ended(job, "exited")


@DOCKER.otherwise("`status` does not know whether a container waits, runs or has ended")
def states_known(job: Observed) -> str:
    """Its states are created, running and exited; short ones may be missed."""
    return in_order(job, "created", "running", "exited")


@DOCKER.otherwise("why a container ended is not known")
def exit_code_told(job: Observed) -> str:
    """The engine keeps the exit code and whether the memory was full."""
    state = _engine(job).containers.get(job.tags[CONTAINER]).attrs["State"]
    seen = f"ExitCode {state.get('ExitCode')}, OOMKilled {state.get('OOMKilled')}"
    return expect((state.get("ExitCode"), state.get("OOMKilled")) == (0, False), seen)


@DOCKER.otherwise("a run's container is looked for on another machine's engine")
def engine_told(job: Observed) -> str:
    """The engine tells its ID and how much memory there is."""
    info = _engine(job).info()
    named = [name for name in ("ID", "MemTotal") if info.get(name)]
    return expect(named == ["ID", "MemTotal"], f"it tells {', '.join(named) or 'neither'}")


@DOCKER.otherwise("a container or an image that is not there is taken for a fault")
def absent_refused(job: Observed) -> str:
    """A container that is not there is a 404; so is an image."""
    from docker.errors import APIError

    statuses = []
    for kind in (_engine(job).containers, _engine(job).images):
        try:
            kind.get(_NOBODYS)
            statuses.append(200)
        except APIError as error:
            statuses.append(error.status_code)
    return expect(statuses == [404, 404], f"{statuses}")


@DOCKER.otherwise("one run gets two containers")
def name_is_unique(job: Observed) -> str:
    """A second container of a name is a 409."""
    return _refused(job, 409, "", name=job.tags[CONTAINER], working_dir=WORKING, mounts=[])


@DOCKER.otherwise("a folder that is missing is mounted as an empty one")
def missing_mount_refused(job: Observed) -> str:
    """A bind mount of a folder that is not there is a 400."""
    from docker.types import Mount

    mount = Mount("/kaggle/input", f"/{_NOBODYS}", type="bind")
    return _refused(job, 400, "does not exist", name=_NOBODYS, working_dir=WORKING, mounts=[mount])


DOCKER.otherwise("`kaggleops logs -f` shows nothing until the job has ended")(log_is_live)
DOCKER.otherwise("the log lacks the reason of a failure")(log_is_whole)


@DOCKER.otherwise("`kaggleops download` does not bring what a run left")
def output_copied(job: Observed) -> str:
    """What lies in /kaggle/working can be copied out as a tar."""
    return output_came(job)


@DOCKER.otherwise("the container does not reach the bucket")
def key_mounted(job: Observed) -> str:
    """The key's file is mounted, and a variable of the environment leads to it."""
    return signs_in(job)


@DOCKER.otherwise("what a run leaves is lost, and runs do not say where they ran")
def working_folder(job: Observed) -> str:
    """/kaggle/working is mounted, and can be written."""
    where = job.tags.get(BACKEND)
    return expect(where == "kaggle-image", f"{has_folder(job, WORKING)}, on {where}")


@DOCKER.otherwise("a training does not see the GPUs that it was given")
def gpus_as_asked(job: Observed) -> str:
    """With `gpus`, the container has some; without, it has none."""
    found, asked = job.note("accelerator"), job.config.gpus
    return expect(bool(found) == bool(asked), f"{found or 'none'} for {asked or 'none'}")


DOCKER.otherwise("KaggleOps cannot be installed there")(python_new_enough)


# Last, as nothing is there any more afterwards.
@DOCKER.otherwise("containers of runs that are over stay for ever")
def container_removed(job: Observed) -> str:
    """Removing a container removes it at once; then it is a 404."""
    done = [job.backend.remove(job.tags) for _ in range(2)]
    return expect(done == [True, False], f"removed: {done[0]}, then {done[1]}")
