"""What the fakes of platforms that run jobs assume of the real ones.

Each check looks at one job (job.py), and at what its platform then answers about it.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from kaggleops.backends.colab.backend import _cli
from kaggleops.backends.colab.supervisor import JOB, Job
from kaggleops.backends.docker import CONTAINER
from kaggleops.backends.kaggle.backend import NOTEBOOK
from kaggleops.backends.runpod.client import INVALID, RunPodError
from kaggleops.backends.runpod.pod import POD
from kaggleops.first_contact.assumption import DiffersError, NotCheckedError, expect
from kaggleops.first_contact.job import BEGINS, ENDS, HOURS, OUTPUT, Observed
from kaggleops.platforms.kaggle import DATASET
from kaggleops.tags import BACKEND, PRICE

_NOBODYS = "kaggleops-there-is-none-of-this-name"
_COMES = {"NvidiaTeslaT4": "2x Tesla T4", "T4": "Tesla T4", "L4": "NVIDIA L4", "": ""}
"""What comes for an accelerator that was asked for."""


class OnPlatform:
    """What is assumed of every platform, with each one's own words for it."""

    backend: str  # what a run records of where it was
    states: tuple[str, ...]  # in their order; the last is that of a job that went well
    variables: tuple[str, ...] = ()  # in each process's environment, one of them at least
    ways: tuple[str, ...] = ("",)  # how the notebook says that it signed in
    folder = "/kaggle/working"  # where files may be left

    def __init__(self, job: Observed) -> None:
        self.job = job
        self.on: Any = job.backend

    def _finished(self, holds: object, seen: str) -> str:
        """Return what was seen if it is as assumed; a job that broke off disproves nothing."""
        if not holds and self.job.status != "FINISHED":
            raise NotCheckedError(f"{seen}; the run is {self.job.status}")
        return expect(holds, seen)

    def job_finishes(self) -> str:
        job, said = self.job, self.job.last and self.job.last.said
        good = said == self.states[-1] and job.status == "FINISHED"
        seen = f"the platform says {said}, the run is {job.status}"
        return expect(good, "; ".join([seen, *(() if good else job.problems)]))

    def states_known(self) -> str:
        order = self.states
        places = [order.index(each) if each in order else -1 for each in self.job.said]
        known = -1 not in places and places == sorted(places)
        return self._finished(known, ", ".join(self.job.said) or "none")

    def log_is_live(self) -> str:
        came = any(BEGINS in line for line in self.job.live)
        return self._finished(came, f"{len(self.job.live)} lines came before it ended")

    def log_is_whole(self) -> str:
        lines, texts = self.job.lines, (BEGINS, "a line of errors", ENDS)
        counts = [sum(text in line for line in lines) for text in texts]
        seen = f"begin, errors, end: {counts}, of {len(lines)} lines"
        return self._finished(counts == [1, 1, 1], seen)

    def platform_told(self) -> str:
        found, where = self.job.note("variables"), self.job.tags.get(BACKEND)
        told = not self.variables or set(self.variables) & set(found)
        seen = f"{', '.join(found) or 'no variables'}; it records {where}"
        return expect(told and where == self.backend, seen)

    def signed_in(self) -> str:
        lines = [line for line in self.job.lines if "Sign-in  " in line]
        said = "; ".join(line.partition("Sign-in")[2].strip() for line in lines)
        if not said and (self.job.status == "KILLED" or not self.job.lines):
            raise NotCheckedError(f"it did not get so far; the run is {self.job.status}")
        return expect(said and said.startswith(self.ways), said or "it does not sign in")

    def output_kept(self) -> str:
        found, may = self.job.note("folder"), self.job.note("folder_writable")
        return expect(found.endswith(self.folder) and may, f"{found}, writable: {may}")

    def output_comes(self) -> str:
        files = self.job.files
        right = files.get(OUTPUT) == b"left by the job\n"
        return self._finished(right, ", ".join(files) or "nothing came")

    def gpus_as_asked(self) -> str:
        found, config = self.job.note("accelerator"), self.job.config
        asked = config.machine_shape if self.backend == "kaggle" else config.accelerator
        if asked not in _COMES:
            raise NotCheckedError(f"nothing is assumed of {asked}: it is {found or 'none'}")
        return expect(found == _COMES[asked], f"{found or 'none'} for {asked or 'none'}")

    def python_new_enough(self) -> str:
        python, there = self.job.note("python"), self.job.note("modules")["papermill"]
        new = tuple(map(int, python.split(".")[:2])) >= (3, 11)
        return expect(new and there, f"Python {python}, papermill: {there}")

    def session_end_known(self) -> str:
        left = self.job.note("seconds_left")
        seen = "nothing is known" if left is None else f"{left / 60:.0f} min left"
        return expect(left is not None and 0 < left <= HOURS * 3600, seen)

    def job_deleted(self) -> str:
        done = [self.on.remove(self.job.tags) for _ in range(2)]
        return expect(done == [True, False], f"deleted: {done[0]}, then {done[1]}")


