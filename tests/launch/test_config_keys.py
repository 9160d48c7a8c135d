"""A mistyped key is told before there is a run, here and on submit."""

import sys
from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.git.commits import find_commit
from kaggleops.git.project_files import write_project_files
from kaggleops.launch.overrides import check_config_keys
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

ROOT = Path(__file__).parents[2]
OURS = "python -m competitions.train task={task} model={model} fold={fold} --overrides {overrides}"
DEFAULTS = {"task": "tweet_sentiment", "model": "tiny", "fold": "0"}


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a submit sees of this very repository."""
    return write_project_files(find_commit(ROOT), tmp_path_factory.mktemp("ours") / "files")


def _check(folder: Path, command: str, overrides: str, **parameters: str) -> None:
    given = {**(DEFAULTS if command is OURS else {}), **parameters, "overrides": overrides}
    check_config_keys(folder, command, given, "running main of abc1234")


@pytest.mark.parametrize(
    ("overrides", "parameters", "said"),
    [
        ("modle=tiny", {}, "there is no key modle. Did you mean model?"),
        ("trainer.epoch=3", {}, "there is no key trainer.epoch. Did you mean trainer.epochs?"),
        ("~trainer.epoch", {}, "there is no key trainer.epoch"),
        ("zzz.zzz=3", {}, "There are: "),
        ("", {"model": "tinny"}, "there is no model 'tinny'. Did you mean tiny?"),
        ("trainer=zzz", {}, "there is no trainer 'zzz'. Choose one of: default, fast"),
        ("trainer.epochs=[3", {}, "trainer.epochs"),
        ("trainer.epochs=1,2", {}, "takes one. `kaggleops sweep trainer.epochs=1,2` runs each."),
        ("", {"fold": "0,1"}, "fold=0,1 is several values, and a run takes one"),
    ],
)
def test_what_the_configuration_lacks(
    ours: Path, overrides: str, parameters: dict[str, str], said: str
) -> None:
    with pytest.raises(UsageError) as caught:
        _check(ours, OURS, overrides, **parameters)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "",
        "trainer.epochs=3 data=folder data.dir=/data seed=7",
        "experiment=smoke 'data.dir=my folder'",
        "+anything.at_all=1 ++trainer.epochs=2 hydra.verbose=true",
        "model=minilm model.pretrained=/weights",
        "~trainer.epochs",
    ],
)
def test_what_it_has(ours: Path, overrides: str) -> None:
    _check(ours, OURS, overrides)


SCRIPT = """
import hydra
@hydra.main(version_base=None, config_path="conf", config_name="main")
def train(config):
    print(config)
"""


@pytest.fixture
def hydra_project(tmp_path: Path) -> Repository:
    """Somebody's own Hydra script, as `kaggleops init` adopts it."""
    repository = Repository(tmp_path / "theirs")
    repository.write(
        code__train_py=SCRIPT,
        MLproject="entry_points:\n  main:\n    parameters:\n      overrides: {type: string}\n"
        "    command: 'eval python code/train.py {overrides}'\n",
        **{"code__conf__main.yaml": "lr: 0.1\nnet: {width: 3}\n"},
    )
    repository.commit("Train")
    return repository


def test_a_script_of_hydras_own(hydra_project: Repository) -> None:
    command = "eval python code/train.py {overrides}"
    _check(hydra_project.folder, command, "net.width=5 lr=1")
    _check(hydra_project.folder, command, "-m lr=1,2 nte.width=5")  # options: it tells itself
    with pytest.raises(UsageError, match=r"no key nte.width. Did you mean net.width\?"):
        _check(hydra_project.folder, command, "nte.width=5")
    # What is registered by code is known to that code alone.
    registered = SCRIPT + "hydra.core.config_store.{}.instance()\n".format("ConfigStore")
    hydra_project.write(code__train_py=registered)
    _check(hydra_project.folder, command, "nte.width=5")


@pytest.mark.parametrize(
    "script",
    [
        f'"""Train: `hydra.main()` composes what is below conf/."""{SCRIPT}',
        SCRIPT.replace("None, ", "None,  # (as Hydra 1.1 did)\n    "),
    ],
    ids=["mentioned above", "a comment within"],
)
def test_what_only_reads_like_the_call_of_hydra(hydra_project: Repository, script: str) -> None:
    hydra_project.write(code__train_py=script)
    with pytest.raises(UsageError, match="no key nte"):
        _check(hydra_project.folder, "eval python code/train.py {overrides}", "nte=5")


def test_hydra_is_asked_for_where_a_project_needs_it_and_nowhere_else(
    hydra_project: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("hydra", "hydra.errors", "omegaconf"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError) as caught:
        _check(hydra_project.folder, "eval python code/train.py {overrides}", "lr=1")
    assert str(caught.value) == (
        "running main of abc1234: its configuration main.yaml is Hydra's, which is not installed "
        "here. Install it: pip install hydra-core"
    )
    _check(tmp_path, "python train.py {overrides}", "anything=1 goes")


def test_a_project_without_hydra_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / "config/config.yaml").write_text("lr: 0.1\n")
    _check(tmp_path, "python train.py {overrides}", "anything=1 goes")


@pytest.mark.parametrize("backend", [[], ["-b", "manual"]])
def test_no_run_is_made(hydra_project: Repository, tmp_path: Path, backend: list[str]) -> None:
    options = ("run", *backend, "--bucket", tmp_path / "bucket")
    done = kaggleops_here(*options, "lrr=2", cwd=hydra_project.folder)
    assert done.code == 2
    assert "there is no key lrr. Did you mean lr?" in done.error
    assert not (tmp_path / "bucket").exists()


def test_a_parameter_of_an_mlproject(toy: Repository, tmp_path: Path) -> None:
    options = ("run", "--bucket", tmp_path / "bucket", "--entry-point", "needs", "btea=2")
    done = kaggleops_here(*options, cwd=toy.folder)
    assert "it does not take 'btea=2'. Did you mean beta?" in done.error
    done = kaggleops_here(*options[:-1], "beta", cwd=toy.folder)
    assert "'beta' has no value. Write beta=VALUE." in done.error
    assert not (tmp_path / "bucket").exists()
