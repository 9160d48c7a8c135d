"""Makes somebody's training repository a project that `kaggleops run` and `mlflow run` can start.

Files are added beside the code, Kaggle's container among them if it is asked for; nothing that
exists is changed, but for lines that are added to `.gitignore` and to an MLproject that lacks them,
whose words and comments stay. So it can be repeated, and undone with git.
"""

import json
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from importlib.metadata import metadata, packages_distributions, version
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.bucket.location import is_remote, is_s3
from kaggleops.cli.scripts import Script, find_experiments, find_script
from kaggleops.errors import UsageError
from kaggleops.git.addresses import web_address
from kaggleops.git.command import git
from kaggleops.git.own_files import append, escaped, is_ignored
from kaggleops.git.project_files import USUALLY_KEPT
from kaggleops.platforms.settings import LOCAL

_PROJECT = "MLproject"
_ENVIRONMENTS = {
    "conda.yaml": "conda_env",
    "environment.yml": "conda_env",
    "environment.yaml": "conda_env",
    "python_env.yaml": "python_env",
}
"""Files that describe an environment, and their keys in an MLproject."""


@dataclass(frozen=True)
class Found:
    """What there is in a repository for its project."""

    main: Script | None  # its training script, if one has a usual name
    experiments: tuple[Script, ...] = ()  # the scripts of its folder of experiments
    data: tuple[str, ...] = ()  # the paths that they read and git does not have
    score: str = ""  # the metric that is its score, or ""

    @property
    def scripts(self) -> list[Script]:
        """All of them."""
        return [*([self.main] if self.main else []), *self.experiments]

    @property
    def entry_points(self) -> dict[str, Script]:
        """The scripts by the names of their entry points."""
        named = {each.entry_point: each for each in self.experiments if each.is_program}
        return ({"main": self.main} if self.main else {}) | named


def look(repository: Path, named: str | None = None, score: str = "") -> Found:
    """Return what there is in a repository, for which no script has to be `named`.

    Raises UsageError if there is no script, or it is not Python, or the MLproject is
    none; GitError if git is not installed.
    """
    has_project = bool(_project(repository)[1])
    experiments = find_experiments(repository)
    try:
        main = find_script(repository, named)
    except UsageError:
        if named or not (experiments or has_project):
            raise
        main = None
    others = tuple(each for each in experiments if main is None or each.path != main.path)
    found = Found(main, others, score=score)
    return replace(found, data=tuple(_data(repository, found.scripts)))


def _data(repository: Path, scripts: list[Script]) -> list[str]:
    """Return the paths that scripts read, and git does not have; none that lies in another."""
    found = set()
    for script in scripts:
        for path in script.paths:
            there = (repository / _folder_of(repository, script) / path).resolve()
            if path.strip("./") and there.exists() and there.is_relative_to(repository.resolve()):
                name = there.relative_to(repository.resolve()).as_posix()
                written = any(fnmatch(f"{name}/", f"{each.rstrip('/')}*") for each in USUALLY_KEPT)
                if written or there.suffix == ".py":
                    continue
                if not git(repository, "ls-files", "--", name, check=False):
                    found.add(name)
    return sorted(each for each in found if not any(each.startswith(f"{one}/") for one in found))


def _folder_of(repository: Path, script: Script) -> str:
    """Return the folder that a script is started in: its own, if only there its paths lead on."""
    own = PurePosixPath(script.path).parent.as_posix()
    up = [each for each in script.paths if each.startswith("../")]
    return own if any((repository / own / each).exists() for each in up) else "."


def adopt(
    repository: Path, found: Found, origin: str, bucket: str, *, container: bool = False
) -> tuple[list[str], list[str]]:
    """Add the files, and what an MLproject lacks; return their names, and what was not done.

    Args:
        repository: its top folder.
        found: what there is.
        origin: the address that others fetch it from, or "".
        bucket: the address of the bucket for its runs.
        container: whether to add Kaggle's container.
    """
    environment = next((each for each in _ENVIRONMENTS if (repository / each).is_file()), None)
    contents = {"notebooks/run.ipynb": _notebook(origin, bucket if is_remote(bucket) else "")}
    text, content = _project(repository)
    written, left = list[str](), list[str]()
    if content:
        written, left = _extend(repository, text, content, found)
    else:  # comments are all that can be in it
        above = [f"{line}\n" for line in text.splitlines() if line.lstrip().startswith("#")]
        project = _mlproject(repository, found, environment or "conda.yaml")
        contents = {_PROJECT: "".join([*above, project]), **contents}
    wants_ours = not content or "conda.yaml" in (repository / _PROJECT).read_text()
    if environment is None and found.scripts and wants_ours:
        contents["conda.yaml"] = _conda(repository, found, "[s3]" if is_s3(bucket) else "")
    written += _write(repository, contents)
    if container:
        written += write_container(repository, f"git+{_address()}")
    left += [
        f"no entry point for {each.path}: it only declares things"
        for each in found.experiments
        if not each.is_program
    ]
    return sorted(written), left


