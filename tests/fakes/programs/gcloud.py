"""`gcloud`, as far as a project, a bucket, its accounts and their keys go; in 528.0.0's words."""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

HERE = Path(sys.argv[0]).parent
STATE = HERE / "gcloud.json"

# What each command takes: how many names, its flags (a value's pattern, None for a switch).
PROJECT = r"[a-z][a-z0-9-]{4,28}[a-z0-9]"
BUCKET = r"gs://[a-z0-9][a-z0-9._-]{1,61}[a-z0-9]"
EMAIL = rf"[a-z][a-z0-9-]{{4,28}}[a-z0-9]@{PROJECT}\.iam\.gserviceaccount\.com"
COMMANDS = {
    "projects describe": ([PROJECT], {"--format": r"value\(projectId\)"}),
    "projects create": ([PROJECT], {}),
    "services enable": (
        [r"storage\.googleapis\.com", r"iam\.googleapis\.com"],
        {"--project": PROJECT},
    ),
    "storage buckets describe": ([BUCKET], {"--format": r"value\(name\)|json"}),
    "storage buckets create": (
        [BUCKET],
        {
            "--project": PROJECT,
            "--location": r"[a-z]+-[a-z]+\d",
            "--uniform-bucket-level-access": None,
            "--public-access-prevention": None,
            "--soft-delete-duration": r"\d+d",
            "--lifecycle-file": r"/.+\.json",
        },
    ),
    "storage buckets update": ([BUCKET], {"--versioning": None}),
    "iam service-accounts describe": (
        [EMAIL],
        {"--project": PROJECT, "--format": r"value\(email\)"},
    ),
    "iam service-accounts create": (
        ["[a-z][a-z0-9-]{4,28}[a-z0-9]"],
        {"--project": PROJECT, "--display-name": ".{1,100}"},
    ),
    "iam service-accounts keys create": ([r"/.+\.json"], {"--iam-account": EMAIL}),
    "iam service-accounts keys list": (
        [],
        {"--iam-account": EMAIL, "--managed-by": "user", "--format": "json"},
    ),
    "iam service-accounts keys delete": ([r"[0-9a-f]+"], {"--iam-account": EMAIL, "--quiet": None}),
    "storage buckets add-iam-policy-binding": (
        [BUCKET],
        {
            "--member": f"serviceAccount:{EMAIL}",
            "--role": r"roles/storage\.objectUser",
            "--condition": r"title=\w+,expression=[^,]+",
        },
    ),
}


# What 528.0.0 writes where nobody is signed in.
SIGNED_OUT = """You do not currently have an active account selected.
Please run:

  $ gcloud auth login

to obtain new credentials.

If you have already logged in with a different account, run:

  $ gcloud config set account ACCOUNT

to select an already authenticated account to use."""


def refuse(message, code=1):
    sys.stderr.write(f"ERROR: {message}\n")
    sys.exit(code)


def parsed(words):
    command = next((each for each in COMMANDS if words[: each.count(" ") + 1] == each.split()), "")
    if not command:
        refuse(f"(gcloud) Invalid choice: {' '.join(words)!r}.", 2)
    patterns, flags = COMMANDS[command]
    rest = words[command.count(" ") + 1 :]
    names = [word for word in rest if not word.startswith("--")]
    given = dict(word.partition("=")[::2] for word in rest if word.startswith("--"))
    wrong = len(names) != len(patterns) or set(given) != set(flags)
    wrong |= not all(map(re.fullmatch, patterns, names))
    for flag, value in given.items():
        pattern = flags.get(flag)
        wrong |= not re.fullmatch(pattern, value) if pattern else bool(value)
    if wrong:
        refuse(f"(gcloud.{command.replace(' ', '.')}) unrecognized arguments: {rest}", 2)
    return command, names, given


