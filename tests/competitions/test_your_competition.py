"""docs/your-competition.md, followed by the letter: its files written, tested and predicted."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd

from tests.competitions.launching import ROOT, environment
from tests.warm import PYTHON

PAGE = ROOT / "docs" / "your-competition.md"
COPIED = (
    "src",
    "config",
    "pyproject.toml",
    "tests/competitions/conftest.py",
    "tests/competitions/launching.py",
    "tests/warm/__init__.py",
)
# One process for all of it.
FOLLOW = """
import glob, pytest
from competitions.predict import main
assert pytest.main(["-q", "-p", "no:cacheprovider", "--basetemp=tests/made",
                    "tests/competitions/test_toxic_comments.py"]) == 0
model, *_ = glob.glob("tests/made/*/mlruns/0/*/artifacts/model")
main(["--runs", model, "--output", "submission.csv"], standalone_mode=False)
"""


def test_the_page_is_true(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for part in COPIED:
        (clone / part).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy
        copy(ROOT / part, clone / part)

    blocks = r"^`(\S+)`:\n\n```\w+\n(.*?)^```"
    files = re.findall(blocks, PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert len(files) == 3
    for name, content in files:
        (clone / name).parent.mkdir(parents=True, exist_ok=True)
        (clone / name).write_text(content)

    (clone / "follow.py").write_text(FOLLOW)
    done = subprocess.run(
        [sys.executable, "follow.py"],
        cwd=clone,
        env=environment(tmp_path / "mlruns")
        | {"PYTHONPATH": os.pathsep.join([PYTHON, f"{clone}/src", str(clone)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    submission = pd.read_csv(clone / "submission.csv")
    assert submission.columns.tolist() == ["id", "toxic"]
    assert submission["id"].tolist() == list(range(100, 120))
