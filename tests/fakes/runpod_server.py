"""A RunPod of our own on a loopback port: its REST API, version 2, as far as anybody here asks it.

Strict: a body that RunPod's OpenAPI document does not allow is a 422, where that document is at
hand, and what the fake itself answers must agree with it too. What a pod is to run is truly run, in
a folder shaped like its container, and started again when it exits.

    with RunPodServer(tmp_path) as server:
        environ = server.environment()  # of somebody with an API key
"""

import itertools
import re
import secrets
import site
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests import secrets_of
from tests.fakes.faults import Fault, Faults
from tests.fakes.runpod.catalogue import STOCK, described
from tests.fakes.runpod.messages import ApiError, json_response, parsed, problem, shown, stream
from tests.fakes.runpod.pod import Pod
from tests.fakes.wire import Delivery, HttpServer, Request, Response

_KEY = secrets_of.RUNPOD_KEY
_OPS = {
    ("GET", "/v2/catalog/gpus"): "listGpuTypes",
    ("GET", "/v2/account/ssh-keys"): "getSshKeys",
    ("GET", "/v2/pods"): "listPods",
    ("POST", "/v2/pods"): "createPod",
    ("GET", "/v2/pods/ID"): "getPod",
    ("DELETE", "/v2/pods/ID"): "deletePod",
    ("GET", "/v2/pods/ID/logs"): "getPodLogs",
    ("GET", "/v2/network-volumes"): "listNetworkVolumes",
    ("POST", "/v2/network-volumes"): "createNetworkVolume",
    ("DELETE", "/v2/network-volumes/ID"): "deleteNetworkVolume",
}
_ID = re.compile(r"(?<=/)((?:pod|vol)[0-9a-f]+)")
_QUERIES = {
    "listGpuTypes": {"include", "product", "count", "cloud", "minCudaVersion"},
    "getPodLogs": {"source", "tail", "since"},
}
_OF_A_POD = ("getPod", "deletePod")  # what a pod's own key may do, with itself
_MOST_VARIABLES = 50


@dataclass(frozen=True)
class Logged:
    """One request that has been answered."""

    op: str
    path: str
    status: int
    """0 where the connection was broken off instead."""


