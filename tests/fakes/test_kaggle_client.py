"""The fake Kaggle through Kaggle's real client: every call, on a good day."""

import json
import os
from pathlib import Path

import pytest
from kagglesdk.competitions.types.competition_api_service import ApiGetSubmissionLimitsRequest
from kagglesdk.kernels.types.kernels_api_service import (
    ApiCancelKernelSessionRequest,
    ApiGetKernelSessionStatusRequest,
)
from requests import HTTPError

from tests.fakes.gcs_server import GcsServer
from tests.fakes.kaggle_server import KaggleServer
from tests.fakes.kaggle_uses import dataset_folder, kernel_folder, notebook_of

NOTEBOOK = (
    """
import os, subprocess, sys
from pathlib import Path
root = Path(os.environ["KAGGLEOPS_ROOT"])
print("run type", os.environ["KAGGLE_KERNEL_RUN_TYPE"], "in", Path.cwd().relative_to(root))
print("gpus", subprocess.run("nvidia-smi", capture_output=True, text=True).stdout.split("\\n"))
for file in sorted((root / "kaggle/input").rglob("*.*")):
    print("input", file.relative_to(root), file.read_text())
""",
    """
print("waiting", file=sys.stderr)
gate = (root / "gate").read_text()
Path("deep").mkdir()
Path("deep/er.txt").write_text(gate)
Path("plain.txt").write_text("plain")
""",
)


def test_a_notebook_from_its_push_to_its_deletion(kaggle: KaggleServer, tmp_path: Path) -> None:
    api = kaggle.api("ada")
    kaggle.add_dataset("ada/some-tweets", {"train.csv": b"good,1"})
    kaggle.add_dataset("bob/for-all", {"public.csv": b"hi"}, private=False)
    kaggle.add_competition("nlp", "NLP", {"test.csv": b"?"}, score=len)
    kaggle.add_model("m/m/torch/small/1", {"model.bin": b"weights"})
    kaggle.hold_sessions()
    folder = kernel_folder(
        tmp_path / "push",
        "ada/my-notebook",
        notebook_of(*NOTEBOOK),
        kernel_type="notebook",
        machine_shape="NvidiaTeslaP100",
        docker_image="kaggle/python@sha256:abc",
        docker_image_pinning_type="original",
        dataset_sources=["ada/some-tweets", "bob/for-all"],
        competition_sources=["nlp"],
        model_sources=["m/m/torch/small/1"],
    )
    pushed = api.kernels_push(folder)
    assert (pushed.version_number, pushed.error) == (1, "")
    assert pushed.url == "https://www.kaggle.com/code/ada/my-notebook"
    assert api.kernels_status("ada/my-notebook").status.name == "QUEUED"
    assert api.kernels_output("ada/my-notebook", str(tmp_path / "none")) == ([], "")

    session = kaggle.session("ada/my-notebook")
    session.start()
    assert session.wait("RUNNING") == "RUNNING"
    os.mkfifo(session.root / "gate")
    events = api.kernels_logs_stream("ada/my-notebook")
    shown: list[str] = []
    while not shown or shown[-1] != "waiting\n":
        shown.append(next(events)["data"])
    assert api.kernels_status("ada/my-notebook").status.name == "RUNNING"
    assert "run type Batch in kaggle/working\n" in shown
    assert "gpus ['Tesla T4', 'Tesla T4', '']\n" in shown  # the shape asked for is retired
    assert [line for line in shown if line.startswith("input")] == [
        "input kaggle/input/competitions/nlp/test.csv ?\n",
        "input kaggle/input/datasets/ada/some-tweets/train.csv good,1\n",
        "input kaggle/input/datasets/bob/for-all/public.csv hi\n",
        "input kaggle/input/models/m/m/torch/small/1/model.bin weights\n",
    ]
    (session.root / "gate").write_text("opened")
    rest = list(events)
    assert session.wait() == "COMPLETE"

    assert api.kernels_status("ada/my-notebook").status.name == "COMPLETE"
    kept = list(api.kernels_logs_stream("ada/my-notebook"))
    assert [event["data"] for event in kept] == shown + [event["data"] for event in rest]
    files, _ = api.kernels_output("ada/my-notebook", str(tmp_path / "output"), page_size=1)
    got = {Path(file).relative_to(tmp_path / "output").as_posix() for file in files}
    assert got == {"deep/er.txt", "plain.txt", "my-notebook.log"}
    assert (tmp_path / "output/deep/er.txt").read_text() == "opened"
    log = json.loads((tmp_path / "output/my-notebook.log").read_text())
    assert log == kept == json.loads(api.kernels_logs("ada/my-notebook"))
    assert {"stream_name", "time", "data"} == set(log[0])
    assert {entry["stream_name"] for entry in log} == {"stdout", "stderr"}
    listed = api.kernels_list_files("ada/my-notebook").files
    assert [(file.name, file.size) for file in listed] == [("deep/er.txt", 6), ("plain.txt", 5)]

    api.kernels_pull("ada/my-notebook", str(tmp_path / "pulled"), metadata=True)
    metadata = json.loads((tmp_path / "pulled/kernel-metadata.json").read_text())
    assert metadata["is_private"] is True
    assert metadata["enable_internet"] is False
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert metadata["docker_image"] == "kaggle/python@sha256:abc"
    assert metadata["model_sources"] == ["m/m/torch/small/1"]
    assert "waiting" in (tmp_path / "pulled/my-notebook.ipynb").read_text()
    assert api.kernels_push(str(tmp_path / "pulled")).version_number == 2
    assert [each.ref for each in api.kernels_list(mine=True)] == ["ada/my-notebook"]
    assert api.kernels_list() == []
    api.kernels_delete("ada/my-notebook", no_confirm=True)
    with pytest.raises(ValueError, match=r"Permission 'kernels\.get' was denied"):
        api.kernels_status("ada/my-notebook")
    assert kaggle.kernels == []


