"""RunPod, as a backend.

A run's pod is called after the run, so whoever submits it again finds it there. A pod is paid for
until it is deleted, so each one deletes itself (infra/runpod/start.py says how), and `reap` deletes
what was not able to.
"""

import functools
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from kaggleops.backends import interface, job_log
from kaggleops.backends.answers import number
from kaggleops.backends.base import Backend
from kaggleops.backends.interface import (
    BUCKET,
    UNKNOWN,
    Finding,
    JobState,
    Machines,
    Price,
    Reaped,
    RefusedError,
    Verdict,
    is_ended,
    unsent,
)
from kaggleops.backends.runpod.client import (
    BUSY,
    INVALID,
    LATE,
    LONGEST_HOURS,
    NO_MONEY,
    PREFIX,
    Pod,
    RunPod,
    RunPodError,
)
from kaggleops.backends.runpod.pod import (
    NAME,
    POD,
    Offer,
    RunPodConfig,
    Volumes,
    offers,
    pod_body,
    set_up_script,
)
from kaggleops.bucket import open_bucket
from kaggleops.bucket.location import bucket_uri
from kaggleops.errors import KaggleOpsError, UsageError, explained
from kaggleops.platforms.http import READ, NoAnswerError, NotThereError
from kaggleops.printable import counted
from kaggleops.tags import KEPT_UNTIL, PRICE

_log = logging.getLogger("kaggleops")

# A pod that does its job is deleted when it has: one that was stopped has not.
_STATUSES = {
    **dict.fromkeys(("PROVISIONING", "STARTING"), "SCHEDULED"),
    "RUNNING": "RUNNING",
    **dict.fromkeys(("EXITED", "ERROR", "TERMINATED"), "FAILED"),
}
BEGINS_WITHIN = 3600.0
"""Seconds from a pod's creation by which its job has begun, however large its image: it is pulled
in minutes, and packages are installed in minutes more."""

_KEY = "is its key in a secret of RunPod's? `kaggleops credentials create runpod` makes one"
_UNHEARD = f"the bucket has heard nothing of it: {_KEY}"

_SILENCE = 3.0  # seconds without a line after which a live log has said all that it has
_PATIENCE = 30.0  # seconds that somebody waits for the bucket