class Kaggle(OnPlatform):
    """Kaggle's notebooks, quotas and datasets."""

    backend = "kaggle"
    states = ("NEW_SCRIPT", "QUEUED", "RUNNING", "COMPLETE")
    variables = ("KAGGLE_KERNEL_RUN_TYPE",)
    ways = ("the credentials dataset", "the Kaggle secret", "Kaggle's")

    def _ask(self, method: str, token: str | None = None) -> Any:
        """Return Kaggle's answer about the job's notebook."""
        return self.on._ask(f"asking Kaggle ({method})", method, self.job.tags[NOTEBOOK], token)

    def _tells(self, name: str, wanted: object) -> str:
        told = getattr(self._ask("get_kernel").metadata, name)
        return expect((told or "") == wanted, f"{name}: {told}")

    def version_told(self) -> str:
        return self._tells("current_version_number", 1)

    def notebook_private(self) -> str:
        return self._tells("is_private", True)

    def internet_on(self) -> str:
        if not self.job.config.internet:
            raise NotCheckedError("config/backend/kaggle.yaml switches it off")
        return self._tells("enable_internet", True)

    def shape_given(self) -> str:
        return self._tells("machine_shape", self.job.config.machine_shape)

    def absent_notebook(self) -> str:
        version = self.on.latest(f"{self.on._client.user}/{_NOBODYS}")[0]
        return expect(version == 0, f"version {version}")

    def kept_log_is_json(self) -> str:
        entries = json.loads(self._ask("list_kernel_session_output", "").log or "[]")
        keys = sorted({key for entry in entries for key in entry})
        seen = f"{len(entries)} entries of {', '.join(keys)}"
        return self._finished(keys == ["data", "stream_name", "time"], seen)

    def output_sizes(self) -> str:
        page = self._ask("list_kernel_files", "")
        size = {each.name: each.size for each in page.files or ()}.get(OUTPUT)
        if OUTPUT not in self.job.files:
            raise NotCheckedError("the file did not come")
        return expect(size == len(self.job.files[OUTPUT]), f"{size} bytes")

    def quota_told(self) -> str:
        told = self.on.quota()
        seen = "; ".join(f"{q.resource} {q.used_hours:.1f} of {q.total_hours:.0f} h" for q in told)
        good = [each.resource for each in told] == ["GPU", "TPU"] and all(q.refreshes for q in told)
        return expect(good, seen or "nothing")

    def dataset_found(self) -> str:
        client, named = self.on._client, self.job.config.credentials
        if named and not named.startswith(f"{client.user}/"):
            raise NotCheckedError("the key's dataset is somebody else's")
        slug = named.partition("/")[2] or DATASET
        there, absent = (client.has_dataset("looking", each) for each in (slug, _NOBODYS))
        return expect(there and not absent, f"found: {there}, and one that is not there {absent}")

    def key_mounted(self) -> str:
        there = self.job.note("inputs")
        keys = [each for each in there if each.endswith("kaggleops-key.json")]
        good = r"(datasets/[\w-]+/)?[\w-]+/kaggleops-key\.json"
        seen = ", ".join(keys) or f"there are {', '.join(there) or 'no mounts'}"
        return expect(any(re.fullmatch(good, each) for each in keys), seen)

    def secrets_module(self) -> str:
        there = self.job.note("modules")["kaggle_secrets"]
        return expect(there, f"there: {there}")

    def storage_hook_passed(self) -> str:
        took = self.job.note("storage_import_seconds")
        return expect(took is not None and took < 5, f"{took} s")


