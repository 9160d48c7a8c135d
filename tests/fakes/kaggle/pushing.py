"""Pushing a notebook: what is refused and how, and the session that begins."""

import json
from collections.abc import Mapping
from typing import Any

from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest
from kagglesdk.kernels.types.kernels_enums import KernelExecutionType
from slugify import slugify

from tests.fakes.kaggle.behaviour import Behaviour
from tests.fakes.kaggle.machines import LONGEST, SHAPES, SUBSTITUTED, Machines
from tests.fakes.kaggle.session import Session
from tests.fakes.kaggle.sources import Sources
from tests.fakes.kaggle.store import ApiError, Kernel, Store, User, Version, bad_request

_MOST_SESSIONS = {"": 5, "gpu": 2, "tpu": 1}
_TAGS = {"gpu", "tpu", "nlp", "text classification"}
_WEBSITE = "https://www.kaggle.com/code"


class Pushing:
    """Answers SaveKernel.

    Args:
        store: what there is.
        behaviour: how it is to misbehave.
        sources: what can be attached.
        machines: where sessions run.
    """

    def __init__(
        self, store: Store, behaviour: Behaviour, sources: Sources, machines: Machines
    ) -> None:
        self._store = store
        self._behaviour = behaviour
        self._sources = sources
        self._machines = machines

    def save(self, user: User, request: ApiSaveKernelRequest) -> Mapping[str, Any]:
        """Save a version and run it, or say in `error` why not."""
        _check(request)
        shape = _shape(request)
        with self._store.lock:
            owner, slug = self._name(request)
            kernel = self._store.kernels.get(f"{owner}/{slug}")
            title = request.new_title or (kernel.title if kernel else "")
            refusal = (
                self._behaviour.next_refusal()
                or _not_found(user, owner, slug, title)
                or self._no_capacity(user, SHAPES[shape])
            )
            if refusal:
                return {"ref": "", "url": "", "error": refusal}
            good, bad = self._sources.sort(user, request)
            if kernel is None:
                kernel = Kernel(self._store.next_id(), owner, slug, request.new_title)
                self._store.kernels[kernel.ref] = kernel
            version = _version(kernel, request, shape, good)
            kernel.versions.append(version)
            if request.kernel_execution_type is not KernelExecutionType.QUICK_SAVE:
                version.session = self._session(user, kernel, version, request)
        return {
            "ref": f"/code/{kernel.ref}",
            "url": f"{_WEBSITE}/{kernel.ref}",
            "versionNumber": version.number,
            "kernelId": kernel.id,
            "invalidTags": [each for each in request.category_ids if each not in _TAGS],
            **{f"invalid{kind.capitalize()}Sources": refs for kind, refs in bad.items()},
        }

    def _name(self, request: ApiSaveKernelRequest) -> tuple[str, str]:
        for each in self._store.kernels.values():
            if each.id == request.id:
                return each.owner, each.slug
        owner, _, slug = (request.slug or "").rpartition("/")
        if len(slug) < 5 or slug != slugify(slug) or len(slug) > 50:
            raise bad_request(f"Invalid slug: {slug!r}")
        return owner, slug

    def _no_capacity(self, user: User, accelerator: str) -> str:
        live = [
            each
            for each in self._store.sessions()
            if each.owner == user.name and each.accelerator == accelerator and not each.ended
        ]
        name = accelerator.upper() or "CPU"
        used, hours = {
            "": (0.0, 1.0),
            "gpu": (user.gpu_used, user.gpu_hours),
            "tpu": (user.tpu_used, user.tpu_hours),
        }[accelerator]
        if used >= hours:
            return f"Maximum weekly {name} quota of {hours:.2f} hours reached."
        if len(live) >= _MOST_SESSIONS[accelerator]:
            return f"Maximum batch {name} session count of {_MOST_SESSIONS[accelerator]} reached."
        return ""

    def _session(
        self, user: User, kernel: Kernel, version: Version, request: ApiSaveKernelRequest
    ) -> Session:
        timeout = request.session_timeout_seconds or None
        return Session(
            self._store.next_id(),
            user.name,
            lambda: self._machines.make(user, kernel, version, timeout),
            SHAPES[version.shape],
            held=self._behaviour.hold_sessions,
        )


def _check(request: ApiSaveKernelRequest) -> None:
    """Refuse what no client of Kaggle's sends."""
    if request.kernel_type not in ("script", "notebook"):
        raise bad_request(f"Invalid kernel type: {request.kernel_type!r}")
    if request.language != "python":
        raise bad_request(f"The fake runs Python only, not {request.language!r}")
    if not request.text:
        raise bad_request("There is no source")
    if request.kernel_type == "notebook":
        _check_notebook(request.text)
    if request.docker_image_pinning_type not in ("", None, "original", "latest"):
        raise bad_request(f"Invalid pinning type: {request.docker_image_pinning_type!r}")
    if request.new_title and not 5 <= len(request.new_title) <= 50:
        raise bad_request("The title has between 5 and 50 characters")
    if request.kernel_execution_type is KernelExecutionType.INTER_ACTIVE:
        raise bad_request("The fake has no interactive sessions")


def _check_notebook(text: str) -> None:
    try:
        cells = json.loads(text)["cells"]
        sources = [cell["source"] for cell in cells]
    except (ValueError, KeyError, TypeError):
        raise bad_request("The source is no notebook") from None
    if not all(isinstance(source, str) for source in sources):
        # Jupyter's own lists of lines are too much for the service: kaggle-cli, issue 574.
        raise ApiError(500, "An internal server error occurred.")


def _shape(request: ApiSaveKernelRequest) -> str:
    asked = request.machine_shape or ""
    if not asked and request.enable_gpu:
        asked = "Gpu"
    if not asked and request.enable_tpu:
        asked = "TpuV5E8"
    shape = SUBSTITUTED.get(asked, asked)
    if shape not in SHAPES:
        raise bad_request(f"Invalid machine shape: {asked!r}")
    longest = LONGEST[SHAPES[shape]]
    if not 0 <= (request.session_timeout_seconds or 0) <= longest:
        raise bad_request(f"A session lasts {longest:.0f} seconds at most")
    return shape


def _not_found(user: User, owner: str, slug: str, title: str) -> str:
    # The service looks for a notebook of the user's by the slug of its title (kaggle-cli, issues
    # 139 and 545), and says in the same words that it is another's.
    mine = owner == user.name and slugify(title) == slug
    return "" if mine else "Notebook not found"


def _version(
    kernel: Kernel, request: ApiSaveKernelRequest, shape: str, sources: dict[str, list[str]]
) -> Version:
    return Version(
        number=len(kernel.versions) + 1,
        text=request.text,
        language=request.language,
        kernel_type=request.kernel_type,
        private="is_private" not in request or request.is_private,
        internet=request.enable_internet,
        shape=shape,
        docker_image=request.docker_image or "",
        image_pinning=request.docker_image_pinning_type or "",
        session_seconds=request.session_timeout_seconds or 0,
        sources=sources,
    )