def test_how_scripts_end(kaggle: KaggleServer, tmp_path: Path) -> None:
    api = kaggle.api("ada")

    def push(source: str, **more: object) -> None:
        api.kernels_push(kernel_folder(tmp_path, "ada/my-script", source, **more))

    push("open('kept.txt', 'w').write('1'); print('one')")
    assert kaggle.session("ada/my-script").wait() == "COMPLETE"
    push("open('lost.txt', 'w'); raise SystemExit('two')")
    assert kaggle.session("ada/my-script").wait() == "ERROR"
    assert json.loads(api.kernels_logs("ada/my-script"))[0]["data"] == "two\n"
    assert api.kernels_list_files("ada/my-script").files == []
    forever = "import time\nprint('three', flush=True)\ntime.sleep(1000)"
    api.kernels_push(kernel_folder(tmp_path, "ada/my-script", forever), timeout="1")
    assert kaggle.session("ada/my-script").wait() == "ERROR"
    assert "longer than 1 seconds" in api.kernels_status("ada/my-script").failure_message
    push(forever)
    session = kaggle.session("ada/my-script")
    session.wait_for_log("three")
    with api.build_kaggle_client() as client:
        cancel = ApiCancelKernelSessionRequest()
        cancel.kernel_session_id = session.id
        client.kernels.kernels_api_client.cancel_kernel_session(cancel)
        assert session.wait() == "CANCEL_ACKNOWLEDGED"
        # The latest version answers, unless one is asked for in the way that the command cannot.
        states = {}
        for label in (None, "v1", "v2", "v4"):
            ask = ApiGetKernelSessionStatusRequest()
            ask.user_name, ask.kernel_slug, ask.version_label = "ada", "my-script", label
            states[label] = client.kernels.kernels_api_client.get_kernel_session_status(ask)
    names = {label: answer.status.name for label, answer in states.items()}
    cancelled = "CANCEL_ACKNOWLEDGED"
    assert names == {None: cancelled, "v1": "COMPLETE", "v2": "ERROR", "v4": cancelled}
    # What one notebook left is what another reads.
    push(
        "import os; print(open(os.environ['KAGGLEOPS_ROOT'] + '/kaggle/input/notebooks/ada/"
        "my-script/kept.txt').read())",
        kernel_sources=["ada/my-script"],
    )
    kaggle.session("ada/my-script").wait_for_log("1\n")


