"""Export of artefacts as zips and their import on another device; a zip can be used without Earbench too.

An imported zip is untrusted data. Names, kinds and sizes are checked before anything is written, digests while it is
written, and the configuration by parsing it. Nothing in it is ever unpickled or executed. What can't be verified is
that the weights are those of the checkpoint that the manifest names: import only artefacts from sources you trust.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench import modes
from bench.artefacts import cache, recipe
from bench.artefacts.cache import MANIFEST, ArtefactError
from bench.core import archive
from bench.core.archive import Rules
from bench.core.records import coverage_from
from bench.core.specs import spelled
from bench.core.units import size as in_words
from bench.families import catalogue, families
from bench.families.family import CONFIG_FILE, ModelError, Progress
from bench.modes.mode import ModeError

README = "README.md"
ENDINGS = (".json", ".txt", ".safetensors", ".pt", ".onnx", ".data", ".xml", ".bin")  # data formats only
MAX_MANIFEST_BYTES = 1_000_000
RULES = Rules(
    error=ArtefactError,
    allowed="a zip that `python -m bench artefacts export` wrote",
    remedy="Copy it again, or export the artefact again",
    smaller="Export the artefact again.",
    content="weights",  # they hardly compress
    max_listed=20_000,  # a .pt is a zip with one entry per tensor
    max_files=64,
    max_bytes=20_000_000_000,
)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# The required keys of a manifest and their types.
_TYPES: dict[str, type | tuple[type, ...]] = {
    "checkpoint": str,
    "mode": str,
    "mode version": int,
    "settings": dict,
    "versions": dict,
    "clips": list,
    "base": (str, type(None)),
    "family": str,
    "model": str,
    "details": dict,
    "device": str,
    "built_s": (int, float),
    "build_s": (int, float),
    "build_peak_rss_bytes": (int, type(None)),
    "build_disk_bytes": (int, type(None)),
    "files": dict,
}


# --- export


def write(digest: str, path: Path) -> None:
    """Write an artefact as a zip, atomically. Raises ArtefactError."""
    directory, partial = cache.folder(digest), path.with_name(f".{path.name}.{os.getpid()}")
    try:
        manifest = cache.manifest_of(digest)
        if cache.coverage_file(digest).is_file():  # a device without the build packages may be unable to count
            manifest["coverage"] = json.loads(cache.coverage_file(digest).read_text())["coverage"]
        try:
            with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as packed:  # weights don't compress
                packed.writestr(MANIFEST, json.dumps(manifest, indent=1))
                packed.writestr(README, readme(manifest))
                for name in manifest["files"]:
                    packed.write(directory / name, name)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError) as e:
        raise ArtefactError(
            f"{cache.folder(digest).name} can't be written to {path} ({e}). See that it still is in the list of "
            "artefacts, and that the file's folder exists and has room."
        ) from e


def file_name(manifest: Mapping[str, Any]) -> str:
    """Return a descriptive file name for the zip of a manifest's artefact."""
    return re.sub(r"[^\w.=-]+", "-", f"{manifest['model']}-{_variant(manifest)}.zip")


def readme(manifest: Mapping[str, Any]) -> str:
    """Return the zip's README: how to open the artefact with Earbench and in plain code."""
    mode, family = modes.find(manifest["mode"]), families()[manifest["family"]]
    versions = "".join(f"- {name} {version}\n" for name, version in manifest["versions"].items())
    needs = " ".join(f"{p}=={manifest['versions'].get(p, '')}".removesuffix("==") for p in mode.SPEC.needs.packages)
    skeleton = f"{family.SKELETON_CODE}\n\n" if mode.SPEC.engine == "torch" else ""
    date = time.strftime("%Y-%m-%d", time.gmtime(manifest["built_s"]))
    plain = f"""## Without Earbench

`pip install numpy soundfile {needs}`, unpack this zip, put a recording beside it as `speech.wav` (16 kHz, mono) and run
in its folder:

```python
{skeleton}{mode.SPEC.open_code}

{family.RUN_CODE}
```
"""
    return f"""# {manifest["model"]}, {_variant(manifest)}

{mode.SPEC.label}: {mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}.

- weights: {manifest["checkpoint"]}
- built on {manifest["device"]}, {date}, in {manifest["build_s"]:.0f} s

with

{versions}
`{MANIFEST}` names every file with its size and its SHA-256.

## With Earbench

```sh
python -m bench artefacts import {file_name(manifest)}
```

On a device that has the same weights the mode is then opened from it instead of being built. Elsewhere the model is in
the list under a name of its own, which the command prints.

{plain if family.RUN_CODE else ""}"""


