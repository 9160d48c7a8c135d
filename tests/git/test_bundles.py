"""A commit that nobody else can clone travels through the bucket; so do changes, if allowed."""

from pathlib import Path

import pytest

from kaggleops.bucket import Bucket
from kaggleops.errors import UsageError
from kaggleops.git.checkouts import (
    bundle,
    clone,
    fetch_or_unbundle,
    key_of,
    mounted_bundle,
    mounted_bundles,
    send,
)
from kaggleops.git.commits import find_commit
from kaggleops.git.patches import apply_patch, write_patch
from tests import secrets_of
from tests.command import kaggleops_here
from tests.fakes.git_server import Repository

PRIVATE = "https://user:secret@127.0.0.1:9/private.git"


def test_a_commit_that_is_not_pushed_comes_through_the_bucket(
    toy: Repository, bucket: Bucket, tmp_path: Path
) -> None:
    branches = toy.git("for-each-ref")
    commit = find_commit(toy.folder, "HEAD~1")
    assert send(commit, bucket) == f"code/{commit.sha}.bundle"
    version = bucket.stat(key_of(commit.sha))
    send(commit, bucket)
    assert bucket.stat(key_of(commit.sha)) == version
    assert toy.git("for-each-ref") == branches

    found = fetch_or_unbundle(PRIVATE, commit.sha, tmp_path / "there", bucket)
    assert (found.sha, found.subject, found.branch) == (commit.sha, "First version", "")
    assert found.origin == "https://127.0.0.1:9/private.git"
    assert (found.repository / "version.txt").read_text() == "first"
    there = Repository.at(found.repository)
    assert there.git("remote", "get-url", "origin") == found.origin
    assert there.git("status", "--porcelain") == ""


@pytest.mark.parametrize("version", ["main", "0" * 40])
def test_what_is_in_neither_is_said_as_git_says_it(
    bucket: Bucket, tmp_path: Path, version: str
) -> None:
    with pytest.raises(UsageError, match=f"fetching {version} of https://127") as caught:
        fetch_or_unbundle(PRIVATE, version, tmp_path / "there", bucket)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("mount", ["my-code", "datasets/ada/my-code"])
def test_a_mounted_bundle_is_found_by_its_commit(
    toy: Repository, tmp_path: Path, mount: str
) -> None:
    folder = tmp_path / "input" / mount
    folder.mkdir(parents=True)
    assert mounted_bundle(tmp_path / "input", "") is None
    first, second = (find_commit(toy.folder, version) for version in ("HEAD~1", "HEAD"))
    file = bundle(first, folder / f"{first.sha}.bundle")
    assert mounted_bundle(tmp_path / "input", "") == file
    assert mounted_bundle(tmp_path / "input", first.sha[:8]) == file
    assert mounted_bundle(tmp_path / "input", second.sha) is None
    bundle(second, folder / f"{second.sha}.bundle")
    with pytest.raises(UsageError, match="several commits"):
        mounted_bundle(tmp_path / "input", "")
    assert mounted_bundle(None, "") is None
    assert len(mounted_bundles(tmp_path / "input")) == 2


def test_what_is_not_committed_as_a_patch(toy: Repository, tmp_path: Path) -> None:
    (toy.folder / "version.txt").write_bytes(b"third\r\n\xe9")  # neither UTF-8 nor our line ends
    (toy.folder / "new.bin").write_bytes(bytes(range(256)))
    toy.git("add", "version.txt")
    before = toy.git("status", "--porcelain")
    commit = find_commit(toy.folder)
    assert write_patch(commit, tmp_path / "patch") == ["new.bin", "version.txt"]
    assert toy.git("status", "--porcelain") == before
    fresh = clone(commit, tmp_path / "fresh")
    apply_patch(tmp_path / "patch", fresh)
    assert (fresh / "version.txt").read_bytes() == b"third\r\n\xe9"
    assert (fresh / "new.bin").read_bytes() == bytes(range(256))


def test_no_secret_leaves_in_a_patch_or_a_bundle(
    toy: Repository, bucket: Bucket, tmp_path: Path
) -> None:
    inner = Repository(tmp_path / "inner")
    (inner.folder / "hub.py").write_text(f"login('{secrets_of.HUGGING_FACE_TOKEN}')\n")
    inner.commit("Log in")
    toy.git(*("-c", "protocol.file.allow=always", "submodule", "add", str(inner.folder), "lib"))
    toy.commit("Add a submodule")
    (toy.folder / "key.json").write_text(secrets_of.SERVICE_ACCOUNT)
    (toy.folder / "model.bin").write_bytes(bytes(9) + secrets_of.GITHUB_TOKEN.encode())
    (toy.folder / "b.env").write_text(f"\nA={secrets_of.RUNPOD_KEY}")
    patch = tmp_path / "patch"
    found = [
        "key.json, line 5: Private Key",
        "model.bin, line 1: GitHub token",
        "b.env, line 2: RunPod key",
    ]
    with pytest.raises(UsageError) as refused:
        write_patch(find_commit(toy.folder), patch)
    assert all(each in str(refused.value) for each in found)
    assert "CANARY" not in str(refused.value).upper().replace("KAGGLE", "")
    names = write_patch(find_commit(toy.folder), patch, allow_secrets=True)
    assert names == ["b.env", "key.json", "model.bin"]

    (toy.folder / "b.env").unlink()
    toy.commit("Take them along")
    with pytest.raises(UsageError, match=r"key.json, line 5: .*hub.py, line 1") as refused:
        send(find_commit(toy.folder), bucket)
    assert "model.bin, line 1: GitHub token" in str(refused.value)
    assert list(bucket.list()) == []
    done = kaggleops_here("bundle", "--bucket", bucket.uri, cwd=toy.folder)
    assert (done.code, "--allow-secrets" in done.error) == (2, True)
    done = kaggleops_here("bundle", "--bucket", bucket.uri, "--allow-secrets", cwd=toy.folder)
    assert (done.code, len(list(bucket.list()))) == (0, 1)


def test_the_command_puts_it_into_the_bucket_or_into_a_folder(
    toy: Repository, bucket: Bucket, tmp_path: Path
) -> None:
    sha = toy.git("rev-parse", "HEAD")
    toy.git("remote", "add", "origin", "https://github.com/ada/toy")
    done = kaggleops_here("bundle", "--bucket", bucket.uri, cwd=toy.folder)
    assert done.code == 0, done.errors
    assert f"code/{sha}.bundle" in done.output
    assert f'version = "{sha}"' in done.output
    assert bucket.stat(key_of(sha)) is not None
    (toy.folder / "new.py").write_text("")
    refused = kaggleops_here("bundle", "--to", tmp_path / "dataset", cwd=toy.folder)
    assert refused.code == 2
    assert "not committed" in refused.error
    options = ("--to", tmp_path / "dataset", "--version", "HEAD", "--json")
    done = kaggleops_here("bundle", *options, cwd=toy.folder)
    assert Path(done.json["bundle"]).is_file()
