"""Reading CSV files, and what is said of bad ones."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from competitions.tables import check_unique, check_values, read_table
from kaggleops.errors import UsageError
from tests.fakes.gcs_server import GcsServer


def write(folder: Path, content: bytes | str) -> str:
    data = content if isinstance(content, bytes) else content.encode()
    (folder / "t.csv").write_bytes(data)
    return str(folder)


def test_values_stay_the_text_of_the_file(tmp_path: Path) -> None:
    folder = write(tmp_path, '\ufeffid,text,more\n1,null,x\n02," a ""b"",\nc ",y\n\n3,NA,z\n')
    table = read_table(folder, "t.csv", ["text", "id"])
    assert table.to_dict("list") == {"text": ["null", ' a "b",\nc ', "NA"], "id": ["1", "02", "3"]}
    assert table.index.tolist() == [2, 3, 6]  # the lines of the file on which the rows begin


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "the file is empty"),
        ("id,text\n", "a header and no rows"),
        ("id,txt\n1,a\n", "line 1 has no column 'text'. It has id, txt"),
        ("key,txt\n1,a\n", "line 1 has no column 'id' and no column 'text'"),
        ("id,text\n1,a\n2,b,c\n", "line 3 has 3 fields instead of 2"),
        ('id,text\n1,"a\nb"\n2\n', "line 4 has 1 fields instead of 2"),
        ('id,text\n1,a\n2,"b" c\n3,d\n', "line 3 is not CSV"),
        ('id,text\n1,a\n2,"b\n3,c\n4,d\n', "line 3 is not CSV (unexpected end of data)"),
        (b"id,text\n1,a\n2,caf\xe9\n", "line 3 is not UTF-8 (byte 0xe9)"),
    ],
)
def test_a_malformed_file(tmp_path: Path, content: bytes | str, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_table(write(tmp_path, content), "t.csv", ["id", "text"])
    message = str(caught.value)
    assert said in message
    assert "t.csv" in message
    assert "\n" not in message


def test_a_missing_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no such file\. Run this"):
        read_table(str(tmp_path), "t.csv", ["id"], "Run this")
    with pytest.raises(UsageError, match=r"there is no folder .*nowhere\. Run this"):
        read_table(str(tmp_path / "nowhere"), "t.csv", ["id"], "Run this")


def test_repeated_ids_and_unknown_values_are_told_with_their_lines(tmp_path: Path) -> None:
    table = read_table(
        write(tmp_path, "id,mood\na,up\nb,down\na,sideways\n"), "t.csv", ["id", "mood"]
    )
    with pytest.raises(UsageError, match="line 4 has the same id as line 2: 'a'"):
        check_unique("reading", table["id"])
    with pytest.raises(UsageError, match=r"line 4 has the mood 'sideways'\. .*: up, down"):
        check_values("reading", table["mood"], ("up", "down"))


cells = st.text(st.characters(codec="utf-8", exclude_characters="\r\x00"), max_size=8)


@given(st.lists(st.tuples(st.text("ab1", min_size=1), cells), min_size=1, max_size=5))
def test_whatever_is_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
) -> None:

    folder = tmp_path_factory.mktemp("tables")
    with (folder / "t.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("id", "text"), *rows])
    table = read_table(str(folder), "t.csv", ["id", "text"])
    assert list(table.itertuples(index=False, name=None)) == rows


def test_a_folder_in_a_bucket(gcs_server: GcsServer) -> None:
    gcs_server.create_bucket("b")
    gcs_server.put("b", "tweets/t.csv", b"id,text\n1,a\n")
    folder = "gs://b/tweets"
    assert read_table(folder, "t.csv", ["text"])["text"].tolist() == ["a"]
    with pytest.raises(UsageError, match=r"reading gs://b/tweets/u\.csv: there is no such file"):
        read_table(folder, "u.csv", ["text"])
