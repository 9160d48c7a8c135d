"""What this machine keeps is its user's alone, whatever the umask, and what was not becomes so."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.bucket.location import bucket_uri
from kaggleops.platforms.folders import write_private
from kaggleops.resources.files import Placed
from kaggleops.server.settings import (
    ask_for_passwords,
    make_users_database,
    server_folder,
)
from tests.canaries import open_to_others
from tests.command import kaggleops_here
from tests.fakes.object_server import ObjectServer

from .processes import train
from .uploading import is_upload, uri, waiting

TRAINING = waiting("""
import os
os.umask(0)
with mlflow.start_run():
    mlflow.log_metric("loss", 1.0)
    mlflow.log_artifact(file("model.bin", "weights"))
""")

# Killed before it sent anything.
LEFT = """
import os
os.umask(0)
mlflow.start_run()
mlflow.log_metric("loss", 1.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def everybody_may() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def flows(server: ObjectServer, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything that keeps something on this machine do so."""
    server.fail(503, times=None, where=is_upload)
    assert train(TRAINING, uri(server), state).code == 0
    server.heal()
    train(LEFT, uri(server), state)
    place = bucket_uri(uri(server))
    assert kaggleops_here("leaderboard", "--metric", "loss", "--bucket", place, cwd=state).code == 0
    for name in ("MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD"):
        monkeypatch.delenv(name, raising=False)
    ask_for_passwords(server_folder(place))
    make_users_database(f"sqlite:///{server_folder(place) / 'users.db'}")
    placed = Placed(state / "project")
    file = state.parent / "x.csv"
    file.write_text("x")
    placed.right(file, "md5:x")
    placed.save()
    write_private(state / "credentials/kaggle/key.json", "{}")


def test_what_is_kept_is_its_owners_alone(
    server: ObjectServer, state_folder: Path, everybody_may: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    flows(server, state_folder, monkeypatch)
    kept = {path.relative_to(state_folder).parts[0] for path in state_folder.rglob("*")}
    assert {"outbox", "serve", "resources", "credentials"} <= kept
    assert len(list(state_folder.glob("serve/*/index.db"))) == 1
    assert "owner.lock" in {path.name for path in state_folder.rglob("*")}
    assert open_to_others(state_folder) == set()
    # As an earlier release left it.
    for path in state_folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    for marker in state_folder.glob("serve/*/fresh-*"):
        os.utime(marker, (0, 0))  # the index is opened again
    flows(server, state_folder, monkeypatch)
    left = open_to_others(state_folder)
    assert not [each for each in left if each.startswith(("serve", "resources", "credentials"))]
    # What waits from then is behind a closed folder.
    assert all(
        any((state_folder / above).stat().st_mode & 0o077 == 0 for above in Path(each).parents[:-1])
        for each in left
    )
