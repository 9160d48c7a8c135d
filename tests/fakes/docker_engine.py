"""A container engine on a Unix socket, for Docker's real client to talk to.

Strict: what a container is created with is checked, and what this fake does not know is refused. A
container's command is truly executed, in a process of its own and a folder shaped like the
container: its mounts are links there, and their paths in the command and the environment lead
there. (A link cannot be read-only.)

    with DockerEngine(tmp_path, images=["an/image"]) as engine:
        docker.DockerClient(engine.url)

What is known of the engine stands in its API's document (v1.47) and in its client.
"""

import base64
import io
import json
import re
import secrets
import struct
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes import platforms
from tests.fakes.kaggle.session import Job, Session
from tests.fakes.wire import Delivery, HttpServer, Request, Response

_VERSION = "1.47"
_LONGEST = 280.0  # seconds that a container may run
_BODY = {
    *("Cmd", "Entrypoint", "Env", "HostConfig", "Image", "Labels", "WorkingDir"),
    *(
        "AttachStderr",
        "AttachStdin",
        "AttachStdout",
        "NetworkDisabled",
        "OpenStdin",
        "StdinOnce",
        "Tty",
    ),
}
_HOST_CONFIG = {"DeviceRequests", "Init", "Mounts", "NetworkMode", "ShmSize"}
_MOUNT = {"Target", "Source", "Type", "ReadOnly"}
_STREAMS = {"stdout": 1, "stderr": 2}


class _Refused(Exception):  # noqa: N818 - an answer
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.answer = _json({"message": message}, status)


@dataclass
class Container:
    """A container."""

    id: str
    name: str
    body: dict[str, Any]
    """What it was created with."""
    root: Path
    session: Session | None = None
    out_of_memory: bool = False

    @property
    def state(self) -> dict[str, Any]:
        """As the engine describes it."""
        codes = {"COMPLETE": 0, "CANCEL_ACKNOWLEDGED": 137}
        ended = self.session is not None and self.session.ended
        status = "created" if self.session is None else "exited" if ended else "running"
        code = codes.get(self.session.state, 1) if self.session and ended else 0
        return {
            "Status": status,
            "Running": status == "running",
            "ExitCode": code,
            "OOMKilled": self.out_of_memory,
            "Error": "",
        }


