"""What tests/fakes/kaggle_server.py assumes of Kaggle."""

import json
import re
from typing import Any, cast

from kaggleops.backends.kaggle.backend import NOTEBOOK, KaggleBackend, about
from kaggleops.first_contact.assumption import Assumptions, NotCheckedError, expect
from kaggleops.first_contact.job import OUTPUT, Observed
from kaggleops.first_contact.seen import (
    accelerator_is,
    ended,
    has_folder,
    in_order,
    log_is_live,
    log_is_whole,
    of_finished,
    output_came,
    python_new_enough,
    session_end_known,
    signs_in,
)
from kaggleops.platforms.kaggle import DATASET
from kaggleops.tags import BACKEND

KAGGLE: Assumptions[Observed] = Assumptions()

_WAYS = ("the credentials dataset", "the Kaggle secret", "Kaggle's")
_GPUS = {"NvidiaTeslaT4": "2x Tesla T4", "": ""}
_NOBODYS = "kaggleops-there-is-none-of-this-name"


def _backend(job: Observed) -> KaggleBackend:
    return cast("KaggleBackend", job.backend)


def _ask(job: Observed, method: str, kind: str, ref: str = "", token: str | None = None) -> Any:
    """Return Kaggle's answer about the job's notebook, or another one of the same user."""
    from kagglesdk.kernels.types import kernels_api_service as messages

    request = about(getattr(messages, kind), ref or job.tags[NOTEBOOK], token)
    return _backend(job)._client.ask(f"asking Kaggle ({method})", method, request)


def _metadata(job: Observed) -> Any:
    return _ask(job, "get_kernel", "ApiGetKernelRequest").metadata


def _outputs(job: Observed) -> Any:
    method, kind = "list_kernel_session_output", "ApiListKernelSessionOutputRequest"
    return _ask(job, method, kind, token="")


# -- the notebook and its session ----------------------------------------------------------------


@KAGGLE.otherwise("a run that goes well is told as failed, or stays open for ever")
def job_finishes(job: Observed) -> str:
    """A notebook that ends without an error is COMPLETE, and its run FINISHED."""
    return ended(job, "COMPLETE")


@KAGGLE.otherwise("`status` does not know whether a job waits, runs or has ended")
def states_known(job: Observed) -> str:
    """Its states are QUEUED, RUNNING and COMPLETE, in this order; a short one may be missed."""
    return in_order(job, "NEW_SCRIPT", "QUEUED", "RUNNING", "COMPLETE")


@KAGGLE.otherwise("a push that got lost is not found, or a notebook is pushed twice")
def version_told(job: Observed) -> str:
    """The first push is version 1, as the notebook's metadata tell."""
    number = _metadata(job).current_version_number
    return expect(number == 1, f"version {number}")


@KAGGLE.otherwise("everybody can read the notebook, and what it prints")
def notebook_private(job: Observed) -> str:
    """A notebook that is pushed with is_private is private."""
    return expect(_metadata(job).is_private is True, f"is_private: {_metadata(job).is_private}")


@KAGGLE.otherwise("the machine cannot reach the bucket")
def internet_on(job: Observed) -> str:
    """A notebook that is pushed with enable_internet has it."""
    if not job.config.internet:
        raise NotCheckedError("config/backend/kaggle.yaml switches it off")
    told = _metadata(job).enable_internet
    return expect(told is True, f"enable_internet: {told}")


@KAGGLE.otherwise("runs go to another accelerator than was asked for, and nobody is told")
def shape_given(job: Observed) -> str:
    """The metadata tell which machine shape was given: the one that was asked for."""
    told, asked = _metadata(job).machine_shape or "", job.config.machine_shape
    return expect(told == asked, f"{told or 'none'} for {asked or 'none'}")


@KAGGLE.otherwise("a notebook that was deleted is waited for, or pushed over another's")
def absent_notebook(job: Observed) -> str:
    """A notebook that is not there is a 404, or a 403."""
    version = _backend(job)._version(f"{_backend(job)._client.user}/{_NOBODYS}")
    return expect(version == 0, f"version {version}")


# -- what it prints and leaves -------------------------------------------------------------------


KAGGLE.otherwise("`kaggleops logs -f` shows nothing until the job has ended")(log_is_live)


@KAGGLE.otherwise("`kaggleops logs` shows JSON, or nothing")
def kept_log_is_json(job: Observed) -> str:
    """The log of a session that ended is a JSON array of stream_name, time and data."""
    entries = json.loads(_outputs(job).log or "[]")
    keys = sorted({key for entry in entries for key in entry})
    wanted = ["data", "stream_name", "time"]
    return of_finished(job, keys == wanted, f"{len(entries)} entries of {', '.join(keys)}")


KAGGLE.otherwise("the log lacks the reason of a failure")(log_is_whole)


