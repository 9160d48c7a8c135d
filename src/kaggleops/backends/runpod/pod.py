"""A run's pod: its configuration, the GPUs that fit it, the network volume, and what creates it.

RunPod's catalogue is an order in which to ask, no reservation: what it calls free may be gone. The
start script, what starts it and its job stand in variables of the pod's environment. The bucket's
key is a reference that RunPod resolves by itself, and nothing else in there is secret.
"""

import base64
import functools
import gzip
import json
import logging
import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from kaggleops.backends.config import PACKAGES, Config, Count
from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.backends.runpod.client import (
    GRACE,
    JOB_VARIABLE,
    LATE,
    LONGEST_HOURS,
    PATIENCE,
    PREFIX,
    Gpu,
    RunPod,
    Volume,
)
from kaggleops.bucket.location import is_s3
from kaggleops.errors import UsageError
from kaggleops.platforms.http import NoAnswerError
from kaggleops.platforms.platform import SECRET
from kaggleops.redaction import names_a_secret
from kaggleops.secret_scan import in_file

_log = logging.getLogger("kaggleops")

# US dollars for a GB and month, as of https://www.runpod.io/pricing (2026-10); the API tells none.
_PRICE, _PRICE_ABOVE, _ABOVE_GB = 0.07, 0.05, 1000
_RANK = {"HIGH": 0, "MEDIUM": 1, "LOW": 2}  # what is in none of these words may be there, too
_REFERENCE = re.compile(r"\{\{ ?RUNPOD_SECRET_\w+ ?\}\}")
_NAME = re.compile(r"(?!KAGGLEOPS_|RUNPOD_)[A-Za-z_]\w*")
_SSH = "22/tcp"

NAME = "runpod_name"
"""The tag of a run that names its pod. It is there before the pod is."""

POD = "runpod_pod"
"""The tag of a run with the id of its pod; "" before anybody knows it."""

_START = "KAGGLEOPS_START"
_BEGIN = "KAGGLEOPS_BEGIN"
# The container's command, with the quotes of RunPod's own examples.
_ARGS = f"""sh -c 'eval "${_BEGIN}"'"""
# What it does. RunPod starts a container again that ends, and bills it: where the image's Python
# cannot execute the start script, the shell itself deletes the pod. The key is in no argument.
_DELETE = (
    r"""printf 'header = "Authorization: Bearer %s"\n' "$RUNPOD_API_KEY" | curl --config - """
    '--fail --silent --show-error --max-time 30 --user-agent kaggleops --request DELETE "$pod"',
    "python3 -c 'import os, sys; from urllib.request import Request, urlopen; "
    'headers = {"Authorization": "Bearer " + os.environ["RUNPOD_API_KEY"], '
    '"User-Agent": "kaggleops"}; '
    'urlopen(Request(sys.argv[1], headers=headers, method="DELETE"), timeout=30)\' "$pod"',
)
_SHELL = "; ".join(
    (
        "python3 -c 'import ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' "
        "&& exec python3 -P -c 'import base64, os; "
        f"""exec(base64.b64decode(os.environ["{_START}"]))'""",
        "echo 'The image has no Python 3.11 or newer: nothing is run, and the pod is deleted.'",
        'pod="${RUNPOD_API_URL:-https://api.runpod.io}/v2/pods/$RUNPOD_POD_ID"',
        f"while :; do {' || '.join(_DELETE)}; sleep 60; done",
    )
)
_MOUNT = "/workspace"
_LONGEST_SCRIPT = 16_384  # a pod's environment is no place for more
_RUNNER = ("papermill>=2.6", "ipykernel>=6.30")  # what executes the notebook

_HERE = Path(__file__).parent
_PACKED = _HERE / "start.py"  # where a wheel has it
_IN_REPOSITORY = _HERE.parents[3] / "infra/runpod/start.py"


