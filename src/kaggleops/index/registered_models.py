"""A registered model as rows: its versions, tags and aliases."""

from kaggleops.index.content import Files, by_folder, texts
from kaggleops.index.tables import (
    ALIASES,
    MODEL_VERSION_TAGS,
    MODEL_VERSIONS,
    REGISTERED_MODEL_TAGS,
    REGISTERED_MODELS,
    Row,
    Rows,
)
from kaggleops.mlruns import Entity
from kaggleops.mlruns.entity import META, parse_yaml


def rows_of_registered_model(entity: Entity) -> Rows:
    """Return a registered model's rows."""
    meta, name, folders = entity.meta, entity.id.name, by_folder(entity)
    row = REGISTERED_MODELS.row(
        name=name,
        creation_time=meta.get("creation_timestamp"),
        last_updated_time=meta.get("last_updated_timestamp"),
        description=meta.get("description"),
    )
    versions, version_tags = [], []
    for folder, files in folders.items():
        if folder.startswith("version-") and META in files:
            version = _version(name, files, f"reading {folder} of {entity.id}")
            versions.append(version)
            tags = {path[5:]: data for path, data in files.items() if path.startswith("tags/")}
            version_tags += [(*version[:2], *tag) for tag in texts(tags)]
    return {
        REGISTERED_MODELS: [row],
        REGISTERED_MODEL_TAGS: [(name, *tag) for tag in texts(folders["tags"])],
        MODEL_VERSIONS: versions,
        MODEL_VERSION_TAGS: version_tags,
        ALIASES: [
            (name, alias, int(version))
            for alias, version in texts(folders["aliases"])
            if version.strip().isdigit()
        ],
    }


def _version(name: str, files: Files, doing: str) -> Row:
    meta = parse_yaml(files[META], doing)
    return MODEL_VERSIONS.row(
        name=name,
        version=int(meta["version"]),
        creation_time=meta["creation_timestamp"],
        last_updated_time=meta.get("last_updated_timestamp"),
        description=meta.get("description"),
        user_id=meta.get("user_id"),
        current_stage=meta.get("current_stage", "None"),
        source=meta.get("source"),
        storage_location=meta.get("storage_location"),
        run_id=meta.get("run_id"),
        run_link=meta.get("run_link"),
        status=meta.get("status", "READY"),
        status_message=meta.get("status_message"),
    )