class RunPodBackend(Backend[RunPodConfig]):
    """Runs commits on RunPod, on the account whose API key this machine has."""

    name = "runpod"
    waiting = "waiting for a pod on RunPod"
    config_type = RunPodConfig
    _announced: Offer | None = None

    @functools.cached_property
    def _runpod(self) -> RunPod:
        return RunPod()

    def check(self, tracking_uri: str, config: RunPodConfig) -> None:
        doing = "submitting to RunPod"
        self._require_cloud(doing, tracking_uri)
        set_up_script(config, doing)
        self._offers(config)
        if config.ssh and not self._runpod.ssh_keys():
            problem = "there is no public SSH key on your account, so nobody could look in"
            hint = "Add one (https://console.runpod.io/user/settings), or leave out --keep, 22/tcp."
            raise UsageError(doing, problem, hint)

    def announce(self, config: RunPodConfig) -> str:
        offer = self._announced = self._offers(config)[0]
        kept = ", kept until then" if config.keep else ""
        volume = Volumes(self._runpod, config).bill(offer.data_center)
        return (
            f"{offer}, ${offer.price:.2f} an hour: at most ${offer.most(config.hours):.2f} in "
            f"{config.hours:g} h and {LATE / 60:.0f} min to end{kept}"
        ) + (volume and f"; {volume} until you delete it")

    def _offers(self, config: RunPodConfig) -> list[Offer]:
        """Return what can be had within the budget; RefusedError for nothing."""
        doing = "looking for a GPU on RunPod"
        there = Volumes(self._runpod, config).data_centers
        catalogue = self._runpod.gpus(config.cloud, config.gpu_count, config.min_cuda)
        found = offers(catalogue, config, there)
        if not found:
            where = f" where the volume {config.volume} is ({', '.join(there)})" if there else ""
            problem = f"none of {', '.join(config.gpus)} is free{where}"
            hint = "`kaggleops quota -b runpod` shows what is; name it in `gpus`."
            raise RefusedError(doing, problem, hint)
        affordable = [each for each in found if _within(config, each)]
        if config.budget is not None and not affordable:
            least = min(found, key=lambda offer: offer.price)
            problem = (
                f"{config.hours:g} h of {least.gpu} and {LATE / 60:.0f} min to end "
                f"cost up to ${least.most(config.hours):.2f}, "
                f"more than the budget of ${config.budget:.2f}"
            )
            enough = least.longest(config.budget)
            hint = f"It is enough for hours: {enough:g}." if enough else "It is enough for none."
            raise RefusedError(doing, problem, hint)
        return affordable

    def offers(
        self, tracking_uri: str, config: RunPodConfig, running: int
    ) -> list[interface.Offer]:
        """Return one offer for each kind of GPU that is free, at the price of its hours."""
        self._require_cloud("looking for a GPU on RunPod", tracking_uri)
        found: dict[str, interface.Offer] = {}
        for each in self._offers(replace(config, budget=None)):
            limit = math.inf if config.budget is None else each.longest(config.budget)
            # What is said to cost nothing must not be taken for free.
            if each.price > 0 and limit and each.gpu not in found:
                found[each.gpu] = interface.Offer(
                    self.name,
                    max(0, config.sessions - running),
                    each.price,
                    session_hours=min(config.hours, limit),
                    ending_hours=LATE / 3600,
                    accelerator=each.gpu,
                    memory_gb=each.memory_gb,
                    pool="pods",
                )
        return list(found.values())

    def for_session(
        self, config: RunPodConfig, offer: interface.Offer, hours: float | None, dollars: float
    ) -> RunPodConfig:
        lasts = config.hours if hours is None else min(config.hours, hours)
        # By as much as the last digit of a product may be wrong.
        budget = min(dollars * (1 + 1e-9), config.budget or math.inf)
        return replace(config, gpus=[offer.accelerator], hours=lasts, budget=budget)

    def place(self, run_id: str, config: RunPodConfig) -> dict[str, str]:
        return {NAME: f"{PREFIX}{run_id}", POD: ""}

    def send(
        self, tags: Mapping[str, str], notebook: str, config: RunPodConfig
    ) -> Mapping[str, str]:
        """Create the pod, unless there is one; return its id, price, and how long it is kept."""
        there = self._named(tags[NAME])
        for each in there:
            if each.ended and each.id:  # this is another attempt
                self._runpod.delete_pod(each.id)
            elif _waits(each) and not _within(config, Offer("", "", each.cost or 0.0)):
                self._delete_too_dear(each)  # as was tried when it was made
                there = [pod for pod in there if pod is not each]
        alive = [each for each in there if not each.ended]
        pod = alive[0] if alive else self._created(tags[NAME], notebook, config)
        known = {POD: pod.id}
        if pod.cost is not None:
            known[PRICE] = f"{pod.cost:g}"
        # Of one whose job is not told, what it is to be told now.
        keep = pod.job.keep if pod.job else config.keep
        until = pod.job.deadline if pod.job else time.time() + config.hours * 3600
        return known | {KEPT_UNTIL: f"{until:.0f}" if keep else ""}

    def _created(self, name: str, notebook: str, config: RunPodConfig) -> Pod:
        """Create a pod of the first offer that RunPod keeps; RefusedError if it keeps none."""
        volumes = Volumes(self._runpod, config)
        said = ""
        there = self._offers(config)
        wanted = self._announced or there[0]
        for offer in there:
            try:
                volume = volumes.take(offer.data_center)
                now = time.time()
                body = pod_body(name.removeprefix(PREFIX), notebook, config, offer, volume, now)
                pod = self._create(name, body)
            except (RunPodError, NotThereError) as error:
                status = error.status if isinstance(error, RunPodError) else 0
                if status == BUSY:
                    raise
                volumes.give_back()
                if status in (NO_MONEY, INVALID):
                    raise RefusedError(error.doing, error.problem, error.hint) from error
                said = f"{offer}: {error.problem}"
                continue
            if pod.cost is None:
                pod = replace(pod, cost=offer.price)
            offer = replace(offer, price=pod.cost or 0.0)
            if _within(config, offer):
                if offer.gpu != wanted.gpu or offer.price > wanted.price:
                    _log.warning(
                        "RunPod gives %s, $%.2f an hour: at most $%.2f (%s would have been $%.2f).",
                        *(offer, offer.price, offer.most(config.hours)),
                        *(wanted.gpu, wanted.most(config.hours)),
                    )
                return pod
            self._delete_too_dear(pod)
            volumes.give_back()
            said = f"{offer}: it costs ${offer.price:.2f} an hour, more than the budget allows"
        hint = "`kaggleops quota -b runpod` shows what is free."
        raise RefusedError(f"creating the pod {name}", f"RunPod has no machine ({said})", hint)

    def _delete_too_dear(self, pod: Pod) -> None:
        try:
            self._runpod.delete_pod(pod.id)
        except KaggleOpsError as error:
            problem = (
                f"it costs ${pod.cost or 0.0:.2f} an hour, more than the budget allows, "
                f"and is still there ({error.problem})"
            )
            hint = f"To end it: kaggleops cancel {pod.run_id}, and kaggleops reap -b runpod."
            raise type(error)(f"deleting pod {pod.id}", problem, hint) from error

    def _create(self, name: str, body: Mapping[str, Any]) -> Pod:
        try:
            return self._runpod.create_pod(body)
        except NoAnswerError:
            # It may have arrived all the same.
            if found := self._named(name):
                return found[0]
            raise

    def _named(self, name: str) -> list[Pod]:
        run_id = name.removeprefix(PREFIX)
        return [pod for pod in self._runpod.pods() if pod.run_id == run_id]

    def remove(self, tags: Mapping[str, str]) -> bool:
        """Delete the pod; its log is in the bucket."""
        ids = [tags[POD]] if tags.get(POD) else [pod.id for pod in self._named(tags[NAME])]
        deleted = [self._runpod.delete_pod(each) for each in ids if each]
        return any(deleted)

    def _pod(self, tags: Mapping[str, str]) -> Pod | None:
        """Return the pod of a run, None if it is gone or was never there."""
        if tags.get(POD):
            return self._runpod.pod(tags[POD])
        return next(iter(self._named(tags[NAME])), None)

    def state(self, tags: Mapping[str, str]) -> JobState:
        pod = self._pod(tags)
        if pod is None:
            if tags.get(POD):
                return JobState("FAILED", "TERMINATED", unless_begun=_UNHEARD)
            # It may be on its way: somebody is creating it, or has to do it again.
            again = unsent(tags[NAME].removeprefix(PREFIX))
            return JobState("SCHEDULED", "no pod yet", unless_begun=again)
        age = time.time() - pod.created if pod.created is not None else 0.0
        late = age > BEGINS_WITHIN and not pod.ended
        return JobState(
            _STATUSES.get(pod.status, UNKNOWN),
            pod.status or "no status",
            price=pod.cost,
            access=pod.access,
            unless_begun="it should have begun: `kaggleops reap -b runpod`" if late else "",
        )

    def page(self, tags: Mapping[str, str]) -> str:
        return f"https://console.runpod.io/pods?id={tags[POD]}" if tags.get(POD) else ""

    def logs(self, tags: Mapping[str, str], follow: bool) -> Iterator[str]:
        lines = job_log.Once()
        if (pod := self._pod(tags)) and (pod_id := pod.id):
            events, last = job_log.Once(), pod.created_at

            def opened() -> Iterator[str]:
                nonlocal last
                log = self._runpod.log(pod_id, last, READ if follow else _SILENCE)
                for event_id, line in events.new(log):
                    last = event_id
                    yield line

            def over() -> bool:
                now = self._runpod.pod(pod_id)
                return now is None or now.ended

            live = job_log.follow(opened, over) if follow else job_log.until_silent(opened)
            yield from lines.new(live)
            if self._runpod.pod(pod_id):
                return
        # A pod that is deleted takes its log along, so it puts it into the bucket before.
        run_id = tags[NAME].removeprefix(PREFIX)
        kept = job_log.kept(open_bucket(tags[BUCKET], patience=_PATIENCE), run_id)
        if kept is None:
            problem = "there is no pod, and none left its log in the bucket"
            hint = f"One that cannot reach the bucket leaves none: {_KEY}."
            raise NotThereError(f"reading the log of run {run_id}", problem, hint)
        yield from lines.new(kept) if pod else kept

    # What is no artifact, a pod leaves on its volume: there is nothing to download.

    def examine(self, config: RunPodConfig) -> Iterator[Finding]:
        try:
            client = self._runpod
        except UsageError as error:
            yield self._not_set_up(error)
            return
        pods = len(client.pods())
        # Each costs money for as long as it is there.
        verdict: Verdict = "warning" if pods else "ok"
        are = f"{counted(pods, 'pod')} {'is' if pods == 1 else 'are'} there"
        yield self._found(verdict, f"the API key is good; {are}", "kaggleops reap")

    def prices(self) -> list[Price]:
        catalogue = self._runpod.gpus("SECURE", 1, "")
        found = [
            Price(self.name, gpu.id, gpu.price["secure"], gpu.stock.lower())
            for gpu in catalogue
            if "secure" in gpu.price and gpu.most.get("secure", 1)
        ]
        return sorted(found, key=lambda price: price.per_hour)

    def machines(self) -> Machines | None:
        # One whose cost is not told counts, too.
        costs = [
            pod.cost or 0.0
            for pod in self._runpod.pods()
            if pod.run_id and (pod.cost or (pod.cost is None and not pod.ended))
        ]
        return Machines(self.name, len(costs), sum(costs)) if costs else None

    def reap(self, tracking_uri: str, *, delete: bool) -> list[Reaped]:
        """Delete the pods whose run or time is over: those that could not do it themselves.

        Any machine may do it, again and again; pods of other buckets are over when their time is.
        """
        found = []
        for pod in self._runpod.pods():
            if not (pod.run_id or (not pod.id and not pod.name)):
                continue
            problem = ""
            try:
                if not pod.id:
                    raise KaggleOpsError("reaping", "RunPod lists a pod without an id")
                why = _why_over(pod, tracking_uri, time.time())
                if why and delete:
                    self._runpod.delete_pod(pod.id)
            except KaggleOpsError as error:
                why, problem = "unknown", str(error)
            if why:
                run_id, cost = pod.run_id or "unknown", pod.cost or 0.0
                found.append(Reaped(self.name, pod.id or "unknown", run_id, why, cost, problem))
        return found


