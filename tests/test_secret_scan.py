"""Secrets in a patch and in a commit's files: found by file, line and kind, and never shown."""

import re
from pathlib import Path

import pytest

from kaggleops.errors import UsageError
from kaggleops.secret_scan import Finding, in_file, in_patch, refuse
from tests import secrets_of
from tests.fakes.git_server import Repository

WORD = "tr0ub4" + "dor"

FOUND = {
    "kaggle.json": (secrets_of.KAGGLE_KEY, "Kaggle key"),
    "key.json": (secrets_of.SERVICE_ACCOUNT, "Private Key"),
    "adc.json": (secrets_of.AUTHORIZED_USER, "Google OAuth client secret.*Google refresh token"),
    "refresh.py": ("TOKEN = '1//" + "0gaB3_" * 6 + "'", "Google refresh token"),
    "old_adc.json": ('{"refresh_token": "' + "1/aB3" * 9 + '"}', "Google refresh token"),
    "a.py": (f'KEY = "{secrets_of.RUNPOD_KEY}"', "RunPod key"),
    "b.sh": (f"git clone https://{secrets_of.GITHUB_TOKEN}@github.com/a/b", "GitHub token"),
    "fine.txt": ("github_pat_" + "aB3" * 20, "GitHub token"),
    "hub.py": (f"login('{secrets_of.HUGGING_FACE_TOKEN}')", "Hugging Face token"),
    "run.ipynb": (
        '"source": ["os.environ[\\"KAGGLE_KEY\\"] = \\"' + secrets_of.HEX + '\\""]',
        "named",
    ),
    "token": (secrets_of.KAGGLE_TOKEN, "Kaggle token"),
    "credentials": (f"aws_secret_access_key = {secrets_of.S3_SECRET}", "S3 secret access key"),
    "minio.sh": (f"export AWS_SECRET_ACCESS_KEY='{'aB3d' * 10}'", "S3 secret access key"),
    "r2.py": ("client(secret_access_key='" + "0f" * 32 + "')", "S3 secret access key"),
    "key.yaml": (f"x: {secrets_of.S3_KEY}", "S3 secret access key"),
    "b2.sh": ("b2 account authorize 0012 K00" + "5" + "aB3" * 9, "Backblaze B2 key"),
    "wrangler.sh": ("CLOUDFLARE_API_TOKEN=" + "aB3-_" * 8, "Cloudflare token"),
    "aws": ("AK" + "IA" + "Z1" * 8, "AWS Access Key"),
    "slack.py": ("xo" + "xb-123456789012-123456789012-" + "aB3d" * 6, "Slack Token"),
    "api.py": ("AIza" + "Sy" + "a1B2" * 8 + "c", "Google API key"),
    "curl.sh": (f"curl -H '{secrets_of.BEARER}' https://host", "token in a header"),
    "call.py": (f'headers={{"Authorization": "Bearer {"aB3dE6" * 5}"}}', "token in a header"),
    "db.yaml": (f"index: {secrets_of.DATABASE}", "password in an address"),
    "web.yaml": (f"source: https://ada:{WORD}@data.lab.org/x.csv", "password in an address"),
    ".env": ("A=1\nexport DB_PASSWORD=" + WORD, "secret of the environment"),
    "prod.env": ("WANDB_API_KEY=" + "0f" * 20, "Weights & Biases key and secret of"),
    ".netrc": (f"machine x login ada password {WORD}", "password"),
    "conf.py": (f"api_key = '{WORD}q8Zx2L'", "value that is named a secret"),
    "id_ed25519": ("-----BEGIN " + "OPENSSH PRIVATE KEY-----", "Private Key"),
}