def make_bucket(name, location):
    """Let the loopback Cloud Storage have it, where there is one."""
    if host := os.environ.get("STORAGE_EMULATOR_HOST"):
        content = json.dumps({"name": name, "location": location}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{host}/storage/v1/b?project=p", content, headers)
        urllib.request.urlopen(request).close()


def make_key(keys, email, file):
    """Make a key whose private part everybody can tell."""
    number = 1 + max((int(key, 16) for key in keys), default=0)
    key = f"{number:040x}"
    keys[key] = [email, f"2026-11-21T10:00:{number:02d}Z"]
    content = {
        "type": "service_account",
        "client_email": email,
        "private_key": f"-----BEGIN canary {key}-----",
        "private_key_id": key,
    }
    file.write_text(json.dumps(content))
    sys.stderr.write(f"created key [{key}] of type [json] as [{file}] for [{email}]\n")


def main():
    command, names, given = parsed(sys.argv[1:])
    surface = f"(gcloud.{command.replace(' ', '.')})"
    if (HERE / "gcloud.signed-out").exists():
        refuse(f"{surface} {SIGNED_OUT}")
    state = {"projects": [], "services": {}, "buckets": {}, "accounts": [], "bindings": []}
    state["keys"] = {}
    state |= json.loads(STATE.read_text()) if STATE.is_file() else {"commands": []}
    name = names[0].removeprefix("gs://") if names else ""
    if "keys" in command and given["--iam-account"] not in state["accounts"]:
        refuse(f"{surface} NOT_FOUND: Unknown service account. This command is authenticated as …")
    if command.endswith("keys list"):
        described = [
            {"name": f"projects/p/serviceAccounts/{email}/keys/{key}", "validAfterTime": made}
            for key, (email, made) in reversed(state["keys"].items())
            if email == given["--iam-account"]
        ]
        sys.stdout.write(json.dumps(described))
        return
    if command.endswith("describe"):
        held = {"projects": "projects", "storage": "buckets", "iam": "accounts"}[command.split()[0]]
        if name not in state[held]:
            refuse(f"{surface} {names[0]} not found: 404.")
        whole = given["--format"] == "json"
        sys.stdout.write(f"{json.dumps(state['buckets'][name]) if whole else name}\n")
        return
    state["commands"].append(" ".join(sys.argv[1:]))
    fails = HERE / "gcloud.fails"
    if fails.is_file() and command.startswith(json.loads(fails.read_text())[0]):
        message = json.loads(fails.read_text())[1]
        fails.unlink()
        STATE.write_text(json.dumps(state))
        refuse(f"{surface} {message}")
    project = given.get("--project", "")
    if project and project not in state["projects"]:
        refuse(f"(gcloud) The project {project} does not exist.")
    if command == "projects create":
        state["projects"].append(name)
    elif command == "services enable":
        state["services"][project] = names
    elif command == "storage buckets create":
        rules = json.loads(Path(given["--lifecycle-file"]).read_text())["rule"]
        state["buckets"][name] = {
            "location": given["--location"],
            "lifecycle_config": {"rule": rules},
            "public_access_prevention": "enforced",
            "soft_delete_policy": {"retentionDurationSeconds": "604800"},
            "uniform_bucket_level_access": True,
        }
        make_bucket(name, given["--location"])
    elif command == "storage buckets update":
        state["buckets"][name]["versioning_enabled"] = True
    elif command == "iam service-accounts keys create":
        make_key(state["keys"], given["--iam-account"], Path(name))
    elif command == "iam service-accounts keys delete":
        if state["keys"].pop(name, None) is None:
            refuse(f"{surface} NOT_FOUND: The service account key does not exist.")
    elif command == "iam service-accounts create":
        state["accounts"].append(f"{name}@{project}.iam.gserviceaccount.com")
    else:
        binding = [name, given["--member"], given["--role"], given["--condition"]]
        if binding[1].removeprefix("serviceAccount:") not in state["accounts"]:
            refuse(f"Service account {binding[1]} does not exist.")
        if binding not in state["bindings"]:
            state["bindings"].append(binding)
    STATE.write_text(json.dumps(state))


main()