def _write(repository: Path, contents: Mapping[str, str]) -> list[str]:
    """Write those files that are not there yet, or say nothing; return which those are."""
    missing = [each for each in contents if each == _PROJECT or not (repository / each).exists()]
    for name in missing:
        file = repository / name
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(contents[name])
        except OSError as error:
            raise UsageError(f"writing {file}", str(error.strerror)) from error
    return missing


_CONTAINER = "infra/kaggle-image"
START_CONTAINER = f"docker compose -f {_CONTAINER}/compose.yaml up --build cpu"
_CONTAINERS = (
    "Dockerfile",
    "compose.yaml",
    "install.py",
    "jupyter_lab_config.py",
    "requirements.txt",
)
_PACKED = Path(__file__).with_name("container")  # where a wheel has its files


def write_container(repository: Path, install_from: str) -> list[str]:
    """Write what there is not yet of Kaggle's container, and return the names of these files.

    They are those of this project, but for where pip installs KaggleOps from: `install_from`.
    Raises UsageError if they cannot be written.
    """
    packed, here = _PACKED.is_dir(), Path(__file__).parents[3]
    ours = _PACKED if packed else here / _CONTAINER
    files = {f"{_CONTAINER}/{name}": (ours / name).read_text() for name in _CONTAINERS}
    dockerfile, source = f"{_CONTAINER}/Dockerfile", f'ARG SOURCE="kaggleops @ {install_from}"'
    files[dockerfile] = re.sub("(?m)^ARG SOURCE=.*", lambda _: source, files[dockerfile])
    files[f"{dockerfile}.dockerignore"] = f"*\n!{_CONTAINER}\n"
    editor = (ours if packed else here / ".devcontainer") / "devcontainer.json"
    files[".devcontainer/devcontainer.json"] = editor.read_text()
    return _write(repository, files)


def first_run(repository: Path) -> str:
    """Return the command of a first run: of the main entry point, or of the last experiment."""
    points = _project(repository)[1].get("entry_points") or {}
    name = "main" if "main" in points or not points else list(points)[-1]
    parameters = (points.get(name) or {}).get("parameters")
    parameters = parameters if isinstance(parameters, dict) else {}  # a run says what is wrong
    given = [key for key, each in parameters.items() if "default" in (each or ())]
    needed = [key for key in parameters if key not in given]
    return " ".join([_how(name), *(f"{each}=VALUE" for each in needed)])


def warnings_about(repository: Path, found: Found) -> list[str]:
    """Return what may go wrong when scripts are started from a fresh clone."""
    said = []
    for script in found.scripts:
        if script.sets_tracking_uri:
            where = f"{script.path}, line {script.sets_tracking_uri}"
            said.append(
                f"{where} sets MLflow's tracking URI itself: its runs will not be in the bucket."
            )
        missing = [each for each in sorted(_foreign(repository, script)) if find_spec(each) is None]
        if missing:
            said.append(
                f"{script.path} imports {', '.join(missing)}, which this environment lacks: a run "
                "uses the environment that it is started in."
            )
    return said + [
        f"{path} is not in git: runs on this machine find it where it is (`data` in MLproject)."
        for path in found.data
    ]


def _foreign(repository: Path, script: Script) -> set[str]:
    """Return the names that a script imports from outside of its repository and of Python."""
    beside = (repository / script.path).parent
    ours = (repository, repository / "src", beside)
    return {
        name
        for name in script.imports - sys.stdlib_module_names - {"kaggleops"}
        if not any((folder / name).exists() or (folder / f"{name}.py").exists() for folder in ours)
    }