def test_a_notebook_without_a_kernelspec_fails_when_it_runs(
    kaggle: KaggleServer, tmp_path: Path
) -> None:
    text = notebook_of("1", kernelspec=False)
    folder = kernel_folder(tmp_path, "ada/my-notebook", text, kernel_type="notebook")
    assert kaggle.api("ada").kernels_push(folder).version_number == 1
    session = kaggle.session("ada/my-notebook")
    assert session.wait() == "ERROR"
    assert "No kernel name found" in session.text


def test_internet_only_where_it_is_switched_on(tmp_path: Path) -> None:
    source = "import os, urllib.request; urllib.request.urlopen(os.environ['SERVICE'] + '/x')"
    with (
        GcsServer() as service,
        KaggleServer(tmp_path / "kaggle", outside={"SERVICE": service.url}) as server,
    ):
        server.add_user("ada")
        for on, reason in ((True, "400: Bad Request"), (False, "Connection refused")):
            folder = kernel_folder(tmp_path, "ada/my-script", source, enable_internet=on)
            server.api("ada").kernels_push(folder)
            session = server.session("ada/my-script")
            assert session.wait() == "ERROR"
            assert reason in session.text


def test_datasets(kaggle: KaggleServer, tmp_path: Path) -> None:
    api = kaggle.api("ada", token=True)
    folder = dataset_folder(tmp_path / "data", "ada/my-credentials", key_json="{}", notes="old")
    made = api.dataset_create_new(folder, quiet=True)
    assert (made.status, made.url) == ("ok", "https://www.kaggle.com/datasets/ada/my-credentials")
    assert "already in use" in api.dataset_create_new(folder, quiet=True).error
    dataset_folder(tmp_path / "data", "ada/my-credentials", notes="newer")
    assert api.dataset_create_version(folder, "again", quiet=True).status == "ok"
    assert api.dataset_create_version(folder, "x", True, delete_old_versions=True).status == "ok"
    assert kaggle.dataset("ada/my-credentials").versions == [
        {},
        {},
        {"key.json": b"{}", "notes": b"newer"},
    ]
    state = api.dataset_status("ada/my-credentials", format="json")
    assert json.loads(state) == {"status": "ready", "current_version_number": 3}
    files = api.dataset_list_files("ada/my-credentials").files
    assert [(file.name, file.total_bytes) for file in files] == [("key.json", 2), ("notes", 5)]
    (found,) = api.dataset_list(mine=True)
    assert (found.ref, found.is_private) == ("ada/my-credentials", True)
    assert api.dataset_list() == kaggle.api("bob").dataset_list(user="ada") == []
    with pytest.raises(HTTPError, match="was denied"):
        kaggle.api("bob").dataset_status("ada/my-credentials")
    api = kaggle.api("ada")
    api.dataset_delete("ada", "my-credentials", no_confirm=True)
    with pytest.raises(HTTPError, match="was denied"):
        api.dataset_status("ada/my-credentials")


def test_competitions(kaggle: KaggleServer, tmp_path: Path) -> None:
    kaggle.add_competition("nlp", "Some NLP", {}, score=lambda sent: float(sent), daily_limit=2)
    api = kaggle.api("ada")
    file = tmp_path / "submission.csv"

    def submit(content: str) -> str:
        file.write_text(content)
        return str(api.competition_submit(str(file), "my best", "nlp", quiet=True).message)

    assert submit("0.5") == "Successfully submitted to Some NLP"
    submit("nonsense")
    with api.build_kaggle_client() as client:
        asked = ApiGetSubmissionLimitsRequest()
        asked.competition_name = "nlp"
        limits = client.competitions.competition_api_client.get_submission_limits(asked)
    assert (limits.num_today, limits.num_allowed_now) == (1, 1)
    submit("0.25")
    with pytest.raises(HTTPError, match="daily limit"):
        submit("0.9")
    kaggle.behaviour.late_scores = 1
    assert {each.status.name for each in api.competition_submissions("nlp")} == {"PENDING"}
    sent = api.competition_submissions("nlp")
    shown = [(each.status.name, each.public_score, each.description) for each in sent]
    assert shown == [
        ("COMPLETE", "0.25000", "my best"),
        ("ERROR", "", "my best"),
        ("COMPLETE", "0.50000", "my best"),
    ]
    assert "could not convert" in sent[1].error_description
    api = kaggle.api("bob")
    submit("0.75")
    ranks = [(each.team_name, each.score) for each in api.competition_leaderboard_view("nlp")]
    assert ranks == [("bob", "0.75000"), ("ada", "0.50000")]
    with pytest.raises(HTTPError, match="Competition not found"):
        api.competition_leaderboard_view("absent")


