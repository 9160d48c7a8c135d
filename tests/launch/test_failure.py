"""Why a training failed, told from what it printed and how its process ended."""

import pytest

from kaggleops.launch.failure import LONGEST, cause
from tests import secrets_of

TRACE = """
loading the rows
Traceback (most recent call last):
  File "train.py", line 3, in <module>
    main()
  File "train.py", line 2, in main
    float("sentiment")
ValueError: could not convert string to float: 'sentiment'
"""
CHAINED = """
Traceback (most recent call last):
  File "a.py", line 1, in <module>
KeyError: 'text'

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "a.py", line 3, in <module>
    raise RuntimeError("no column 'text'") from error
RuntimeError: no column 'text'
wandb: closing
"""
HYDRA = """
Error executing job with overrides: ['lr=3']
Traceback (most recent call last):
  File "train.py", line 9, in main
    model.cuda()
torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 14.7 GiB

Set the environment variable HYDRA_FULL_ERROR=1 for a complete stack trace.
"""
NO_GPU = """
Traceback (most recent call last):
  File "/site-packages/torch/cuda/__init__.py", line 412, in _lazy_init
RuntimeError: Found no NVIDIA driver on your system. Please check that you have an NVIDIA GPU
"""
# As Kaggle shows what papermill prints of a notebook whose cell has failed.
PAPERMILL = """
  0:02  Traceback (most recent call last):
  0:02    File "train.py", line 1, in <module>
  0:02  FileNotFoundError: [Errno 2] No such file or directory: '/kaggle/input/train.csv'
Traceback (most recent call last):
  File "<string>", line 1, in <module>
  File "/opt/conda/lib/python3.11/site-packages/papermill/execute.py", line 131, in execute_notebook
    raise_for_execution_errors(nb, output_path)
papermill.exceptions.PapermillExecutionError:
---------------------------------------------------------------------------
Exception encountered at "In [3]":
An exception has occurred, use %tb to see the full traceback.
"""
# What torchrun adds to what its ranks said, of which PyTorch marks each line.
RANKS = """
[rank1]: Traceback (most recent call last):
[rank1]:   File "train.py", line 1, in <module>
[rank1]: ValueError: no rows in fold 3
"""
TORCHRUN = """
Traceback (most recent call last):
  File "/site-packages/torch/distributed/launcher/api.py", line 383, in launch_agent
    raise ChildFailedError(
torch.distributed.elastic.multiprocessing.errors.ChildFailedError:
============================================================
train.py FAILED
------------------------------------------------------------
Failures:
[1]:
  rank      : 0 (local_rank: 0)
  exitcode  : -15 (pid: 5337)
  traceback : Signal 15 (SIGTERM) received by PID 5337
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : 1 (pid: 5336)
  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html
============================================================
"""
LAST_LINE = "To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html"
RANK_KILLED = TORCHRUN.replace(LAST_LINE, "Signal 9 (SIGKILL) received by PID 5336")
MISTYPED = """
W1130 19:40:56.464000 16003 torch/distributed/run.py:874] Setting OMP_NUM_THREADS environment
/venv/bin/python: can't open file '/code/trian.py': [Errno 2] No such file or directory
E1130 19:40:56.991000 16003 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode
"""
BEFORE_THE_TRAINING = """
error: fetching git@github.com:ada/toy: Permission denied (publickey)
An exception has occurred, use %tb to see the full traceback.

SystemExit: error: fetching git@github.com:ada/toy: Permission denied (publickey)
Traceback (most recent call last):
  File "/site-packages/nbclient/client.py", line 918, in _check_raise_for_error
    raise CellExecutionError.from_cell_and_msg(cell, exec_reply_content)
nbclient.exceptions.CellExecutionError: An error occurred while executing the following cell:
"""
OUR_LINE = """
SystemExit: error: running 3f2a91c: it ended with an error: KeyError: 'x' (exit code 1). What it \
logged is in run 0123456789abcdef0123456789abcdef.
"""


OF_ANY_NAME = """
Traceback (most recent call last):
  File "train.py", line 7, in <module>
    main()
{}
"""


@pytest.mark.parametrize(
    ("printed", "code", "said"),
    [
        (TRACE, 1, "ValueError: could not convert string to float: 'sentiment' (exit code 1)"),
        (CHAINED, 3, "RuntimeError: no column 'text' (exit code 3)"),
        (HYDRA, 1, "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."),
        (NO_GPU, 1, "RuntimeError: Found no NVIDIA driver on your system."),
        (PAPERMILL, None, "FileNotFoundError: [Errno 2] No such file or directory: '/kaggle"),
        (RANKS + TORCHRUN, 1, "ValueError: no rows in fold 3 (exit code 1)"),
        (MISTYPED + TORCHRUN, 1, "/venv/bin/python: can't open file '/code/trian.py': [Errno 2]"),
        (TORCHRUN, 1, "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ===="),
        ("epoch 1" + RANK_KILLED, 1, "Signal 9 (SIGKILL) received by PID 5336 (exit code 1)"),
        (RANK_KILLED, 1, "Signal 9 (SIGKILL) received by PID 5336 (exit code 1)"),
        (BEFORE_THE_TRAINING, None, "fetching git@github.com:ada/toy: Permission denied"),
        (OUR_LINE, None, "KeyError: 'x' (exit code 1)"),
        (OF_ANY_NAME.format("Exception: run 5 is active"), 1, "Exception: run 5 is active (exit"),
        (OF_ANY_NAME.format("rows.TooFew: 3 rows"), 1, "rows.TooFew: 3 rows (exit code 1)"),
        ("step 1\nno luck\n", 1, "no luck (exit code 1)"),
        ("epoch 1\nepoch 2", -9, "epoch 2 (killed by SIGKILL: its machine's memory was full"),
        ("", 137, "killed by SIGKILL: its machine's memory was full, most likely"),
        ("python: can't open file 'x.py'", 2, "python: can't open file 'x.py' (exit code 2)"),
        ("train.sh: error: no GPU\nbye", 1, "train.sh: error: no GPU (exit code 1)"),
        ("", -11, "killed by SIGSEGV"),
        ("", 42, "exit code 42"),
        ("epoch 1\nepoch 2", None, ""),  # a log that names no error
        ("Traceback (most recent call last):\n  File", 1, ""),
        ("\x1b[31mValueError\x1b[0m: x\nTraceback (most recent call last):\nE: y", 1, ""),
    ],
)
def test_the_last_error_of_the_training_counts(printed: str, code: int | None, said: str) -> None:
    told = cause(printed.splitlines(), code)
    assert told.startswith(said)
    assert bool(told) == bool(said or code is not None)


def test_it_is_one_short_line_without_secrets_and_without_what_a_terminal_obeys() -> None:
    told = cause([f"ValueError: {secrets_of.GITHUB_TOKEN}", "x" * 5000 + "\x1b]0;owned\x07"], 1)
    assert "\x1b" not in told
    assert len(told) < LONGEST + 50
    secret = cause(
        ["Traceback (most recent call last):", f"ValueError: {secrets_of.GITHUB_TOKEN}"], 1
    )
    assert secrets_of.GITHUB_TOKEN not in secret
    assert "ValueError" in secret


def test_whatever_is_printed_has_an_answer() -> None:
    header = "Traceback (most recent call last):"
    for lines in ([header] * 50, [header, "", header], ["error:"], ["error: "], [""] * 9):
        assert "\n" not in cause(lines, 1)
