"""Export of artefacts as zips and their import on another device; a zip can be used without Earbench too.

An imported zip is untrusted data. Names, kinds and sizes are checked before anything is written, digests while it is
written, and the configuration by parsing it. Nothing in it is ever unpickled or executed. What can't be verified is
that the weights are those of the checkpoint that the manifest names: import only artefacts from sources you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from bench import modes
from bench.artefacts import cache, recipe
from bench.artefacts.cache import MANIFEST, ArtefactError
from bench.core.records import coverage_from
from bench.core.specs import spelled
from bench.core.units import size as in_words
from bench.datasets import unzip
from bench.families import catalogue, families
from bench.families.family import CONFIG_FILE, ModelError, Progress
from bench.modes.mode import ModeError

README = "README.md"
ENDINGS = (".json", ".txt", ".safetensors", ".pt", ".onnx", ".data", ".xml", ".bin")  # data formats only
MAX_FILES = 64
MAX_LISTED = 20_000  # entries, nested zips included: a .pt is a zip with one entry per tensor
MAX_BYTES = 20_000_000_000
MAX_MANIFEST_BYTES = 1_000_000
MAX_RATIO = 100  # unpacked over packed size: weights hardly compress
RATIO_FROM_BYTES = 20_000_000
_BLOCK_BYTES = 1 << 20
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


def read(archive: Path, progress: Progress = lambda _: None) -> tuple[str, str]:
    """Import a zip that `write` wrote into the cache, atomically -> (digest, the name of its model on this device).

    Raises ArtefactError.
    """
    name = archive.name
    try:
        too_many = f"{name} holds more than {MAX_FILES} files. Allowed: what `artefacts export` wrote."
        if unzip.directory_entries(archive) > MAX_LISTED:
            raise ArtefactError(too_many)
        with zipfile.ZipFile(archive) as packed:
            if len(packed.infolist()) > MAX_FILES:
                raise ArtefactError(too_many)
            entries = _entries(packed, name)
            manifest = _manifest(packed, entries, name)
            _check_files(entries, manifest, archive)
            digest = recipe.digest_of(manifest)
            if not (cache.folder(digest) / MANIFEST).is_file():
                _unpack(packed, manifest, digest, name, progress)
    except ArtefactError:
        raise
    except Exception as e:  # zipfile raises many types of error on malformed files
        raise ArtefactError(
            f"{name} can't be read ({type(e).__name__}: {e}). Allowed: a zip that `python -m bench artefacts export` "
            "wrote. Copy it again, and see that this device has free space."
        ) from e
    try:
        mark = json.loads((cache.folder(digest) / catalogue.IMPORTED).read_text())
    except OSError:  # it was built on this device earlier
        mark = {"name": ""}
    return digest, mark["name"] or manifest["model"]


def _entries(packed: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """Return the zip's entries by name. Raises ArtefactError for anything but plain, allowed files."""
    entries: dict[str, zipfile.ZipInfo] = {}
    for entry in packed.infolist():
        file, kind = entry.filename, stat.S_IFMT(entry.external_attr >> 16)
        if not _NAME.fullmatch(file) or file != entry.orig_filename or file == catalogue.IMPORTED:
            raise ArtefactError(f"{name} holds “{file}”. Allowed: files without folders, by plain names.")
        if kind not in (0, stat.S_IFREG):
            raise ArtefactError(f"{name} holds “{file}”, which is no plain file. Export the artefact again.")
        if file not in (MANIFEST, README) and not file.lower().endswith(ENDINGS):
            raise ArtefactError(f"{name} holds “{file}”. Allowed endings: {', '.join(ENDINGS)}.")
        if entry.flag_bits & 1:
            raise ArtefactError(f"{name} is encrypted (“{file}”). Zip it without a password.")
        # Other methods can expand a few bytes into a block of any size before it can be counted.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArtefactError(f"{name} packs “{file}” in an unusual way. Allowed: stored or deflated.")
        if file in entries:
            raise ArtefactError(f"{name} holds “{file}” twice. Export the artefact again.")
        entries[file] = entry
    return entries


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


def _check_files(entries: Mapping[str, zipfile.ZipInfo], manifest: Mapping[str, Any], archive: Path) -> None:
    """Raise ArtefactError if the files differ from the manifest's, or are too large."""
    name, files = archive.name, manifest["files"]
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
    total = sum(expected["bytes"] for expected in files.values())
    if total > MAX_BYTES:
        raise ArtefactError(f"{name} unpacks to {in_words(total)}; allowed: {in_words(MAX_BYTES)}.")
    if total > max(MAX_RATIO * archive.stat().st_size, RATIO_FROM_BYTES):
        raise ArtefactError(f"{name} grows to more than {MAX_RATIO} times its size, as no weights do.")
    cache.home().mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(cache.home()).free):
        raise ArtefactError(f"{name} unpacks to {in_words(total)}, and {in_words(free)} are free here. Make room.")


def _unpack(packed: zipfile.ZipFile, manifest: Mapping[str, Any], digest: str, name: str, progress: Progress) -> None:
    """Unpack the files into the cache, checking each against its digest as it is written. Raises ArtefactError."""
    directory = cache.folder(digest)
    partial = directory.with_name(f".{digest}.{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        for file, expected in manifest["files"].items():
            progress(f"reading {file}")
            with packed.open(file) as source, (partial / file).open("xb") as sink:
                if _copy(source, sink, expected["bytes"]) != expected["sha256"]:
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


def _copy(source: Any, sink: BinaryIO, limit: int) -> str:
    """Copy at most `limit` + 1 bytes -> the SHA-256 of the bytes copied."""
    digest, left = hashlib.sha256(), limit + 1
    while left and (block := source.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        sink.write(block)
        left -= len(block)
    return digest.hexdigest()


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
