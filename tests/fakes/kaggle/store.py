"""What the fake Kaggle holds: users, notebooks with their versions, datasets and competitions."""

import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.fakes.kaggle.session import Session


class ApiError(Exception):
    """A refusal, as it goes over the wire."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.headers: list[tuple[str, str]] = []


def bad_request(message: str) -> ApiError:
    return ApiError(400, message)


def denied(permission: str) -> ApiError:
    """Return the refusal of what is another's and of what is not there: they look alike."""
    return ApiError(403, f"Permission '{permission}' was denied")


@dataclass
class User:
    """An account; hours are those of a week."""

    name: str
    key: str
    token: str
    gpu_hours: float
    tpu_hours: float
    gpu_used: float = 0.0
    tpu_used: float = 0.0


@dataclass
class Version:
    """One saved state of a notebook, as it was pushed. `session` is None for a quick save."""

    number: int
    text: str
    language: str
    kernel_type: str
    private: bool
    internet: bool
    shape: str
    """The machine that was given, which is not always the one that was asked for."""
    docker_image: str
    image_pinning: str
    session_seconds: int
    """After how many its session is ended; 0 for as late as it may be."""
    sources: dict[str, list[str]]
    """What is attached, by "dataset", "competition", "kernel" and "model"."""
    session: Session | None = None
    saved: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Kernel:
    id: int
    owner: str
    slug: str
    title: str
    versions: list[Version] = field(default_factory=list)

    @property
    def ref(self) -> str:
        return f"{self.owner}/{self.slug}"

    @property
    def latest(self) -> Version:
        return self.versions[-1]


@dataclass
class Dataset:
    id: int
    owner: str
    slug: str
    title: str
    private: bool
    versions: list[dict[str, bytes]] = field(default_factory=list)
    updated: datetime = field(default_factory=lambda: datetime.now(UTC))
    unready: int = 0
    """After how many more questions its newest version is there."""

    @property
    def ref(self) -> str:
        return f"{self.owner}/{self.slug}"

    @property
    def ready(self) -> list[dict[str, bytes]]:
        """The versions that can be read."""
        return self.versions[:-1] if self.unready else self.versions


@dataclass
class Submission:
    ref: int
    user: str
    file_name: str
    description: str
    size: int
    score: float | None
    error: str
    private_score: float | None = None
    rerun: Session | None = None
    """That of a notebook's version with the hidden test set, until it is scored."""
    date: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass
class Competition:
    """A competition whose rules all users have accepted but those named.

    `score` returns what a submitted file scores (more is better), or raises ValueError with what
    is wrong with it. `private` is what is shown once the competition has `ended`. One with `hidden`
    files takes notebooks only, and runs them again with these in place of those that all see, for
    `rerun_seconds` at most.
    """

    slug: str
    title: str
    files: Mapping[str, bytes]
    score: Callable[[bytes], float]
    daily_limit: int
    not_accepted_by: Collection[str] = ()
    private: Callable[[bytes], float] = lambda content: 0.0
    ended: bool = False
    hidden: Mapping[str, bytes] | None = None
    rerun_seconds: float | None = None
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    submissions: list[Submission] = field(default_factory=list)


@dataclass
class Blob:
    """A file on its way: announced, and once it has arrived, its content."""

    name: str
    size: int
    content: bytes | None = None


class Store:
    """All of it. Whoever reads and then writes holds `lock` meanwhile."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.users: dict[str, User] = {}
        self.kernels: dict[str, Kernel] = {}
        self.datasets: dict[str, Dataset] = {}
        self.competitions: dict[str, Competition] = {}
        self.models: dict[str, Mapping[str, bytes]] = {}
        self.blobs: dict[str, Blob] = {}
        self.downloads: dict[str, Path | bytes] = {}
        """The file behind each signed address."""
        self.url = ""
        """Where the server is."""
        self._last_id = 1000

    def next_id(self) -> int:
        with self.lock:
            self._last_id += 1
            return self._last_id

    def kernel(self, user: User, owner: str, slug: str) -> Kernel:
        """Return the notebook, if there is one that the user may see."""
        found = self.kernels.get(f"{owner}/{slug}")
        if found is None or (found.owner != user.name and found.latest.private):
            raise denied("kernels.get")
        return found

    def dataset(self, user: User, owner: str, slug: str) -> Dataset:
        """Return the dataset, if there is one that the user may see."""
        found = self.datasets.get(f"{owner}/{slug}")
        if found is None or (found.owner != user.name and found.private):
            raise denied("datasets.get")
        return found

    def competition(self, slug: str) -> Competition:
        if slug not in self.competitions:
            raise ApiError(404, "Competition not found")
        return self.competitions[slug]

    def sessions(self) -> list[Session]:
        with self.lock:
            versions = [each for kernel in self.kernels.values() for each in kernel.versions]
            sent = [each for one in self.competitions.values() for each in one.submissions]
        sessions = [each.session for each in versions] + [each.rerun for each in sent]
        return [each for each in sessions if each]

    def take_blob(self, token: str) -> Blob:
        """Return an uploaded file, which can be used once."""
        blob = self.blobs.get(token)
        if blob is None or blob.content is None:
            raise bad_request(f"No upload has been completed for the token {token!r}")
        return self.blobs.pop(token)


def timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
