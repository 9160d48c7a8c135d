"""What tests/fakes/runpod_server.py assumes of RunPod's REST API, version 2."""

import re
from typing import Any, cast

from kaggleops.backends.runpod.backend import RunPodBackend
from kaggleops.backends.runpod.client import INVALID, RunPod, RunPodError
from kaggleops.backends.runpod.pod import POD
from kaggleops.first_contact.assumption import Assumptions, DiffersError, NotCheckedError, expect
from kaggleops.first_contact.job import Observed
from kaggleops.first_contact.seen import (
    ended,
    in_order,
    log_is_live,
    log_is_whole,
    python_new_enough,
    session_end_known,
    signs_in,
)
from kaggleops.tags import BACKEND, PRICE

RUNPOD: Assumptions[Observed] = Assumptions()

_NOBODYS = "there0is0none"


def _api(job: Observed) -> RunPod:
    return cast("RunPodBackend", job.backend)._runpod


def _refusal(job: Observed, method: str, path: str, body: Any = None) -> str:
    """Return the status and the words of a refusal; DiffersError if it is done."""
    try:
        _api(job)._ask("asking for what is to be refused", method, path, body=body)
    except RunPodError as error:
        return f"{error.status}: {error.problem}"
    raise DiffersError("it is done")


# -- the pod ---------------------------------------------------------------------------------------


@RUNPOD.otherwise("pods go on and are paid for, or runs that went well are told as failed")
def job_finishes(job: Observed) -> str:
    """A pod deletes itself with the key that RunPod gives it, and its run is FINISHED."""
    return ended(job, "TERMINATED")


@RUNPOD.otherwise("`status` does not know whether a pod waits, runs or has ended")
def states_known(job: Observed) -> str:
    """Its states are PROVISIONING, STARTING, RUNNING; short ones may be missed. Then it is gone."""
    return in_order(job, "PROVISIONING", "STARTING", "RUNNING", "TERMINATED")


@RUNPOD.otherwise("pods cannot be found again, and are paid for until their time is up")
def pod_told(job: Observed) -> str:
    """The answer to its creation tells the pod's id."""
    pod = job.tags.get(POD, "")
    return expect(re.fullmatch(r"[A-Za-z0-9_-]+", pod), "an id is told" if pod else "no id is told")


@RUNPOD.otherwise("a budget is kept with the catalogue's price, which may not be the real one")
def price_told(job: Observed) -> str:
    """That answer tells what the pod costs in an hour."""
    price = float(job.tags.get(PRICE) or 0)
    return expect(price > 0, f"${price:.2f} an hour")


@RUNPOD.otherwise("a pod that is over is looked for, for ever, or deleted twice as a failure")
def pod_gone(job: Observed) -> str:
    """A pod that was deleted is a 404, and in no list."""
    there = _api(job).pod(job.tags[POD])
    listed = [pod.id for pod in _api(job).pods() if pod.id == job.tags[POD]]
    seen = f"asked for it: {there.status if there else 'gone'}, listed: {len(listed)} times"
    return expect(there in (None,) and not listed, seen)


@RUNPOD.otherwise("a pod that is not there is taken for a fault")
def absent_pod(job: Observed) -> str:
    """A pod that never was is a 404, with a problem document."""
    there = _api(job).pod(_NOBODYS)
    return expect(there is None, "404" if there is None else f"{there.status}")


@RUNPOD.otherwise("a field that is misspelt is ignored, and the pod is not what was asked for")
def unknown_field_refused(job: Observed) -> str:
    """A body with a field that RunPod does not know is a 422; nothing is made."""
    said = _refusal(job, "POST", "/v2/pods", {"there_is_no_such_field": 1})
    return expect(said.startswith(str(INVALID)), said)


# -- the catalogue and the account -----------------------------------------------------------------


@RUNPOD.otherwise("no GPU is found, or one that is not to be had")
def catalogue_told(job: Observed) -> str:
    """The catalogue tells each GPU's id, price, memory, and how many are free, in known words."""
    gpus = _api(job).gpus("SECURE", 1, "")
    priced = [gpu for gpu in gpus if gpu.price.get("secure")]
    words = sorted({gpu.stock for gpu in gpus if gpu.stock})
    seen = f"{len(gpus)} GPUs, {len(priced)} with a price; stock: {', '.join(words) or 'none'}"
    return expect(priced and set(words) <= {"HIGH", "MEDIUM", "LOW", "NONE"}, seen)


@RUNPOD.otherwise("a volume is made for each run, and paid for")
def volumes_listed(job: Observed) -> str:
    """The network volumes come in `networkVolumes`, with their data centers."""
    found = _api(job)._ask("listing", "GET", "/v2/network-volumes")["networkVolumes"]
    good = all({"id", "name", "dataCenter", "size"} <= each.keys() for each in found)
    return expect(good, f"{len(found)} volumes")


@RUNPOD.otherwise("a key that was revoked is told in other words")
def wrong_key_refused(job: Observed) -> str:
    """A request with a wrong key is a 401."""
    import requests

    answer = requests.get(
        f"{_api(job)._url}/v2/pods", headers={"Authorization": "Bearer wrong"}, timeout=30
    )
    if answer.status_code == 401:
        return "401"
    # A page is of whoever stands between.
    if answer.status_code >= 500 or "html" in answer.headers.get("Content-Type", ""):
        raise NotCheckedError(f"it answers {answer.status_code}")
    raise DiffersError(f"{answer.status_code}")


# -- what it prints, and what its machine is like -------------------------------------------------

RUNPOD.otherwise("`kaggleops logs -f` shows nothing until the pod is gone")(log_is_live)
RUNPOD.otherwise("the log lacks the reason of a failure")(log_is_whole)


@RUNPOD.otherwise("runs do not say where they ran, and do not find their key")
def variables_given(job: Observed) -> str:
    """RunPod puts RUNPOD_POD_ID and RUNPOD_DC_ID into the environment."""
    found = job.note("variables")
    good = {"RUNPOD_POD_ID", "RUNPOD_DC_ID"} <= set(found) and job.tags.get(BACKEND) == "runpod"
    return expect(good, ", ".join(found) or "none")


@RUNPOD.otherwise("the pod does not reach the bucket")
def secret_resolved(job: Observed) -> str:
    """`{{ RUNPOD_SECRET_… }}` in a variable becomes the secret: the pod signs in with it."""
    return signs_in(job, "the RunPod secret")


@RUNPOD.otherwise("a training runs on another GPU, or on none")
def gpu_as_asked(job: Observed) -> str:
    """The machine has as many GPUs as were asked for."""
    found, asked = job.note("accelerator"), job.config.gpu_count
    many = re.match(r"(\d+)x ", found)
    count = int(many[1]) if many else int(bool(found))
    return expect(count == asked, f"{found or 'none'} for {asked} of {', '.join(job.config.gpus)}")


RUNPOD.otherwise("the pod deletes itself without having run anything")(python_new_enough)
RUNPOD.otherwise("trainings are cut off before their last checkpoint is sent")(session_end_known)