def ignore(repository: Path, bucket: Path | None = None, data: Iterable[str] = ()) -> list[str]:
    """Let git ignore this machine's settings, data, and a bucket in the repository.

    Returns the lines that are new in its .gitignore.
    """
    wanted = {LOCAL.as_posix(): LOCAL.as_posix()}
    if bucket and bucket.is_relative_to(repository):
        path = bucket.relative_to(repository).as_posix()
        wanted[f"{path}/"] = f"/{path}/"
    for path in data:
        wanted[path] = f"/{escaped(path)}{'/' if (repository / path).is_dir() else ''}"
    missing = [line for path, line in wanted.items() if not is_ignored(repository, path)]
    if missing:
        append(repository / ".gitignore", missing)
    return missing


# -- what is written ----------------------------------------------------------------------------


def _mlproject(repository: Path, found: Found, environment: str) -> str:
    # MLflow refuses a run in one experiment whose code sets another one.
    sets = next((each.experiment for each in found.scripts if each.experiment), "")
    return f"""\
# What `kaggleops run` and `mlflow run` start. Written by `kaggleops init`; yours now.
name: {json.dumps(sets or repository.name)}

{_ENVIRONMENTS[environment]}: {environment}

{_SCORE}
{f"score: {json.dumps(found.score)}" if found.score else "# score: rmse"}
{_DATA}
{f"data: {json.dumps(found.data)}" if found.data else "# data: [data/train.csv]"}
# Files that a run leaves behind and that are kept with it. Without this line, these are:
# keep: [{", ".join(USUALLY_KEPT)}]

entry_points:
{_entry_points(repository, found.entry_points, "  ")}
"""


_SCORE = "# The metric that is the score of a run."
_DATA = "# What the code reads and git does not have."


def _entry_points(repository: Path, scripts: Mapping[str, Script], indent: str) -> str:
    lines = []
    for name, script in scripts.items():
        key = name if re.fullmatch(r"[A-Za-z_][\w-]*", name, re.ASCII) else json.dumps(name)
        lines += [
            f"{key}:",
            f"  # Set each with {_how(name)} NAME=VALUE. It is logged as a param.",
            *(f"  {line}" for line in _parameter_lines(script)),
            *_left_out_lines(script),
            f"  command: {json.dumps(_command(repository, script))}",
        ]
    return "\n".join(f"{indent}{line}" for line in lines)


def _how(entry_point: str) -> str:
    return f"kaggleops run{'' if entry_point == 'main' else f' -e {shlex.quote(entry_point)}'}"


def _project(repository: Path) -> tuple[str, dict[str, Any]]:
    """Return an MLproject's text, and what it says: {} for one that is missing, or says nothing.

    Raises UsageError for one that is none.
    """
    file = repository / _PROJECT
    doing = f"reading {file}"
    try:
        text = file.read_text() if file.is_file() else ""
        content = yaml.safe_load(text) if yaml.compose(text) else {}
    except (yaml.YAMLError, ValueError) as error:
        raise UsageError(doing, f"it is no MLproject ({error})") from None
    points = (content.get("entry_points") or {}) if isinstance(content, dict) else None
    hint = "Remove it, and `kaggleops init` writes one."
    if not isinstance(content, dict):
        raise UsageError(doing, "it is no mapping: lines `name: …`, `entry_points: …`", hint)
    if not isinstance(points, dict) or not all(isinstance(each, dict) for each in points.values()):
        raise UsageError(doing, "its entry_points are no mapping of names to commands", hint)
    return text, content


def _extend(
    repository: Path, text: str, content: Mapping[str, Any], found: Found
) -> tuple[list[str], list[str]]:
    """Add to an MLproject what it lacks; return its name if it changed, and what was not done.

    Its words and comments stay: lines are put between its own.
    """
    left = []
    node = yaml.compose(text)
    nodes = {key.value: each for key, each in node.value} if node else {}
    known = content.get("entry_points") or {}
    started = " ".join(str(each.get("command")) for each in known.values())
    new = {
        name: script
        for name, script in found.entry_points.items()
        if name not in known
        and script.path not in started
        and PurePosixPath(script.path).name not in started.split()
    }
    points, more = nodes.get("entry_points"), text
    if new and isinstance(points, yaml.MappingNode) and not points.flow_style:
        indent = " " * points.value[0][0].start_mark.column
        head = text[: points.end_mark.index].rstrip()
        rest = text[len(head) :].removeprefix("\n")
        more = f"{head}\n{_entry_points(repository, new, indent)}\n{rest}"
    else:
        left += [f"no entry point for {each.path}: add it to MLproject" for each in new.values()]
    added = []
    if found.score and "score" not in content:
        added.append(f"\n{_SCORE}\nscore: {json.dumps(found.score)}\n")
    elif found.score and content["score"] != found.score:
        left.append(f"the score in MLproject stays {content['score']!r}: change it there")
    if found.data and "data" not in content:
        added.append(f"\n{_DATA}\ndata: {json.dumps(found.data)}\n")
    elif missing := [each for each in found.data if each not in content.get("data", ())]:
        left.append(f"{', '.join(missing)} is not among the data in MLproject: add it there")
    if added:
        more = "".join([more if more.endswith("\n") else f"{more}\n", *added])
    after = yaml.safe_load(more) or {}
    after_points = after.pop("entry_points", None) or {}
    kept = all(after[key] == each for key, each in content.items() if key != "entry_points")
    if not kept or any(after_points[name] != each for name, each in known.items()):
        return [], [*left, "nothing was added to MLproject: it is written in an unusual way"]
    (repository / _PROJECT).write_text(more)
    return ([_PROJECT] if more != text else []), left


