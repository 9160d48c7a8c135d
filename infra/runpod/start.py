"""What a pod runs: its job once, and then its own end, whatever happens to the job.

RunPod starts a container again when it exits, and bills for it until the pod is deleted. So:

1. The first start leaves a mark before the job begins. A start that finds it only ends the pod.
2. The job has a deadline. Then it is told to end, and killed if it does not.
3. The pod is deleted whether or not the job failed and the bucket could be told: RunPod is asked
   to until it does. Nothing here exits before.
4. A thread that waits for nothing but the clock deletes it too, should all else hang.

Where the image's Python cannot execute this, the shell that was to start it deletes the pod.

It gets no file and knows no package: it stands in an environment variable of the pod, takes
Python's own library only, and finds what to do in KAGGLEOPS_JOB
(src/kaggleops/backends/runpod/pod.py).
"""

import base64
import gzip
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO, Any

LONGEST_PAUSE = 60.0  # seconds between two attempts to delete the pod
AGAIN = 300.0  # seconds after which a pod that should be deleted is deleted again
TIME_IS_UP = 124  # the exit code of a job that did not end by its deadline, as of `timeout`
BEGUN_BEFORE = 3  # that of src/kaggleops/backends/runpod/report.py where the job was begun before

KEY = "KAGGLEOPS_KEY"
OURS = ("KAGGLEOPS_BEGIN", "KAGGLEOPS_START", "KAGGLEOPS_JOB", "RUNPOD_API_KEY")
"""The variables that no job needs."""

ROOT = Path(os.environ.get("KAGGLEOPS_ROOT", "/"))


def main() -> None:
    """Do the job if nobody has begun it, and end the pod."""
    signal.signal(signal.SIGTERM, told_to_end)
    try:
        job = json.loads(os.environ["KAGGLEOPS_JOB"])
        threading.Thread(target=last_resort, args=(job,), daemon=True).start()
        live(job)
    except BaseException:  # noqa: BLE001 - nothing may keep the pod from being deleted
        traceback.print_exc()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:  # an exit before the container is stopped would start it again
        delete()
        time.sleep(AGAIN)  # whoever answered, it was not RunPod


def told_to_end(signum: int, frame: object) -> None:
    """Let what is going on be cut short, once: somebody stops the pod."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def live(job: dict[str, Any]) -> None:
    """Do the job if this is the first start, and tell the bucket how it ended."""
    kept = ROOT / (job["mount"] or "/root").lstrip("/") / "kaggleops"
    code: int | None = None
    try:
        pod, again = room(kept)
        log = pod / "work/log.txt"
    except OSError as error:  # the volume is full, or cannot be written
        kept = ROOT / "root/kaggleops"
        pod, again = room(kept)
        log = pod / "work/log.txt"
        say(f"Nothing can be kept in {job['mount']}: {error}", log)
        code = 1
    if (pod / "told").exists():
        return
    try:
        if code is None and not again:
            let_people_in(job)
            set_up(job, pod)
            python = prepare(job, kept, pod)
            again = begun_before(job, python, pod)
            if not again:
                code = train(job, python, pod)
        if again:
            say("The container was started again. The job is not.", log)
    except KeyboardInterrupt:
        say("The pod is stopped.", log)
    except subprocess.CalledProcessError as error:
        code = error.returncode
    except Exception:  # noqa: BLE001 - whatever it was, the bucket is told
        say(traceback.format_exc().rstrip(), log)
        code = 1
    told = report(job, kept, pod, code, again=again)
    if job["keep"]:
        with suppress(KeyboardInterrupt):
            time.sleep(max(0.0, job["deadline"] - time.time()))
        told = report(job, kept, pod, code, again=again)  # what it cost has grown meanwhile
    if told:
        with suppress(OSError):
            (pod / "told").touch()  # a start after this one only deletes the pod
        shutil.rmtree(pod / "work", ignore_errors=True)


def room(kept: Path) -> tuple[Path, bool]:
    """Return this pod's folder, with one for its work, and whether an earlier start made it."""
    pod = kept / "pods" / os.environ["RUNPOD_POD_ID"]
    again = pod.is_dir()
    (pod / "work").mkdir(parents=True, exist_ok=True)
    if not again:
        (pod / "begun").write_text(str(time.time()))
    return pod, again


