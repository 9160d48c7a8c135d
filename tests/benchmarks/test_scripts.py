"""Every benchmark still runs and prints its table; how fast is not asked here."""

import os
import subprocess
import sys
from itertools import groupby
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPTS = sorted((ROOT / "benchmarks").glob("bench_*.py"))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_benchmark_prints_its_table(script: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = groupby(done.stdout.splitlines(), lambda line: line.startswith("|"))
    tables = [list(rows) for is_table, rows in lines if is_table]
    assert tables
    for table in tables:
        assert len(table) >= 3  # its columns, a line, what was measured
        assert len({row.count("|") for row in table}) == 1
    assert f"`python benchmarks/{script.name}`, commit " in done.stdout


def test_there_are_benchmarks() -> None:
    assert len(SCRIPTS) >= 4
