"""`sky jobs`, as far as launching, listing, cancelling and reading logs go; in 0.14.1's words.

Jobs are files beside it: `jobs/N/job.json` is what was launched, `log`, `begun`, `ended` (its exit
code) and `cancelled` are written by whoever lets it run (tests/fakes/skypilot.py).
"""

import argparse
import json
import os
import re
import sys
import time
from pathlib import Path

import yaml

HERE = Path(sys.argv[0]).parent
JOBS = HERE / "jobs"

# What the real one takes of what is used here (read in sky/utils/schemas.py).
TASK = {"name": str, "resources": dict, "secrets": dict, "setup": str, "run": str}
RESOURCES = {
    *("accelerators", "use_spot", "infra", "cpus", "memory", "disk_size", "image_id"),
    *("max_hourly_cost", "job_recovery"),
}
RECOVERY = {"max_restarts_on_errors", "recover_on_exit_codes"}


def refuse(problem):
    sys.exit(f"\x1b[31m{problem}\x1b[0m")


def status(folder):
    if (folder / "cancelled").exists():
        return "CANCELLED"
    if (folder / "ended").exists():
        code = int((folder / "ended").read_text())
        job = json.loads((folder / "job.json").read_text())
        again = job["task"]["resources"]["job_recovery"]["recover_on_exit_codes"]
        return "SUCCEEDED" if code == 0 else "RECOVERING" if code in again else "FAILED"
    return "RUNNING" if (folder / "begun").exists() else "PENDING"


def launch(given):
    task = yaml.safe_load(Path(given.entrypoint).read_text())
    if unknown := set(task) - set(TASK):
        refuse(f"Invalid task YAML: additional properties {sorted(unknown)}")
    for name, kind in TASK.items():
        if not isinstance(task.get(name), kind):
            refuse(f"Invalid task YAML: {name} is not of type {kind.__name__}")
    if unknown := set(task["resources"]) - RESOURCES:
        refuse(f"Invalid resources YAML: additional properties {sorted(unknown)}")
    if unknown := set(task["resources"].get("job_recovery", {})) - RECOVERY:
        refuse(f"Invalid job_recovery: {sorted(unknown)}")
    if not re.fullmatch(r"[a-zA-Z]([-_.a-zA-Z0-9]*[a-zA-Z0-9])?", given.name):
        refuse(f"Cluster name {given.name!r} is invalid")
    secrets = {}
    for name in given.secret:
        if "=" in name:
            refuse("a secret on the command line")
        if name not in os.environ:
            refuse(f"Usage error: {name} is not set in local environment.")
        secrets[name] = os.environ[name]
    if missing := [each for each, value in task["secrets"].items() if value or each not in secrets]:
        refuse(f"Secrets with a value, or without one anywhere: {missing}")
    if not (given.yes and given.detach_run):
        refuse("It would ask, or wait.")
    JOBS.mkdir(exist_ok=True)
    folder = JOBS / str(len(list(JOBS.iterdir())) + 1)
    folder.mkdir()
    (folder / "secrets.json").write_text(json.dumps(secrets))
    (folder / "job.json").write_text(json.dumps({"name": given.name, "task": task}))
    if (HERE / "lost").exists():  # launched, and nobody hears of it
        (HERE / "lost").unlink()
        refuse("Connection reset by peer")
    print(f"Job submitted, ID: {folder.name}")


def queue(given):
    if (HERE / "says").exists():
        print((HERE / "says").read_text())
        return
    if not (given.all and given.verbose and given.output == "json"):
        refuse("This is read by a program.")
    listed = [
        {
            "job_id": int(folder.name),
            "job_name": json.loads((folder / "job.json").read_text())["name"],
            "status": status(folder),
            "failure_reason": "user code failed" if status(folder) == "FAILED" else None,
            "details": None,
        }
        for folder in sorted(JOBS.iterdir() if JOBS.exists() else [])
    ]
    print(json.dumps(listed, indent=2))


def cancel(given):
    if not given.yes:
        refuse("It would ask.")
    for each in given.job_ids:
        (JOBS / str(each) / "cancelled").touch()


def logs(given):
    if given.tail != 0:
        refuse("It would leave lines out.")
    folder = JOBS / str(given.job_id)
    if not folder.is_dir():
        refuse(f"No job {given.job_id}")
    shown = 0
    while True:
        over = status(folder) not in ("RUNNING", "PENDING")
        text = (folder / "log").read_text() if (folder / "log").exists() else ""
        sys.stdout.write(text[shown:])
        sys.stdout.flush()
        shown = len(text)
        if over or not given.follow:
            return
        time.sleep(0.02)


def main():
    if sys.argv[1:] == ["--version"]:
        print("skypilot, version 0.14.1")
        return
    parser = argparse.ArgumentParser(prog="sky", allow_abbrev=False)
    jobs = parser.add_subparsers(required=True).add_parser("jobs")
    commands = jobs.add_subparsers(required=True)
    each = commands.add_parser("launch")
    each.set_defaults(do=launch)
    each.add_argument("entrypoint")
    each.add_argument("--name", required=True)
    each.add_argument("--secret", action="append", default=[])
    each.add_argument("--detach-run", action="store_true")
    each.add_argument("--yes", action="store_true")
    each = commands.add_parser("queue")
    each.set_defaults(do=queue)
    each.add_argument("--all", action="store_true")
    each.add_argument("--verbose", action="store_true")
    each.add_argument("--output")
    each = commands.add_parser("cancel")
    each.set_defaults(do=cancel)
    each.add_argument("job_ids", type=int, nargs="+")
    each.add_argument("--yes", action="store_true")
    each = commands.add_parser("logs")
    each.set_defaults(do=logs)
    each.add_argument("job_id", type=int)
    each.add_argument("--follow", action=argparse.BooleanOptionalAction, default=True)
    each.add_argument("--tail", type=int, default=-1)
    given = parser.parse_args()
    if (HERE / "away").exists():
        refuse("Could not connect to the SkyPilot API server")
    given.do(given)


main()