@dataclass(frozen=True)
class RunPodConfig(Config):
    """The fields of config/backend/runpod.yaml, where each is explained."""

    gpus: Annotated[list[str], Field(min_length=1)] = field(
        default_factory=lambda: ["NVIDIA L4", "NVIDIA RTX A5000", "NVIDIA GeForce RTX 4090"]
    )
    gpu_count: Count = 1
    cloud: Literal["SECURE", "COMMUNITY"] = "SECURE"
    data_centers: list[str] = field(default_factory=list)
    image: str = "runpod/pytorch:1.0.2-cu1281-torch280-ubuntu2404"
    template: str = ""
    registry: str = ""
    min_cuda: Annotated[str, Field(pattern=r"^(\d+\.\d+)?$")] = "12.8"
    disk_gb: Count = 50
    volume: str = "kaggleops"
    volume_gb: Annotated[int, Field(ge=10, le=4096)] = 50  # RunPod's limits
    hours: Annotated[float, Field(gt=0, le=LONGEST_HOURS)] = 6.0
    budget: Annotated[float, Field(gt=0)] | None = None
    keep: bool = False
    sessions: Count = 2
    secret: Annotated[str, Field(pattern=r"^\w+$")] = "kaggleops_key"  # noqa: S105 - its name
    # RunPod's limit of variables, but for ours
    env: Annotated[dict[str, str], Field(max_length=50 - 4)] = field(default_factory=dict)
    setup: str = ""
    ports: list[Annotated[str, Field(pattern=r"^[1-9]\d{0,4}/(http|tcp)$")]] = field(
        default_factory=list
    )
    packages: list[str] = field(default_factory=lambda: list(PACKAGES))

    @property
    def secrets(self) -> list[str]:
        """The names of the variables that RunPod sets from its secrets."""
        return [name for name, value in self.env.items() if _REFERENCE.fullmatch(value)]

    @property
    def ssh(self) -> bool:
        """Whether people can look in."""
        return self.keep or _SSH in self.ports

    @property
    def open_ports(self) -> list[str]:
        """What of the pod can be reached."""
        return list(dict.fromkeys([*self.ports, *([_SSH] if self.ssh else [])]))

    def check(self, doing: str) -> None:
        if not (self.image or self.template):
            raise UsageError(doing, "image: name it, or a template")
        if self.volume and self.cloud == "COMMUNITY":
            problem = "volume: the community cloud has no network volumes: leave it empty"
            raise UsageError(doing, problem)
        for name, value in self.env.items():
            if not _NAME.fullmatch(name):
                raise UsageError(doing, f"env: {name!r} cannot be a variable of yours")
            if name in self.secrets:
                continue
            found = in_file("", f'{name}="{value}"'.encode(errors="replace"))
            if found or names_a_secret(name):
                what = f"holds a secret ({found[0].kind})" if found else "is called like a secret"
                problem = f"env: {name} {what}, and its value would stand here"
                hint = (
                    "Make a secret of it (RunPod console > Secrets) and write "
                    f'{name}: "{{{{ RUNPOD_SECRET_{name.lower()} }}}}".'
                )
                raise UsageError(doing, problem, hint)


@dataclass(frozen=True)
class Offer:
    """A machine that may be had."""

    gpu: str  # the GPU's id
    data_center: str  # where; "" for anywhere
    price: float  # of all its GPUs, in US dollars for an hour
    memory_gb: float | None = None  # of one GPU

    def most(self, hours: float) -> float:
        """Return what it costs at most in US dollars, with the time that it may take to end."""
        return self.price * (hours + LATE / 3600)

    def longest(self, budget: float) -> float:
        """Return for how many hours a budget is enough; 0 if for none."""
        if not self.price:
            return LONGEST_HOURS
        return max(0.0, math.floor((budget / self.price - LATE / 3600) * 10 + 1e-6) / 10)

    def __str__(self) -> str:
        return f"{self.gpu} in {self.data_center or 'any data center'}"


def offers(
    catalogue: Collection[Gpu], config: RunPodConfig, volumes_in: Collection[str]
) -> list[Offer]:
    """Return what may be had of what is wanted, the most wanted first; UsageError for no such GPU.

    A pod must be where its volume is: where the wanted one is anywhere (`volumes_in`), there are
    no other offers.
    """
    found = []
    for name in config.gpus:
        gpu = _named(name, catalogue)
        cloud = config.cloud.lower()
        if gpu.most.get(cloud, config.gpu_count) < config.gpu_count or cloud not in gpu.price:
            continue
        places = sorted(gpu.places, key=lambda at: _RANK.get(gpu.places[at], len(_RANK)))
        if not config.volume and not config.data_centers:  # RunPod may choose
            places = [""] if gpu.stock else []
        for place in places:
            if all(place in only for only in (volumes_in, config.data_centers) if only):
                price = gpu.price[cloud] * config.gpu_count
                found.append(Offer(gpu.id, place, price, gpu.memory_gb))
    return found


def _named(name: str, catalogue: Collection[Gpu]) -> Gpu:
    for gpu in catalogue:
        if name.casefold() in (gpu.id.casefold(), gpu.name.casefold()):
            return gpu
    there = ", ".join(sorted(gpu.id for gpu in catalogue))
    raise UsageError(f"looking for the GPU {name!r}", "RunPod has none", f"It has: {there}.")


