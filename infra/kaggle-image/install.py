"""Installs what an image lacks of requirements.txt, and this project; what is there stays as it is.

    python3 install.py SOURCE    the project's files

As root, so each file must have the hash that stands in the list. What was locked was resolved for
Colab's packages, on which Kaggle builds; pip says at the end if this image's do not fit.
"""

import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path


def missing(requirements: str, there: set[str]) -> list[str]:
    """Return the lines of a list whose packages are not there; names as PEP 503 writes them."""
    lines = [line for line in requirements.splitlines() if line[:1] not in ("", "#")]
    return [line for line in lines if line.partition("==")[0] not in there]


def main(source: str) -> None:
    """Install it in the Python that runs this."""
    requirements = Path(__file__).with_name("requirements.txt").read_text()
    there = {each.name.lower().replace("_", "-").replace(".", "-") for each in distributions()}
    wanted = missing(requirements, there)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "missing.txt")
        file.write_text("\n".join(wanted))
        if wanted:
            _pip("--no-deps", "--require-hashes", "--requirement", str(file))
    _pip("--no-deps", "--no-build-isolation", source)
    # What it stands on is there in versions that fit, or this fails and says which is not.
    _pip("--no-index", "kaggleops", "jupyterlab")
    print(f"{len(wanted)} packages installed beside the image's own {len(there)}.")


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "install", "--no-cache-dir", *arguments]
    if code := subprocess.run(command).returncode:
        sys.exit(code)


if __name__ == "__main__":
    main(sys.argv[1])
