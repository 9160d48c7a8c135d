"""What a pod is made of: the body that creates it, and what its start script finds to do.

The script, what starts it and its job stand in variables of the pod's environment. The bucket's key
is a reference that RunPod resolves by itself, and nothing else in there is secret.
"""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

from kaggleops.backends.ready_notebook import parameters_of
from kaggleops.backends.runpod.client import GRACE, JOB_VARIABLE, PATIENCE, PREFIX
from kaggleops.backends.runpod.offers import Offer, RunPodConfig
from kaggleops.bucket.location import is_s3
from kaggleops.errors import UsageError
from kaggleops.platforms.platform import SECRET
from kaggleops.secret_scan import in_file

NAME = "runpod_name"
"""The tag of a run that names its pod. It is there before the pod is."""

POD = "runpod_pod"
"""The tag of a run with the id of its pod; "" before anybody knows it."""

_START = "KAGGLEOPS_START"
_BEGIN = "KAGGLEOPS_BEGIN"
# The container's command, with the quotes of RunPod's own examples.
_ARGS = f"""sh -c 'eval "${_BEGIN}"'"""
# What it does. RunPod starts a container again that ends, and bills it: where the image's Python
# cannot execute the start script, the shell itself deletes the pod. The key is in no argument.
_DELETE = (
    r"""printf 'header = "Authorization: Bearer %s"\n' "$RUNPOD_API_KEY" | curl --config - """
    '--fail --silent --show-error --max-time 30 --user-agent kaggleops --request DELETE "$pod"',
    "python3 -c 'import os, sys; from urllib.request import Request, urlopen; "
    'headers = {"Authorization": "Bearer " + os.environ["RUNPOD_API_KEY"], '
    '"User-Agent": "kaggleops"}; '
    'urlopen(Request(sys.argv[1], headers=headers, method="DELETE"), timeout=30)\' "$pod"',
)
_SHELL = "; ".join(
    (
        "python3 -c 'import ssl, sys, venv; sys.exit(sys.version_info < (3, 11))' "
        "&& exec python3 -P -c 'import base64, os; "
        f"""exec(base64.b64decode(os.environ["{_START}"]))'""",
        "echo 'The image has no Python 3.11 or newer: nothing is run, and the pod is deleted.'",
        'pod="${RUNPOD_API_URL:-https://api.runpod.io}/v2/pods/$RUNPOD_POD_ID"',
        f"while :; do {' || '.join(_DELETE)}; sleep 60; done",
    )
)
_MOUNT = "/workspace"
_LONGEST_SCRIPT = 16_384  # a pod's environment is no place for more
_RUNNER = ("papermill>=2.6", "ipykernel>=6.30")  # what executes the notebook

_HERE = Path(__file__).parent
_PACKED = _HERE / "start.py"  # where a wheel has it
_IN_REPOSITORY = _HERE.parents[3] / "infra/runpod/start.py"


def pod_body(
    run_id: str, notebook: str, config: RunPodConfig, offer: Offer, volume_id: str, now: float
) -> dict[str, Any]:
    """Return what to send to RunPod for a run's pod; `now` is in seconds since the epoch."""
    bucket = parameters_of(notebook)["bucket"]
    on_kaggle = any(name.startswith("KAGGLE_") for name in config.env)  # data that lies there
    extra = "[kaggle]" if on_kaggle else ""
    if is_s3(bucket):
        extra = "[s3,kaggle]" if on_kaggle else "[s3]"
    job = {
        "run_id": run_id,
        "bucket": bucket,
        "extra": extra,
        "notebook": base64.b64encode(gzip.compress(notebook.encode(), mtime=0)).decode(),
        "install_from": parameters_of(notebook)["install_from"],
        "packages": [*_RUNNER, *config.packages],
        "image": config.image or config.template,
        "mount": _MOUNT if volume_id else "",
        "asked": now,
        "deadline": now + config.hours * 3600,
        "grace": GRACE,
        "patience": PATIENCE,
        "keep": config.keep,
        "ssh": config.ssh,
        "setup": set_up_script(config, doing="submitting to RunPod"),
        "secrets": config.secrets,
        "price": offer.price,
    }
    script = (_PACKED if _PACKED.is_file() else _IN_REPOSITORY).read_bytes()
    network = [{"volumeId": volume_id, "path": _MOUNT}]
    places = [offer.data_center] if offer.data_center else list(config.data_centers)
    cuda = {"minCudaVersion": config.min_cuda} if config.min_cuda else {}
    body: dict[str, Any] = {
        "name": f"{PREFIX}{run_id}",
        "gpu": {"id": offer.gpu, "count": config.gpu_count, **cuda},
        "cloud": config.cloud,
        "disk": config.disk_gb,
        "args": _ARGS,
        "env": {
            _BEGIN: _SHELL,
            _START: base64.b64encode(script).decode(),
            JOB_VARIABLE: json.dumps(job),
            SECRET: f"{{{{ RUNPOD_SECRET_{config.secret} }}}}",
            **config.env,
        },
    }
    optional = {
        "image": config.image,
        "templateId": config.template,
        "registry": config.registry,
        "mounts": {"network": network} if volume_id else {},
        "dataCenterIds": places,
        "ports": config.open_ports,
        "startSsh": config.ssh,
    }
    return body | {name: value for name, value in optional.items() if value}


def set_up_script(config: RunPodConfig, doing: str) -> str:
    """Return the text of the user's own script, "" for none.

    Raises UsageError if it cannot be read, is too long, or holds a secret.
    """
    if not config.setup:
        return ""
    path = Path(config.setup).expanduser()
    try:
        script = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(doing, f"setup: {path} cannot be read ({error})") from None
    if len(script) > _LONGEST_SCRIPT:
        raise UsageError(doing, f"setup: {path} has more than {_LONGEST_SCRIPT:,} characters")
    if found := in_file(path.name, script.encode()):
        problem = f"setup: {path} holds a secret ({found[0].kind}), and would stand in the pod"
        raise UsageError(doing, problem, "Let it read a variable of `env`.")
    return script
