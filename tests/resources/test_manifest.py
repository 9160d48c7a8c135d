"""What a manifest may say, and what is said of a wrong one."""

from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.resources.manifest import (
    MANIFEST,
    InBucket,
    OfRun,
    OnKaggle,
    OnTheWeb,
    parse_manifest,
    read_manifest,
)

PATH = Path("/p") / MANIFEST
SHA = "sha256:" + "0a" * 32


def test_every_kind_of_source() -> None:
    manifest = parse_manifest(
        f"""
a: {{source: gs://our-bucket/some/prefix}}
b: {{source: kaggle://competitions/titanic}}
c: {{source: kaggle://datasets/ada/tweets/versions/3, destination: input/c/}}
d: {{source: kaggle://models/ada/net/pyTorch/base/2}}
e: {{source: runs:/0123456789abcdef/oof, files: ["*.csv"]}}
f: {{source: runs:/best/oof, experiment: tweets, commit: 1a2b3c4, metric: jaccard}}
g: {{source: "https://example.org/data/words.txt?raw=1", checksum: {SHA.upper()}}}
""",
        PATH,
    )
    assert manifest.project == Path("/p")
    assert [each.address for each in manifest.resources.values()] == [
        InBucket("gs://our-bucket/some/prefix"),
        OnKaggle("competitions", "titanic"),
        OnKaggle("datasets", "ada/tweets", 3),
        OnKaggle("models", "ada/net/pyTorch/base/2"),
        OfRun("0123456789abcdef", "oof"),
        OfRun("best", "oof"),
        OnTheWeb("https://example.org/data/words.txt?raw=1"),
    ]
    assert manifest["c"].destination == "input/c"
    assert manifest["a"].destination == "data/a"
    assert manifest["g"].checksum == SHA


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: {source: gs://b-1/x}\na: {source: gs://b-1/y}", r"lines 1 and 2 both declare a"),
        ("a:\n  source: gs://b-1/x\n bad", r"line 3: .* Check its indentation"),
        ("- a", r"it is not a mapping"),
        ("a: {files: [x]}", r"line 1: a has no source"),
        ("\na: gs://b-1", r"line 2: a has no source"),
        ("a b: {source: gs://b-1}", r"'a b' is not a name"),
        ("yes: {source: gs://b-1}", r"True is of the type bool, not a name. Put it in quotes"),
        ("0123: {source: gs://b-1}", r"83 is of the type int, not a name. Put it in quotes"),
        ("a: {source: gs://b-1, sauce: x}", r"'sauce' is unknown. Did you mean source\?"),
        ("a: {source: gs://b-1, skip_if_exist: 1}", r"skip_if_exist is true or false, not 1"),
        ("a: {source: gs://b-1, files: x}", r"files is a list, not 'x'"),
        ("a: {source: gs://b-1, description: 3}", r"description is text, not 3. Put it in quotes"),
        ("a: {source: gs://b-1, files: [../x]}", r"'../x' does not name a file"),
        ("a: {source: gs://b-1, destination: ../x}", r"'../x' is not a folder for data in"),
        ("a: {source: gs://b-1, destination: x/../../y}", r"is not a folder for data in"),
        ("a: {source: gs://b-1, destination: /x}", r"'/x' is not a folder for data in"),
        ("a: {source: gs://b-1, destination: .}", r"is not a folder for data"),
        ("a: {source: gs://b-1, destination: x}\nb: {source: gs://b-1, destination: ./x/}",
         r"b's destination x is, or is in, a's"),
        ("a: {source: gs://b-1, destination: a/n}\nb: {source: gs://b-1, destination: a/n/x/y}\n"
         "c: {source: gs://b-1, destination: a/n-2}", r"b's destination a/n/x/y is, or is in, a's"),
        ("a: {source: gs://b-1, destination: ~/in}", r"'~/in' is not a folder for data"),
        ('a: {source: gs://b-1, destination: "data/\\0x"}', r"line 1: a: .* is not a folder"),
        ("\na: {source: gs://B}", r"line 2: gs://B: 'B' cannot be the name of a bucket"),
        ("\na: {source: gs://b-1, description: \x07}", r"line 2: unacceptable .*Take it out"),
        ("\na: {source: gs://b-1, description: 2020-13-45}", r"line 2: .*month must be in 1"),
        ("\na: {source: gs://b-1, skip_if_exist: !!bool maybe}", r"line 2: .*'maybe'"),
        ("? [a, b]\n: {source: gs://b-1}", r"line 1: an entry's name is text"),
        ("<<: {a: {source: gs://b-1}}", r"line 1: an entry's name is text"),
        ("a: " + "[" * 3000, r"recursion"),
        ("a: {source: gs://b-1, files: [{x: y}]}", r"a: .* does not name a file"),
        ("a: {source: ftp://b/x}", r"'ftp://b/x' is not a source. Use gs://"),
        ("a: {source: kaggle://tweets}", r"is not an address on Kaggle"),
        ("a: {source: kaggle://models/ada/net/pyTorch/base}", r"is not an address on Kaggle"),
        ("a: {source: https://www.kaggle.com/competitions/titanic}",
         r"Did you mean kaggle://competitions/titanic\?"),
        ("a: {source: https://www.kaggle.com/c/titanic/}", r"mean kaggle://competitions/titanic\?"),
        ("a: {source: 'runs:/'}", r"is not the address of a run's artifacts"),
        ("a: {source: runs:/best/x, metric: loss}", r"does not say which run is the best"),
        ("a: {source: https://example.org/x}", r"a has no checksum"),
        ("a: {source: https://example.org/x, checksum: abc}", r"'abc' is not a checksum"),
        ("a: {source: https://example.org}", r"does not name a file"),
        ("a: {source: https://example.org/.., checksum: x}", r"does not name a file"),
        ("a: {source: 'https://[example.org/x'}", r"does not name a file"),
    ],
)  # fmt: skip
def test_a_wrong_manifest(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as raised:
        parse_manifest(text, PATH)
    assert "resources.yaml" in str(raised.value)


def test_entries_may_share_what_they_say() -> None:
    shared = "a: &a {source: gs://b-1/x, files: [x]}\nb: {<<: *a, destination: b}\n"
    assert parse_manifest(shared, PATH)["b"].files == ("x",)


def test_an_empty_one_and_an_unknown_name(tmp_path: Path) -> None:
    assert parse_manifest("# nothing yet\n", PATH).resources == {}
    manifest = parse_manifest("tweets: {source: gs://b-1}", PATH)
    with pytest.raises(UsageError, match=r"no resource named 'tweet'.*Did you mean tweets\?"):
        manifest.named(["tweet"])
    with pytest.raises(UsageError, match="It declares: tweets"):
        manifest.named(["zzz"])
    (tmp_path / "m.yaml").write_bytes(b"\xff")
    with pytest.raises(UsageError, match=r"m\.yaml"):
        read_manifest(tmp_path / "m.yaml")