def _variant(manifest: Mapping[str, Any]) -> str:
    mode = modes.modes().get(manifest["mode"])
    defaults = {name: option.default for name, option in mode.SPEC.settings.items()} if mode else {}
    return spelled(manifest["mode"], {k: v for k, v in manifest["settings"].items() if defaults.get(k) != v})


# --- import


def read(path: Path, progress: Progress = lambda _: None) -> tuple[str, str]:
    """Import a zip that `write` wrote into the cache, atomically -> (digest, the name of its model on this device).

    Raises ArtefactError.
    """
    name = path.name
    with archive.opened(path, RULES) as packed:
        entries = archive.files(packed, path, RULES, lambda entry, _: _is_allowed(entry, name))
        manifest = _manifest(packed, entries, name)
        _check_files(entries, manifest, name)
        digest = recipe.digest_of(manifest)
        if not (cache.folder(digest) / MANIFEST).is_file():
            cache.home().mkdir(parents=True, exist_ok=True)
            archive.check_room(entries.values(), path, RULES, cache.home())
            _unpack(packed, entries, manifest, digest, name, progress)
    try:
        mark = json.loads((cache.folder(digest) / catalogue.IMPORTED).read_text())
    except OSError:  # it was built on this device earlier
        mark = {"name": ""}
    return digest, mark["name"] or manifest["model"]


def _is_allowed(entry: zipfile.ZipInfo, name: str) -> bool:
    """Return True. Raises ArtefactError for anything but files in no folder whose ending stands for data."""
    file = entry.filename
    if not _NAME.fullmatch(file) or file == catalogue.IMPORTED:
        raise ArtefactError(f"{name} holds “{file}”. Allowed: files without folders, by plain names.")
    if file not in (MANIFEST, README) and not file.lower().endswith(ENDINGS):
        raise ArtefactError(f"{name} holds “{file}”. Allowed endings: {', '.join(ENDINGS)}.")
    return True


def _manifest(packed: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str) -> dict[str, Any]:
    """Read and check the zip's manifest; its mode and family must exist here. Raises ArtefactError."""
    if MANIFEST not in entries:
        raise ArtefactError(
            f"{name} holds no {MANIFEST}, so it is no artefact. Allowed: a zip that `python -m bench artefacts export` "
            "wrote."
        )
    with packed.open(entries[MANIFEST]) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise ArtefactError(f"{name}: {MANIFEST} has more than {in_words(MAX_MANIFEST_BYTES)}, which is the limit.")
    manifest = json.loads(text)
    if not isinstance(manifest, dict):
        raise ArtefactError(f"{name}: {MANIFEST} is no JSON object. Export the artefact again.")
    for key, kind in _TYPES.items():
        if not isinstance(manifest.get(key, ...), kind):
            raise ArtefactError(f"{name}: {MANIFEST} has no proper “{key}”. Export the artefact again.")
    numbers = [manifest[key] for key in ("built_s", "build_s", "build_peak_rss_bytes", "build_disk_bytes")]
    if not all(x is None or 0 <= x < 1e15 for x in numbers):  # false for NaN too
        raise ArtefactError(f"{name}: {MANIFEST} has numbers that can't be. Export the artefact again.")
    plain = all(isinstance(text, str) for key in ("versions", "details") for text in manifest[key].values())
    if not plain or not re.fullmatch(r"[^\x00-\x1f]{1,200}", manifest["model"]):
        raise ArtefactError(f"{name}: {MANIFEST} has other things than texts where texts belong. Export it again.")
    manifest["details"].pop(cache.ELSEWHERE, None)
    mode = modes.modes().get(manifest["mode"])
    if mode is None or manifest["family"] not in families():
        raise ArtefactError(
            f"{name} holds {manifest['mode']} of a {manifest['family']} model, which this Earbench does not know. "
            f"Allowed: {', '.join(modes.modes())} of {', '.join(families())}. Use the same version of Earbench on both "
            "devices."
        )
    if manifest["mode version"] != mode.SPEC.version:
        raise ArtefactError(
            f"{name} holds {manifest['mode']} as version {manifest['mode version']} of that mode writes it, and "
            f"here is version {mode.SPEC.version}. Use the same version of Earbench on both devices, and build it anew."
        )
    try:
        complete = modes.complete(mode, manifest["settings"])
    except ModeError as e:
        raise ArtefactError(f"{name} does not fit this Earbench: {e}") from e
    if complete != manifest["settings"]:
        raise ArtefactError(f"{name} lacks settings of {manifest['mode']}. Export the artefact again.")
    if "coverage" in manifest:
        coverage_from(manifest["coverage"])
    return manifest


