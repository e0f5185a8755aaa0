"""The catalogue of checkpoints by name: published ones, local folders, and those of imported artefacts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bench.core import paths
from bench.families import families
from bench.families.family import CONFIG_FILE, Checkpoint, Family, ModelError
from bench.families.tasks.task import Task, TaskError

IMPORTED = "imported.json"  # marks the folder of an imported artefact


def catalogue() -> list[Checkpoint]:
    """List the named checkpoints in the menu's order, imported ones last."""
    return [*_published(), *_imported()]


def _published() -> list[Checkpoint]:
    return [c for family in families().values() for c in family.CHECKPOINTS]


def _imported() -> list[Checkpoint]:
    """List the checkpoints of imported artefacts, whose weights are not on this device."""
    checkpoints: dict[str, Checkpoint] = {}
    for mark in sorted((paths.cache() / "artefacts").glob(f"[!.]*/{IMPORTED}")):
        try:
            details, config = json.loads(mark.read_text()), json.loads((mark.parent / CONFIG_FILE).read_text())
        except (OSError, ValueError):  # it is being removed
            continue
        if (name := details["name"]) and details["family"] in families():
            modes = f"imported, without weights: {details['mode']}"
            if name in checkpoints:
                modes = f"{checkpoints[name].note}, {details['mode']}"
            checkpoints[name] = Checkpoint(
                name, name, details["family"], "imported", details["checkpoint"], modes, config
            )
    return list(checkpoints.values())


def default() -> str:
    """Return the default model: the first of the catalogue, which is the trained model that is shipped."""
    return _published()[0].name


def showcase() -> str:
    """Return the model for a first benchmark: the first that shows a gain, else the default."""
    return next((c.name for c in _published() if c.showcase), default())


def find(name: str) -> Checkpoint:
    """Return the checkpoint of a name or of a local folder's path. Raises ModelError."""
    for checkpoint in (c for listing in (_published, _imported) for c in listing()):
        if checkpoint.name == name:
            return checkpoint
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _folder(folder.resolve())
    names = ", ".join(c.name for c in catalogue())
    raise ModelError(
        f"There is no model or folder “{name}”. Allowed: {names}, or the path of a folder on this device that holds "
        f"{accepted()}."
    )


def accepted() -> str:
    """Describe in words what a model folder may hold."""
    return " or ".join(str(support) for f in families().values() for support in f.SUPPORTS)


def exists(name: str) -> bool:
    """Return whether `find` accepts the name; a folder may have been removed since it was measured."""
    try:
        find(name)
    except ModelError:
        return False
    return True


def family(checkpoint: Checkpoint) -> Family:
    """Return a checkpoint's family."""
    return families()[checkpoint.family]


def task(name: str) -> Task:
    """Return the task of a name. Raises TaskError."""
    tasks = {f.TASK.NAME: f.TASK for f in families().values()}
    if name not in tasks:
        raise TaskError(f"There is no task “{name}”. Allowed: {', '.join(tasks)}.")
    return tasks[name]


def check_task(name: str, models: Iterable[str]) -> None:
    """Raise TaskError for a model of another task, ModelError for an unknown model."""
    for model in models:
        model_task = family(find(model)).TASK
        if name != model_task.NAME:
            raise TaskError(
                f"{model} {model_task.VERB}, and this takes a model that {task(name).VERB}. Choose another model."
            )


def _folder(folder: Path) -> Checkpoint:
    try:
        config = json.loads((folder / CONFIG_FILE).read_text())
    except OSError as e:
        raise ModelError(
            f"{folder} has no readable {CONFIG_FILE}, so it is no model folder in Hugging Face format. "
            "Save one with model.save_pretrained(folder) and processor.save_pretrained(folder)."
        ) from e
    except ValueError as e:
        raise ModelError(f"{folder / CONFIG_FILE} is not JSON ({e}). Save the model again.") from e
    if not isinstance(config, dict):
        raise ModelError(f"{folder / CONFIG_FILE} is no JSON object. Save the model again.")
    listed = config.get("architectures")
    architectures = [str(head) for head in listed] if isinstance(listed, list) else []
    supports = [(f, s) for f in families().values() for s in f.SUPPORTS if s.model_type == config.get("model_type")]
    if not supports:
        raise ModelError(
            f"{folder} holds {', '.join(architectures) or 'a model'} (model_type {config.get('model_type')!r}). "
            f"Allowed: {accepted()}."
        )
    for supporting, support in supports:
        if support.architecture in architectures:
            checkpoint = supporting.open_folder(folder, config)
            supporting.check(checkpoint.config, str(folder))
            return checkpoint
    allowed = " or ".join(support.architecture for _, support in supports)
    raise ModelError(
        f"{folder} holds {', '.join(architectures) or 'no named architecture'}. Allowed: {allowed}. A model without "
        f"that head gives no prediction; fine-tune it, or save it as {allowed}."
    )
