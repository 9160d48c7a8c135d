"""MLflow's own Kubernetes backend with a bucket: what docs/clusters.md tells people to write."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow.projects import _parse_kubernetes_config

from kaggleops.platforms.google import GoogleKeys
from kaggleops.platforms.platform import KEY_FILE

PAGE = (Path(__file__).parents[2] / "docs/clusters.md").read_text()


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The job's template, as MLflow reads it with the page's configuration."""
    (job,) = (each for each in re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL) if "Job" in each)
    (config,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(job)
    return _parse_kubernetes_config(yaml.safe_load(config))["kube-job-template"]


def test_mlflow_finds_what_it_fills_in(template: Any) -> None:
    pod = template["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert {"name", "image", "command"} <= container.keys()
    assert {"name", "namespace"} <= template["metadata"].keys()
    # Kubernetes' client takes nothing else (37 looks).
    assert all(isinstance(each, str) for each in container["resources"]["limits"].values())


def test_the_key_lies_where_the_clients_look(template: Any) -> None:
    pod = template["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    (mount,), (volume,), (variable,) = container["volumeMounts"], pod["volumes"], container["env"]
    assert mount["name"] == volume["name"]
    assert variable == {"name": GoogleKeys.variable, "value": f"{mount['mountPath']}/{KEY_FILE}"}
    made = rf"create secret generic {volume['secret']['secretName']} --from-file={KEY_FILE}="
    assert re.search(rf"-n {template['metadata']['namespace']} {made}", PAGE)
