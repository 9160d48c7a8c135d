"""`kaggleops submit`: a file to its competition, once, and its score on the runs behind it."""

from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from kaggleops.backends.kaggle.submissions import Submitter, check_against
from kaggleops.bucket import Bucket
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.platforms.http import NoAnswerError
from kaggleops.resources.manifest import MANIFEST
from tests.command import kaggleops, kaggleops_here
from tests.fakes.kaggle.store import Competition
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.odd_answers import whole

SAMPLE = "id,target\nA,0\nB,0\nC,0\n"
GOOD = "id,target\nA,1\nB,0\nC,1\n"


def score(content: bytes) -> float:
    if b"bad" in content:
        raise ValueError("Submission contains text")
    return content.count(b",1") / 3


@pytest.fixture
def kaggle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KaggleServer]:
    with KaggleServer(tmp_path / "kaggle") as server:
        server.add_user("ada")
        server.api("ada")
        for name in ("HOME", "KAGGLE_USERNAME", "KAGGLE_KEY", "KAGGLE_API_ENVIRONMENT"):
            monkeypatch.setenv(name, server.environment("ada")[name])
        yield server


@pytest.fixture
def tweets(kaggle: KaggleServer) -> Competition:
    files = {"train.csv": b"", "sample_submission.csv": SAMPLE.encode()}
    made = kaggle.add_competition("tweets", "Tweets", files, score, daily_limit=2)
    made.private = lambda content: 0.25
    return made


class Lab:
    """A bucket with a run that predicts, and the run whose model it uses."""

    def __init__(self, uri: str) -> None:
        self.uri = f"{uri}/mlruns"
        self.client = mlflow.MlflowClient(self.uri)
        experiment = self.client.create_experiment("tweets")
        self.model = self.client.create_run(experiment).info.run_id
        self.client.log_metric(self.model, "jaccard", 0.7)
        made = self.client.create_run(experiment, run_name="predicting-crow")
        self.run = made.info.run_id
        self.client.log_param(self.run, "runs", f"{self.model}, data/model,{'0' * 32}")

    def predicts(self, text: str) -> "Lab":
        self.client.log_text(self.run, text, "submission.csv")
        return self

    def submitter(self, competition: str = "tweets") -> Submitter:
        return Submitter(self.uri, self.run, competition)

    def both(self) -> list[mlflow.entities.Run]:
        return [self.client.get_run(each) for each in (self.run, self.model)]


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(f"bucket+file://{tmp_path}/bucket")


def test_a_score_is_waited_for_and_recorded_on_all_runs_behind_it(
    kaggle: KaggleServer, tweets: Competition, bucket: Bucket
) -> None:
    lab = Lab(bucket.uri).predicts(GOOD)
    kaggle.behaviour.late_scores = 2
    kaggle.fail(500, op="ListSubmissions")  # which passes
    submitter = lab.submitter()
    sent, checked = submitter.submit(None, "")
    assert (sent.status, sent.public_score, checked) == ("PENDING", None, True)
    pauses: list[float] = []
    done = submitter.wait(sent, pauses.append)
    assert pauses == [0.5, 1.0]
    assert done.public_score == pytest.approx(2 / 3, abs=1e-5)
    for run in lab.both():
        assert run.data.metrics["public_score"] == done.public_score
        assert run.data.tags["submission_ref"] == str(done.ref)
        assert run.data.tags["submission_competition"] == "tweets"
        assert run.data.tags["submission_time"].endswith("+00:00")
    assert tweets.submissions[0].description.startswith(f"predicting-crow [kaggleops {lab.run} ")

    tweets.ended = True  # and now there is a private score; the run knows where
    again = Submitter(lab.uri, lab.run).submitted()
    assert again.private_score == 0.25
    assert all(run.data.metrics["private_score"] == 0.25 for run in lab.both())


def test_the_same_file_is_not_submitted_twice(
    kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path
) -> None:
    lab.predicts(GOOD).submitter().submit(None, "first")
    copy = tmp_path / "renamed.csv"
    copy.write_text(GOOD)
    with pytest.raises(UsageError, match=r"the same was submitted on .*\(submission \d+\)"):
        Submitter(lab.uri, lab.model, "tweets").submit(copy, "second")
    assert len(tweets.submissions) == 1


