"""Makes somebody's training repository a project that `kaggleops run` and `mlflow run` can start.

Files are added beside the code; nothing that exists is changed, but for lines that are appended to
`.gitignore`. So it can be repeated, and undone by deleting the files that it names.

What a training script takes is read from its source, which is not run or imported: the options of
argparse and click with literal defaults, and Hydra. Anything else is left out, so the script's own
default counts.
"""

import ast
import json
import os
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import metadata, packages_distributions, version
from pathlib import Path

from kaggleops.backends.ready_notebook import ready_notebook
from kaggleops.bucket.location import is_remote
from kaggleops.errors import UsageError
from kaggleops.git.addresses import web_address
from kaggleops.git.command import git
from kaggleops.platforms.settings import LOCAL

USUAL = ("train.py", "src/train.py", "main.py", "src/main.py", "run.py", "scripts/train.py")
"""Usual places of a training script, the likeliest first."""

_DECLARING = {"add_argument", "option", "argument"}  # argparse's, click's two
# A flag or a list cannot be passed as one `--name VALUE`.
_NOT_ONE_VALUE = {"action", "nargs", "is_flag", "multiple", "count"}


@dataclass(frozen=True)
class Parameter:
    """A value that a script takes on its command line.

    Args:
        name: its name in an entry point.
        option: its option (`--batch-size`), "" if it is positional.
        default: its default; None if it is required.
    """

    name: str
    option: str
    default: str | float | None

    @property
    def words(self) -> str:
        """Its place in an entry point's command."""
        return f"{self.option} {{{self.name}}}".lstrip()


@dataclass(frozen=True)
class Script:
    """A training script.

    Args:
        path: its path in the repository, "/"-separated.
        parameters: what it takes.
        is_hydra: whether Hydra reads its command line.
        experiment: the MLflow experiment that it sets, or "".
        imports: the top-level names of its imports.
        sets_tracking_uri: the line in which it sets MLflow's tracking URI; 0 if it does not.
    """

    path: str
    parameters: tuple[Parameter, ...]
    is_hydra: bool
    experiment: str
    imports: frozenset[str]
    sets_tracking_uri: int


def find_script(repository: Path, named: str | None = None) -> Script:
    """Return a repository's training script; UsageError if there is none, or it is not Python.

    Args:
        repository: its top folder.
        named: the script's path in it; by default the first of the `USUAL` ones.
    """
    doing = f"looking for the training script of {repository.name}"
    candidates = [named] if named else USUAL
    path = next((each for each in candidates if (repository / each).is_file()), None)
    if path is None:
        problem = f"there is no {' or '.join(candidates)}"
        raise UsageError(doing, problem, "Name it: kaggleops init --script PATH.")
    try:
        tree = ast.parse((repository / path).read_bytes(), path)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"reading {path}", f"it is not Python ({error})") from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    return Script(
        path=path,
        parameters=tuple(_parameters(calls)),
        is_hydra=any(ast.unparse(call.func) == "hydra.main" for call in calls),
        experiment=next((_texts(call)[0] for call in _named(calls, "set_experiment")), ""),
        imports=frozenset(_imports(tree)),
        sets_tracking_uri=next((call.lineno for call in _named(calls, "set_tracking_uri")), 0),
    )


def _parameters(calls: list[ast.Call]) -> Iterator[Parameter]:
    known: set[str] = set()
    for call in calls:
        found = _parameter(call) if _name(call) in _DECLARING else None
        if found and found.name not in known:
            known.add(found.name)
            yield found


def _parameter(call: ast.Call) -> Parameter | None:
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    names = _texts(call)
    if not names or _NOT_ONE_VALUE & given.keys():
        return None
    option = next((each for each in names if each.startswith("--")), names[0])
    name = option.lstrip("-").replace("-", "_")
    if not re.fullmatch(r"[a-zA-Z]\w*", name, re.ASCII):
        return None
    if not option.startswith("-"):
        return Parameter(name, "", None)
    default = _literal(given.get("default"))
    if default is None and _literal(given.get("required")) is not True:
        return None
    if isinstance(default, bool) or not isinstance(default, str | int | float | None):
        return None
    return Parameter(name, option, default)


def _literal(node: ast.expr | None) -> object:
    """Return the value of a literal; None for an expression."""
    try:
        return ast.literal_eval(node) if node else None
    except (ValueError, TypeError):
        return None


def _name(call: ast.Call) -> str:
    return ast.unparse(call.func).rpartition(".")[2]


def _named(calls: list[ast.Call], name: str) -> Iterator[ast.Call]:
    return (call for call in calls if _name(call) == name and _texts(call))


def _texts(call: ast.Call) -> list[str]:
    return [
        each.value
        for each in call.args
        if isinstance(each, ast.Constant) and isinstance(each.value, str)
    ]


def _imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]


_ENVIRONMENTS = {
    "conda.yaml": "conda_env",
    "environment.yml": "conda_env",
    "environment.yaml": "conda_env",
    "python_env.yaml": "python_env",
}
"""Files that describe an environment, and their keys in an MLproject."""


