"""What is attached to a notebook: which of it exists, and where its sessions find it."""

from collections.abc import Iterator, Mapping

from kagglesdk.kernels.types.kernels_api_service import ApiSaveKernelRequest

from tests.fakes.kaggle.store import ApiError, Dataset, Store, User

Files = Mapping[str, bytes]
KINDS = ("dataset", "competition", "kernel", "model")


class Sources:
    """Looks up what notebooks name."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def sort(
        self, user: User, request: ApiSaveKernelRequest
    ) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
        """Return which sources there are for this user, and which there are not, by kind."""
        asked: dict[str, list[str]] = {
            kind: list(getattr(request, f"{kind}_data_sources")) for kind in KINDS
        }
        good = {kind: [ref for ref in asked[kind] if self._is(user, kind, ref)] for kind in KINDS}
        bad = {kind: [ref for ref in asked[kind] if ref not in good[kind]] for kind in KINDS}
        return good, bad

    def mounts(
        self, user: User, sources: Mapping[str, list[str]], *, old: bool, hidden: bool = False
    ) -> Iterator[tuple[str, Files]]:
        """Yield folders below /kaggle/input with their files.

        Args:
            user: whose session it is.
            sources: by kind.
            old: whether each lies right below it, as all did once.
            hidden: whether competitions have their hidden files.
        """
        for kind, refs in sources.items():
            for ref in refs:
                folder, files = self._found(user, kind, ref)
                if hidden and kind == "competition":
                    files = {**files, **(self._store.competitions[ref].hidden or {})}
                yield folder.rsplit("/", 1)[-1] if old else folder, files

    def _is(self, user: User, kind: str, ref: str) -> bool:
        try:
            self._found(user, kind, ref)
        except (ApiError, KeyError, IndexError, ValueError):
            return False
        return True

    def _found(self, user: User, kind: str, ref: str) -> tuple[str, Files]:
        if kind == "competition":
            return f"competitions/{ref}", self._store.competitions[ref].files
        if kind == "model":
            return f"models/{ref}", self._store.models[ref]
        owner, slug, *version = ref.split("/")
        if kind == "dataset":
            files = _files(self._store.dataset(user, owner, slug), version)
            return f"datasets/{owner}/{slug}", files
        kernel = self._store.kernel(user, owner, slug)
        done = [each.session for each in kernel.versions if each.session and each.session.outputs()]
        outputs = done[-1].outputs()
        return f"notebooks/{ref}", {name: path.read_bytes() for name, path in outputs.items()}


def _files(dataset: Dataset, version: list[str]) -> Files:
    number = int(version[0]) if version else len(dataset.ready)
    files = dict(enumerate(dataset.ready, 1))[number]
    if not files:
        raise KeyError(f"version {number} of {dataset.ref} has been deleted")
    return files
