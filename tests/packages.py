"""Wheels of a few bytes and environments with pip, for tests that install something."""

import shutil
import venv
import zipfile
from collections.abc import Mapping, Sequence
from importlib.metadata import distribution
from pathlib import Path


def write_wheel(
    folder: Path,
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    files: Mapping[str, str] | None = None,
    commands: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel and return its path.

    Args:
        folder: where to.
        name: the package's, without a hyphen.
        version: the package's.
        requires: what it needs, as requirements.
        files: what it installs: text by path, its own METADATA perhaps.
        commands: its console scripts: "module:function" by name.
    """
    info = f"{name}-{version}.dist-info"
    needs = "".join(f"Requires-Dist: {each}\n" for each in requires)
    scripts = "".join(f"{each} = {target}\n" for each, target in (commands or {}).items())
    content = {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{scripts}",
        **(files or {}),
    }
    content[f"{info}/RECORD"] = "".join(f"{each},,\n" for each in [*content, f"{info}/RECORD"])
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as opened:
        for each, text in content.items():
            opened.writestr(each, text)
    return wheel


def make_environment(folder: Path) -> Path:
    """Make a virtual environment with pip, and return its Python.

    pip is copied from where the tests run, compiled as it is: `venv` would unpack and compile it in
    five seconds.

    Args:
        folder: where to.
    """
    venv.create(folder, with_pip=False)
    (there,) = folder.glob("lib/python*/site-packages")
    found = distribution("pip")
    here = Path(str(found.locate_file("")))
    for name in ("pip", f"pip-{found.version}.dist-info"):
        shutil.copytree(here / name, there / name)
    return folder / "bin/python"
