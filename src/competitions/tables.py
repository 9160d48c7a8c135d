"""Reading a competition's CSV files, and saying exactly what is wrong with a bad one.

Every value stays the text that the file holds: a tweet that reads "null" is no missing value. Rows
are numbered by the line of the file on which they begin (the frame's index, named `line`), so that
a later complaint about a row can say where it stands.
"""

import csv
import io
from collections.abc import Collection, Sequence
from pathlib import Path

import fsspec
import pandas as pd

from competitions.console import say
from kaggleops.errors import KaggleOpsError, UsageError


def reading(folder: str, name: str) -> str:
    """What is being done, for a complaint about the file `name` of `folder`."""
    return f"reading {folder.rstrip('/')}/{name}"


def read_table(folder: str, name: str, columns: Sequence[str], download: str = "") -> pd.DataFrame:
    """Read a CSV file of a folder (local, or any URL that fsspec opens): the columns it must have.

    `download` says how to get the file, where it is missing. Returns one row a record, one column
    of str for each of `columns`, indexed by line number. Raises UsageError, naming file and line,
    for what is missing, empty, not UTF-8 or not CSV; KaggleOpsError for an unreadable remote.
    """
    doing = reading(folder, name)
    content = _read_bytes(doing, folder, name, download)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        problem = f"line {line} is not UTF-8 (byte 0x{content[error.start]:02x})"
        raise UsageError(doing, problem, "Save the file as UTF-8") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    lines, records = [], []
    line = 1
    try:
        header = next(reader, None)
        if not header:
            raise UsageError(doing, "the file is empty", download)
        missing = [column for column in columns if column not in header]
        if missing:
            problem = f"line 1 has no column {' and no column '.join(map(repr, missing))}"
            raise UsageError(doing, problem, f"It has {', '.join(header)}")
        line = reader.line_num + 1
        for record in reader:
            if record and len(record) != len(header):
                problem = f"line {line} has {len(record)} fields instead of {len(header)}"
                raise UsageError(doing, problem, "A comma or a quote is missing or too many there")
            if record:
                lines.append(line)
                records.append(record)
            line = reader.line_num + 1
    except csv.Error as error:
        # An open quote swallows the rest of the file: the line where it opens is to be fixed.
        raise UsageError(doing, f"line {line} is not CSV ({error})", "Check its quotes") from None
    if not records:
        raise UsageError(doing, "the file has a header and no rows", download)
    frame = pd.DataFrame(records, columns=header, index=pd.Index(lines, name="line"), dtype=str)
    return frame[list(columns)]


def check_unique(doing: str, ids: pd.Series) -> None:
    """Raise `UsageError` with both lines where an id comes twice."""
    repeated = ids[ids.duplicated()]
    if len(repeated):
        line, value = repeated.index[0], repeated.iloc[0]
        first = ids.index[ids == value][0]
        problem = f"line {line} has the same {ids.name} as line {first}: {value!r}"
        raise UsageError(doing, problem, "Each row needs an id of its own")


def check_values(doing: str, values: pd.Series, allowed: Collection[str]) -> None:
    """Raise `UsageError` with the first line whose value is not one of `allowed`."""
    unknown = values[~values.isin(list(allowed))]
    if len(unknown):
        problem = f"line {unknown.index[0]} has the {values.name} {unknown.iloc[0]!r}"
        raise UsageError(doing, problem, f"It must be one of: {', '.join(allowed)}")


def leave_out_blank(rows: pd.DataFrame, column: str, place: str) -> pd.DataFrame:
    """The rows whose `column` is not blank; says how many are left out, and where they stand."""
    blank = rows[column].str.strip() == ""
    if blank.any():
        lines = ", ".join(map(str, rows.index[blank][:3]))
        say(f"{place}: left out {blank.sum()} with an empty {column} (line {lines})")
    return rows[~blank]


def _read_bytes(doing: str, folder: str, name: str, download: str) -> bytes:
    try:
        filesystem, inside = fsspec.url_to_fs(f"{folder.rstrip('/')}/{name}")
        return bytes(filesystem.cat_file(inside))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        place = Path(folder).expanduser().absolute()
        missing = "://" not in folder and not place.is_dir()
        problem = f"there is no folder {place}" if missing else "there is no such file"
        raise UsageError(doing, problem, download) from None
    except (ValueError, ImportError) as error:  # no such protocol, or the package for it is missing
        raise UsageError(doing, str(error)) from None
    except Exception as error:  # noqa: BLE001 - each kind of store has exceptions of its own
        problem = f"{type(error).__name__}: {error}"
        hint = "Check the address, and that this machine may read it"
        raise KaggleOpsError(doing, problem, hint) from None
