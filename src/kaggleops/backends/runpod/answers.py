"""RunPod's answers as types, each with what is known of it, and how long a pod may take at most."""

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kaggleops.backends.answers import moment, number, objects, text

LONGEST_HOURS = 168.0
"""What a job may be given: a week. RunPod has no limit of its own, and a pod that is forgotten is
paid for until its hours are over."""

GRACE = 60.0
"""Seconds that a job has to send what it logged, once it is told to end."""

PATIENCE = 300.0
"""Seconds that the bucket then has to take the exit code and the log."""

LATE = 2 * (GRACE + PATIENCE)
"""Seconds behind the deadline at which a pod deletes itself if all else hangs, as in
infra/runpod/start.py. Until then it is paid for."""

BEGINS_WITHIN = 3600.0
"""Seconds from a pod's creation by which its job has begun, however large its image: it is pulled
in minutes, and packages are installed in minutes more."""


PREFIX = "kaggleops-"
"""What the names of our pods begin with; the run's id follows."""

JOB_VARIABLE = "KAGGLEOPS_JOB"
"""The variable of a pod's environment with what its start script finds to do."""

_OURS = re.compile(re.escape(PREFIX) + "([0-9a-f]{32})")
_ID = re.compile(r"[A-Za-z0-9_-]+")
_ENDED = ("EXITED", "ERROR", "TERMINATED")


@dataclass(frozen=True)
class Job:
    """What one of our pods was made to do, until when (seconds since the epoch).

    With `keep`, the pod is kept until then, however the run ended.
    """

    run_id: str
    bucket: str
    deadline: float
    keep: bool


@dataclass(frozen=True)
class Pod:
    """A pod, as RunPod shows it; what is not told, or cannot be read, is "" or None."""

    id: str  # RunPod's
    name: str  # ours
    status: str  # RunPod's word
    cost: float | None  # in US dollars an hour
    created: float | None  # when, in seconds since the epoch
    created_at: str  # the same in RunPod's words
    access: str  # the command that leads into it, and the pages of what it serves
    job: Job | None  # what it was made to do

    @property
    def ended(self) -> bool:
        """Whether it is known to have: a status that is new is that of a live one."""
        return self.status in _ENDED

    @property
    def run_id(self) -> str:
        """The run that it was made for, "" for a pod that is none of ours."""
        if not self.name:
            return self.job.run_id if self.job else ""
        ours = _OURS.fullmatch(self.name)
        return ours[1] if ours else ""


@dataclass(frozen=True)
class Gpu:
    """A kind of GPU."""

    id: str  # what RunPod calls it
    name: str  # what people call it
    price: Mapping[str, float]  # in US dollars an hour for one, by cloud; only those that are told
    most: Mapping[str, float]  # how many a pod may have, by cloud; only those that are told
    stock: str  # how much of it is free, in RunPod's word; "" for nothing
    places: Mapping[str, str]  # the same by data center
    memory_gb: float | None = None


@dataclass(frozen=True)
class Volume:
    """A network volume; `size` in GB, None where it is not told."""

    id: str
    name: str
    size: int | None
    data_center: str


def pod(found: Mapping[str, Any], pod_id: str = "") -> Pod:
    """Return a pod from an answer; from one that lacks its id, the one that was asked for."""
    created = moment(found, "createdAt")
    return Pod(
        id=id_of(found) or pod_id,
        name=text(found, "name"),
        status=text(found, "status"),
        cost=number(found, "cost"),
        created=created,
        created_at="" if created is None else text(found, "createdAt"),
        access=", ".join(filter(None, (text(found, "ssh", "direct", "command"), *_pages(found)))),
        job=_job(found),
    )


def _pages(found: Mapping[str, Any]) -> list[str]:
    """Return where RunPod's proxy shows what a pod serves."""
    ports = found.get("ports")
    served = [str(each).partition("/") for each in ports] if isinstance(ports, list) else []
    return [
        f"https://{id_of(found)}-{port}.proxy.runpod.net"
        for port, _, kind in served
        if kind == "http" and port.isdigit() and id_of(found)
    ]


def id_of(found: Mapping[str, Any]) -> str:
    """Return the id that an answer tells: it will be part of addresses."""
    told = text(found, "id")
    return told if _ID.fullmatch(told) else ""


def _job(found: Mapping[str, Any]) -> Job | None:
    environment = found.get("env")
    said = environment.get(JOB_VARIABLE) if isinstance(environment, Mapping) else None
    with suppress(TypeError, ValueError, RecursionError):
        job = json.loads(said)  # type: ignore[arg-type] # whatever it is
        run_id, bucket, deadline = text(job, "run_id"), text(job, "bucket"), number(job, "deadline")
        if run_id and bucket and deadline is not None:
            return Job(run_id, bucket, deadline, job.get("keep") is True)
    return None


def gpu(found: Mapping[str, Any]) -> Gpu:
    """Return a kind of GPU from an answer."""
    stock = text(found, "availability")
    places = objects(found, "dataCenters") or []
    return Gpu(
        id=text(found, "id"),
        name=text(found, "name"),
        price=_by_cloud(found, "price"),
        most=_by_cloud(found, "maxCount"),
        stock="" if stock == "NONE" else stock,
        places={
            place: level
            for each in places
            if (place := text(each, "id")) and (level := text(each, "availability")) != "NONE"
        },
        memory_gb=number(found, "memory"),
    )


def _by_cloud(found: Mapping[str, Any], name: str) -> dict[str, float]:
    told = {cloud: number(found, name, cloud) for cloud in ("secure", "community")}
    return {cloud: value for cloud, value in told.items() if value is not None}


def volume(found: Mapping[str, Any]) -> Volume:
    """Return a network volume from an answer."""
    size = number(found, "size")
    whole = None if size is None else int(size)
    return Volume(id_of(found), text(found, "name"), whole, text(found, "dataCenter"))
