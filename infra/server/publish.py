"""Puts a release of the server into the bucket, for the machine to install.

    python infra/server/publish.py [--bucket gs://BUCKET] [--version COMMIT]

It is made of a commit, never of a dirty tree, and holds everything that the machine needs: this
project and what it depends on, as wheels for the machine's Python, its unit files, its installer.
What was published last is pinned: a new machine installs it.
"""

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import click

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.cli.options import bucket_at, bucket_of, bucket_option, version_option
from kaggleops.cli.output import print_error
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.project.git import clone, find_commit

PINNED = "server/pinned"
EXTRAS = "server,postgresql"

# Debian 12: Python 3.11, glibc 2.36.
PYTHON = "3.11"
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)),
    "manylinux2014_x86_64",
]

# Hydra's parser comes as source only; it is pure Python.
NO_WHEEL = "antlr4-python3-runtime==4.9.3"


def key_of(release: str) -> str:
    """Return the key of a release's archive."""
    return f"server/{release}.zip"


def download(source: Path, wheels: Path) -> str:
    """Put this project and all that it needs into a folder of wheels; return its requirement.

    Raises:
        KaggleOpsError: something is not to be had.
    """
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(source), NO_WHEEL)
    (wheel,) = wheels.glob("kaggleops-*.whl")
    requirement = f"kaggleops[{EXTRAS}]=={wheel.name.split('-')[1]}"
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    _pip(
        "download", "--dest", str(wheels), "--find-links", str(wheels), *target, requirement, "pip"
    )
    return requirement


def pack(server: Path, wheels: Path, requirement: str, archive: Path) -> None:
    """Write a release's archive.

    Args:
        server: the commit's folder infra/server.
        wheels: a folder with all packages, pip's own among them.
        requirement: what to install of them.
        archive: where to.
    """
    with zipfile.ZipFile(archive, "w") as opened:  # wheels are compressed already
        opened.writestr("requirement", requirement)
        opened.write(server / "kaggleops_server.py", "kaggleops_server.py")
        for path in sorted((server / "files").rglob("*")):
            opened.write(path, path.relative_to(server))
        for path in sorted(wheels.glob("*.whl")):
            opened.write(path, f"wheels/{path.name}")


def send(archive: Path, release: str, bucket: Bucket) -> None:
    """Put a release into the bucket, and make it the pinned one.

    Raises:
        BucketError: it cannot be written.
    """
    there = bucket.stat(key_of(release))
    bucket.write(key_of(release), archive, expected=there.version if there else ABSENT)
    pinned = bucket.stat(PINNED)
    bucket.write(PINNED, release.encode(), expected=pinned.version if pinned else ABSENT)


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments, "--quiet"]
    done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise KaggleOpsError(f"pip {arguments[0]}", lines[-1] if lines else done.stderr[-300:])


@click.command()
@bucket_option
@version_option
def main(bucket: str | None, version: str | None) -> None:
    """Put a release of the server into the bucket, and pin it."""
    place = bucket_of(bucket)
    if not place.startswith("gs://"):
        raise UsageError(f"publishing to {place}", "the machine reads from Cloud Storage only")
    commit = find_commit(Path(__file__).parent, version)
    with tempfile.TemporaryDirectory() as folder:
        source = clone(commit, Path(folder) / "source")
        wheels = Path(folder) / "wheels"
        requirement = download(source, wheels)
        release = f"{requirement.partition('==')[2]}-{commit.sha[:10]}"
        archive = Path(folder) / "release.zip"
        pack(source / "infra/server", wheels, requirement, archive)
        click.echo(f"Uploading {release} ({archive.stat().st_size / 2**20:.0f} MiB)", err=True)
        send(archive, release, bucket_at(place))
    click.echo(
        f"Pinned {release}. A new machine installs it by itself; one that runs:\n\n"
        f"    gcloud compute ssh MACHINE --tunnel-through-iap -- sudo kaggleops-server update\n"
    )


if __name__ == "__main__":
    try:
        main()
    except KaggleOpsError as error:
        print_error(error)
        sys.exit(2 if isinstance(error, UsageError) else 1)