class Colab(OnPlatform):
    """Colab's runtimes, by its command line."""

    backend = "colab"
    states = ("done",)
    variables = ("COLAB_RELEASE_TAG", "COLAB_JUPYTER_IP")
    folder = "/content"

    def __init__(self, job: Observed) -> None:
        super().__init__(job)
        self._cli = _cli(job.config, job.config.cli)

    def runtime_released(self) -> str:
        if (listed := self._cli.sessions()) is None:
            raise NotCheckedError("the command line does not list the sessions")
        # Not by its name: only the configuration that has made a session knows that.
        endpoint = Job(Path(self.job.tags[JOB].partition(":")[2])).progress.endpoint
        left = [each for each in listed if each.endpoint == endpoint]
        return expect(endpoint and not left, f"{len(listed)} sessions, {len(left)} of the job")

    def sessions_listed(self) -> str:
        if (listed := self._cli.sessions()) is None:
            raise DiffersError("its output is not as it was")
        whole = all(each.name and each.endpoint and each.hardware for each in listed)
        return expect(whole, f"{len(listed)} sessions")

    def usage_told(self) -> str:
        units = self._cli.usage()
        told = units is not None and units.left is not None
        return expect(told, f"{units}" if units else "no rate is told")

    def absent_session(self) -> str:
        answer = self._cli.ask("stop", "-s", _NOBODYS)
        seen = f"exit code {answer.code}: {answer.last_line}"
        return expect("Traceback" not in answer.output, seen)


class Docker(OnPlatform):
    """A container engine."""

    backend = "kaggle-image"
    states = ("created", "running", "exited")

    def _answers(self, call: Callable[..., Any], *what: Any, **how: Any) -> tuple[int, str]:
        """Return the status and the words of a refusal; 200 for none."""
        from docker.errors import APIError

        try:
            made = call(*what, **how)
        except APIError as error:
            return int(error.status_code), f"{error.status_code}: {error.explanation}"
        if hasattr(made, "remove") and how:  # a container, which is not to be there
            made.remove(v=True, force=True)
        return 200, "it is done"

    def _created(self, name: str, **how: Any) -> tuple[int, str]:
        create, image = self.on._engine.containers.create, self.job.config.image_name
        return self._answers(create, image, ["true"], name=name, working_dir=self.folder, **how)

    def exit_code_told(self) -> str:
        state = self.on._engine.containers.get(self.job.tags[CONTAINER]).attrs["State"]
        code, full = state.get("ExitCode"), state.get("OOMKilled")
        return expect((code, full) == (0, False), f"ExitCode {code}, OOMKilled {full}")

    def engine_told(self) -> str:
        info = self.on._engine.info()
        named = [name for name in ("ID", "MemTotal") if info.get(name)]
        return expect(named == ["ID", "MemTotal"], f"it tells {', '.join(named) or 'neither'}")

    def absent_refused(self) -> str:
        kinds = (self.on._engine.containers, self.on._engine.images)
        statuses = [self._answers(kind.get, _NOBODYS)[0] for kind in kinds]
        return expect(statuses == [404, 404], f"{statuses}")

    def name_is_unique(self) -> str:
        status, said = self._created(self.job.tags[CONTAINER], mounts=[])
        return expect(status == 409, said)

    def missing_mount_refused(self) -> str:
        from docker.types import Mount

        mount = Mount("/kaggle/input", f"/{_NOBODYS}", type="bind")
        status, said = self._created(_NOBODYS, mounts=[mount])
        return expect(status == 400 and "does not exist" in said, said)

    def gpus_as_asked(self) -> str:
        found, asked = self.job.note("accelerator"), self.job.config.gpus
        return expect(bool(found) == bool(asked), f"{found or 'none'} for {asked or 'none'}")