def test_a_code_competition_runs_a_notebook_again_with_its_hidden_files(
    kaggle: KaggleServer, tmp_path: Path
) -> None:
    shown = {"test.csv": b"1"}
    made = kaggle.add_competition("code", "Code", shown, score=lambda sent: float(sent) / 2)
    made.hidden = {"test.csv": b"3"}
    api = kaggle.api("ada")
    (tmp_path / "s.csv").write_text("1")
    with pytest.raises(HTTPError, match="only accepts Submissions from Notebooks"):
        api.competition_submit(str(tmp_path / "s.csv"), "a file", "code", quiet=True)
    source = """
import os
root = os.environ["KAGGLEOPS_ROOT"]
test = open(root + "/kaggle/input/competitions/code/test.csv").read()
open("s.csv" if test == "1" or "no file" not in "KIND" else "t.csv", "w").write(test)
assert test == "1" or "raises" not in "KIND"
"""

    def push(kind: str, **more: object) -> int:
        text = source.replace("KIND", kind)
        folder = kernel_folder(tmp_path / "k", "ada/my-code", text, **more)
        number = api.kernels_push(folder).version_number
        assert kaggle.session("ada/my-code").wait() == "COMPLETE"
        return int(number)

    more = {"competition_sources": ["code"]}
    version = push("good", enable_internet=True, **more)
    with pytest.raises(HTTPError, match="cannot use internet access"):
        api.competition_submit_code("s.csv", "online", "code", "ada/my-code", version, quiet=True)
    for kind in ("good", "no file", "raises", "slow"):
        version = push(kind, **more)
        made.rerun_seconds = 0.001 if kind == "slow" else None
        api.competition_submit_code("s.csv", kind, "code", "ada/my-code", version, quiet=True)
        assert api.competition_submissions("code")[0].status.name in ("PENDING", "ERROR")
        for session in kaggle._store.sessions():
            session.wait()
    ended = [
        (each.description, each.public_score, each.error_description)
        for each in api.competition_submissions("code")
    ]
    assert ended[::-1] == [
        ("good", "1.50000", ""),
        ("no file", "", "Submission CSV Not Found"),
        ("raises", "", "Notebook Threw Exception"),
        ("slow", "", "Notebook Timeout"),
    ]


def test_a_dataset_takes_a_while_and_archives_become_folders(
    kaggle: KaggleServer, tmp_path: Path
) -> None:
    api = kaggle.api("ada")
    folder = dataset_folder(tmp_path / "data", "ada/my-models", notes="old")
    (tmp_path / "data/models/deep").mkdir(parents=True)
    (tmp_path / "data/models/deep/weights").write_text("1")
    kaggle.behaviour.slow_datasets = 1
    api.dataset_create_new(folder, quiet=True, dir_mode="zip")
    with pytest.raises(HTTPError, match="Not found"):
        api.dataset_list_files("ada/my-models")
    assert [api.dataset_status("ada/my-models") for _ in range(2)] == ["blobs_received", "ready"]
    listed = [each.name for each in api.dataset_list_files("ada/my-models").files]
    assert listed == ["models/deep/weights", "notes"]
    (tmp_path / "data/models/deep/more").write_text("2")
    api.dataset_create_version(folder, "more", quiet=True, dir_mode="zip")
    assert len(api.dataset_list_files("ada/my-models").files) == 2
    api.dataset_status("ada/my-models")
    assert len(api.dataset_list_files("ada/my-models").files) == 3
