"""What a training script takes and reads, told by its source, which is not run or imported.

The options of argparse and click with literal defaults, Hydra, and the paths that it names.
Anything else is left out, so the script's own default counts.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from kaggleops.errors import UsageError

USUAL = ("train.py", "src/train.py", "main.py", "src/main.py", "run.py", "scripts/train.py")
"""Usual places of a training script, the likeliest first."""

EXPERIMENTS = ("experiments", "experiment", "exps", "exp")
"""Usual folders of scripts that are each an experiment: `001.py`, `baseline/train.py`."""

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
        paths: what it names that may be a path which it reads.
        is_program: whether it does something when it is started.
    """

    path: str
    parameters: tuple[Parameter, ...]
    is_hydra: bool
    experiment: str
    imports: frozenset[str]
    sets_tracking_uri: int
    paths: tuple[str, ...] = ()
    is_program: bool = True

    @property
    def entry_point(self) -> str:
        """The name of its entry point, if it is one of several: `experiments/001.py` is `001`."""
        path = PurePosixPath(self.path)
        usual = path.stem in ("train", "main", "run") and len(path.parts) > 2
        return path.parent.name if usual else path.stem


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
    return read_script(repository, path)


def find_experiments(repository: Path) -> list[Script]:
    """Return the scripts of a repository's folder of experiments, sorted; UsageError as above.

    Those are `NAME.py` and, one folder down, `NAME/train.py`, `NAME/main.py` or `NAME/run.py`.
    """
    for folder in EXPERIMENTS:
        found = sorted([
            *(repository / folder).glob("*.py"),
            *(repository / folder).glob("*/train.py"),
            *(repository / folder).glob("*/main.py"),
            *(repository / folder).glob("*/run.py"),
        ])  # fmt: skip
        if found:
            names = (each.relative_to(repository).as_posix() for each in found)
            return [read_script(repository, name) for name in names]
    return []


def read_script(repository: Path, path: str) -> Script:
    """Return what the source of a script in a repository tells; UsageError if it is not Python."""
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
        paths=tuple(dict.fromkeys(_paths(tree))),
        is_program=any(not isinstance(node, _DECLARATIONS) for node in tree.body),
    )


_DECLARATIONS = (
    *(ast.Import, ast.ImportFrom, ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef),
    *(ast.Assign, ast.AnnAssign),
)
_READING = re.compile(r"read\w*|scan_\w+|open|load\w*|imread|glob|Path|join|File|Dataset")


def _paths(tree: ast.AST) -> Iterator[str]:
    """Yield texts that are read as files, are a default, or have a name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and (
            _READING.fullmatch(_name(node)) or _name(node) in _DECLARING
        ):
            named = [each.value for each in node.keywords if each.arg in ("default", "dir", "path")]
            writes = any(
                isinstance(each, ast.Constant) and each.value in ("w", "wb", "a")
                for each in node.args[1:]
            )
            given = [] if writes else [*node.args[:1], *named]
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            given = [node.value] if node.value else []
        else:
            continue
        for each in given:
            match each:
                case ast.Constant(value=str(text)):
                    yield text
                case ast.JoinedStr(values=[ast.Constant(value=str(text)), *_]):
                    yield text.rpartition("/")[0]  # of f"data/train_{fold}.csv" the folder


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