def adopt(repository: Path, script: Script, origin: str, bucket: str) -> list[str]:
    """Add the files that are missing, and return their names.

    Args:
        repository: its top folder.
        script: its training script.
        origin: the address that others fetch it from, or "".
        bucket: the address of the bucket for its runs.
    """
    environment = next((each for each in _ENVIRONMENTS if (repository / each).is_file()), None)
    contents = {
        "MLproject": _mlproject(repository.name, script, environment or "conda.yaml"),
        "notebooks/run.ipynb": _notebook(origin, bucket if is_remote(bucket) else ""),
    }
    if environment is None:
        contents["conda.yaml"] = _conda(repository, script)
    written = []
    for name, content in sorted(contents.items()):
        file = repository / name
        if not file.exists():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(content)
            written.append(name)
    return written


def warnings_about(repository: Path, script: Script) -> list[str]:
    """Return what may go wrong when a script is started from a fresh clone."""
    said = []
    if script.sets_tracking_uri:
        where = f"{script.path}, line {script.sets_tracking_uri}"
        said.append(
            f"{where} sets MLflow's tracking URI itself: its runs will not be in the bucket."
        )
    for each in script.parameters:
        path = str(each.default)
        if (repository / path).exists() and not _git_knows(repository, path):
            said.append(
                f"{path} is not in git, and a run starts in a fresh clone. Name it when you run: "
                f"{each.name}={repository / path}"
            )
    return said


def ignore(repository: Path, bucket: Path | None = None) -> list[str]:
    """Let git ignore this machine's settings, and a bucket that is a folder in the repository.

    Returns:
        The lines that are new in its .gitignore.
    """
    wanted = {LOCAL.as_posix(): LOCAL.as_posix()}
    if bucket and bucket.is_relative_to(repository):
        path = bucket.relative_to(repository).as_posix()
        wanted[f"{path}/"] = f"/{path}/"
    missing = [line for path, line in wanted.items() if not _is_ignored(repository, path)]
    if missing:
        file = repository / ".gitignore"
        before = file.read_text() if file.is_file() else ""
        gap = "" if before.endswith("\n") or not before else "\n"
        file.write_text(f"{before}{gap}" + "".join(f"{line}\n" for line in missing))
    return missing


def _is_ignored(repository: Path, path: str) -> bool:
    """Return whether git ignores a path for everybody, without this person's settings."""
    everybody = {"core.excludesFile": os.devnull}
    return bool(git(repository, "check-ignore", path, check=False, config=everybody))


def _git_knows(repository: Path, path: str) -> bool:
    return bool(git(repository, "ls-files", "--", path, check=False))


# -- what is written ----------------------------------------------------------------------------


def _mlproject(name: str, script: Script, environment: str) -> str:
    # MLflow refuses a run in one experiment whose code sets another one.
    lines = [
        "# What `kaggleops run` and `mlflow run` start. Written by `kaggleops init`; yours now.",
        f"name: {json.dumps(script.experiment or name)}",
        "",
        f"{_ENVIRONMENTS[environment]}: {environment}",
        "",
        "entry_points:",
        "  main:",
        "    # Set each with kaggleops run NAME=VALUE. It is logged as a param.",
        *_parameter_lines(script),
        f"    command: {json.dumps(_command(script))}",
    ]
    return "\n".join(lines) + "\n"


def _parameter_lines(script: Script) -> Iterator[str]:
    if script.is_hydra:
        yield "    parameters:"
        yield '      overrides: {type: string, default: ""}'
    elif script.parameters:
        yield "    parameters:"
        yield from (f"      {each.name}: {{{_described(each)}}}" for each in script.parameters)
    else:
        yield f"    # {script.path} has none that could be read from it. To add one:"
        yield "    # parameters:"
        yield "    #   lr: {type: float, default: 0.1}"
        yield f'    # command: "python {script.path} --lr {{lr}}"'


def _described(parameter: Parameter) -> str:
    kind = "float" if isinstance(parameter.default, int | float) else "string"
    default = "" if parameter.default is None else f", default: {json.dumps(parameter.default)}"
    return f"type: {kind}{default}"


def _command(script: Script) -> str:
    path = shlex.quote(script.path)
    if script.is_hydra:
        # MLflow quotes the overrides as one word; the shell splits them again.
        return f"eval python {shlex.quote(path)} {{overrides}}"
    return " ".join(["python", path, *(each.words for each in script.parameters)])


def _conda(repository: Path, script: Script) -> str:
    if (repository / "requirements.txt").is_file():
        needed = ["-r requirements.txt"]
    elif (repository / "pyproject.toml").is_file():
        needed = ["."]
    else:
        needed = sorted(_distributions(repository, script))
    lines = [
        "# The environment that MLflow builds for: mlflow run . --env-manager conda.",
        "# `kaggleops run` uses the environment that it is started in.",
        "channels: [conda-forge, nodefaults]",
        "dependencies:",
        f"  - python={sys.version_info.major}.{sys.version_info.minor}",
        "  - pip",
        "  - git",
        "  - pip:",
        *(f"      - {json.dumps(each)}" for each in [*needed, f"kaggleops @ git+{_address()}"]),
    ]
    return "\n".join(lines) + "\n"


def _distributions(repository: Path, script: Script) -> set[str]:
    """Return the packages that a script imports, as they are installed here."""
    there = packages_distributions()
    beside = (repository / script.path).parent
    found = set()
    for name in script.imports - sys.stdlib_module_names - {"kaggleops"}:
        if not any(
            (folder / name).exists() or (folder / f"{name}.py").exists()
            for folder in (repository, beside)
        ):
            found |= {f"{each}>={version(each)}" for each in there.get(name, [])[:1]}
    return found


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
