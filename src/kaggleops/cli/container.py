"""The files of Kaggle's container for a repository of somebody's own: `kaggleops init --container`.

They are those of this project (infra/kaggle-image), but for where KaggleOps is installed from.
"""

import re
from pathlib import Path

from kaggleops.errors import UsageError

FOLDER = "infra/kaggle-image"
COMMAND = f"docker compose -f {FOLDER}/compose.yaml up --build cpu"
"""What starts it."""

_SOURCE = "ARG SOURCE="
_DEVCONTAINER = ".devcontainer/devcontainer.json"
_PACKED = Path(__file__).with_name("container")  # where a wheel has them
_IN_REPOSITORY = Path(__file__).parents[3]
_NAMES = ("Dockerfile", "compose.yaml", "install.py", "jupyter_lab_config.py", "requirements.txt")


def write_container(repository: Path, install_from: str) -> list[str]:
    """Write the files that are not there yet, and return which those are.

    Args:
        repository: the folder of the repository.
        install_from: what pip installs KaggleOps from.

    Raises:
        UsageError: they cannot be written.
    """
    packed = _PACKED.is_dir()
    ours = _PACKED if packed else _IN_REPOSITORY / FOLDER
    files = {f"{FOLDER}/{name}": (ours / name).read_text() for name in _NAMES}
    dockerfile = f"{FOLDER}/Dockerfile"
    source = f'{_SOURCE}"kaggleops @ {install_from}"'
    files[dockerfile] = re.sub(f"(?m)^{_SOURCE}.*", lambda _: source, files[dockerfile])
    files[f"{FOLDER}/Dockerfile.dockerignore"] = f"*\n!{FOLDER}\n"
    devcontainer = (ours if packed else _IN_REPOSITORY / ".devcontainer") / "devcontainer.json"
    files[_DEVCONTAINER] = devcontainer.read_text()
    written = []
    for name, content in files.items():
        path = repository / name
        if path.exists():
            continue
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)
        except OSError as error:
            raise UsageError(f"writing {path}", str(error.strerror)) from error
        written.append(name)
    return written
