"""What Kaggle's API can do with notebooks, which it calls kernels."""

import json
import secrets
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from kagglesdk.kernels.types import kernels_api_service as types
from kagglesdk.kernels.types.kernels_enums import KernelsListViewType

from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.machines import SHAPES
from tests.fakes.kaggle.paging import page_of
from tests.fakes.kaggle.session import Session
from tests.fakes.kaggle.store import (
    ApiError,
    Kernel,
    Store,
    User,
    Version,
    bad_request,
    denied,
    timestamp,
)
from tests.fakes.wire import Request, Response

Content = Mapping[str, Any]


class Kernels:
    """Answers requests about notebooks that have been pushed.

    Args:
        store: what there is.
        behaviour: how it is to misbehave.
    """

    def __init__(self, store: Store, behaviour: Behaviour) -> None:
        self._store = store
        self._behaviour = behaviour

    def get(self, user: User, request: types.ApiGetKernelRequest) -> Content:
        slug, _, number = request.kernel_slug.partition("/")
        label = f"v{number}" if number else request.version_label
        kernel, version = self._version(user, request.user_name, slug, label)
        blob = {
            "source": version.text,
            "language": version.language,
            "kernelType": version.kernel_type,
            "slug": kernel.slug,
        }
        return {"metadata": _metadata(kernel, version), "blob": blob}

    def list(self, user: User, request: types.ApiListKernelsRequest) -> Content:
        found = [each for each in self._store.kernels.values() if _listed(each, user, request)]
        found.sort(key=lambda kernel: kernel.latest.saved, reverse=True)
        some, token = page_of(found, request.page_size, request.page_token, request.page)
        kernels = [_metadata(each, each.latest) for each in some]
        return {"kernels": kernels, "nextPageToken": token}

    def status(self, user: User, request: types.ApiGetKernelSessionStatusRequest) -> Content:
        _, version = self._version(
            user, request.user_name, request.kernel_slug, request.version_label
        )
        session = version.session
        status = session.state if session else "NEW_SCRIPT"
        failure = session.failure if session else ""
        return {"status": self._behaviour.next_status() or status, "failureMessage": failure}

    def output(self, user: User, request: types.ApiListKernelSessionOutputRequest) -> Content:
        _, version = self._version(
            user, request.user_name, request.kernel_slug, request.version_label
        )
        session = version.session
        outputs = list(session.outputs().items()) if session else []
        some, token = page_of(outputs, request.page_size, request.page_token)
        files = []
        for name, path in some:
            key = secrets.token_hex(8)
            self._store.downloads[key] = path
            url = f"{self._store.url}/output/{key}/{quote(name)}"
            files.append({"url": url, "fileName": self._behaviour.output_name(name)})
        return {"files": files, "log": self._log(session), "nextPageToken": token}

    def files(self, user: User, request: types.ApiListKernelFilesRequest) -> Content:
        _, version = self._version(
            user, request.user_name, request.kernel_slug, request.version_label
        )
        outputs = list(version.session.outputs().items()) if version.session else []
        some, token = page_of(outputs, request.page_size, request.page_token)
        files = [
            {
                "name": self._behaviour.output_name(name),
                "size": path.stat().st_size,
                "creationDate": timestamp(version.saved),
            }
            for name, path in some
        ]
        return {"files": files, "nextPageToken": token}

    def cancel(self, user: User, request: types.ApiCancelKernelSessionRequest) -> Content:
        for session in self._store.sessions():
            if session.id == request.kernel_session_id and session.owner == user.name:
                session.cancel()
                return {}
        raise denied("kernelSessions.cancel")

    def delete(self, user: User, request: types.ApiDeleteKernelRequest) -> Content:
        with self._store.lock:
            kernel = self._store.kernel(user, request.user_name, request.kernel_slug)
            if kernel.owner != user.name:
                raise denied("kernels.delete")
            del self._store.kernels[kernel.ref]
        for version in kernel.versions:
            if version.session:
                version.session.join()
        return {}

    def quota(self, user: User, request: types.ApiGetAcceleratorQuotaStatisticsRequest) -> Content:
        return {
            "quotaRefreshTime": timestamp(_next_saturday()),
            "gpuQuota": _quota(user.gpu_used, user.gpu_hours),
            "tpuQuota": _quota(user.tpu_used, user.tpu_hours),
        }

    def live_log(self, user: User, request: Request) -> Response:
        """Answer with the latest version's log: live until it has ended, then as it was kept."""
        owner, slug = request.path.split("/")[-2:]
        session = self._store.kernel(user, owner, slug).latest.session
        if session is None or session.ended:
            kind = ("Content-Type", "application/json")
            return Response(200, [kind], self._log(session).encode())
        if session.state == "QUEUED" and self._behaviour.no_log_in_queue:
            raise ApiError(404, "Not found")
        kind = ("Content-Type", "text/event-stream; charset=utf-8")
        return Response(200, [kind], stream=_stream(session, self._behaviour.next_drop()))

    def _log(self, session: Session | None) -> str:
        if session is None or not session.ended or self._behaviour.log_is_late():
            return ""
        # One entry a line, commas first: as the service keeps it (Kaggle/kaggle-cli, pull 999).
        return "[" + "\n,".join(map(json.dumps, session.log)) + "\n]"

    def _version(
        self, user: User, owner: str, slug: str, label: str | None
    ) -> tuple[Kernel, Version]:
        kernel = self._store.kernel(user, owner, slug)
        if not label or self._behaviour.ignore_versions:
            return kernel, kernel.latest
        for version in kernel.versions:
            if label == f"v{version.number}":
                return kernel, version
        if not label.removeprefix("v").isdecimal():
            raise bad_request(f"A version's label is like v3, not {label!r}")
        raise ApiError(404, "Not found")


def _stream(session: Session, drop_after: int | None) -> Iterator[bytes]:
    if drop_after == 0:
        raise ConnectionAbortedError
    for sent, entry in enumerate(session.events(), 1):
        yield f"data: {json.dumps(entry)}\n\n".encode()
        if sent == drop_after:
            raise ConnectionAbortedError
    yield b"data: END_OF_LOG\n\n"


def _listed(kernel: Kernel, user: User, request: types.ApiListKernelsRequest) -> bool:
    mine = kernel.owner == user.name
    if request.group is KernelsListViewType.PROFILE:
        return mine and request.search in kernel.title
    if request.user and request.user != kernel.owner:
        return False
    visible = not kernel.latest.private or (mine and bool(request.user))
    return visible and request.search in kernel.title


def _metadata(kernel: Kernel, version: Version) -> Content:
    accelerator = SHAPES[version.shape]
    return {
        "id": kernel.id,
        "ref": kernel.ref,
        "title": kernel.title,
        "author": kernel.owner,
        "slug": kernel.slug,
        "lastRunTime": timestamp(version.saved),
        "language": version.language,
        "kernelType": version.kernel_type,
        "isPrivate": version.private,
        "enableGpu": accelerator == "gpu",
        "enableTpu": accelerator == "tpu",
        "enableInternet": version.internet,
        **{f"{kind}DataSources": refs for kind, refs in version.sources.items()},
        "currentVersionNumber": version.number,
        "dockerImage": version.docker_image,
        "machineShape": version.shape,
    }


def _quota(used: float, hours: float) -> Content:
    return {
        "timeUsed": f"{used * 3600:.0f}s",
        "timeReserved": "0s",
        "totalTimeAllowed": f"{hours * 3600:.0f}s",
        "hasEverRun": used > 0,
    }


def _next_saturday() -> datetime:
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return today + timedelta(days=(5 - today.weekday()) % 7 or 7)
