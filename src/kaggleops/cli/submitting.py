"""What `kaggleops run -b` and `kaggleops resume` share: reading a configuration, showing a run."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kaggleops.cli.output import print_json, print_rows, stdout_for_the_result

if TYPE_CHECKING:
    from kaggleops.backends.base import Backend
    from kaggleops.backends.remote_run import RemoteRun
    from kaggleops.project.git import Commit
    from kaggleops.project.launch import Launch

backend_option = click.option("-b", "--backend", metavar="NAME", help="kaggle, manual, …")
backend_config_option = click.option(
    "--backend-config",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="YAML or JSON. Default: config/backend/NAME.yaml of the repository, if it is there.",
)


def read_backend_config(backend: "Backend[Any]", named: Path | None, repository: Path) -> Any:
    """Return a backend's configuration, from the file that is named or from the repository's.

    Raises:
        UsageError: it cannot be read, or is not one of this backend's.
    """
    from kaggleops.backends.config import read_file

    file = named or repository / "config/backend" / f"{backend.name}.yaml"
    if named is None and not file.is_file():
        return backend.read_config({}, "no configuration")
    return backend.read_config(read_file(file), str(file))


def submit(
    commit: "Commit", what: "Launch", backend_name: str, config_file: Path | None, as_json: bool
) -> None:
    """Hand a commit to a backend, and show where it is.

    Raises:
        KaggleOpsError: it cannot be run there.
    """
    from kaggleops.backends.finding import backend_named

    backend = backend_named(backend_name)
    config = read_backend_config(backend, config_file, commit.repository)
    with stdout_for_the_result() if as_json else nullcontext():
        run = backend.submit(commit, what, config)
    show_submitted(run, as_json)


def show_submitted(run: "RemoteRun", as_json: bool) -> None:
    """Print what a submit came to."""
    backend, tags = run.backend, run.tags
    if as_json:
        print_json(
            run_id=run.run_id,
            status=run.get_status(),
            backend=backend.name,
            commit=tags.get("mlflow.source.git.commit"),
            page=run.page,
            steps=backend.steps(tags),
        )
        return
    print_rows(
        ("Run", f"{run.run_id}  {tags.get('mlflow.runName', '')}"),
        (backend.name.capitalize(), run.page or run.get_status()),
        *(("", step) for step in backend.steps(tags)),
        ("Follow it", "" if backend.steps(tags) else f"kaggleops logs -f {run.run_id}"),
        ("Cancel it", f"kaggleops cancel {run.run_id}"),
    )
