"""The versions that were tested together: written, undone, and blamed.

    python infra/versions.py lock TORCH          resolve pyproject.toml, write all lists (make lock)
    python infra/versions.py lowest TORCH FILE   write constraints of the lower bounds
    python infra/versions.py blame [TEST…]       name the package whose version fails the tests

`lock` and `lowest` need uv, which resolves for every Python and system at once. `blame` runs in an
environment that was made without the constraints: it puts the tested versions back, half of what
differs at a time, and reports which one turns the failing tests green.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
CONSTRAINTS = ROOT / "infra/constraints.txt"
SERVER = ROOT / "infra/server/requirements.txt"
CONTAINER = ROOT / "infra/kaggle-image/requirements.txt"

# PyTorch is chosen where it is installed (the Makefile's TORCH), and pins what it brings.
TORCHS_OWN = ("torch==", "triton==", "cuda-", "nvidia-")
OURS = "nvidia-ml-py=="
# What Colab has, on which Kaggle builds its image; the container keeps what is there.
COLAB = ROOT / "tests/platforms/colab-gpu-freeze.txt"

# Where something is installed as root: the Python and the C library there.
DEBIAN = ("3.11", 36)
KAGGLE = ("3.12", 35)
# Hydra's parser comes as source only.
NO_WHEEL = "antlr4-python3-runtime"

# The first that knows --build-constraint.
PIP = "pip>=25.3"

HEAD = "# Written by `make lock`; not by hand.\n"


def lock(torch: str) -> None:
    """Resolve what pyproject.toml allows beside `torch==2.13.0` or so; write each list."""
    _constrain(CONSTRAINTS, torch, [])
    with tempfile.TemporaryDirectory() as folder:
        wanted = Path(folder) / "wanted.txt"
        # What `kaggleops watch` needs beside it: sweeps, notices, and Kaggle's client.
        extras = ("server", "postgresql", "s3", "sweep", "notify", "kaggle")
        server = [word for extra in extras for word in ("--extra", extra)]
        server += ["--constraints", str(CONSTRAINTS)]
        _compile(wanted, [*server, *_for(DEBIAN)], "pip")
        SERVER.write_text(HEAD + "".join(_hashed(wanted, DEBIAN)))
        container = ["--constraints", str(COLAB), *_for(KAGGLE)]
        _compile(wanted, container, "jupyterlab\nhatchling\nhydra-core")
        CONTAINER.write_text(HEAD + "".join(_hashed(wanted, KAGGLE)))


def lowest(torch: str, file: Path) -> None:
    """Write constraints to the lowest version that pyproject.toml allows of each package."""
    _constrain(file, torch, ["--resolution", "lowest-direct"])


def _constrain(file: Path, torch: str, options: list[str]) -> None:
    everywhere = ["--all-extras", "--universal", "--python-version", "3.11"]
    _compile(file, [*everywhere, *options], f"{PIP}\n{torch}")
    kept = [
        line
        for line in file.read_text().splitlines(keepends=True)
        if line.startswith(OURS) or not line.startswith(TORCHS_OWN)
    ]
    file.write_text(HEAD + "".join(kept))


def _compile(file: Path, options: list[str], further: str) -> None:
    """Resolve this project and further requirements."""
    command = ["uv", "pip", "compile", "pyproject.toml", "-", *options, "--quiet", "--upgrade"]
    plain = ["--no-header", "--no-annotate", "--output-file", str(file)]
    subprocess.run([*command, *plain], cwd=ROOT, input=further, text=True, check=True)


def _for(target: tuple[str, int]) -> list[str]:
    python, glibc = target
    return ["--python-version", python, "--python-platform", f"x86_64-manylinux_2_{glibc}"]


def _hashed(file: Path, target: tuple[str, int]) -> Iterator[str]:
    """Yield a line for each pinned package: with the hash of the one file that the target takes."""
    pinned = [line for line in file.read_text().splitlines() if line[:1] != "#"]
    python, glibc = target
    there = ["--only-binary=:all:", "--implementation=cp", f"--python-version={python}"]
    for minor in range(glibc, 4, -1):
        there.append(f"--platform=manylinux_2_{minor}_x86_64")
    there += ["--platform=manylinux2014_x86_64", "--platform=manylinux1_x86_64"]
    wheels = [line for line in pinned if not line.startswith(NO_WHEEL)]
    sources = [line for line in pinned if line.startswith(NO_WHEEL)]
    found = _files(wheels, [*there, "--target=nowhere"])
    found += _files(sources, []) if sources else []
    for each in sorted(found, key=lambda each: str(each["metadata"]["name"]).lower()):
        name = canonicalize_name(each["metadata"]["name"])
        digest = each["download_info"]["archive_info"]["hashes"]["sha256"]
        yield f"{name}=={each['metadata']['version']} --hash=sha256:{digest}\n"


def _files(requirements: list[str], options: list[str]) -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
    quiet = ["--quiet", "--no-deps", "--report", "-"]
    done = subprocess.run(
        [*command, *quiet, *options, *requirements], stdout=subprocess.PIPE, text=True, check=True
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)["install"]
    return found


def blame(tests: Sequence[str]) -> str:
    """Find the package whose version makes tests fail that pass with the tested versions.

    Args:
        tests: what pytest is to run; the tests that failed last if there are none.

    Returns:
        One line that says what was found.
    """
    wanted = list(tests) or ["--last-failed", "--last-failed-no-failures", "none"]
    installed = {canonicalize_name(each.name): each.version for each in distributions()}
    changed = {
        name: (installed[name], tested)
        for name, tested in tested_versions().items()
        if installed.get(name, tested).partition("+")[0] != tested
    }
    if not changed:
        return "Every package has its tested version: the cause is elsewhere."
    if passes(wanted):
        return "The tests pass as it is."
    install(f"{name}=={tested}" for name, (_, tested) in changed.items())
    if not passes(wanted):
        return "The tests fail with the tested versions, too: the cause is elsewhere."
    suspects = sorted(changed)
    while len(suspects) > 1:
        half = suspects[: len(suspects) // 2]
        install(f"{name}=={changed[name][0]}" for name in half)
        fails = not passes(wanted)
        install(f"{name}=={changed[name][1]}" for name in half)
        suspects = half if fails else suspects[len(half) :]
    (name,) = suspects
    new, tested = changed[name]
    return f"{name} {new}: the tests pass with {tested}."


def tested_versions() -> dict[str, str]:
    """Return the version that the constraints give each package on this machine."""
    lines = [line for line in CONSTRAINTS.read_text().splitlines() if line[:1] not in ("", "#")]
    return {
        canonicalize_name(each.name): str(each.specifier).removeprefix("==")
        for each in map(Requirement, lines)
        if each.marker is None or each.marker.evaluate()
    }


def install(requirements: Iterable[str]) -> None:
    """Install exactly these; what does not fit together shows in the tests."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *requirements]
    subprocess.run(command, check=True)


def passes(tests: Sequence[str]) -> bool:
    """Tell whether tests pass."""
    return subprocess.run([sys.executable, "-m", "pytest", "-q", *tests], cwd=ROOT).returncode == 0


def main() -> None:
    """Do what the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("lock").add_argument("torch")
    lowest_bounds = commands.add_parser("lowest")
    lowest_bounds.add_argument("torch")
    lowest_bounds.add_argument("file", type=Path)
    commands.add_parser("blame").add_argument("tests", nargs="*")
    arguments = parser.parse_args()
    match arguments.command:
        case "lock":
            lock(arguments.torch)
        case "lowest":
            lowest(arguments.torch, arguments.file)
        case "blame":
            print(blame(arguments.tests))


if __name__ == "__main__":
    main()
