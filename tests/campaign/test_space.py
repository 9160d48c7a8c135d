"""Hydra's sweep syntax, read for any project: what it comes to, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kaggleops.campaign.space import Space, read_space
from kaggleops.errors import UsageError

GROUPS = {"model": ["tiny", "minilm", "roberta-squad2", "10", "true", "with space"]}


def groups(name: str) -> list[str]:
    return GROUPS.get(name, [])


def points(*axes: str, **options: object) -> list[dict[str, str]]:
    space = read_space(axes, groups, **options)  # type: ignore[arg-type]
    return [dict(space.point(number)) for number in range(space.count or 0)]


def values(axis: str, **options: object) -> list[str]:
    return [next(iter(point.values())) for point in points(axis, **options)]


@pytest.mark.parametrize(
    ("axis", "expected"),
    [
        ("a=1,2,3", ["1", "2", "3"]),
        ("a=choice(x,y)", ["x", "y"]),
        ("a=range(1,4)", ["1", "2", "3"]),
        ("a=range(3)", ["0", "1", "2"]),
        ("a=range(0.1,0.5,0.1)", ["0.1", "0.2", "0.3", "0.4"]),
        ("a=range(3,0,-1)", ["3", "2", "1"]),
        ("a=int(1.5,2.5)", ["1", "2"]),
        ("a=sort(3,1,2)", ["1", "2", "3"]),
        ("a=sort(3,1,2,reverse=true)", ["3", "2", "1"]),
        ("a=true,false,null", ["True", "False", "null"]),
        ("a=[1,2],[3]", ["[1,2]", "[3]"]),
        ("+a@b=1,2", ["1", "2"]),
        ("model=glob(*)", ["'10'", "minilm", "roberta-squad2", "tiny", "'true'", "'with space'"]),
        ("model=glob([m*,r*],exclude=*squad*)", ["minilm"]),
    ],
)
def test_the_values_of_an_axis(axis: str, expected: list[str]) -> None:
    assert values(axis) == expected


def test_quotes_survive_to_the_override() -> None:
    assert values("a='x,y','z'") == ["'x,y'", "'z'"]
    assert values("a=choice('x,y','3.10',z)") == ["'x,y'", "'3.10'", "z"]
    assert read_space(["a='x,y'", "b=1,2"]).fixed == ["a='x,y'"]


def test_an_entry_point_without_hydra_gets_texts_without_quotes() -> None:
    plain = ["x,y", "3.10", "true", "foo bar"]
    assert values("a='x,y','3.10',true,foo bar", literal=["a"]) == plain
    # What only its own program understands is passed on.
    assert read_space(["a=b=c"], literal=["a"]).fixed == ["a=b=c"]


def test_a_grid_is_in_the_order_typed_with_the_last_axis_fastest() -> None:
    assert points("b=1,2", "a=x,y") == [
        {"b": "1", "a": "x"},
        {"b": "1", "a": "y"},
        {"b": "2", "a": "x"},
        {"b": "2", "a": "y"},
    ]


@pytest.mark.parametrize(
    "axis",
    [
        "a=1,2,3",
        "a='x,y','z'",
        "model=glob(*)",
        "a=tag(log,interval(1e-5,1e-3))",
        "a=int(interval(1,5))",
        "a=range(0,1,0.1)",
    ],
)
@pytest.mark.parametrize("literal", [(), ("a", "model")])
def test_its_expressions_read_the_same_where_there_are_no_files(
    axis: str, literal: tuple[str, ...]
) -> None:
    space = read_space([axis], groups, literal=literal)
    again = read_space(space.expressions, literal=literal)
    assert again.expressions == space.expressions
    assert [axis.values for axis in again.axes] == [axis.values for axis in space.axes]
    assert [axis.low for axis in again.axes] == [axis.low for axis in space.axes]


@pytest.mark.parametrize(
    ("axes", "said"),
    [
        (["a=1,2", "a=3,4"], "a is swept twice"),
        (["a=1,2", "a=3"], "a is set to one value, and swept"),
        (["+a=1,2", "a=3"], "a is set to one value, and swept"),
        (["a=1,2,1"], "a has the value 1 twice"),
        (["a=choice()"], "empty choice is not legal"),
        (["a=1,"], "is not in Hydra's syntax"),
        (["a=range(5,1)"], "a=range(5,1) is empty"),
        (["a=range(1,5,0)"], "a=range(1,5,0) is empty"),
        (["a=range(0,1e9)"], "a has 1,000,000,000 values, and 10,000 are the most"),
        (["a=interval(2,1)"], "a=interval(2,1) is empty"),
        (["a=interval(1,1)"], "a=interval(1,1) is empty"),
        (["a=interval(0,inf)"], "has an end that is no number, or too large"),
        (["a=tag(log,interval(0,1))"], "the only tag is log, for numbers above 0, in steps of 1"),
        (["a=tag(log,range(0,5))"], "the only tag is log, for numbers above 0, in steps of 1"),
        (["a=tag(log,range(1,9,2))"], "the only tag is log, for numbers above 0, in steps of 1"),
        (["a=tag(log,choice(1,2))"], "is not a sweep that is supported. A tag is for numbers"),
        (["a=tag(lgo,interval(1,2))"], "the only tag is log, for numbers above 0, in steps of 1"),
        (["a=shuffle(1,2)"], "is not a sweep that is supported. --sampler random tries points in"),
        (["a=shuffle(range(5))"], "is not a sweep that is supported. --sampler random tries"),
        (["model=glob(z*)"], "matches nothing in the commit's configuration. There are: tiny"),
        (["modle=glob(*)"], "matches nothing in the commit's configuration"),
        (["a=b=c"], "a=b=c is not in Hydra's syntax"),
        (["=1,2"], "=1,2 has no key"),
        (["a=interval(-1e308,1e308)"], "has an end that is no number, or too large"),
        ([f"a=int(interval(0,{10**30}))"], "has an end that is no number, or too large"),
        ([f"a=range(0,{10**400})"], "has an end that is no number, or too large"),
        (["a=range(-1e308,1e308,1e306)"], "has an end that is no number, or too large"),
        (["a=range(0,1,1e-9)"], "values, and 10,000 are the most"),
        ([f"a={'9' * 5000},2"], "is not in Hydra's syntax"),
        ([f"a={'[' * 500}{']' * 500},2"], "is not in Hydra's syntax"),
    ],
)
def test_what_is_no_space_gets_one_line(axes: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_space(axes, groups)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folds_are_split_off() -> None:
    space, folds = read_space(["fold=0,1,2", "a=x,y"]).split("fold")
    assert (space.count, folds) == (2, ["0", "1", "2"])
    assert read_space(["a=x,y"]).split("fold") == (read_space(["a=x,y"]), [])
    alone, folds = read_space(["+fold=range(5)"]).split("+fold")
    assert (alone.count, alone.point(0), len(folds)) == (1, {}, 5)
    with pytest.raises(UsageError, match="folds have to be listed"):
        read_space(["fold=interval(0,4)"]).split("fold")


_WORDS = st.text("abc01 ,='\"\\", min_size=1, max_size=6)


@given(st.lists(_WORDS, min_size=2, max_size=5, unique=True))
def test_any_text_in_quotes_is_itself_to_a_program_without_hydra(texts: list[str]) -> None:
    from hydra.core.override_parser.types import Quote, QuotedString

    typed = ",".join(QuotedString(text, Quote.single).with_quotes() for text in texts)
    space = read_space([f"a=choice({typed})"], literal=["a"])
    assert list(space.axes[0].values) == texts
    assert list(read_space(space.expressions, literal=["a"]).axes[0].values) == texts


@given(st.lists(_WORDS, min_size=2, max_size=5, unique=True))
def test_any_text_in_quotes_is_itself_to_hydra(texts: list[str]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Quote, QuotedString

    typed = ",".join(QuotedString(text, Quote.single).with_quotes() for text in texts)
    kept = read_space([f"a=choice({typed})"]).axes[0].values
    read = [OverridesParser.create().parse_override(f"a={text}").value() for text in kept]
    assert read == texts


@given(st.floats(1e-9, 1.0), st.floats(1.001, 1e6), st.booleans(), st.floats(0, 1))
def test_what_is_drawn_of_an_interval_is_in_it_as_text(
    low: float, high: float, log: bool, part: float
) -> None:
    inner = f"interval({low!r},{high!r})"
    space: Space = read_space([f"a=tag(log,{inner})" if log else f"a={inner}"])
    axis = space.axes[0]
    text = axis.text(low + part * (high - low))
    assert low <= axis.value(text) <= high
    assert read_space([f"a={text}"]).fixed == [f"a={text}"]
