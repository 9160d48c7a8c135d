"""Write the project's address, which stands in pyproject.toml, into the notebooks: their badges and
where they install from. They are opened where nothing else of the project is.

    python notebooks/addresses.py
"""

import re
import tomllib
from pathlib import Path

FOLDER = Path(__file__).parent

_ADDRESS = re.compile(r"https://github\.com/[\w.-]+/[\w-]+")
_IN_COLAB = re.compile(r"(https://colab\.research\.google\.com/github)/[\w.-]+/[\w-]+")


def project_address() -> str:
    """Return the project's public address."""
    pyproject = tomllib.loads((FOLDER.parent / "pyproject.toml").read_text())
    return str(pyproject["project"]["urls"]["Repository"])


def updated(notebook: str, address: str = "") -> str:
    """Return a notebook's text with the project's address wherever one stands.

    Args:
        notebook: the text of its file.
        address: the project's, `a repository at github.com`; pyproject.toml's by default.
    """
    address = address or project_address()
    owner_and_name = address.removeprefix("https://github.com/")
    notebook = _ADDRESS.sub(address, notebook)
    return _IN_COLAB.sub(rf"\1/{owner_and_name}", notebook)


if __name__ == "__main__":
    for path in FOLDER.glob("*.ipynb"):
        path.write_text(updated(path.read_text()))