@dataclass
class DockerEngine:
    """The engine, from `with` until its end; then none of its containers runs.

    Args:
        scratch: a folder for its containers.
        images: the images that it has.
        outside: environment variables that lead its containers to other services.
    """

    scratch: Path
    images: Iterable[str] = ()
    outside: Mapping[str, str] = field(default_factory=dict)
    gpus: bool = False
    """Whether it can give GPUs to containers."""
    held: bool = False
    """Whether what is started waits until its session is started, too."""
    id: str = "engine-1"

    def __enter__(self) -> "DockerEngine":
        self.containers: list[Container] = []
        self.lost: set[str] = set()
        """Operations whose next answer is lost: create, start."""
        self.meanwhile: dict[str, Callable[[], object]] = {}
        """What somebody else does just before the next operation of a name."""
        self._lock = threading.Lock()
        # A socket's path may have 107 characters.
        self._folder = tempfile.TemporaryDirectory(prefix="engine-")
        self._http = HttpServer(self._answer, socket_file=Path(self._folder.name) / "socket")
        self.url = self._http.url
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.containers:
            if each.session:
                each.session.join()
        self._http.stop()
        self._folder.cleanup()
        assert self._http.broken == [], self._http.broken

    def named(self, name: str) -> Container:
        """Return a container by its name or id."""
        for each in self.containers:
            if name in (each.name, each.id):
                return each
        raise _Refused(404, f"No such container: {name}")

    def session(self, name: str) -> Session:
        """Return what a container that was started executes."""
        session = self.named(name).session
        assert session is not None, f"{name} was not started"
        return session

    # -- answering ----------------------------------------------------------------------------

    def _answer(self, request: Request) -> tuple[Response, Delivery]:
        path = re.sub(r"^/v1\.\d+", "", request.path)
        for method, pattern, operation in _ROUTES:
            found = re.fullmatch(pattern, path)
            if found and method == request.method:
                name = operation.__name__.strip("_")
                self.meanwhile.pop(name, lambda: None)()
                try:
                    answer = operation(self, request, *found.groups())
                except _Refused as refused:
                    return refused.answer, "whole"
                if name in self.lost:
                    self.lost.remove(name)
                    return answer, "not"
                return answer, "whole"
        return _json({"message": f"unknown: {request.method} {path}"}, 400), "whole"

    def _version(self, _: Request) -> Response:
        return _json({"ApiVersion": _VERSION, "MinAPIVersion": "1.24", "Version": "27.5.1"})

    def _info(self, _: Request) -> Response:
        return _json({"ID": self.id, "MemTotal": 16_000_000_000})

    def _image(self, _: Request, name: str) -> Response:
        if name not in self.images:
            raise _Refused(404, f"No such image: {name}")
        return _json({"Id": f"sha256:{name}", "RepoTags": [name]})

    def _create(self, request: Request) -> Response:
        body = json.loads(request.body)
        name = request.query["name"]
        with self._lock:
            if any(each.name == name for each in self.containers):
                raise _Refused(409, f'Conflict. The container name "/{name}" is already in use.')
            if body["Image"] not in self.images:
                raise _Refused(404, f"No such image: {body['Image']}")
            _check(body)
            made = Container(secrets.token_hex(32), name, body, self.scratch / secrets.token_hex(4))
            self.containers.append(made)
        return _json({"Id": made.id, "Warnings": []}, 201)

    def _start(self, _: Request, name: str) -> Response:
        container = self.named(name)
        if container.body["HostConfig"].get("DeviceRequests") and not self.gpus:
            problem = 'could not select device driver "" with capabilities: [[gpu]]'
            raise _Refused(500, problem)
        container.session = Session(0, name, lambda: self._job(container), "", held=self.held)
        return Response(204)

    def _job(self, container: Container) -> Job:
        body, root = container.body, container.root
        mounts = {each["Target"]: each["Source"] for each in body["HostConfig"]["Mounts"]}
        for target, source in mounts.items():
            link = root / target.lstrip("/")
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(source)
        anywhere = re.compile("|".join(map(re.escape, sorted(mounts, reverse=True))))

        def moved(text: str) -> str:
            return anywhere.sub(lambda found: f"{root}{found[0]}", text)

        given = dict(each.split("=", 1) for each in body["Env"])
        environment = {name: moved(value) for name, value in given.items()}
        command = [moved(each) for each in [*body["Entrypoint"], *body["Cmd"]]]
        return Job(root, command, platforms.plain(root, **self.outside, **environment), _LONGEST)

    def _inspect(self, _: Request, name: str) -> Response:
        found = self.named(name)
        described = {"Id": found.id, "Name": f"/{found.name}", "Config": {"Tty": False}}
        return _json({**described, "Image": found.body["Image"], "State": found.state})

    def _logs(self, request: Request, name: str) -> Response:
        session = self.named(name).session
        if request.query.get("stdout") != "1" or request.query.get("stderr") != "1":
            raise _Refused(400, "you must choose at least one stream")
        following = request.query["follow"] == "1"
        entries = (
            session.events() if session and following else list(session.log if session else ())
        )
        return Response(stream=map(_frame, entries))

    def _archive(self, request: Request, name: str) -> Response:
        path = request.query["path"]
        folder = self.named(name).root / path.lstrip("/")
        if not folder.exists():
            raise _Refused(404, f"Could not find the file {path} in container {name}")
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            tar.add(folder.resolve(), arcname=folder.name)
        described = base64.b64encode(json.dumps({"name": folder.name}).encode()).decode()
        headers = [("X-Docker-Container-Path-Stat", described)]
        return Response(200, headers, packed.getvalue())

    def _delete(self, request: Request, name: str) -> Response:
        found = self.named(name)
        if found.session and not found.session.ended:
            if request.query.get("force") not in ("1", "True", "true"):
                raise _Refused(409, f"cannot remove container {name}: container is running")
            found.session.join()
        self.containers.remove(found)
        return Response(204)


_ROUTES: list[tuple[str, str, Callable[..., Response]]] = [
    ("GET", "/version", DockerEngine._version),
    ("GET", "/info", DockerEngine._info),
    ("GET", "/images/(.+)/json", DockerEngine._image),
    ("POST", "/containers/create", DockerEngine._create),
    ("POST", "/containers/([^/]+)/start", DockerEngine._start),
    ("GET", "/containers/([^/]+)/json", DockerEngine._inspect),
    ("GET", "/containers/([^/]+)/logs", DockerEngine._logs),
    ("GET", "/containers/([^/]+)/archive", DockerEngine._archive),
    ("DELETE", "/containers/([^/]+)", DockerEngine._delete),
]


def _check(body: Mapping[str, Any]) -> None:
    """Refuse what the engine would refuse, and what this fake does not know."""
    host = body["HostConfig"]
    given = {key for key, value in body.items() if value is not None}
    unknown = [*(given - _BODY), *(host.keys() - _HOST_CONFIG)]
    unknown += [key for mount in host.get("Mounts", ()) for key in mount.keys() - _MOUNT]
    if unknown:
        raise _Refused(400, f"unknown: {unknown}")
    if body["WorkingDir"] != "/kaggle/working":
        raise _Refused(400, "nothing else is a working directory here")
    for mount in host["Mounts"]:
        source = Path(mount["Source"])
        if mount["Type"] != "bind" or not source.is_absolute() or not source.exists():
            problem = f"bind source path does not exist: {source}"
            raise _Refused(400, f'invalid mount config for type "bind": {problem}')
    if not isinstance(host.get("ShmSize", 0), int):
        raise _Refused(400, "ShmSize is a number of bytes")
    for device in host.get("DeviceRequests") or ():
        if device["Capabilities"] != [["gpu"]] or not isinstance(device["Count"], int):
            raise _Refused(400, f"no such device: {device}")


def _frame(entry: Mapping[str, Any]) -> bytes:
    data = str(entry["data"]).encode()
    return struct.pack(">BxxxL", _STREAMS[str(entry["stream_name"])], len(data)) + data


def _json(content: object, status: int = 200) -> Response:
    return Response(status, [("Content-Type", "application/json")], json.dumps(content).encode())