@KAGGLE.otherwise("`kaggleops download` does not bring what a run left")
def output_listed(job: Observed) -> str:
    """What lies in /kaggle/working in the end is listed with its address, and can be fetched."""
    return output_came(job)


@KAGGLE.otherwise("half of a file is taken for all of it")
def output_sizes(job: Observed) -> str:
    """ListKernelFiles tells the size of each such file in bytes."""
    page = _ask(job, "list_kernel_files", "ApiListKernelFilesRequest", token="")
    sizes = {each.name: each.size for each in page.files or ()}
    if OUTPUT not in job.files:
        raise NotCheckedError("the file did not come")
    return expect(sizes.get(OUTPUT) == len(job.files[OUTPUT]), f"{sizes.get(OUTPUT)} bytes")


# -- the account -----------------------------------------------------------------------------------


@KAGGLE.otherwise("jobs are sent although no hours are left, or none although there are")
def quota_told(job: Observed) -> str:
    """The week's hours of GPU and TPU, those used and when they are refreshed are told."""
    told = _backend(job).quota()
    seen = "; ".join(f"{q.resource} {q.used_hours:.1f} of {q.total_hours:.0f} h" for q in told)
    good = [each.resource for each in told] == ["GPU", "TPU"] and all(q.refreshes for q in told)
    return expect(good, seen or "nothing")


@KAGGLE.otherwise("every submit says that there is no key of the bucket")
def dataset_found(job: Observed) -> str:
    """A private dataset of one's own is found by its name, and one that is not there is not."""
    client, named = _backend(job)._client, job.config.credentials
    if named and not named.startswith(f"{client.user}/"):
        raise NotCheckedError("the key's dataset is somebody else's")
    slug = named.partition("/")[2] or DATASET
    found = [client.has_dataset("looking", each) for each in (slug, _NOBODYS)]
    return expect(
        found == [True, False], f"found: {found[0]}, and one that is not there {found[1]}"
    )


# -- what the machine is like ---------------------------------------------------------------------


@KAGGLE.otherwise("runs do not say where they ran, and do not find their key")
def platform_told(job: Observed) -> str:
    """A process there has KAGGLE_KERNEL_RUN_TYPE in its environment."""
    told = "KAGGLE_KERNEL_RUN_TYPE" in job.note("variables")
    return expect(told and job.tags.get(BACKEND) == "kaggle", ", ".join(job.note("variables")))


@KAGGLE.otherwise("the machine does not find the bucket's key")
def key_mounted(job: Observed) -> str:
    """The key's dataset is mounted at /kaggle/input/datasets/USER/NAME, or /kaggle/input/NAME."""
    keys = [each for each in job.note("inputs") if each.endswith("kaggleops-key.json")]
    good = r"(datasets/[\w-]+/)?[\w-]+/kaggleops-key\.json"
    seen = ", ".join(keys) or f"there are {', '.join(job.note('inputs')) or 'no mounts'}"
    return expect(any(re.fullmatch(good, each) for each in keys), seen)


@KAGGLE.otherwise("the machine does not reach the bucket")
def signed_in(job: Observed) -> str:
    """The machine signs in with what is attached to the notebook."""
    return signs_in(job, *_WAYS)


@KAGGLE.otherwise("what a run leaves is lost")
def working_folder(job: Observed) -> str:
    """/kaggle/working is there, and can be written."""
    return has_folder(job, "/kaggle/working")


@KAGGLE.otherwise("a training uses one GPU of two, or none")
def gpus_as_asked(job: Observed) -> str:
    """NvidiaTeslaT4 is two T4s; without a shape there is no accelerator."""
    return accelerator_is(job, job.config.machine_shape, _GPUS)


@KAGGLE.otherwise("people who attach their key as a secret are not signed in")
def secrets_module(job: Observed) -> str:
    """The module kaggle_secrets is there."""
    there = job.note("modules")["kaggle_secrets"]
    return expect(there, f"there: {there}")


@KAGGLE.otherwise("each process waits ten seconds for clients that nobody asked for")
def storage_hook_passed(job: Observed) -> str:
    """The image's hook before google.cloud.storage can be passed by: it is there in 5 s."""
    took = job.note("storage_import_seconds")
    return expect(took is not None and took < 5, f"{took} s")


KAGGLE.otherwise("KaggleOps cannot be installed there")(python_new_enough)


KAGGLE.otherwise("trainings are cut off before they have sent their last checkpoint")(
    session_end_known
)


# Last, as nothing is there any more afterwards.
@KAGGLE.otherwise("notebooks of runs that are over stay for ever")
def notebook_deleted(job: Observed) -> str:
    """Deleting a notebook deletes it at once; once more is a 404, or a 403."""
    backend = _backend(job)
    done = [backend.remove(job.tags) for _ in range(2)]
    expect(done == [True, False], f"deleted: {done[0]}, then {done[1]}")
    left = backend._version(job.tags[NOTEBOOK])
    return expect(left == 0, f"deleted; then version {left or 'none'} is there")
