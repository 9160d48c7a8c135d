"""How the fake Kaggle is to behave beyond what a single request can tell it."""

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    """What a test may set; `Behaviour()` is Kaggle on a good day."""

    hold_sessions: bool = False
    """Sessions stay in the queue until they are started one by one."""
    refusals: list[str] = field(default_factory=list)
    """What the next pushes are answered with, in a response that looks like success."""
    statuses: list[str] = field(default_factory=list)
    """What the next questions for a status are answered with."""
    late_logs: int = 0
    """So many answers about ended sessions still lack their log."""
    drop_streams: list[int] = field(default_factory=list)
    """After how many entries the next live logs break off."""
    no_log_in_queue: bool = False
    """A session that waits for a machine has no live log, not even an empty one."""
    ignore_versions: bool = False
    """The latest version answers, whichever was asked for."""
    dataset_statuses: list[str] = field(default_factory=list)
    """What the next questions for a dataset's status are answered with."""
    slow_datasets: int = 0
    """So many questions for its status does a new version of a dataset take to be there."""
    late_scores: int = 0
    """So many lists of submissions still show them all as pending."""
    output_name: Callable[[str], str] = str
    """What an output file is called in the listing."""
    old_mounts: bool = False
    """Datasets lie in /kaggle/input/<slug>, not in /kaggle/input/datasets/<owner>/<slug>."""

    zipped_downloads: bool = False
    """Single files come zipped, as large ones of competitions do."""

    def next_refusal(self) -> str:
        return self.refusals.pop(0) if self.refusals else ""

    def next_status(self) -> str:
        return self.statuses.pop(0) if self.statuses else ""

    def next_dataset_status(self) -> str:
        return self.dataset_statuses.pop(0) if self.dataset_statuses else ""

    def next_drop(self) -> int | None:
        return self.drop_streams.pop(0) if self.drop_streams else None

    def log_is_late(self) -> bool:
        late = self.late_logs > 0
        self.late_logs -= late
        return late

    def score_is_late(self) -> bool:
        late = self.late_scores > 0
        self.late_scores -= late
        return late
