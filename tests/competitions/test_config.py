"""What config/ holds, what overrides make of it, and what is said of wrong ones."""

import re
import shlex
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from competitions.config import CONFIG_DIR, choices, compose, overridden_choices, read_saved
from competitions.console import split_overrides
from competitions.schema import DataConfig, ModelConfig, Precision, TrainerConfig
from kaggleops.errors import UsageError
from tests import secrets_of
from tests.canaries import marks_in

GROUPS = ("task", "model", "trainer", "data", "experiment")


def test_the_defaults() -> None:
    settings = compose([])
    config = settings.config
    assert (config.task.name, config.model.name, config.data.name) == (
        "tweet_sentiment",
        "tiny",
        "sample",
    )
    assert config.trainer.precision is Precision.auto
    assert config.trainer.learning_rate == config.model.learning_rate


def test_flat_keys_hold_the_whole_configuration_and_the_choices() -> None:
    settings = compose(["model=minilm", "trainer.epochs=3", "experiment=smoke"])
    flat = settings.flat()
    assert flat["model"] == flat["model.name"] == "minilm"
    assert flat["trainer.epochs"] == "3.0"
    assert flat["trainer.precision"] == "auto"
    assert flat["experiment"] == "smoke"
    assert flat["fold"] == "0"
    written = yaml.safe_load(settings.yaml())
    assert written["trainer"]["epochs"] == 3
    assert "${" not in settings.yaml()


def test_a_secret_of_the_environment_is_used_and_not_recorded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", secrets_of.HUGGING_FACE_TOKEN)
    monkeypatch.setenv("DATA", str(tmp_path))
    named = ["data=folder", "data.dir=${oc.env:DATA}", "model.pretrained=${oc.env:HF_TOKEN}"]
    settings = compose([*named, "+model.packages.x=${model.pretrained}"])
    assert settings.config.model.pretrained == secrets_of.HUGGING_FACE_TOKEN
    recorded = settings.flat()
    assert recorded["data.dir"] == str(tmp_path)
    assert recorded["model.pretrained"] == "${oc.env:HF_TOKEN}"
    assert marks_in(settings.yaml() + str(recorded)) == set()
    (tmp_path / "config.yaml").write_text(settings.yaml())
    assert read_saved(tmp_path / "config.yaml").model == settings.config.model


