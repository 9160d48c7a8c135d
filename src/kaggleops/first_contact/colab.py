"""What tests/fakes/colab/account.py assumes of Colab and of its command line."""

from pathlib import Path

from kaggleops.backends.colab.backend import _cli
from kaggleops.backends.colab.cli import ColabCli
from kaggleops.backends.colab.job import JOB, Job
from kaggleops.first_contact.assumption import Assumptions, NotCheckedError, expect
from kaggleops.first_contact.job import Observed
from kaggleops.first_contact.seen import (
    accelerator_is,
    ended,
    has_folder,
    log_is_live,
    log_is_whole,
    python_new_enough,
    session_end_known,
    signs_in,
)
from kaggleops.tags import BACKEND

COLAB: Assumptions[Observed] = Assumptions()

_NOBODYS = "kaggleops-there-is-none"
_GPUS = {"T4": "Tesla T4", "L4": "NVIDIA L4", "": ""}


def _asked(job: Observed) -> ColabCli:
    return _cli(job.config, job.config.cli)


@COLAB.otherwise("a run that goes well is told as failed, or stays open for ever")
def job_finishes(job: Observed) -> str:
    """What the job prints as its last line arrives here, and its run is FINISHED."""
    return ended(job, "done")


@COLAB.otherwise("units are used up until somebody looks")
def runtime_released(job: Observed) -> str:
    """Stopping a session releases its runtime: the list lacks it afterwards."""
    listed = _asked(job).sessions()
    if listed is None:
        raise NotCheckedError("the command line does not list the sessions")
    # Not by its name: only the configuration that has made a session knows that.
    endpoint = Job(Path(job.tags[JOB].partition(":")[2])).progress.endpoint
    left = [each for each in listed if each.endpoint == endpoint]
    return expect(endpoint and not left, f"{len(listed)} sessions, {len(left)} of the job")


@COLAB.otherwise("no runtime can be told from another, and none is released")
def sessions_listed(job: Observed) -> str:
    """`sessions` ends with 0, and lists names, endpoints and hardware, or "No active sessions"."""
    listed = _asked(job).sessions()
    expect(listed is not None, "its output is not as it was")
    whole = all(each.name and each.endpoint and each.hardware for each in listed or ())
    return expect(whole, f"{len(listed or ())} sessions")


@COLAB.otherwise("a sweep waits for units that are there, or takes ones that are not")
def usage_told(job: Observed) -> str:
    """`usage` tells the balance and the rate of compute units."""
    units = _asked(job).usage()
    told = units is not None and units.left is not None
    return expect(told, f"{units}" if units else "no rate is told")


@COLAB.otherwise("a runtime that is gone is waited for")
def absent_session(job: Observed) -> str:
    """Stopping a session that is not there does nothing, and fails in no other way."""
    answer = _asked(job).ask("stop", "-s", _NOBODYS)
    return expect("Traceback" not in answer.output, f"exit code {answer.code}: {answer.last_line}")


COLAB.otherwise("`kaggleops logs -f` shows nothing until the job has ended")(log_is_live)
COLAB.otherwise("the log lacks the reason of a failure")(log_is_whole)


@COLAB.otherwise("runs do not say where they ran")
def platform_told(job: Observed) -> str:
    """A process there has COLAB_RELEASE_TAG or COLAB_JUPYTER_IP in its environment."""
    found = job.note("variables")
    good = {"COLAB_RELEASE_TAG", "COLAB_JUPYTER_IP"} & set(found)
    return expect(good and job.tags.get(BACKEND) == "colab", ", ".join(found) or "none")


@COLAB.otherwise("the runtime does not reach the bucket")
def key_uploaded(job: Observed) -> str:
    """A file that is uploaded to /content is found there: the notebook signs in with it."""
    return signs_in(job)


@COLAB.otherwise("what a run leaves lies elsewhere")
def content_folder(job: Observed) -> str:
    """/content is there, and can be written."""
    return has_folder(job, "/content")


@COLAB.otherwise("a training runs on another accelerator, and its units are counted wrongly")
def gpu_as_asked(job: Observed) -> str:
    """The runtime has the accelerator that was asked for."""
    return accelerator_is(job, job.config.accelerator, _GPUS)


COLAB.otherwise("KaggleOps cannot be installed there")(python_new_enough)
COLAB.otherwise("trainings are cut off before their last checkpoint is sent")(session_end_known)