def _parameter_lines(script: Script) -> Iterator[str]:
    if script.is_hydra:
        yield "parameters:"
        yield '  overrides: {type: string, default: ""}'
    elif script.parameters:
        yield "parameters:"
        for each in script.parameters:
            kind = "float" if isinstance(each.default, int | float) else "string"
            default = "" if each.default is None else f", default: {json.dumps(each.default)}"
            yield f"  {each.name}: {{type: {kind}{default}}}"
    else:
        yield f"# {script.path} has none that could be read from it. To add one:"
        yield "# parameters:"
        yield "#   lr: {type: float, default: 0.1}"
        yield f'# command: "python {script.path} --lr {{lr}}"'


def _left_out_lines(script: Script) -> Iterator[str]:
    if script.left_out and not script.is_hydra:
        listed = " ".join(script.left_out)
        yield f"  # Left out, as no NAME=VALUE, or without a default that can be read: {listed}"
        yield "  # What you want to set of these, add to the command, and above."


def _command(repository: Path, script: Script) -> str:
    folder = _folder_of(repository, script)
    path = shlex.quote(script.path if folder == "." else PurePosixPath(script.path).name)
    enter = "" if folder == "." else f"cd {shlex.quote(folder)} && "
    if script.is_hydra:
        # MLflow quotes the overrides as one word; the shell splits them again.
        return f"{enter}eval python {shlex.quote(path)} {{overrides}}"
    return enter + " ".join(["python", path, *(each.words for each in script.parameters)])


def _conda(repository: Path, found: Found, extra: str) -> str:
    if (repository / "requirements.txt").is_file():
        needed = ["-r requirements.txt"]
    elif (repository / "pyproject.toml").is_file():
        needed = ["."]
    else:
        needed = sorted({each for one in found.scripts for each in _distributions(repository, one)})
    needed.append(f"kaggleops{extra} @ git+{_address()}")
    listed = "\n".join(f"      - {json.dumps(each)}" for each in needed)
    return f"""\
# The environment that MLflow builds for: mlflow run . --env-manager conda.
# `kaggleops run` uses the environment that it is started in.
channels: [conda-forge, nodefaults]
dependencies:
  - python={sys.version_info.major}.{sys.version_info.minor}
  - pip
  - git
  - pip:
{listed}
"""


def _distributions(repository: Path, script: Script) -> set[str]:
    """Return the packages that a script imports, as they are installed here."""
    there = packages_distributions()
    names = _foreign(repository, script)
    return {f"{each}>={version(each)}" for name in names for each in there.get(name, [])[:1]}


def _notebook(origin: str, bucket: str) -> str:
    text = ready_notebook({"repository": origin, "bucket": bucket})
    notebook = json.loads(text)
    here, ours = web_address(origin), _address()
    title = notebook["cells"][0]["source"]
    if here.startswith("https://github.com/"):
        old, new = (each.removeprefix("https://github.com/") for each in (ours, here))
        title = [line.replace(f"{old}/blob", f"{new}/blob") for line in title]
    else:  # Colab and Kaggle only open links to GitHub
        title = [line for line in title if not line.startswith("[![Open")]
    notebook["cells"][0]["source"] = title
    return json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"


def _address() -> str:
    """Return the address of this project's repository, from its metadata."""
    urls = metadata("kaggleops").get_all("Project-URL") or []
    return next(url.partition(", ")[2] for url in urls if url.startswith("Repository, "))