class Volumes:
    """The volumes of the name that is wanted, by data center."""

    def __init__(self, runpod: RunPod, config: RunPodConfig) -> None:
        self._runpod = runpod
        self._config = config
        self._made = ""

    @functools.cached_property
    def _there(self) -> Mapping[str, Volume]:
        if not self._config.volume:
            return {}
        found = [each for each in self._runpod.volumes() if each.name == self._config.volume]
        return {each.data_center: each for each in found if each.data_center}

    @property
    def data_centers(self) -> list[str]:
        """Where there is one."""
        return sorted(self._there)

    def bill(self, data_center: str) -> str:
        """Return what the one in a data center costs, made or to be made; "" for none."""
        if not self._config.volume:
            return ""
        there = self._there.get(data_center)
        size = (there and there.size) or self._config.volume_gb
        return f"the volume {self._config.volume} ({size} GB), {_monthly(size)}"

    def take(self, data_center: str) -> str:
        """Return the id of the one in a data center, which is made if need be; "" for none."""
        if not self._config.volume:
            return ""
        if data_center in self._there:
            return self._there[data_center].id
        name, size = self._config.volume, self._config.volume_gb
        try:
            self._made = self._runpod.create_volume(name, data_center, size)
        except NoAnswerError:  # it may have been made all the same
            there = self._runpod.volumes()
            found = [
                each.id for each in there if (each.name, each.data_center) == (name, data_center)
            ]
            if not found:
                raise
            self._made = found[0]
        where = f"the network volume {name} ({size} GB) in {data_center}"
        _log.warning("Made %s: %s, until you delete it.", where, _monthly(size))
        return self._made

    def give_back(self) -> None:
        """Delete the one that was made for a pod that there is not."""
        if self._made:
            self._runpod.delete_volume(self._made)
            self._made = ""


def _monthly(size_gb: int) -> str:
    dollars = min(size_gb, _ABOVE_GB) * _PRICE + max(0, size_gb - _ABOVE_GB) * _PRICE_ABOVE
    return f"about ${dollars:.2f} a month"


def pod_body(
    run_id: str, notebook: str, config: RunPodConfig, offer: Offer, volume_id: str, now: float
) -> dict[str, Any]:
    """Return what to send to RunPod for a run's pod; `now` is in seconds since the epoch."""
    bucket = parameters_of(notebook)["bucket"]
    on_kaggle = any(name.startswith("KAGGLE_") for name in config.env)  # data that lies there
    extra = "[kaggle]" if on_kaggle else ""
    if is_s3(bucket):
        extra = "[s3,kaggle]" if on_kaggle else "[s3]"
    job = {
        "run_id": run_id,
        "bucket": bucket,
        "extra": extra,
        "notebook": base64.b64encode(gzip.compress(notebook.encode(), mtime=0)).decode(),
        "install_from": parameters_of(notebook)["install_from"],
        "packages": [*_RUNNER, *config.packages],
        "image": config.image or config.template,
        "mount": _MOUNT if volume_id else "",
        "asked": now,
        "deadline": now + config.hours * 3600,
        "grace": GRACE,
        "patience": PATIENCE,
        "keep": config.keep,
        "ssh": config.ssh,
        "setup": set_up_script(config, doing="submitting to RunPod"),
        "secrets": config.secrets,
        "price": offer.price,
    }
    script = (_PACKED if _PACKED.is_file() else _IN_REPOSITORY).read_bytes()
    network = [{"volumeId": volume_id, "path": _MOUNT}]
    places = [offer.data_center] if offer.data_center else list(config.data_centers)
    cuda = {"minCudaVersion": config.min_cuda} if config.min_cuda else {}
    body: dict[str, Any] = {
        "name": f"{PREFIX}{run_id}",
        "gpu": {"id": offer.gpu, "count": config.gpu_count, **cuda},
        "cloud": config.cloud,
        "disk": config.disk_gb,
        "args": _ARGS,
        "env": {
            _BEGIN: _SHELL,
            _START: base64.b64encode(script).decode(),
            JOB_VARIABLE: json.dumps(job),
            SECRET: f"{{{{ RUNPOD_SECRET_{config.secret} }}}}",
            **config.env,
        },
    }
    optional = {
        "image": config.image,
        "templateId": config.template,
        "registry": config.registry,
        "mounts": {"network": network} if volume_id else {},
        "dataCenterIds": places,
        "ports": config.open_ports,
        "startSsh": config.ssh,
    }
    return body | {name: value for name, value in optional.items() if value}


def set_up_script(config: RunPodConfig, doing: str) -> str:
    """Return the text of the user's own script, "" for none.

    Raises UsageError if it cannot be read, is too long, or holds a secret.
    """
    if not config.setup:
        return ""
    path = Path(config.setup).expanduser()
    try:
        script = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(doing, f"setup: {path} cannot be read ({error})") from None
    if len(script) > _LONGEST_SCRIPT:
        raise UsageError(doing, f"setup: {path} has more than {_LONGEST_SCRIPT:,} characters")
    if found := in_file(path.name, script.encode()):
        problem = f"setup: {path} holds a secret ({found[0].kind}), and would stand in the pod"
        raise UsageError(doing, problem, "Let it read a variable of `env`.")
    return script
