"""The manifest's YAML, entry by entry: what is wrong with one is said with its line."""

from typing import Any

import yaml

from kaggleops.errors import UsageError


def entries_of(text: str, doing: str) -> list[tuple[int, yaml.ScalarNode, yaml.Node]]:
    """Return each entry's line, from 1, its name and what it says.

    Raises:
        UsageError: it is no YAML, no mapping, or has a name twice, which YAML would pass over.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(doing, error) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        problem = f"line {line}: {chr(error.character)!r} is no character that YAML allows"
        raise UsageError(doing, problem, "Take it out.") from error
    except RecursionError as error:
        raise UsageError(doing, "its brackets are nested too deep") from error
    if node is None:
        return []
    if not isinstance(node, yaml.MappingNode):
        raise UsageError(doing, "it is no mapping of names to entries", "Write NAME:, and below it")
    entries: dict[str, tuple[int, yaml.ScalarNode, yaml.Node]] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            raise UsageError(doing, f"line {line}: an entry's name is text", "Write NAME:")
        if key.value in entries:
            problem = f"lines {entries[key.value][0]} and {line} both declare {key.value}"
            raise UsageError(doing, problem, "Give one of them another name.")
        entries[key.value] = line, key, value
    return list(entries.values())


def entry_lines(text: str, doing: str) -> dict[str, int]:
    """Return on which line each entry begins, from 1.

    Raises:
        UsageError: as for `entries_of`.
    """
    return {key.value: line for line, key, _ in entries_of(text, doing)}


def value_of(node: yaml.Node, doing: str) -> Any:
    """Return what a part of the manifest says.

    Raises:
        UsageError: nothing that YAML knows.
    """
    try:
        return yaml.SafeLoader("").construct_document(node)
    except yaml.MarkedYAMLError as error:
        raise _no_yaml(doing, error) from error
    # What its conversions raise: of a date in a thirteenth month, of `!!bool maybe`.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        problem = f"a value there is not what it looks like ({error})"
        raise UsageError(doing, problem, "Put it in quotes.") from error


def _no_yaml(doing: str, error: yaml.MarkedYAMLError) -> UsageError:
    line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
    return UsageError(doing, f"{line}{error.problem}", "Check its indentation.")
