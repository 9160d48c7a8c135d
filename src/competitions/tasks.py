"""What a competition has to say about itself, so that the rest can train it.

A competition is three files that share its name: a module of this package with a subclass of `Task`
named `TASK`, config/task/NAME.yaml with its keys, and a test. Nothing else has to be told about it.
"""

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pandas as pd

import kaggleops
from competitions.console import say
from competitions.schema import RESOURCE, DataConfig
from competitions.tables import check_unique, read_table, reading
from kaggleops.errors import KaggleOpsError

if TYPE_CHECKING:  # they take seconds to import, and a mistake in the files is told before that
    from matplotlib.figure import Figure
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

UNCUT = 100_000  # more tokens than a row has
# What a model puts out for some rows: one array for each of its outputs, rows first.
Logits = tuple[np.ndarray, ...]


@dataclass
class Examples:
    """Rows of a file as a model's inputs: a torch data set (of the map kind)."""

    rows: pd.DataFrame  # the rows they were made of, in the same order
    features: list[dict[str, Any]]  # of each row: `input_ids`, … and, where it is known, its label
    # Where the answer is a piece of the text, for each row, for each of its tokens, the half-open
    # range of characters it stands for; (0, 0) for tokens that are not of the text.
    offsets: list[list[tuple[int, int]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.features[index]

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(feature["input_ids"]) for feature in self.features]

    def order_by_length(self) -> np.ndarray:
        """Positions, the longest row first: batches of neighbours need the least padding."""
        return np.argsort(-np.array(self.lengths()), kind="stable")

    def take(self, positions: np.ndarray) -> "Examples":
        """The rows at `positions`, in that order."""
        features = [self.features[i] for i in positions]
        offsets = [self.offsets[i] for i in positions] if self.offsets else []
        return Examples(self.rows.iloc[positions], features, offsets)


class Task(ABC):
    """One competition: reads its files, makes inputs of rows, and scored predictions of outputs."""

    # The competition's name in kaggle.com/competitions/NAME.
    competition: ClassVar[str]
    # A dataclass of the keys in config/task/NAME.yaml, `name` among them, all MISSING; its method
    # `check()` raises UsageError for a value out of range.
    config_class: ClassVar[type]
    # The transformers class that puts the head this task needs on an encoder.
    model_class: ClassVar[str]
    # How many answers a text may have, for a head that chooses one of them.
    num_labels: ClassVar[int] = 2
    # The score that counts, as `scores` names it.
    score_name: ClassVar[str]
    # The column of `decode`'s table that says how good each labelled row's answer is.
    row_score: ClassVar[str]
    # Of what type a prediction is.
    answer_type: ClassVar[type] = str
    # The column that names a row, and the column of the submission that is predicted.
    id_column: ClassVar[str]
    target_column: ClassVar[str]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def read_train(self, folder: str) -> pd.DataFrame:
        """The labelled rows of `folder`, indexed by line number; UsageError if they are bad."""

    @abstractmethod
    def read_test(self, folder: str) -> pd.DataFrame:
        """The rows to predict, every one of the file; indexed by line number."""

    @abstractmethod
    def sample(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Labelled rows of an own small data set, to learn from and to predict."""

    @abstractmethod
    def texts(self, rows: pd.DataFrame) -> list[str]:
        """What a new tokenizer learns from, the words that this task adds among it."""

    @abstractmethod
    def labels(self, rows: pd.DataFrame) -> pd.Series:
        """What every fold holds in proportion, and what scores are split by."""

    @abstractmethod
    def encode(self, rows: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase") -> Examples:
        """Rows as inputs of a model, with labels where they have them.

        Rows that `decode` answers without a model may be left out: nothing is learnt from them.
        """

    @abstractmethod
    def decode(self, rows: pd.DataFrame, examples: Examples, logits: Logits) -> pd.DataFrame:
        """`rows` with their answers, made of what the model put out for their `examples`.

        The columns are `prediction` and whatever says how sure it is; where the rows are labelled,
        each row's own score too. There may be no arrays in `logits`.
        """

    def loss(
        self, logits: Sequence["Tensor"], labels: Sequence["Tensor"], smoothing: float
    ) -> "Tensor":
        """What the training makes small: the mean cross entropy of every output and its label.

        For each output there are logits of shape (rows, answers) and labels of shape (rows,); of
        each label's weight a share of `smoothing` is spread over all other answers.
        """
        import torch

        pairs = zip(logits, labels, strict=True)
        entropy = torch.nn.functional.cross_entropy
        losses = [entropy(of.float(), label, label_smoothing=smoothing) for of, label in pairs]
        return torch.stack(losses).mean()

    def mean(self, outputs: Sequence[Logits]) -> Logits:
        """What several models put out for the same rows, averaged."""
        return tuple(sum(arrays) / len(outputs) for arrays in zip(*outputs, strict=True))

    @abstractmethod
    def scores(self, predicted: pd.DataFrame) -> dict[str, float]:
        """The competition's score of what `decode` gave, first; then the same by label."""

    @abstractmethod
    def baseline(self, rows: pd.DataFrame) -> dict[str, float]:
        """What predicting without a model scores, under a name that begins with `baseline_`."""

    @abstractmethod
    def plots(self, predicted: pd.DataFrame) -> dict[str, "Figure"]:
        """Pictures of what `decode` gave, by their file names."""

    def read(self, folder: str, name: str, *columns: str) -> pd.DataFrame:
        """Columns of the file `name` of `folder`, the ids among them and each once."""
        rows = read_table(folder, name, columns, self.download_hint())
        check_unique(reading(folder, name), rows[self.id_column])
        return rows

    def submission(self, predicted: pd.DataFrame) -> pd.DataFrame:
        """The two columns that are handed in, of what `decode` gives."""
        columns = [self.id_column, self.target_column]
        return predicted[[self.id_column, "prediction"]].set_axis(columns, axis=1)

    def write_sample(self, folder: Path) -> None:
        """Write train.csv, test.csv and sample_submission.csv of `sample`, as Kaggle's would be."""
        train, test = self.sample()
        blank = test[[self.id_column]].assign(**{self.target_column: self.answer_type()})
        train.to_csv(folder / "train.csv", index=False)
        test.drop(columns=self.target_column).to_csv(folder / "test.csv", index=False)
        blank.to_csv(folder / "sample_submission.csv", index=False)

    def download_hint(self) -> str:
        """How to get the competition's files."""
        return (
            f"Get it: kaggle competitions download -c {self.competition} -p <dir>, "
            f"then unzip <dir>/{self.competition}.zip -d <dir>"
        )


def fit_length(
    task: Task, rows: pd.DataFrame, tokenizer: "PreTrainedTokenizerBase", longest: int
) -> None:
    """Make a `task.max_length` that is a share of the rows the tokens that so many have."""
    share = task.config.max_length
    if share >= 1:
        return
    task.config.max_length = UNCUT
    lengths = np.array(task.encode(rows, tokenizer).lengths() or [0])
    wanted = int(np.quantile(lengths, share, method="higher"))
    task.config.max_length = length = min(max(16, -(-wanted // 8) * 8), longest)
    say(f"max_length {length}: {(lengths <= length).mean():.1%} of the texts whole")


def task_class(name: str) -> type[Task]:
    """The `Task` of the module competitions.NAME."""
    try:
        return importlib.import_module(f"competitions.{name}").TASK
    except (ModuleNotFoundError, AttributeError) as error:
        problem = f"competitions/{name} has no TASK ({error})"
        raise KaggleOpsError(f"loading the task {name}", problem) from None


def load_task(config: Any) -> Task:
    """The task that a composed configuration (`RunConfig.task`) names."""
    return task_class(config.name)(config)


@contextmanager
def data_folder(task: Task, config: DataConfig) -> Iterator[str]:
    """The folder to read: the one that was given, or the sample, written for the time being."""
    if config.dir is None:
        with TemporaryDirectory(prefix="sample-") as folder:
            task.write_sample(Path(folder))
            yield folder
    elif config.dir.startswith(RESOURCE):
        yield str(kaggleops.resources(config.dir.removeprefix(RESOURCE)).folder)
    else:
        yield config.dir


def describe_data(config: DataConfig) -> str:
    """Where the rows come from, in words."""
    return "the sample" if config.dir is None else config.dir


def encode_pairs(
    tokenizer: "PreTrainedTokenizerBase", first: list[str], second: list[str], max_length: float
) -> tuple[list[dict[str, Any]], list[list[tuple[int, int]]]]:
    """Pairs of texts as a model's inputs; what is over `max_length` tokens is cut off the second.

    Returns for each pair its features, and its offsets in the second text: see `Examples`.
    """
    if not first:
        return [], []
    encoded = tokenizer(
        first,
        second,
        truncation="only_second",
        max_length=int(max_length),
        return_offsets_mapping=True,
    )
    names = [name for name in tokenizer.model_input_names if name in encoded]
    features = [{name: encoded[name][i] for name in names} for i in range(len(first))]
    parts = (encoded.sequence_ids(i) for i in range(len(first)))
    offsets = [
        [span if part == 1 else (0, 0) for span, part in zip(*each, strict=True)]
        for each in zip(encoded["offset_mapping"], parts, strict=True)
    ]
    return features, offsets
