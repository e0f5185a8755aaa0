"""The names by which people ask for checkpoints: published ones, folders, and imported artefacts."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from bench.core import paths
from bench.families import families
from bench.families.family import CONFIG_FILE, Checkpoint, Family, ModelError
from bench.families.tasks.task import Task, TaskError

IMPORTED = "imported.json"  # lies in the folder of an artefact that came from elsewhere


def catalogue() -> list[Checkpoint]:
    """The checkpoints that have a name of their own, in the menu's order; imported ones last."""
    return [*_published(), *_imported()]


def _published() -> list[Checkpoint]:
    return [c for family in families().values() for c in family.CHECKPOINTS]


def _imported() -> list[Checkpoint]:
    """Checkpoints whose weights are not here, but artefacts of them that were imported."""
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
    """The model to begin with: the first of the catalogue, which is the trained one that is shipped."""
    return _published()[0].name


def find(name: str) -> Checkpoint:
    """The checkpoint of a name, or of a local folder. Raises ModelError."""
    for checkpoint in (c for known in (_published, _imported) for c in known()):
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
    """What a folder may hold, in words."""
    return " or ".join(str(support) for f in families().values() for support in f.SUPPORTS)


def exists(name: str) -> bool:
    """Whether `find` knows the name; a folder may have gone since it was measured."""
    try:
        find(name)
    except ModelError:
        return False
    return True


def family(checkpoint: Checkpoint) -> Family:
    """The family that a checkpoint is of."""
    return families()[checkpoint.family]


def task(name: str) -> Task:
    """The task of a name. Raises TaskError."""
    tasks = {f.TASK.NAME: f.TASK for f in families().values()}
    if name not in tasks:
        raise TaskError(f"There is no task “{name}”. Allowed: {', '.join(tasks)}.")
    return tasks[name]


def check_task(name: str, models: Iterable[str]) -> None:
    """Raises TaskError for a model of another task, ModelError for one that there is not."""
    for model in models:
        of_model = family(find(model)).TASK
        if name != of_model.NAME:
            raise TaskError(
                f"{model} {of_model.VERB}, and this takes a model that {task(name).VERB}. Choose another model."
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
    heads = config.get("architectures")
    architectures = [str(head) for head in heads] if isinstance(heads, list) else []
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
    wanted = " or ".join(support.architecture for _, support in supports)
    raise ModelError(
        f"{folder} holds {', '.join(architectures) or 'no named architecture'}. Allowed: {wanted}. A model without "
        f"that head gives no prediction; fine-tune it, or save it as {wanted}."
    )