def set_up(job: dict[str, Any], pod: Path) -> None:
    """Execute the user's own script. What it leaves running stays until the pod is deleted.

    Raises:
        subprocess.CalledProcessError: it failed, and said why.
    """
    log = pod / "work/log.txt"
    if not job["setup"]:
        return
    process = subprocess.Popen(
        ["bash", "-c", job["setup"]],
        env=surroundings(pod),
        cwd=pod / "work",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    copying = threading.Thread(target=copy, args=(process.stdout, log), daemon=True)
    copying.start()
    try:
        code = process.wait(max(0.0, job["deadline"] - time.time()))
    except subprocess.TimeoutExpired:
        say("Its time is up.", log)
        code = TIME_IS_UP
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    copying.join(1)  # what it left running holds its end open
    if code:
        say(f"The set-up script ended with {code}.", log)
        raise subprocess.CalledProcessError(code, "setup")


def environment_folder(job: dict[str, Any], kept: Path) -> Path:
    """Return where the job's environment lies: one for each image and list of packages."""
    source = job["install_from"] + job["extra"]
    wanted = [sys.version, job["image"], source, *job["packages"]]
    return kept / "environments" / hashlib.sha256("\n".join(wanted).encode()).hexdigest()[:16]


def prepare(job: dict[str, Any], kept: Path, pod: Path) -> str:
    """Return the interpreter of the job's environment, which is made if it is not on the volume.

    Once it is made, nothing changes it.

    Raises:
        subprocess.CalledProcessError: pip failed, and said why.
    """
    log = pod / "work/log.txt"
    folder = environment_folder(job, kept)
    if folder.is_dir():
        say(f"Environment  {folder.name}, kept on the volume", log)
        return str(folder / "bin/python")
    began = time.time()
    making = pod / "work/environment"
    make(making, job, job["packages"], job["deadline"], log)
    folder.parent.mkdir(exist_ok=True)
    with suppress(OSError):  # another pod was faster, with the same
        making.rename(folder)
    shutil.rmtree(making, ignore_errors=True)
    say(f"Environment  {folder.name}, made in {time.time() - began:.0f} s", log)
    return str(folder / "bin/python")


def make(folder: Path, job: dict[str, Any], packages: list[str], until: float, log: Path) -> None:
    """Make an environment that sees what the image has installed, with KaggleOps and packages.

    Raises:
        subprocess.CalledProcessError: that failed, and said why.
    """

    def checked(command: list[str]) -> None:
        # What builds a package needs no key.
        secret = (*OURS, KEY, *job["secrets"])
        variables = {name: each for name, each in os.environ.items() if name not in secret}
        if code := execute(command, job, until, variables, log):
            raise subprocess.CalledProcessError(code, command[0])

    python = str(folder / "bin/python")
    # Without a pip of its own, as the image has one: a thousand files less on a network volume.
    venv = ["-m", "venv", "--without-pip", "--system-site-packages", str(folder)]
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    checked([sys.executable, *venv])
    if not knows_kaggleops(python, job):
        checked([*pip, f"kaggleops{job['extra']} @ {job['install_from']}"])
    if packages:
        checked([*pip, *packages])


def knows_kaggleops(python: str, job: dict[str, Any]) -> bool:
    """Tell whether an interpreter is there and can tell the bucket anything."""
    # Importing Kaggle's client would sign in.
    kaggle = "assert importlib.util.find_spec('kaggle')" if "kaggle" in job["extra"] else ""
    needed = f"import importlib.util, kaggleops{', boto3' * ('s3' in job['extra'])}; {kaggle}"
    try:
        done = subprocess.run([python, "-c", needed], capture_output=True)
    except OSError:
        return False
    return done.returncode == 0


def begun_before(job: dict[str, Any], python: str, pod: Path) -> bool:
    """Tell whether a start before this one began the job.

    Without a volume no mark outlives a start, and the bucket has to know.

    Raises:
        subprocess.CalledProcessError: it cannot be asked; nothing that the job did would be kept.
    """
    if job["mount"]:
        return False
    claim = [job["bucket"], job["run_id"], os.environ["RUNPOD_POD_ID"]]
    command = [python, "-m", "kaggleops.backends.runpod.report", "claim", *claim]
    code = execute(command, job, job["deadline"], surroundings(pod), pod / "work/log.txt")
    if code not in (0, BEGUN_BEFORE):
        raise subprocess.CalledProcessError(code, command[0])
    return code == BEGUN_BEFORE


def train(job: dict[str, Any], python: str, pod: Path) -> int:
    """Execute the notebook and return its exit code."""
    work = pod / "work"
    (work / "run.ipynb").write_bytes(gzip.decompress(base64.b64decode(job["notebook"])))
    streams = ["--stdout-file", "/dev/stdout", "--stderr-file", "/dev/stderr"]
    notebook = [str(work / "run.ipynb"), str(work / "executed.ipynb"), "--no-progress-bar"]
    command = [python, "-m", "papermill", *notebook, *streams]
    variables = surroundings(pod) | {"KAGGLEOPS_SESSION_ENDS": str(job["deadline"])}
    return execute(command, job, job["deadline"], variables, work / "log.txt")


def surroundings(pod: Path) -> dict[str, str]:
    """Return the environment of the job: caches on the volume, and nothing that deletes pods."""
    kept = pod.parent.parent
    return {
        **{name: value for name, value in os.environ.items() if name not in OURS},
        # What the bucket has not received must outlive the pod. (The key is not kept there.)
        "KAGGLEOPS_HOME": str(pod / "work/home"),
        "HF_HOME": str(kept / "hub"),
        "PIP_CACHE_DIR": str(kept / "pip"),
    }


def report(job: dict[str, Any], kept: Path, pod: Path, code: int | None, *, again: bool) -> bool:
    """Tell the bucket how the job ended, what it cost and printed, and send what it left unsent.

    Returns whether nothing is left on the pod that the bucket lacks.
    """
    log = pod / "work/log.txt"
    try:
        python = reporter(job, kept, pod, log)
    except subprocess.CalledProcessError:
        return False
    try:
        began = float((pod / "begun").read_text())
    except (OSError, ValueError):  # the container ended before it was written
        began = pod.stat().st_mtime
    said = {
        "bucket": job["bucket"],
        "run_id": job["run_id"],
        "code": code,
        "again": again,
        # Since RunPod was asked for it: it may bill the pulling of an image, too.
        "cost": (time.time() - min(began, job["asked"])) / 3600 * job["price"],
        "log": str(log),
    }
    command = [python, "-m", "kaggleops.backends.runpod.report", json.dumps(said)]
    # Its own words would not be in the log that it sends.
    return execute(command, job, time.time() + job["patience"], surroundings(pod), None) == 0


def reporter(job: dict[str, Any], kept: Path, pod: Path, log: Path) -> str:
    """Return an interpreter that can tell the bucket: the job's, or what of it could be made.

    Raises:
        subprocess.CalledProcessError: there is none, and none can be made.
    """
    spare = pod / "work/reporting"  # the container ended while the job's was made
    for folder in (environment_folder(job, kept), pod / "work/environment", spare):
        python = str(folder / "bin/python")
        if knows_kaggleops(python, job):
            return python
    make(spare, job, [], min(job["deadline"], time.time() + job["patience"]), log)
    return python


# -- processes -----------------------------------------------------------------------------------


def execute(
    command: list[str],
    job: dict[str, Any],
    until: float,
    variables: dict[str, str],
    log: Path | None,
) -> int:
    """Execute a command with all that it starts, and return its exit code.

    Args:
        command: the program and its arguments.
        job: what it is part of.
        until: when it must have ended, in seconds since the epoch.
        variables: its environment.
        log: what it prints goes there too; nowhere if None.
    """
    pod = os.environ["RUNPOD_POD_ID"]
    process = subprocess.Popen(
        command,
        env={**variables, "KAGGLEOPS_PART_OF": pod},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    copying = threading.Thread(target=copy, args=(process.stdout, log), daemon=True)
    copying.start()
    try:
        code = process.wait(max(0.0, until - time.time()))
    except subprocess.TimeoutExpired:
        if log:
            say("Its time is up.", log)
        code = TIME_IS_UP
    finally:
        end(f"KAGGLEOPS_PART_OF={pod}".encode(), process, job["grace"])
        copying.join(10)
    return code


def copy(stream: IO[bytes], log: Path | None) -> None:
    """Print what a process prints, and keep it. It waits for nobody where the disk is full."""
    with ExitStack() as opened:
        files: list[Any] = []
        if log is not None:
            with suppress(OSError):  # first, so that what is shown is kept
                files.append(opened.enter_context(log.open("ab", buffering=0)))
            files.append(sys.stdout.buffer)
        while some := os.read(stream.fileno(), 1 << 16):
            for file in files:
                with suppress(OSError):
                    file.write(some)
                    file.flush()


def end(mark: bytes, leader: "subprocess.Popen[bytes]", grace: float) -> None:
    """End all processes that carry a mark: by SIGTERM, and by SIGKILL what does not heed it.

    The one that leads others ends by itself when they have: it holds their last words.
    """
    found = list(marked(mark))
    for each in [each for each in found if each != leader.pid] or found:
        with suppress(OSError):
            os.kill(each, signal.SIGTERM)
    over = time.monotonic() + grace
    while list(marked(mark)) and time.monotonic() < over:
        leader.poll()
        time.sleep(0.1)
    while found := list(marked(mark)):
        for each in found:
            with suppress(OSError):
                os.kill(each, signal.SIGKILL)
        leader.poll()
        time.sleep(0.1)


def marked(mark: bytes) -> Iterator[int]:
    """Yield the processes whose environment has a mark, also those that nobody waits for."""
    for each in Path("/proc").iterdir():
        if each.name.isdigit():
            with suppress(OSError):
                if mark in (each / "environ").read_bytes().split(b"\0"):
                    yield int(each.name)


def let_people_in(job: dict[str, Any]) -> None:
    """Start what the image starts by itself (sshd), if somebody wants to look in."""
    image = ROOT / "start.sh"
    if job["ssh"] and image.is_file():
        secret = (KEY, "KAGGLEOPS_START", "KAGGLEOPS_JOB", *job["secrets"])
        variables = {name: value for name, value in os.environ.items() if name not in secret}
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.Popen(["bash", str(image)], env=variables, **quiet)


def say(line: str, log: Path) -> None:
    """Print a line, and keep it."""
    print(line, flush=True)
    with suppress(OSError), log.open("a") as file:
        print(line, file=file)


# -- the end -------------------------------------------------------------------------------------


def delete() -> None:
    """Delete this pod. Returns when RunPod has done it, and not before."""
    address = os.environ.get("RUNPOD_API_URL", "https://api.runpod.io")
    headers = {
        "Authorization": f"Bearer {os.environ.get('RUNPOD_API_KEY', '')}",
        # What stands before such services often refuses Python's own name.
        "User-Agent": "kaggleops",
    }
    url = f"{address}/v2/pods/{os.environ.get('RUNPOD_POD_ID', '')}"
    request = urllib.request.Request(url, headers=headers, method="DELETE")
    pause = 1.0
    while True:
        try:
            urllib.request.urlopen(request, timeout=30).close()
            return
        except Exception as error:  # noqa: BLE001 - whatever it was, it is tried again
            if isinstance(error, urllib.error.HTTPError) and error.code == 404:
                return
            print(f"The pod cannot be deleted ({error}); again in {pause:.0f} s", flush=True)
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def last_resort(job: dict[str, Any]) -> None:
    """Delete the pod when all else should have been over for a while."""
    time.sleep(max(0.0, job["deadline"] + 2 * (job["grace"] + job["patience"]) - time.time()))
    delete()


if __name__ == "__main__":
    main()