class RunPodServer:
    """The server, from `with` until its end; no pod outlives it.

    Args:
        scratch: a folder for its machines and volumes.
        outside: environment variables that lead its pods to other services.
    """

    def __init__(self, scratch: Path, outside: Mapping[str, str] | None = None) -> None:
        self.pods: dict[str, Pod] = {}
        """All that there have been, by id."""
        self.volumes: dict[str, dict[str, Any]] = {}
        self.secrets: dict[str, str] = {}
        self.ssh_keys: list[str] = []
        self.stock = {gpu: dict(places) for gpu, (_, places) in STOCK.items()}
        self.held = False
        """Whether new pods wait for their `start`."""
        self.funds = True
        self.sold_out: set[str] = set()
        """GPUs that are not to be had although the catalogue says so."""
        self.forbidden: set[str] = set()
        """GPUs that this account may not use."""
        self.dearer = 1.0
        """How many times the catalogue's price a pod really costs."""
        self.drop_streams: list[int] = []
        """After how many events the next live logs break off."""
        self.image: dict[str, Path] | None = None
        """The programs that new pods' image has, by name; None for those of this machine."""
        self.packages = site.getsitepackages()
        """The folders of the Python packages that it has, beside KaggleOps."""
        self._scratch = scratch
        self._outside = dict(outside or {})
        self._ids = itertools.count(1)
        self._lock = threading.RLock()
        self._created = threading.Condition(self._lock)
        self._faults = Faults()
        self._stopping = threading.Event()
        self._log: list[Logged] = []

    def __enter__(self) -> "RunPodServer":
        self._http = HttpServer(self._answer)
        self.url = self._http.url
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._faults.clear()
        for pod in self.pods.values():
            pod.delete()
            pod.wait()
        self._http.stop()
        if self._http.broken:
            raise RuntimeError("the fake broke:\n" + "\n".join(self._http.broken))

    def environment(self) -> dict[str, str]:
        """Return what leads somebody with an API key here."""
        return {"RUNPOD_API_URL": self.url, "RUNPOD_API_KEY": _KEY}

    # What a test asks of it

    def pod(self, name: str) -> Pod:
        """Return the last pod of that name, when there is one.

        Raises:
            TimeoutError: there is none after some seconds.
        """

        def named() -> list[Pod]:
            return [pod for pod in self.pods.values() if pod.body["name"] == name]

        with self._lock:
            if not self._created.wait_for(named, 10):
                raise TimeoutError(f"there is no pod {name}")
            return named()[-1]

    def first(self, timeout: float = 120) -> Pod:
        """Return the first pod, when there is one.

        Raises:
            TimeoutError: there is none after `timeout` seconds.
        """
        with self._lock:
            if not self._created.wait_for(lambda: self.pods, timeout):
                raise TimeoutError("there is no pod")
            return next(iter(self.pods.values()))

    @property
    def alive(self) -> list[Pod]:
        """The pods that are paid for."""
        return [pod for pod in self.pods.values() if pod.alive]

    def count(self, op: str) -> int:
        """Return how many requests were of an operation, as the OpenAPI document calls it."""
        return sum(logged.op == op for logged in self._log)

    def fail(
        self,
        kind: int | str = 503,
        *,
        times: int | None = 1,
        op: str | None = None,
        retry_after: float | None = None,
        then: Callable[[], object] = lambda: None,
    ) -> Fault:
        """Let requests fail; the arguments are those of `KaggleServer.fail`."""

        def chosen(request: Request) -> bool:
            return op in (None, request.op)

        return self._faults.add(Fault(kind, times, chosen, retry_after, None, then, 1.0, 0))

    def heal(self) -> None:
        """End all misbehaviour."""
        self._faults.clear()
        self.funds, self.dearer = True, 1.0
        self.sold_out.clear()
        self.forbidden.clear()

    # How it answers

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        delivery: Delivery = "whole"
        fault = None
        try:
            request.op = _OPS.get((request.method, _ID.sub("ID", request.path)), "unknown")
            fault = self._faults.strike(request)
            response, delivery = self._struck(fault, request)
        except ApiError as error:
            response = problem(error)
        self._log.append(
            Logged(request.op, request.path, 0 if delivery == "not" else response.status)
        )
        if fault:
            fault.then()
        return response, delivery

    def _struck(self, fault: Fault | None, request: Request) -> tuple[Response, Delivery]:
        if fault is None:
            return self._done(request), "whole"
        if isinstance(fault.kind, int):
            error = ApiError(fault.kind, "something is wrong")
            if fault.retry_after is not None:
                error.headers = [("Retry-After", f"{fault.retry_after:g}")]
            raise error
        if fault.kind == "reset":
            return Response(0), "not"
        if fault.kind == "hang":
            fault.hang(self._stopping)
        response = self._done(request)
        if fault.kind == "late":
            fault.hang(self._stopping)
        return response, "not" if fault.kind == "lost-response" else "whole"

    def _done(self, request: Request) -> Response:
        if request.op == "unknown":
            raise ApiError(404, f"no such operation: {request.method} {request.path}")
        found = _ID.search(request.path)
        thing = found[1] if found else ""
        self._check_key(request, thing)
        strange = set(request.query) - _QUERIES.get(request.op, set())
        if strange:
            raise ApiError(422, "Request validation failed.", [f"unknown: {sorted(strange)}"])
        answers: dict[str, Callable[[], Response]] = {
            "listGpuTypes": lambda: self._gpus(request.query),
            "getSshKeys": lambda: json_response("SshKeys", {"keys": self.ssh_keys}),
            "listPods": lambda: json_response("ListPodsResponse", {"pods": self._listed()}),
            "createPod": lambda: self._create(parsed(request, "CreatePodRequest")),
            "getPod": lambda: json_response("Pod", shown(self._there(thing), self.ssh_keys)),
            "deletePod": lambda: self._delete(thing),
            "getPodLogs": lambda: self._logs(request, thing),
            "listNetworkVolumes": lambda: json_response(
                "ListNetworkVolumesResponse", {"networkVolumes": list(self.volumes.values())}
            ),
            "createNetworkVolume": lambda: self._add(parsed(request, "CreateNetworkVolumeRequest")),
            "deleteNetworkVolume": lambda: self._remove(thing),
        }
        with self._lock:
            return answers[request.op]()

    def _check_key(self, request: Request, thing: str) -> None:
        given = request.headers.get("Authorization", "")
        if given == f"Bearer {_KEY}":
            return
        if thing not in self.pods or given != f"Bearer {_KEY}{thing}":
            raise ApiError(401, "missing bearer token")
        if request.op not in _OF_A_POD:
            raise ApiError(403, "access denied")

    # The catalogue

    def _gpus(self, query: Mapping[str, str]) -> Response:
        availability = query.get("include") == "AVAILABILITY"
        if availability != ("product" in query):
            raise ApiError(400, "include=AVAILABILITY and product belong together")
        gpus = [
            described(gpu, places, availability=availability) for gpu, places in self.stock.items()
        ]
        return json_response("ListGpuTypesResponse", {"gpus": gpus})

    # Pods

    def _create(self, body: dict[str, Any]) -> Response:
        if not self.funds:
            raise ApiError(402, "insufficient balance")
        if len(body.get("env", {})) > _MOST_VARIABLES:
            raise ApiError(400, "too many environment variables")
        gpu = body["gpu"]["id"]
        if gpu in self.forbidden:
            raise ApiError(403, "access denied")
        free = [each for each, level in self.stock.get(gpu, {}).items() if level != "NONE"]
        wanted = body.get("dataCenterIds") or free
        places = [each for each in wanted if each in free and gpu not in self.sold_out]
        volume = self._volume_of(body, places)
        if not places:
            raise ApiError(400, "there are no instances currently available")
        price = STOCK[gpu][0] * body["gpu"].get("count", 1) * self.dearer
        # Its processes are told by it, also from those of another test at the same time.
        pod_id = f"pod{secrets.token_hex(6)}"
        own = {"RUNPOD_API_URL": self.url, "RUNPOD_API_KEY": f"{_KEY}{pod_id}"}
        pod = Pod(
            pod_id,
            body,
            price,
            places[0],
            self._scratch / "machines" / pod_id,
            volume,
            {**self._outside, **own},
            self.secrets,
            self.image,
            self.packages,
            held=self.held,
        )
        self.pods[pod_id] = pod
        self._created.notify_all()
        return json_response("Pod", shown(pod, self.ssh_keys), 201)

    def _volume_of(self, body: Mapping[str, Any], places: list[str]) -> Path | None:
        mounts = body.get("mounts", {}).get("network")
        if not mounts:
            return None
        volume = self.volumes.get(mounts[0]["volumeId"])
        if volume is None:
            raise ApiError(400, "no such network volume")
        places[:] = [each for each in places if each == volume["dataCenter"]]
        return self._scratch / "volumes" / str(volume["id"])

    def _there(self, pod_id: str) -> Pod:
        pod = self.pods.get(pod_id)
        if pod is None or pod.status == "TERMINATED":
            raise ApiError(404, "pod not found")
        return pod

    def _listed(self) -> list[dict[str, Any]]:
        there = [pod for pod in self.pods.values() if pod.status != "TERMINATED"]
        return [shown(pod, self.ssh_keys) for pod in there]

    def _delete(self, pod_id: str) -> Response:
        self._there(pod_id).delete()
        return Response(204)

    def _logs(self, request: Request, pod_id: str) -> Response:
        pod = self._there(pod_id)
        after = request.headers.get("Last-Event-ID") or request.query.get("since", pod.created)
        drop = self.drop_streams.pop(0) if self.drop_streams else None
        events = pod.events(after)
        headers = [("Content-Type", "text/event-stream"), ("Cache-Control", "no-cache")]
        return Response(200, headers, stream=stream(events, drop))

    # Volumes

    def _add(self, body: dict[str, Any]) -> Response:
        if body["dataCenter"] not in {each for free in self.stock.values() for each in free}:
            raise ApiError(400, "no network volumes there")
        made = {"id": f"vol{next(self._ids)}", "type": "STANDARD", **body}
        self.volumes[made["id"]] = made
        (self._scratch / "volumes" / made["id"]).mkdir(parents=True)
        return json_response("NetworkVolume", made, 201)

    def _remove(self, volume_id: str) -> Response:
        if self.volumes.pop(volume_id, None) is None:
            raise ApiError(404, "network volume not found")
        return Response(204)