NOT_FOUND = {
    "resources.lock": '"version": "1699999999999999", "checksum": "crc32c:AAAAAA=="\n"md5:'
    + "0f" * 16,
    "uv.lock": 'sha256 = "' + secrets_of.HEX * 2 + '"\nhash = "sha512-' + "aB3d" * 22 + '=="',
    "commit.md": f"at commit {secrets_of.HEX}00112233, run {secrets_of.HEX}",
    "run.ipynb": '"id": "'
    + secrets_of.HEX[:8]
    + '", "image/png": "'
    + "iVBORw0KGgoAAAANSUhEUg" * 99
    + '"',
    "config.yaml": "token: ${HF_TOKEN}\npassword: <your password>\nsecret: changeme\napi_key: ''",
    "code.py": "token = os.environ['HF_TOKEN']\npassword = getpass.getpass()\npad_token = '[PAD]'\n"
    'special_tokens = "<s>hello-world-123</s>"\ntokenizer = "roberta-base-squad2"\n'
    'headers = {"Authorization": f"Bearer {token}"}\nsecret = "kaggleops-key"\n'
    'next_page_token="page-2"',
    "compose.yaml": "postgresql://postgres:postgres@localhost/x\nredis://:password@127.0.0.1:6379",
    "README.md": "https://USER:PASSWORD@host, https://ada:${PW}@host, git@github.com:a/b.git:12@x",
    ".env.example": "DB_PASSWORD=something-long",
    ".env": "DEBUG=1\nDB_PASSWORD=\nAPI_KEY=${OTHER}\nPORT_KEY=8080808080",
    "data.csv": "id,text\n1,my password is strong said Bearer of the Ring @home http://t.co/a1b2c3d4e5",
    "policy.md": "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY\n"
    "AWS_SECRET_ACCESS_KEY=$SECRET, secret_access_key: <the secret>, R2_TOKEN=…",
    "poetry.txt": "secret: the quick brown fox",
}


@pytest.mark.parametrize("name", FOUND)
def test_each_kind_is_found_by_line_and_not_shown(name: str) -> None:
    content, kind = FOUND[name]
    found = in_file(f"deep/{name}", f"first\n\n{content}\n".encode())
    assert len(found) == 1
    at = {"key.json": 7, ".env": 4}.get(name, 3)
    assert (found[0].file, found[0].line) == (f"deep/{name}", at)
    assert re.search(kind, found[0].kind)
    with pytest.raises(UsageError, match=rf"secrets in it \(deep/{name}, line {at}: ") as refused:
        refuse(found, "sending")
    assert "--allow-secrets" in str(refused.value)
    assert not set(re.findall(r"[\w-]{12,}", content)) & set(
        re.findall(r"[\w-]{12,}", str(refused.value))
    )


@pytest.mark.parametrize("name", NOT_FOUND)
def test_what_only_looks_like_one_is_not(name: str) -> None:
    assert in_file(name, NOT_FOUND[name].encode()) == []


def test_files_of_any_kind_are_looked_through() -> None:
    secret = secrets_of.RUNPOD_KEY
    assert in_file(".env", f"RUNPOD_API_KEY={secret}".encode("utf-16"))
    assert in_file("weights.bin", b"\0\xff" * 100 + secret.encode() + b"\0")
    assert in_file("x.txt", f"{secret}  # pragma: allowlist secret\n".encode()) == []
    for part in (
        "a",
        "a1B2/",
        "a.b",
        "x://",
        "x://a:",
        "token",
        "bearer ",
        "eyJ",
        "password = '",
        " ",
    ):
        in_file("one-line.ipynb", (part * (200_000 // len(part))).encode())  # ends, and soon


def test_a_patch_is_looked_through_line_by_line(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    (tmp_path / "kept.py").write_text(
        "".join(f"line_{n} = {n}\n" for n in range(1, 31)).replace("line_18 = 18", "")
    )
    (tmp_path / "gone.py").write_text(f"# one\nkey = '{secrets_of.GITHUB_TOKEN}'\n")
    (tmp_path / "naïve file").write_text("x\n")
    repository.commit("Add them")
    text = (
        (tmp_path / "kept.py")
        .read_text()
        .replace("line_20 =", f"a = '{secrets_of.RUNPOD_KEY}'\nb =")
    )
    (tmp_path / "kept.py").write_text(text.replace("line_2 = 2\n", "").rstrip("\n"))
    (tmp_path / "gone.py").unlink()
    (tmp_path / "naïve file").write_text(f"x\n--- a/kept.py\n{secrets_of.KAGGLE_KEY}")
    (tmp_path / "model.bin").write_bytes(b"\0" + secrets_of.HUGGING_FACE_TOKEN.encode())
    repository.git("add", "--all")
    (tmp_path / "patch").write_text("")
    patch = tmp_path / "patch"
    repository.git("config", "diff.suppressBlankEmpty", "true")
    repository.git("diff", "--cached", "--text", f"--output={patch}", "HEAD")
    assert in_patch(patch.read_bytes()) == [
        Finding("gone.py", 2, "GitHub token"),
        Finding("kept.py", 19, "RunPod key"),
        Finding("model.bin", 1, "Hugging Face token"),
        Finding("naïve file", 3, "Kaggle key"),
    ]
