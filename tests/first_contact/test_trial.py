"""The command: it asks before anything is made, leaves nothing, and writes a report."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from kaggleops.backends.interface import Finding
from kaggleops.errors import KaggleOpsError
from kaggleops.first_contact.assumption import Line, shown
from kaggleops.first_contact.services import plan, written
from kaggleops.first_contact.trial import begun, left_behind
from tests import secrets_of
from tests.canaries import marks_in
from tests.command import Done, kaggleops_here
from tests.fakes.gcs_server import GcsServer
from tests.fakes.s3_server import S3Server

from . import differences

BUCKET = "gs://our-bucket/the-prefix"


@pytest.fixture
def gcs(gcs_server: GcsServer) -> GcsServer:
    gcs_server.create_bucket("our-bucket")
    gcs_server.put("our-bucket", "the-prefix/mlruns/0.tar.gz", b"a run of somebody's")
    return gcs_server


def left(gcs: GcsServer) -> list[str]:
    return [key for key in gcs.objects("our-bucket") if "/doctor/" in key]


def doctor(*arguments: str) -> Done:
    return kaggleops_here("doctor", "--try", *arguments, "--bucket", BUCKET)


def test_it_checks_leaves_nothing_and_writes_a_report(gcs: GcsServer, state_folder: Path) -> None:
    assert gcs._http
    made: set[str] = set()

    def change(request: object, response: object) -> object:
        made.update(gcs.objects("our-bucket"))
        about = getattr(request, "key", "") or ""
        if "/damaged-upload-refused/" in about:
            return differences.GCS["damaged-upload-refused"](request, response)  # type: ignore[arg-type]
        return response

    gcs._http.change = change  # type: ignore[assignment]
    done = doctor("gcs", "--yes")
    assert done.code == 1  # as one differs
    assert "writes some 60 small objects into gs://our-bucket/the-prefix" in done.errors
    lines = done.output.splitlines()
    assert "✓ create-refused             412: At least one of the pre-conditions" in done.output
    (differs,) = (line for line in lines if line.startswith("✗"))
    assert differs.startswith("✗ damaged-upload-refused     400: Provided MD5 hash")
    assert "✓ left behind                nothing" in lines
    assert any(key.startswith("the-prefix/doctor/try-") for key in made)
    assert all(key.startswith("the-prefix/doctor/try-") for key in made if "/mlruns/" not in key)
    assert left(gcs) == []
    (file,) = (state_folder / "first-contact").iterdir()
    assert str(file) in done.output.replace("\n", "")
    report = file.read_text()
    assert "| damaged-upload-refused | **differs** | 400: Provided MD5 hash" in report
    assert "What would break:\n\n- damaged-upload-refused: otherwise an upload that" in report
    assert "| absent-object | ok | 404: No such object: BUCKET/PREFIX/doctor/try-" in report
    assert "our-bucket" not in report
    assert "the-prefix" not in report
    assert str(Path.home()) not in report


def test_an_s3_that_ignores_a_condition_is_told(s3_server: S3Server, state_folder: Path) -> None:
    s3_server.ignores_conditions = ("delete",)
    s3_server.create_bucket("our-bucket")
    place = s3_server.address("our-bucket", "the-prefix")
    done = kaggleops_here("doctor", "--try", "s3", "--yes", "--bucket", place)
    assert done.code == 1
    differing = [line for line in done.output.splitlines() if line.startswith("✗")]
    assert differing == ["✗ delete-refused             204"]
    assert "Otherwise what somebody has just written is deleted" in " ".join(done.output.split())
    assert "✓ left behind                nothing" in done.output
    assert [key for key in s3_server.objects("our-bucket") if "/doctor/" in key] == []
    (report,) = (state_folder / "first-contact").glob("s3-*.md")
    assert "| delete-refused | **differs** | 204" in report.read_text()


def test_a_report_names_nobody_and_holds_no_secret(gcs: GcsServer, state_folder: Path) -> None:
    key = secrets_of.HUGGING_FACE_TOKEN
    said = f"ada@adas-runs.iam.gserviceaccount.com may not, with {key}, in our-bucket of ada"
    found = Line("an-id", "It may.", "nothing works", "differs", shown(said))
    planned = replace(plan("gcs", BUCKET, Path()), names={"ada": "USER"})
    report = written(planned, [found], "nothing").read_text()
    assert "EMAIL may not, with \\*\\*\\*, in BUCKET of USER" in report
    assert not marks_in(report)


def test_as_json(gcs: GcsServer) -> None:
    done = doctor("gcs", "--yes", "--json")
    assert done.code == 0
    told = json.loads(done.output)
    assert told["assumptions"][0]["id"] == "create-refused"
    assert {each["verdict"] for each in told["assumptions"]} == {"ok"}
    assert Path(told["report"]).is_file()


def test_nothing_is_made_before_the_answer(gcs: GcsServer, state_folder: Path) -> None:
    gcs.reset_counts()
    done = doctor("gcs")
    assert done.code == 2
    assert "nobody is at a terminal" in done.error
    assert gcs.requests == []
    assert not (state_folder / "first-contact").exists()


def test_it_says_where_it_cannot_be_tried(gcs: GcsServer, tmp_path: Path) -> None:
    assert "is not a bucket of that service" in doctor("s3", "--yes").error
    done = kaggleops_here("doctor", "--try", "gcs", "--yes", "--bucket", str(tmp_path / "bucket"))
    assert "is a folder of this machine" in done.error


def test_one_that_was_interrupted_leaves_nothing(gcs: GcsServer) -> None:
    trial = plan("gcs", BUCKET, Path()).lines()
    assert next(trial).verdict == "ok"
    assert left(gcs)
    with pytest.raises(KeyboardInterrupt):
        trial.throw(KeyboardInterrupt())  # type: ignore[attr-defined]
    assert left(gcs) == []


def test_what_one_that_was_killed_left_is_deleted_by_the_next(gcs: GcsServer) -> None:
    with begun(BUCKET) as killed:
        gcs.put("our-bucket", f"the-prefix/{killed.folder}/create-refused/object", b"one")
        assert left_behind(BUCKET) == []  # it goes on
    assert left_behind(BUCKET) == [killed]  # the kernel has unlocked its file
    trial = plan("gcs", BUCKET, Path()).lines()
    first = next(trial)
    assert isinstance(first, Finding)
    assert first.said == f"deleted what a trial that was interrupted left: {killed.folder}"
    trial.close()
    assert left(gcs) == []


def test_one_of_another_machine_is_over_after_an_hour(
    gcs: GcsServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with begun(BUCKET) as theirs:
        monkeypatch.setenv("KAGGLEOPS_HOME", str(tmp_path / "another machine"))
        assert left_behind(BUCKET) == []
        gcs.age("our-bucket", f"the-prefix/{theirs.folder}/begun.json", hours=1.1)
        assert left_behind(BUCKET) == [theirs]


def test_what_could_not_be_deleted_is_said_and_found_again(gcs: GcsServer) -> None:
    trial = plan("gcs", BUCKET, Path()).lines()
    next(trial)
    gcs.fail(403, op="delete", times=None)
    *_, last = trial
    assert last.verdict == "error"
    assert "`kaggleops reap` deletes it" in last.hint  # type: ignore[union-attr]
    gcs.heal()
    (again,) = left_behind(BUCKET)
    again.delete()
    assert left(gcs) == []


def test_reap_deletes_it_too(gcs: GcsServer) -> None:
    with begun(BUCKET) as killed:
        pass
    would = kaggleops_here("reap", "-b", "local", "--dry-run", "--bucket", BUCKET)
    assert f"would be deleted: {killed.folder}, which `doctor --try` left" in would.output
    assert left(gcs)
    done = kaggleops_here("reap", "-b", "local", "--bucket", BUCKET)
    assert f"deleted: {killed.folder}, which `doctor --try` left" in done.output
    assert left(gcs) == []


def test_one_that_was_killed_while_it_deleted_is_deleted_by_the_next(gcs: GcsServer) -> None:
    with begun(BUCKET) as killed:
        killed.here.mkdir()
        gcs.fail(
            403, times=None, where=lambda asked: asked.method == "DELETE"
        )  # killed at the last
        with pytest.raises(KaggleOpsError):
            killed.delete()
    gcs.heal()
    assert not killed.here.exists()  # what tells of it goes after that
    (again,) = left_behind(BUCKET)
    again.delete()
    assert left(gcs) == []