@pytest.mark.parametrize("path", sorted(CONFIG_DIR.rglob("*.yaml")), ids=lambda path: path.name)
def test_every_key_is_explained(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("# ")
    previous = ""
    for line in lines:
        key = re.match(r"\s*(\w+):(?!\s*\$)", line)
        known = key and key[1] in ("defaults", "name", *GROUPS, "build", "learning_rate")
        if key and not known and path.parent.name != "experiment" and path.stem != "fast":
            explained = "#" in line or previous.strip().startswith("#")
            # A comment may stand above the two keys that it is about.
            assert explained or previous.strip().startswith(("batch_size", "epochs")), line
        previous = line


@pytest.mark.parametrize(
    ("group", "schema"),
    [("model", ModelConfig), ("trainer", TrainerConfig), ("data", DataConfig)],
)
def test_every_choice_of_a_group_has_all_its_keys(group: str, schema: Any) -> None:
    assert is_dataclass(schema)
    for name in choices(group):
        missing = {"folder": "data.dir", "resource": "data.resource", "hub": "model.pretrained"}
        extra = [f"{missing[name]}=x"] if name in missing else []
        resolved = compose([f"{group}={name}", *extra]).resolved
        assert set(resolved[group]) == {field.name for field in fields(schema)}
        assert resolved[group].name == name


@pytest.mark.parametrize("name", choices("experiment"))
def test_an_experiment_opens_with_the_command_that_runs_it(name: str) -> None:
    lines = (CONFIG_DIR / "experiment" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# @package _global_"  # Hydra reads it only there
    assert re.match("# kaggleops (run|sweep) ", lines[1])
    given = dict(word.split("=", 1) for word in lines[1].split() if "=" in word)
    assert given["experiment"] == name
    # And that command runs what the file says: MLflow passes these parameters in any case.
    passed = {"task": "tweet_sentiment", "model": "tiny", "trainer": "default", "fold": "0"}
    passed |= given | ({"data.dir": "x"} if "data.dir" in given else {})
    assert overridden_choices(f"{key}={value}" for key, value in passed.items()) == []


@given(st.lists(st.text()))
def test_overrides_survive_mlflows_quoting(overrides: list[str]) -> None:
    parameter = shlex.join(overrides)
    command_line = f"python -m competitions.train --overrides {shlex.quote(parameter)}"
    (*_, argument) = shlex.split(command_line)  # what the shell makes of it
    assert split_overrides(argument) == overrides


@pytest.mark.parametrize("folder", ["/data/my tweets", "gs://bucket/a=b", "/data/o'brien, etc"])
def test_any_folder_can_be_named(folder: str) -> None:
    quoted = '"' + folder.replace('"', '\\"') + '"'
    (override,) = split_overrides(shlex.join([f"data.dir={quoted}"]))
    assert compose(["data=folder", override]).config.data.dir == folder


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["task=nope"], "Choose task=<one of: disaster_tweets, tweet_sentiment"),
        (["model=nope"], "there is no model 'nope'. Choose model=<one of: deberta-v3-base, "),
        (["trainer=nope"], "there is no trainer 'nope'. Choose trainer=<one of: default, fast"),
        (["data=nope"], "there is no data 'nope'. Choose data=<one of: folder, resource, sample"),
        (
            ["experiment=nope"],
            "there is no experiment 'nope'. Choose experiment=<one of: search,",
        ),
        (["model=3"], "Config group override must be a string or a list. Got int"),
        (["task.max_lenght=3"], "there is no key task.max_lenght. "),
        (["learning_rate=3"], "there is no key learning_rate. "),
        (["trainer.lr=3"], "there is no key trainer.lr. "),
        (["+trainer.lr=3"], "there is no key trainer.lr. "),
        (["+nothing=3"], "there is no key nothing"),
        (["trainer.batch_size=many"], "trainer.batch_size: value 'many' of type 'str'"),
        (["task.max_length=long"], "task.max_length: value 'long' of type 'str'"),
        (["trainer.precision=fp8"], "expected one of [auto, fp32, bf16, fp16]"),
        (["trainer.batch_size=0"], "trainer.batch_size=0, but it must be more than 0"),
        (["trainer.warmup=1"], "trainer.warmup=1.0, but it must be from 0 to below 1"),
        (["task.max_length=2"], "task.max_length=2, but it must be 16 or more, or a share"),
        (["task.max_length=99.5"], "task.max_length=99.5, but it must be 16 or more, or a share"),
        (
            ["model.head_pairs=true"],
            "model.head_pairs=True, but it must be false without model.head_",
        ),
        (
            ["model.head_pairs=true", "model.head_layers=[-1]", "trainer.label_smoothing=0.1"],
            "trainer.label_smoothing=0.1, but it must be 0 with model.head_pairs",
        ),
        (["trainer.layer_decay=0"], "trainer.layer_decay=0.0, but it must be more than 0 and at"),
        (["model=hub"], "model.pretrained is missing. Give it: model.pretrained=<value>"),
        (["model.build.heads=3"], "model.build.hidden_size=128, but it must be a multiple of"),
        (["model.build=null"], "model.pretrained and model.build are both empty"),
        (["fold=5"], "fold=5, but it must be from 0 to 4"),
        (["fold=-1"], "fold=-1, but it must be from 0 to 4"),
        (["folds=1"], "folds=1, but it must be 2 or more"),
        (["fold=0", "fold=1"], "fold is given twice, as fold=0 and as fold=1"),
        (["~folds"], "folds is missing"),
        (["data=folder"], "data.dir is missing. Give it: data.dir=<folder or URL>"),
        (["data.dir=x"], "data.dir=x is not read with data=sample. Add data=folder"),
        (["data=resource"], "data.resource is missing. Give it: data.resource=<a name in config/"),
        (["data.resource=x"], "data.resource=x is not read with data=sample. Add data=resource"),
        (
            ["data=resource", "data.resource=x", "data.dir=y"],
            "data.dir=y is not read with data=resource. Add data=folder",
        ),
        (["nonsense"], "'nonsense' is not an override"),
        (["trainer.epochs=1,2"], "Ambiguous value for argument 'trainer.epochs=1,2'"),
        (["trainer.epochs=${nowhere}"], "trainer.epochs: interpolation key 'nowhere' not found"),
    ],
)
def test_a_wrong_override_is_one_line(overrides: list[str], said: str) -> None:
    with pytest.raises(UsageError) as caught:
        compose(overrides)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_unclosed_quote() -> None:
    with pytest.raises(UsageError, match="reading --overrides: No closing quotation"):
        split_overrides("data.dir='my folder")


def test_a_parameter_that_beats_an_experiment_is_told() -> None:
    launched = ["task=tweet_sentiment", "model=tiny", "trainer=default", "fold=0"]
    experiment = ["experiment=tweet_sentiment_minilm", "data.dir=x"]
    (note,) = overridden_choices([*launched, *experiment])
    assert note == (
        "model=tiny was given and beats model=minilm of experiment=tweet_sentiment_minilm"
    )
    assert overridden_choices(["model=minilm", *experiment]) == []
    assert overridden_choices(launched) == []


def test_an_earlier_configuration_to_start_from() -> None:
    base = {
        "task": {"name": "tweet_sentiment", "max_length": 64, "neutral_whole_text": False},
        "data": {"name": "folder", "dir": 'a "strange" folder = x', "rows": None},
    }
    config = compose(["task.neutral_whole_text=true"], base).config
    assert (config.task.max_length, config.task.neutral_whole_text) == (64, True)
    assert config.data.dir == base["data"]["dir"]
    assert compose(["data=sample"], base).config.data.dir is None
