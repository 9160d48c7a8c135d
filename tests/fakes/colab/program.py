"""The program: `python -m tests.fakes.colab.program --auth … --config … COMMAND …`."""

import argparse
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

from tests.fakes.colab.fifo import make_fifo

FOLDER = Path(os.environ["FAKE_COLAB"])
HOME = Path(os.environ["HOME"]) / ".config/colab-cli"
BEHAVIOUR: dict[str, Any] = json.loads((FOLDER / "behaviour.json").read_text())
GPUS = {each.lower(): each for each in ("T4", "L4", "G4", "A100", "H100")}
RATES = {"CPU": 0.08, "T4": 1.2, "A100": 6.8}


def say(line: str) -> None:
    print(f"[colab] {line}", flush=True)


def fail(line: str, code: int = 1) -> NoReturn:
    say(line)
    sys.exit(code)


class Account:
    """What Colab knows, and what this configuration of the CLI knows of it."""

    def __init__(self, config: Path) -> None:
        self.config = config
        self.names: dict[str, str] = json.loads(config.read_text()) if config.exists() else {}

    def runtimes(self) -> dict[str, dict[str, Any]]:
        files = sorted(FOLDER.glob("runtimes/*.json"))
        return {each.stem: json.loads(each.read_text()) for each in files}

    def of(self, session: str) -> dict[str, Any]:
        endpoint = self.names.get(session)
        if endpoint not in self.runtimes():
            fail(f"Session '{session}' not found.")
        return self.runtimes()[endpoint]

    def save(self) -> None:
        self.config.parent.mkdir(parents=True, exist_ok=True)
        self.config.write_text(json.dumps(self.names))


def usage(account: Account, _: argparse.Namespace) -> None:
    rate = sum(RATES.get(each["hardware"], 2.0) for each in account.runtimes().values())
    print(f"Current balance: 87.50 compute units\nUsage rate: {rate:.2f}/hr")
    print(f"Active assignments: {len(account.runtimes())}")


def new(account: Account, given: argparse.Namespace) -> None:
    say(f"Creating session '{given.session}'...")
    if BEHAVIOUR.get("hold"):
        make_fifo(FOLDER / "held" / given.session)
        with (FOLDER / "held" / given.session).open("rb", buffering=0) as held:
            held.read(1)
    if BEHAVIOUR.get("refuse"):
        fail(BEHAVIOUR["refuse"])
    hardware = "CPU"
    if given.tpu:
        hardware = "V5E1" if given.tpu.lower() == "v5e1" else "V6E1"
    elif given.gpu:
        hardware = GPUS.get(given.gpu.lower(), "A100")
    endpoint = f"m-s-{os.urandom(6).hex()}"
    root = FOLDER / "machines" / endpoint
    runtime = {"root": str(root), "hardware": BEHAVIOUR.get("gives") or hardware}
    (root / "content").mkdir(parents=True)
    (FOLDER / "runtimes").mkdir(exist_ok=True)
    (FOLDER / f"runtimes/{endpoint}.json").write_text(json.dumps(runtime))
    account.names[given.session] = endpoint
    account.save()
    say("Session READY.")


def sessions(account: Account, _: argparse.Namespace) -> None:
    if not account.runtimes():
        say("No active sessions found on server.")
    names = {endpoint: name for name, endpoint in account.names.items()}
    for endpoint, each in account.runtimes().items():
        shape = "Shape: Standard | Variant: GPU"
        print(f"[{names.get(endpoint, '?')}] {endpoint} | Hardware: {each['hardware']} | {shape}")


def upload(account: Account, given: argparse.Namespace) -> None:
    runtime = account.of(given.session)
    if BEHAVIOUR.get("upload") == "fails":
        fail("Upload failed: 500 Server Error")
    target = Path(runtime["root"]) / given.remote
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(Path(given.local).read_bytes())
    say(f"Uploaded '{given.local}' to '{given.remote}'")


def execute(account: Account, given: argparse.Namespace) -> None:
    runtime = account.of(given.session)
    code = Path(given.file).read_text()
    history = HOME / "history" / f"{given.session}.jsonl"
    history.parent.mkdir(parents=True, exist_ok=True)
    history.write_text(json.dumps({"event_type": "execution", "code": code}))
    match BEHAVIOUR.get("exec"):
        case None:
            from tests.fakes import platforms

            outside = json.loads((FOLDER / "outside.json").read_text())
            subprocess.run(
                [sys.executable, "-m", "IPython", "--quick", "--colors=NoColor", given.file],
                cwd=Path(runtime["root"]) / "content",
                env=platforms.colab(Path(runtime["root"]), **outside),
                stdin=subprocess.DEVNULL,
            )
        case "lose":
            print("half a line", flush=True)
            fail("Session appears to be lost (404/401). Cleaning up.")
        case "done" | "failed" as outcome:
            (nonce,) = re.findall(r"print\('([0-9a-f]+)'", code)
            print(f"half a line{nonce} {outcome}", flush=True)
        case gate:
            print("it begins", flush=True)
            Path(f"{gate}.reached").write_text("")
            Path(f"{gate}.open").read_text()


def stop(account: Account, given: argparse.Namespace) -> None:
    left = BEHAVIOUR.get("stop_fails", 0)
    if left:
        BEHAVIOUR["stop_fails"] = left - 1
        (FOLDER / "behaviour.json").write_text(json.dumps(BEHAVIOUR))
        raise ConnectionError("Failed to issue request POST /tun/m/unassign: Bad Gateway")
    endpoint = account.names.pop(given.session, "")
    if endpoint not in account.runtimes():
        say(f"Session '{given.session}' not found.")
        return
    from tests.fakes.processes import end_processes_of

    end_processes_of(Path(account.runtimes()[endpoint]["root"]))
    (FOLDER / f"runtimes/{endpoint}.json").unlink()
    account.save()
    say("Session terminated.")


COMMANDS = {
    "usage": usage,
    "new": new,
    "sessions": sessions,
    "upload": upload,
    "exec": execute,
    "stop": stop,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--auth", choices=["oauth2", "adc"], required=True)
    parser.add_argument("--config", type=Path, required=True)
    commands = parser.add_subparsers(dest="command", required=True)
    for name in COMMANDS:
        command = commands.add_parser(name)
        if name not in ("usage", "sessions"):
            command.add_argument("-s", "--session", required=True)
        if name == "new":
            command.add_argument("--gpu")
            command.add_argument("--tpu")
            command.add_argument("--high-mem", action="store_true")
        if name == "upload":
            command.add_argument("local")
            command.add_argument("remote")
        if name == "exec":
            command.add_argument("-f", "--file", required=True)
            command.add_argument("--timeout", type=float, required=True)
    given = parser.parse_args()
    with (FOLDER / "calls").open("a") as calls:
        # What a debug log and a history would keep, too.
        calls.write(json.dumps({"arguments": sys.argv[5:], "home": str(HOME)}) + "\n")
    if BEHAVIOUR.get("signed_out"):
        fail("Warning: failed to fetch compute-unit info: EOF when reading a line")
    COMMANDS[given.command](Account(given.config), given)


if __name__ == "__main__":
    main()