class RunPod(OnPlatform):
    """RunPod's pods, by its REST API, version 2."""

    backend = "runpod"
    states = ("PROVISIONING", "STARTING", "RUNNING", "TERMINATED")
    ways = ("the RunPod secret",)

    def __init__(self, job: Observed) -> None:
        super().__init__(job)
        self._api, self._pod = self.on._runpod, job.tags.get(POD, "")

    def platform_told(self) -> str:
        both = {"RUNPOD_POD_ID", "RUNPOD_DC_ID"} <= set(self.job.note("variables"))
        return expect(both, super().platform_told())

    def pod_told(self) -> str:
        good = re.fullmatch(r"[A-Za-z0-9_-]+", self._pod)
        return expect(good, "an id is told" if self._pod else "no id is told")

    def price_told(self) -> str:
        price = float(self.job.tags.get(PRICE) or 0)
        return expect(price > 0, f"${price:.2f} an hour")

    def pod_gone(self) -> str:
        there = self._api.pod(self._pod)
        listed = [pod.id for pod in self._api.pods() if pod.id == self._pod]
        seen = f"asked for it: {there.status if there else 'gone'}, listed: {len(listed)} times"
        return expect(there is None and not listed, seen)

    def absent_pod(self) -> str:
        there = self._api.pod("there0is0none")
        return expect(there is None, "404" if there is None else f"{there.status}")

    def unknown_field_refused(self) -> str:
        doing, body = "asking for what is to be refused", {"there_is_no_such_field": 1}
        try:
            self._api._ask(doing, "POST", "/v2/pods", body=body)
        except RunPodError as error:
            return expect(error.status == INVALID, f"{error.status}: {error.problem}")
        raise DiffersError("it is done")

    def catalogue_told(self) -> str:
        gpus = self._api.gpus("SECURE", 1, "")
        priced = [gpu for gpu in gpus if gpu.price.get("secure")]
        words = sorted({gpu.stock for gpu in gpus if gpu.stock})
        seen = f"{len(gpus)} GPUs, {len(priced)} with a price; stock: {', '.join(words) or 'none'}"
        return expect(priced and set(words) <= {"HIGH", "MEDIUM", "LOW", "NONE"}, seen)

    def volumes_listed(self) -> str:
        found = self._api._ask("listing", "GET", "/v2/network-volumes")["networkVolumes"]
        good = all({"id", "name", "dataCenter", "size"} <= each.keys() for each in found)
        return expect(good, f"{len(found)} volumes")

    def wrong_key_refused(self) -> str:
        headers = {"Authorization": "Bearer wrong"}
        answer = requests.get(f"{self._api._url}/v2/pods", headers=headers, timeout=30)
        # A page is of whoever stands between.
        if answer.status_code >= 500 or "html" in answer.headers.get("Content-Type", ""):
            raise NotCheckedError(f"it answers {answer.status_code}")
        return expect(answer.status_code == 401, f"{answer.status_code}")

    def gpus_as_asked(self) -> str:
        found, asked = self.job.note("accelerator"), self.job.config.gpu_count
        many = re.match(r"(\d+)x ", found)
        count = int(many[1]) if many else int(bool(found))
        return expect(count == asked, f"{found or 'none'} for {asked}")


CHECKS = {"kaggle": Kaggle, "colab": Colab, "docker": Docker, "runpod": RunPod}
"""What checks what a job was seen to do, by its backend."""
