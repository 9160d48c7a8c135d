"""`terraform`, as far as applying a configuration goes: it knows its variables and outputs."""

import json
import os
import re
import sys
import urllib.request
from pathlib import Path

HERE = Path(sys.argv[0]).parent
STATE = HERE / "terraform.json"


def refuse(message):
    sys.stderr.write(f"\n\u2577\n\u2502 Error: {message}\n\u2575\n")
    sys.exit(1)


def declared(folder, kind):
    text = "".join(each.read_text() for each in sorted(folder.glob("*.tf")))
    return set(re.findall(rf'^{kind} "(\w+)"', text, re.MULTILINE))


def main():
    where, command, *flags = sys.argv[1:]
    folder = Path(where.removeprefix("-chdir="))
    if not where.startswith("-chdir=") or not list(folder.glob("*.tf")):
        refuse(f"no configuration: {where}")
    state = json.loads(STATE.read_text()) if STATE.is_file() else {"commands": []}
    if command == "init" and flags == ["-input=false"]:
        state["initialized"] = True
    elif command == "apply":
        file = folder / "terraform.tfvars"
        lines = file.read_text().splitlines() if file.is_file() else []
        pairs = [re.fullmatch(r' *(\w+) *= *"([^"]*)" *(?:#.*)?', each) for each in lines]
        if None in pairs or len({each[1] for each in pairs}) < len(pairs):
            refuse(f"Invalid variables in {file}: {lines}")
        variables = {each[1]: each[2] for each in pairs}
        if not state.get("initialized"):
            refuse("Inconsistent dependency lock file. Run: terraform init")
        if flags != ["-input=false", "-auto-approve"]:
            refuse(f"the fake cannot ask, and does not know {flags}")
        if unknown := variables.keys() - declared(folder, "variable"):
            refuse(f"Value for undeclared variable: {unknown}")
        state["variables"] = variables
        make_bucket(variables["bucket"])
    elif command == "output" and flags == ["-json"]:
        given = state["variables"]
        account = f"{given['name']}-runner@{given['project']}.iam.gserviceaccount.com"
        server = f"projects/{given['project']}/zones/{given['region']}-b/instances/{given['name']}"
        values = {
            "bucket": f"gs://{given['bucket']}",
            "runner_service_account": account,
            "server": server,
        }
        if unknown := values.keys() - declared(folder, "output"):
            refuse(f"the configuration has no outputs {unknown}")
        json.dump({name: {"value": value} for name, value in values.items()}, sys.stdout)
        return
    else:
        refuse(f"the fake does not know {command} {flags}")
    state["commands"].append(command)
    STATE.write_text(json.dumps(state))


def make_bucket(name):
    """Let the loopback Cloud Storage have it, where there is one that has it not."""
    if host := os.environ.get("STORAGE_EMULATOR_HOST"):
        content = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{host}/storage/v1/b?project=p", content, headers)
        try:
            urllib.request.urlopen(request).close()
        except urllib.error.HTTPError as error:
            if error.code != 409:
                raise


main()
