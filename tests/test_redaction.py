"""What is hidden of a text, and what is not."""

import logging
from pathlib import Path

import pytest

from kaggleops import redaction
from kaggleops.cli import show_trace
from kaggleops.errors import KaggleOpsError
from kaggleops.redaction import redacted

SECRET = "s3cr3tValue42"
KEY = "-----BEGIN {}" + "PRIVATE KEY-----"  # in parts: this file holds none

SHOWN = [
    f"https://ada:{SECRET}@host/x.csv",
    f"https://{SECRET}@github.com/a/b.git",
    f"fetching https://ada:{SECRET}@host/x: 403 for url: https://ada:{SECRET}@host/x",
    f"ada:x@host, ssh://ada:{SECRET}@host/repository",
    f"https://host/x?v=1&token={SECRET}&w=2",
    f"https://host/x?key={SECRET}",
    f"https://host/x?X-Goog-Signature={SECRET}",
    f"https://host/x?x-amz-security-token={SECRET}",
    f"https://host/x#access_token={SECRET}",
    f"https://host/?next=https%3A%2F%2Fother%2F%3Ftoken%3D{SECRET}",
    f"Max retries exceeded with url: /x?sig={SECRET} (Caused by x)",
    f"s3+http://key:{SECRET}@127.0.0.1:9000/mlruns",
    f"s3://key:ab/{SECRET}/c+d@bucket/runs",
    f"reading s3a://bucket@key:ab/{SECRET}@host: no",
    f"gs://key:ab/{SECRET}@bucket",
    "postgresql://ada:" + SECRET + "@db/runs",
    f"postgresql+psycopg2://ada:{SECRET}@x/y?@{SECRET}@db/runs",
    f"kaggleops+postgresql://ada:{SECRET}@db/runs",
    f"postgresql:/ada:{SECRET}@db/runs",
    f"postgresql://db/runs?user=ada&password={SECRET}",
    f"host=db user=ada password={SECRET} dbname=runs",
    f"password='{SECRET} {SECRET}' dbname=runs",
    f"{{'Authorization': 'Bearer {SECRET}'}}",
    f"Authorization: Basic {SECRET}==",
    f"{KEY.format('')}\n{SECRET}\n-----END -----",
    f"{KEY.format('RSA ')}\\n{SECRET}",
    "gh" + "p_" + SECRET * 4,
    "rpa_" + SECRET * 4,
    "ya29." + SECRET * 3,
]
PLAIN = [
    "https://github.com/a/b/tree/main?tab=readme#token-files",
    "git@github.com:a/b.git",
    "ssh://git@github.com/a/b.git",
    "postgresql://ada@db/runs",
    "sqlite:////folder/index.db",
    "gs://bucket/run@2/model.bin: its checksum is sha256:" + "0f" * 32,
    "https://host/@scope/package",
    "s3://runs@account.r2.cloudflarestorage.com/mlruns",
    "s3+http://runs@127.0.0.1:9000/mlruns",
    "s3+http://runs@127.0.0.1:9000/run@2/model.bin: its size is 1",
    "kaggleops logs -f 0123456789abcdef0123456789abcdef",
    "the password of ada is in ~/.pgpass",
    "no key modle; did you mean model?",
]


@pytest.mark.parametrize("text", SHOWN)
def test_a_secret_is_hidden_and_the_rest_is_not(text: str) -> None:
    assert SECRET not in redacted(text)
    assert redacted(redacted(text)) == redacted(text)
    assert SECRET not in str(KaggleOpsError("reading", text, text))
    assert SECRET not in repr(KaggleOpsError(text, text, text).args)


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text: str) -> None:
    assert redacted(text) == text


def test_every_log_of_ours_is_the_one_that_hides() -> None:
    sources = Path(redaction.__file__).parent.rglob("*.py")
    # A logger's filter is not asked about what the loggers below it log.
    assert [each for each in sources if "getLogger(__name__)" in each.read_text()] == []


def test_a_stack_trace_holds_none(capsys: pytest.CaptureFixture[str]) -> None:
    error = ValueError(f"got unsupported URI 'kaggleops+mysql://ada:{SECRET}@db/runs'")
    show_trace(ValueError, error, None)
    assert capsys.readouterr().err.endswith("'kaggleops+mysql://ada:***@db/runs'\n")


def test_a_long_text_takes_no_time() -> None:
    for part in ("a://", "?token=", "x@", "Bearer ", "a" * 64, KEY.format("")):
        redacted(part * 20_000)  # the test's own time-out is the limit


def test_a_value_that_was_kept_is_hidden_in_logs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_kept", set())
    assert redaction.keep("opensesame") == "opensesame"
    for name in ("kaggleops", "urllib3.connectionpool"):
        try:
            raise ValueError("opensesame")
        except ValueError:
            logging.getLogger(name).exception("retrying %s", "/x?q=opensesame")
    assert caplog.text.count("retrying /x?q=***") == 2
    assert "opensesame" not in caplog.text
