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
    """A value that a script takes on its command line."""

    name: str  # its name in an entry point
    option: str  # its option (`--batch-size`), "" if it is positional
    default: str | float | None  # None if it is required

    @property
    def words(self) -> str:
        """Its place in an entry point's command."""
        return f"{self.option} {{{self.name}}}".lstrip()


@dataclass(frozen=True)
class Script:
    """A training script."""

    path: str  # in the repository, "/"-separated
    parameters: tuple[Parameter, ...]
    left_out: tuple[str, ...]  # its options that are none of them: flags, those without a default
    is_hydra: bool  # whether Hydra reads its command line
    experiment: str  # the MLflow experiment that it sets, or ""
    imports: frozenset[str]  # the top-level names of its imports
    sets_tracking_uri: int  # the line in which it sets MLflow's tracking URI; 0 if it does not
    paths: tuple[str, ...] = ()  # what it names that may be a path which it reads
    is_program: bool = True  # whether it does something when it is started

    @property
    def entry_point(self) -> str:
        """The name of its entry point, if it is one of several: `experiments/001.py` is `001`."""
        path = PurePosixPath(self.path)
        usual = path.stem in ("train", "main", "run") and len(path.parts) > 2
        return path.parent.name if usual else path.stem


def find_script(repository: Path, named: str | None = None) -> Script:
    """Return a repository's training script: the named one, or the first of the `USUAL` ones.

    Raises UsageError if there is none, or it is not Python.
    """
    candidates = [named] if named else USUAL
    for path in candidates:
        if (repository / path).is_file():
            return read_script(repository, path)
    doing = f"looking for the training script of {repository.name}"
    problem = f"there is no {' or '.join(candidates)}"
    raise UsageError(doing, problem, "Name it: kaggleops init --script PATH.")


def find_experiments(repository: Path) -> list[Script]:
    """Return the scripts of a repository's folder of experiments, sorted; UsageError as above.

    Those are `NAME.py` and, one folder down, `NAME/train.py`, `NAME/main.py` or `NAME/run.py`.
    """
    patterns = ("*.py", "*/train.py", "*/main.py", "*/run.py")
    for folder in EXPERIMENTS:
        found = sorted(file for each in patterns for file in (repository / folder).glob(each))
        if found:
            return [read_script(repository, str(each.relative_to(repository))) for each in found]
    return []


def read_script(repository: Path, path: str) -> Script:
    """Return what the source of a script in a repository tells; UsageError if it is not Python."""
    try:
        tree = ast.parse((repository / path).read_bytes(), path)
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"reading {path}", f"it is not Python ({error})") from error
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.lineno, call.col_offset))
    parameters = tuple(_parameters(calls).values())
    taken = {each.option for each in parameters}
    return Script(
        path=path,
        parameters=parameters,
        left_out=tuple(each for each in dict.fromkeys(_options(calls)) if each not in taken),
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


def _options(calls: list[ast.Call]) -> Iterator[str]:
    """Yield the options that argparse's and click's calls declare, but for help and version."""
    for call in calls:
        action = next((each.value for each in call.keywords if each.arg == "action"), None)
        names = _texts(call) if _name(call) in _DECLARING else []
        option = _option(names) if names and _literal(action) not in ("help", "version") else ""
        if re.fullmatch(r"--?\w[\w/-]*", option, re.ASCII):
            yield option


def _option(names: list[str]) -> str:
    """Return the name that an option of several is called by: `--learning-rate` of `-l`, too."""
    return next((each for each in names if each.startswith("--")), names[0])


def _parameters(calls: list[ast.Call]) -> dict[str, Parameter]:
    """Return what argparse's and click's calls declare, the first of each name."""
    found: dict[str, Parameter] = {}
    for call in calls:
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        names = _texts(call)
        if _name(call) not in _DECLARING or not names or _NOT_ONE_VALUE & given.keys():
            continue
        option = _option(names)
        name = option.lstrip("-").replace("-", "_")
        default, required = _literal(given.get("default")), _literal(given.get("required"))
        if not re.fullmatch(r"[a-zA-Z]\w*", name, re.ASCII):
            continue
        if not option.startswith("-"):
            found.setdefault(name, Parameter(name, "", None))
        elif default is None and required is True:
            found.setdefault(name, Parameter(name, option, None))
        elif isinstance(default, str | int | float) and not isinstance(default, bool):
            found.setdefault(name, Parameter(name, option, default))
    return found


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
