"""What a training script takes, read from its source: nothing of it is run or imported.

Understood are the options of argparse and click, where their defaults are written out, and Hydra.
What is not understood is left out: then the script's own default counts, as without us.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from kaggleops.errors import UsageError

USUAL = ("train.py", "src/train.py", "main.py", "src/main.py", "run.py", "scripts/train.py")
"""Where people put what starts a training, the likeliest first."""

_DECLARING = {"add_argument", "option", "argument"}  # argparse's, click's two
# A flag or a list cannot be passed as one `--name VALUE`.
_NOT_ONE_VALUE = {"action", "nargs", "is_flag", "multiple", "count"}


@dataclass(frozen=True)
class Parameter:
    """A value that a script takes on its command line.

    Args:
        name: as an entry point calls it.
        option: what stands before the value (`--batch-size`), "" for a positional one.
        default: its default; None where a value has to be given.
    """

    name: str
    option: str
    default: str | float | None

    @property
    def words(self) -> str:
        """How an entry point's command passes it."""
        return f"{self.option} {{{self.name}}}".lstrip()


@dataclass(frozen=True)
class Script:
    """A training script.

    Args:
        path: where it lies in its repository, "/"-separated.
        parameters: what it takes.
        is_hydra: whether Hydra reads its command line.
        experiment: the MLflow experiment that it sets; "" for none.
        imports: the top-level names of what it imports.
        sets_tracking_uri: the line in which it says where MLflow logs to; 0 if it does not.
    """

    path: str
    parameters: tuple[Parameter, ...]
    is_hydra: bool
    experiment: str
    imports: frozenset[str]
    sets_tracking_uri: int


def find_script(repository: Path, named: str | None = None) -> Script:
    """Return the script that starts a repository's training.

    Args:
        repository: its top folder.
        named: the script's path in it; by default one that is called as people usually do.

    Raises:
        UsageError: there is none, or it is not Python.
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
    """Return the value that is written out; None for one that would have to be computed."""
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