def _check_files(entries: Mapping[str, zipfile.ZipInfo], manifest: Mapping[str, Any], name: str) -> None:
    """Raise ArtefactError if the files differ from the manifest's."""
    files = manifest["files"]
    for file, expected in files.items():
        if (
            not isinstance(expected, dict)
            or type(expected.get("bytes")) is not int
            or not isinstance(expected.get("sha256"), str)
        ):
            raise ArtefactError(
                f"{name}: {MANIFEST} tells no size or no digest of “{file}”. Export the artefact again."
            )
    present = set(entries) - {MANIFEST, README}
    required = families()[manifest["family"]].FILES
    if missing := sorted({*files, *required} - present):
        raise ArtefactError(f"{name} lacks {', '.join(missing)}. Copy it again, or export the artefact again.")
    if extra := sorted(present - set(files)):
        raise ArtefactError(f"{name} holds what {MANIFEST} does not name: {', '.join(extra)}. Export it again.")
    for file, expected in files.items():
        if entries[file].file_size != expected["bytes"]:
            raise ArtefactError(
                f"{name}: “{file}” has {entries[file].file_size} bytes where {MANIFEST} says {expected['bytes']}. "
                "Copy it again, or export the artefact again."
            )


def _unpack(
    packed: zipfile.ZipFile,
    entries: Mapping[str, zipfile.ZipInfo],
    manifest: Mapping[str, Any],
    digest: str,
    name: str,
    progress: Progress,
) -> None:
    """Unpack the files into the cache, checking each against its digest as it is written. Raises ArtefactError."""
    directory = cache.folder(digest)
    partial = directory.with_name(f".{digest}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for file, expected in manifest["files"].items():
            progress(f"reading {file}")
            if archive.unpack(packed, entries[file], partial / file) != expected["sha256"]:
                raise ArtefactError(
                    f"{name}: “{file}” is not what {MANIFEST} says: it was damaged or changed on the way. Copy it "
                    "again, or export the artefact again."
                )
        family = families()[manifest["family"]]
        for file in family.FILES:
            if file.endswith(".json") and not isinstance(json.loads((partial / file).read_text()), dict):
                raise ArtefactError(f"{name}: {file} is no JSON object. Export the artefact again.")
        config = json.loads((partial / CONFIG_FILE).read_text())
        try:
            family.check(config, name)
            family.networks(config), family.profile(config, family.COVERAGE_SIZE)
        except ModelError as e:
            raise ArtefactError(str(e)) from e
        except Exception as e:
            raise ArtefactError(f"{name}: {CONFIG_FILE} describes no {manifest['family']} model ({e!r}).") from e
        (partial / MANIFEST).write_text(json.dumps(manifest, indent=1))
        mark = {
            "name": _name_here(manifest),
            "mode": _variant(manifest),
            "family": manifest["family"],
            "checkpoint": manifest["checkpoint"],
            "imported_s": time.time(),
        }
        (partial / catalogue.IMPORTED).write_text(json.dumps(mark, indent=1))
        shutil.rmtree(directory, ignore_errors=True)  # a partial artefact, without a manifest
        partial.rename(directory)
        cache.stamp_new(directory, manifest)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _name_here(manifest: Mapping[str, Any]) -> str:
    """Return the checkpoint's name on this device; "" if it exists here under its own name with the same weights."""
    for checkpoint in catalogue.catalogue():
        # Hub names are left out: their weights may change, and checking needs the network.
        if checkpoint.name == manifest["model"] and checkpoint.source in ("random", "folder"):
            identity = recipe.remembered_identity(checkpoint) or recipe.identify(checkpoint, lambda _: None)[0]
            if identity == manifest["checkpoint"]:
                return ""
    plain = re.sub(r"[^\w./-]+", "-", manifest["model"])[:60]
    state = re.sub(r"\W", "", manifest["checkpoint"].split()[-1] if manifest["checkpoint"].split() else "")
    return f"{plain}@{state[:8]}"