def test_the_command_draws_no_bar_for_one_file(
    kaggle: KaggleServer, tweets: Competition, lab: Lab
) -> None:
    lab.predicts(GOOD)
    done = kaggleops_here("submit", lab.run, "--bucket", lab.uri, "--competition", "tweets")
    assert (done.code, "Downloading" in done.errors) == (0, False)


def test_one_over_the_daily_limit_is_told_when(
    kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path
) -> None:
    file = tmp_path / "s.csv"
    for number in range(2):
        file.write_text(f"{SAMPLE}\n" * 1 + "\n" * number)
        lab.submitter().submit(file, "")
    file.write_text(GOOD)
    said = r"today's limit of 2 is reached. The next is free at 00:00 UTC\."
    with pytest.raises(KaggleOpsError, match=said):
        lab.submitter().submit(file, "")
    assert len(tweets.submissions) == 2


@pytest.mark.parametrize("kind", ["lost-response", "reset"])
def test_an_answer_that_is_lost(
    kind: str, kaggle: KaggleServer, tweets: Competition, lab: Lab
) -> None:
    kaggle.fail(kind, op="CreateSubmission")
    submitter = lab.predicts(GOOD).submitter()
    if kind == "reset":  # it never arrived, and is not sent again by itself
        with pytest.raises(NoAnswerError):
            submitter.submit(None, "")
        assert tweets.submissions == []
    else:
        sent, _ = submitter.submit(None, "")
        assert [each.ref for each in tweets.submissions] == [sent.ref]


@pytest.mark.parametrize(
    "op",
    [
        "ListSubmissions",
        "GetSubmissionLimits",
        "StartSubmissionUpload",
        "upload",
        "CreateSubmission",
    ],
)
def test_an_answer_that_is_none(
    op: str, kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path
) -> None:
    http, file, tweets.daily_limit = kaggle._http, tmp_path / "s.csv", 1000
    assert http
    for number, (name, answer) in enumerate(whole(b'{"ref": 1, "submissions": []}')):
        file.write_text(GOOD + "\n" * number)
        http.change = lambda request, good, answer=answer: answer if request.op == op else good
        options = ("--bucket", lab.uri, "--competition", "tweets")
        given = [("--file", file, "--no-wait"), ("--scores",)]
        sent, scores = (kaggleops_here("submit", lab.run, *options, *each) for each in given)
        for done in (sent, scores):
            assert done.code in (0, 1, 2)
            assert (name, done.errors.count("error:")) == (name, int(done.code > 0)), done.errors
        http.change = lambda request, good: good
        if op == "CreateSubmission" and answer.status == 200:
            assert len(tweets.submissions) == number + 1
            assert (name, sent.code) == (name, 0)
            assert kaggleops_here("submit", lab.run, *options, "--file", file).code == 2


def test_what_kaggle_cannot_score(kaggle: KaggleServer, tweets: Competition, lab: Lab) -> None:
    submitter = lab.predicts(GOOD.replace("A,1", "A,bad")).submitter()
    sent, _ = submitter.submit(None, "")
    with pytest.raises(KaggleOpsError, match="Submission contains text"):
        submitter.wait(sent)
    submitter.submit(None, "")  # it did not count, and may be sent again
    assert len(tweets.submissions) == 2


def test_rules_that_are_not_accepted(kaggle: KaggleServer, lab: Lab) -> None:
    sample = {"sample_submission.csv": SAMPLE.encode()}
    kaggle.add_competition("new", "New", sample, score, not_accepted_by=["ada"])
    with pytest.raises(KaggleOpsError, match=r"Accept its rules: .*/competitions/new/rules"):
        lab.predicts(GOOD).submitter("new").submit(None, "")


def test_who_does_not_say_what_or_where(
    kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"no artifact submission.csv.*entry-point predict"):
        lab.submitter().submit(None, "")
    with pytest.raises(UsageError, match="there is no file /nowhere"):
        lab.submitter().submit(Path("/nowhere"), "")
    with pytest.raises(
        UsageError, match=r"no competition is named; .* has none. Add --competition"
    ):
        lab.submitter("")
    with pytest.raises(UsageError, match="nothing was submitted for it yet"):
        lab.submitter().submitted()
    with pytest.raises(UsageError, match="not found"):
        Submitter(lab.uri, "f" * 32, "tweets")
    (tmp_path / MANIFEST).parent.mkdir(parents=True)
    declared = {"t": {"source": "kaggle://competitions/tweets"}, "d": {"source": "gs://b-1/x"}}
    (tmp_path / MANIFEST).write_text(yaml.safe_dump(declared))
    assert lab.submitter("").competition == "tweets"


