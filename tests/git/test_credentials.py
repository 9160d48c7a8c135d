"""Credentials of a repository's address, and of a person: where they go, and where they do not."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kaggleops.backends.code import anybody_can_fetch
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import can_fetch, clone, fetch
from kaggleops.git.commits import find_commit
from tests.fakes.git_server import GitHttp, Repository

USER, PASSWORD = "ada", "t0p s:cr@t/%"
IN_ADDRESS = "ada:t0p%20s%3Acr%40t%2F%25"


@pytest.fixture
def private(toy: Repository, tmp_path: Path) -> Iterator[GitHttp]:
    """A server that gives out the repository to Ada alone."""
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(tmp_path / "private/toy.git"))
    bare = Repository.at(tmp_path / "private/toy.git")
    bare.git("config", "uploadpack.allowFilter", "true")
    with GitHttp(tmp_path / "private", USER, PASSWORD) as server:
        yield server


def _all_text_below(folder: Path) -> str:
    return "\n".join(
        file.read_text(errors="replace") for file in folder.rglob("*") if file.is_file()
    )


def test_a_token_in_an_address_is_on_no_command_line_and_nowhere_after(
    private: GitHttp, toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "told"
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "credential.helper")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"!f() {{ cat >> {told}; }}; f")
    address = f"http://{IN_ADDRESS}@{private.host}/toy.git"
    commit = fetch(address, toy.git("rev-parse", "HEAD~1"), tmp_path / "copy")
    assert (commit.repository / "version.txt").read_text() == "first"
    assert commit.origin == f"http://{private.host}/toy.git"

    seen = set(private.command_lines)
    partial = tmp_path / "partial"
    toy.git("clone", "--quiet", "--filter=blob:none", address, str(partial))
    private.command_lines.clear()  # the person's own git put it there,
    told.unlink()  # and told the helper
    clone(find_commit(partial, "HEAD~1"), tmp_path / "clone")
    assert (tmp_path / "clone/version.txt").read_text() == "first"

    wrong = address.replace("%25@", "@")
    with pytest.raises(UsageError) as caught:
        fetch(wrong, "main", tmp_path / "wrong")
    for each in (seen, private.command_lines):
        assert any("git-remote-http" in line for line in each)  # it was looked while git was at it
    written = "".join(_all_text_below(tmp_path / name) for name in ("copy", "clone", "wrong"))
    for text in (*seen, *private.command_lines, written, str(caught.value)):
        assert "t0p" not in text
    # Nor is a helper told of what it did not give.
    assert "t0p" not in (told.read_text() if told.exists() else "")


def test_a_name_without_a_password_is_completed_by_a_helper(
    private: GitHttp, toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", "credential.helper")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", '!f() { cat >&2; echo "password=$OF_ADA"; }; f')
    monkeypatch.setenv("OF_ADA", PASSWORD)
    commit = fetch(f"http://{USER}@{private.host}/toy.git", "main", tmp_path / "copy")
    assert commit.sha == toy.git("rev-parse", "HEAD")


def _askpass(folder: Path, host: str, environ: dict[str, str]) -> None:
    program = folder / "askpass"
    program.write_text(f"#!/bin/sh\ncase $1 in U*) echo {USER};; *) echo '{PASSWORD}';; esac\n")
    program.chmod(0o755)
    environ["GIT_ASKPASS"] = environ["SSH_ASKPASS"] = str(program)


def _netrc(folder: Path, host: str, environ: dict[str, str]) -> None:
    (folder / ".netrc").write_text(f'machine 127.0.0.1 login {USER} password "{PASSWORD}"\n')


def _header(folder: Path, host: str, environ: dict[str, str]) -> None:
    import base64

    basic = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    config = f'[http "http://{host}/"]\n extraHeader = Authorization: Basic {basic}\n'
    (folder / ".gitconfig").write_text(config)


def _header_of_the_environment(folder: Path, host: str, environ: dict[str, str]) -> None:
    _header(folder, host, environ)
    value = (folder / ".gitconfig").read_text().partition("extraHeader = ")[2].strip()
    (folder / ".gitconfig").unlink()
    environ["GIT_CONFIG_PARAMETERS"] = f"'http.extraheader'='{value}'"


def _instead_of(folder: Path, host: str, environ: dict[str, str]) -> None:
    config = f'[url "http://{IN_ADDRESS}@{host}/"]\n insteadOf = http://{host}/\n'
    (folder / ".gitconfig").write_text(config)


def _helper(folder: Path, host: str, environ: dict[str, str]) -> None:
    (folder / "store").write_text(f"http://{IN_ADDRESS}@{host}\n")
    config = f"[credential]\n helper = store --file={folder}/store\n"
    (folder / ".gitconfig").write_text(config)


@pytest.mark.parametrize(
    "signed_in",
    [_askpass, _netrc, _header, _header_of_the_environment, _instead_of, _helper],
    ids=lambda each: each.__name__.strip("_"),
)
def test_what_only_this_person_can_fetch_is_not_public(
    private: GitHttp,
    toy: Repository,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    signed_in: object,
) -> None:
    home = tmp_path / "ada"
    home.mkdir()
    environ: dict[str, str] = {}
    signed_in(home, private.host, environ)  # type: ignore[operator]
    for name in [each for each in os.environ if each.startswith(("GIT_", "SSH_ASKPASS"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(home))
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    address = f"http://{private.host}/toy.git"
    toy.git("remote", "add", "origin", address)
    commit = find_commit(toy.folder)
    assert commit.origin == address
    assert fetch(address, commit.sha, tmp_path / "copy").sha == commit.sha  # Ada can
    assert not can_fetch(address, commit.sha)
    assert not anybody_can_fetch(commit)


def test_the_way_to_a_public_repository_is_kept(
    toy: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy.git("clone", "--quiet", "--bare", str(toy.folder), str(tmp_path / "served/toy.git"))
    sha = toy.git("rev-parse", "HEAD")
    with GitHttp(tmp_path / "served") as server:  # also a proxy: it is asked with the whole address
        assert can_fetch(f"http://{server.host}/toy.git", sha)
        config = tmp_path / "gitconfig"
        config.write_text(f"[http]\n proxy = http://{server.host}\n")
        monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
        before = server.asked
        can_fetch("http://somewhere.invalid/toy.git", sha)
        assert server.asked > before