def _within(config: RunPodConfig, offer: Offer) -> bool:
    return config.budget is None or offer.most(config.hours) <= config.budget


def _waits(pod: Pod) -> bool:
    return _STATUSES.get(pod.status) == "SCHEDULED"


def _why_over(pod: Pod, tracking_uri: str, now: float) -> str:
    """Return why nothing will come of a pod any more, "" if something may."""
    job = pod.job
    # What a job that is not told was given is a week at the most.
    week = None if pod.created is None else pod.created + LONGEST_HOURS * 3600
    deadline = job.deadline if job else week
    if deadline is not None and now > deadline + LATE:
        return "its time is up"
    if job and job.bucket != bucket_uri(tracking_uri):
        return ""
    try:
        run = mlflow.MlflowClient(tracking_uri).get_run(pod.run_id)
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            # Where its bucket is not told, it may be in another.
            return "its run is not in the bucket" if job else ""
        doing = f"looking for run {pod.run_id}"
        raise explained(error) or KaggleOpsError(doing, error.message) from error
    status = run.info.status
    kept_until = number(run.data.tags, KEPT_UNTIL) or 0.0
    if job:
        kept_until = job.deadline if job.keep else 0.0
    if is_ended(status) and now >= kept_until:
        return f"its run is {status}"
    # Its image may be one that cannot be pulled or started: RunPod tries for ever, and bills it.
    if status == "SCHEDULED" and pod.created is not None and now - pod.created > BEGINS_WITHIN:
        return f"it did not begin within {BEGINS_WITHIN / 60:.0f} minutes"
    return ""