def test_the_list_of_submissions_with_each_runs_own_score(
    kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path
) -> None:
    options = ("--competition", "tweets", "--bucket", lab.uri)
    empty = kaggleops_here("submissions", *options)
    assert (empty.code, "Nothing was submitted to tweets yet." in empty.output) == (0, True)
    tweets.daily_limit = 9
    file = tmp_path / "s.csv"
    for number in range(4):
        run = lab.client.create_run("0", run_name=f"run-{number}").info.run_id
        lab.client.log_metric(run, "jaccard", 0.5 + number / 10)
        lines = [f"{each},{int(at < number)}" for at, each in enumerate("ABC")]
        file.write_text("\n".join(["id,target", *lines]))
        assert kaggleops_here("submit", run, "--file", file, *options).code == 0
    lab.predicts(GOOD).submitter().submit(None, "")  # its own score is that of its model
    done = kaggleops_here("submissions", *options)
    *rows, told, today = done.output.strip().splitlines()
    assert rows[0].split() == ["submitted", "ref", "run", "own", "score", "public"]
    assert [row.split()[-3:] for row in rows[1:]] == [
        ["0.70000", "jaccard", "0.66667"],
        ["0.80000", "jaccard", "1.00000"],
        ["0.70000", "jaccard", "0.66667"],
        ["0.60000", "jaccard", "0.33333"],
        ["0.50000", "jaccard", "0.00000"],
    ]
    assert f"{lab.run[:8]} predicting-crow" in rows[1]
    said = "Rank correlation of jaccard and public score: +1.00 (95 % interval +0.16 to"
    assert told.startswith(said), told
    assert told.endswith("to +1.00, Fisher's z), over 5 runs.")
    assert today == "Today 4 of 9 submissions are left."
    found = kaggleops_here("submissions", *options, "--json").json
    assert (found["runs"], found["rank_correlation"]) == (5, pytest.approx(1))
    assert found["submissions"][0]["run_id"] == lab.run


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("id,y\nA,1\n", r"its columns are id, y instead of id, target"),
        ("", r"its columns are  instead of id, target"),
        ("id,target\nA,1\nB,1,1\n", r"line 3 has 3 fields instead of 2"),
        ("id,target\nA,1\n\nX,1\n", r"line 4 has the id 'X', which the sample has not"),
        ("id,target\nA,1\nB,1\nA,1\n", r"lines 2 and 4 both have the id 'A'"),
        ("id,target\nC,1\n", r"2 of 3 rows are missing, 'A' say"),
        ('id,target\n"A,1\n', r"it is not CSV"),
    ],
)
def test_a_file_that_does_not_match_the_sample(text: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "sample.csv").write_text(SAMPLE)
    (tmp_path / "s.csv").write_text(text)
    with pytest.raises(UsageError, match=said):
        check_against(tmp_path / "sample.csv", tmp_path / "s.csv")
    (tmp_path / "s.csv").write_text("\ufeffid,target\nC,1\r\nA,1\r\nB,0\r\n", encoding="utf-8")
    check_against(tmp_path / "sample.csv", tmp_path / "s.csv")


def test_the_command(kaggle: KaggleServer, tweets: Competition, lab: Lab, tmp_path: Path) -> None:
    lab.predicts(GOOD)

    def submit(*arguments: object) -> tuple[int, str]:
        environment = {**kaggle.environment("ada"), "KAGGLEOPS_HOME": str(tmp_path / "home")}
        options = ("submit", lab.run, "--bucket", lab.uri, *arguments)
        done = kaggleops(*options, cwd=tmp_path, **environment)
        return done.code, done.output or done.error

    code, text = submit("--competition", "tweets")
    assert (code, "0.66667" in text) == (0, True)
    code, text = submit("--scores", "--json")
    assert (code, '"status": "COMPLETE"' in text) == (0, True)
