"""What a newcomer follows, run: docs/start.md prints what it shows; README.ja.md's quick start."""

import re
import shlex
from pathlib import Path

from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/start.md").read_text().partition("## With a bucket of another service")[0]

# What differs from run to run: hashes, names, sizes, the experiment.
DIFFERS = re.compile(r"[0-9a-f]{8,40}|[a-z]+-[a-z]+-\d+|/\d+/|home/ada|\d\.\d{4}")

TRAIN = """
import mlflow

with mlflow.start_run():
    mlflow.log_metric("accuracy", 0.25)
"""


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """Return each command of a console block with what the page shows below it."""
    shown = [part.partition("\n") for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]]
    return [(command, output.strip()) for command, _, output in shown]


def test_a_newcomer_gets_what_the_page_shows(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "my-repository")
    repository.write(train_py=blocks("python")[0])
    repository.commit("My training")
    (repository.folder / "data").mkdir()
    rows = "id,width,target\n1,0.2,0\n2,0.6,0\n3,0.8,1\n4,0.9,1\n"
    (repository.folder / "data/train.csv").write_text(rows)
    name = ""
    for command, shown in commands(blocks("console")[0]):
        if command.startswith("git add"):
            repository.commit("Run with KaggleOps")
            continue
        words = [name if word == "skittish-stork-970" else word for word in command.split()[1:]]
        done = kaggleops_here(*words, cwd=repository.folder)
        assert done.code == 0, done.errors
        if command == "kaggleops run":
            name = done.output.split()[2]
        printed = (done.errors + done.output).replace(f"{tmp_path}/", "/home/ada/")
        printed = printed.replace(str(tmp_path)[1:], "home/ada")
        if shown:
            lines = [DIFFERS.sub("…", line) for line in shown.splitlines()]
            got = DIFFERS.sub("…", printed).splitlines()
            assert [line for line in lines if line not in got] == [], printed
    assert repository.git("status", "--porcelain") == ""

    # Other machines have no data that only this one has, until it is in the bucket.
    refused = kaggleops_here("run", "-b", "manual", cwd=repository.folder)
    assert "its data data/train.csv is on this machine only. Bring it" in refused.error
    push = commands(blocks("console")[1])[0][0]
    done = kaggleops_here(*push.split()[1:], cwd=repository.folder)
    assert done.code == 0, done.errors
    repository.commit("Say where the data is")
    for words in (["run", "-b", "manual"], ["run", "threshold=0.7", "--json"]):
        done = kaggleops_here(*words, cwd=repository.folder)
        assert done.code == 0, done.errors
    assert done.json["metrics"] == {"accuracy": 1.0}


def test_the_quick_start_in_japanese(tmp_path: Path) -> None:
    sections = re.split(r"^### \d\. ", (ROOT / "README.ja.md").read_text(), flags=re.MULTILINE)
    console = "".join(re.findall(r"^```console\n(.*?)^```", sections[2] + sections[5], re.M | re.S))
    words = [shlex.split(command) for command, _ in commands(console)]
    # Setting up and serving are other tests': packaging and `ui`.
    walked = [each for each in words if each[0] != "pip" and each != ["kaggleops", "ui"]]
    assert [each[1] for each in walked].count("run") == 2

    repository = Repository(tmp_path / "my-repository")
    repository.write(train_py=TRAIN)
    repository.commit("My training")
    printed = {}
    for each in walked:
        if each[0] == "git":
            if "-am" in each:
                repository.write(train_py=TRAIN.replace("0.25", "0.5"))
            repository.commit(each[-1])
            continue
        done = kaggleops_here(*each[1:], cwd=repository.folder)
        assert done.code == 0, done.errors
        printed[each[1]] = done.output
    assert "0.5000" in printed["leaderboard"]
    assert "0.2500             0.5000" in printed["compare"]
    assert "▲" not in printed["compare"]  # of one run a side nothing can be told
    assert "<html" in (repository.folder / "compare.html").read_text()
