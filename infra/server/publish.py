"""Puts a release of the server into the bucket, for the machine to install, or into a file.

    python infra/server/publish.py [--bucket gs://BUCKET | --file FILE.zip] [--version COMMIT]

It is made of a commit, never of a dirty tree, and holds everything that the machine needs: this
project and what it depends on, as wheels for the machine's Python, its unit files, its installer.
What was published last is pinned: a new machine installs it.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from hashlib import sha256
from pathlib import Path

import click

from kaggleops.bucket import ABSENT, Bucket
from kaggleops.cli import options
from kaggleops.cli.options import bucket_at, bucket_of, in_a_folder
from kaggleops.cli.output import print_error
from kaggleops.errors import KaggleOpsError, UsageError
from kaggleops.git.checkouts import clone
from kaggleops.git.commits import find_commit

PINNED = "server/pinned"

# Debian 12: Python 3.11, glibc 2.36.
PYTHON = "3.11"
PLATFORMS = [
    *(f"manylinux_2_{minor}_x86_64" for minor in range(36, 16, -1)),
    "manylinux2014_x86_64",
]

# Hydra's parser comes as source only (infra/versions.py): its wheel is made here, of the source
# whose hash the commit names, so that the machine still gets nothing but wheels.
NO_WHEEL = "antlr4-python3-runtime"


def key_of(release: str) -> str:
    """Return the key of a release's archive."""
    return f"server/{release}.zip"


def download(source: Path, wheels: Path) -> None:
    """Put this project and all that it needs into a folder of wheels.

    The versions are those that were tested together, and each file is the one whose hash the
    commit names.

    Args:
        source: the commit's files.
        wheels: where to.

    Raises:
        KaggleOpsError: something is not to be had, or is another file than it was.
    """
    target = ["--only-binary=:all:", "--implementation", "cp", "--python-version", PYTHON]
    for platform in PLATFORMS:
        target += ["--platform", platform]
    checked = ["--no-deps", "--require-hashes", "--requirement"]
    listed = (source / "infra/server/requirements.txt").read_text().splitlines(keepends=True)
    with tempfile.TemporaryDirectory() as folder:
        ready, built = Path(folder) / "ready.txt", Path(folder) / "built.txt"
        ready.write_text("".join(each for each in listed if not each.startswith(NO_WHEEL)))
        built.write_text("".join(each for each in listed if each.startswith(NO_WHEEL)))
        _pip("download", "--dest", str(wheels), *target, *checked, str(ready))
        _pip("wheel", "--wheel-dir", str(wheels), *checked, str(built))
    _pip("wheel", "--no-deps", "--wheel-dir", str(wheels), str(source))


def pack(server: Path, wheels: Path, archive: Path) -> str:
    """Write a release's archive; return this project's version in it.

    Args:
        server: the commit's folder infra/server.
        wheels: a folder with all packages, pip's own among them.
        archive: where to.
    """
    packages = sorted(wheels.glob("*.whl"))
    pinned = {path: path.name.split("-")[:2] for path in packages}
    with zipfile.ZipFile(archive, "w") as opened:  # wheels are compressed already
        for path in packages:
            opened.write(path, f"wheels/{path.name}")
        lines = (
            f"{name}=={version} --hash=sha256:{sha256(path.read_bytes()).hexdigest()}\n"
            for path, (name, version) in pinned.items()
        )
        opened.writestr("requirements.txt", "".join(lines))
        opened.write(server / "kaggleops_server.py", "kaggleops_server.py")
        for path in sorted((server / "files").rglob("*")):
            opened.write(path, path.relative_to(server))
    return dict(pinned.values())["kaggleops"]


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
@options.bucket
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=in_a_folder,
    help="Write it there, for a machine that is not Google's.",
)
@options.version
def main(bucket: str | None, file: Path | None, version: str | None) -> None:
    """Put a release of the server into the bucket, and pin it."""
    place = "" if file else bucket_of(bucket)
    if not file and not place.startswith("gs://"):
        hint = "Add --file FILE.zip, and copy that to the machine (docs/server.md)."
        raise UsageError(
            f"publishing to {place}", "the machine reads from Cloud Storage only", hint
        )
    if file and file.suffix != ".zip":
        raise UsageError(f"publishing to {file}", "the file's name does not end in .zip")
    commit = find_commit(Path(__file__).parent, version)
    with tempfile.TemporaryDirectory() as folder:
        source = clone(commit, Path(folder) / "source")
        wheels = Path(folder) / "wheels"
        download(source, wheels)
        archive = Path(folder) / "release.zip"
        release = f"{pack(source / 'infra/server', wheels, archive)}-{commit.sha[:10]}"
        if file:
            shutil.move(archive, file)
            click.echo(f"Wrote {release} to {file}.")
            return
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
