"""Artefacts as zips: written here, taken in on another device, and read there without Earbench too.

What comes is data and is verified as such: names, kinds and sizes before anything is written, digests while it is
written, the configuration by reading it. Nothing in it is ever unpickled or run. Nobody can verify that the weights
are those of the checkpoint that it names: take in what you or people you trust have built.
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
ENDINGS = (".json", ".txt", ".safetensors", ".pt", ".onnx", ".data", ".xml", ".bin")  # data in every case
MAX_FILES = 64
MAX_LISTED = 20_000  # with those of zips within: a .pt is one, with an entry a tensor
MAX_BYTES = 20_000_000_000
MAX_MANIFEST_BYTES = 1_000_000
MAX_RATIO = 100  # unpacked over packed: weights hardly pack at all
RATIO_FROM_BYTES = 20_000_000
_BLOCK_BYTES = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
# What a manifest must have, and of which type.
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


# --- out


def write(digest: str, path: Path) -> None:
    """Write an artefact as a zip, wholly or not at all. Raises ArtefactError."""
    place, beside = cache.folder(digest), path.with_name(f".{path.name}.{os.getpid()}")
    try:
        known = cache.manifest_of(digest)
        if cache.coverage_file(digest).is_file():  # a device that can't build it may not be able to count it either
            known["coverage"] = json.loads(cache.coverage_file(digest).read_text())["coverage"]
        try:
            with zipfile.ZipFile(beside, "w", zipfile.ZIP_STORED) as packed:  # weights don't get smaller
                packed.writestr(MANIFEST, json.dumps(known, indent=1))
                packed.writestr(README, readme(known))
                for name in known["files"]:
                    packed.write(place / name, name)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
    except (OSError, ValueError, KeyError) as e:
        raise ArtefactError(
            f"{cache.folder(digest).name} can't be written to {path} ({e}). See that it still is in the list of "
            "artefacts, and that the file's folder exists and has room."
        ) from e


def file_name(known: Mapping[str, Any]) -> str:
    """A name for a manifest's zip that tells what is in it."""
    return re.sub(r"[^\w.=-]+", "-", f"{known['model']}-{_variant(known)}.zip")


def readme(known: Mapping[str, Any]) -> str:
    """How to open an artefact, for people who find the zip: with Earbench, and in plain code."""
    mode, family = modes.find(known["mode"]), families()[known["family"]]
    versions = "".join(f"- {name} {version}\n" for name, version in known["versions"].items())
    needs = " ".join(f"{p}=={known['versions'].get(p, '')}".removesuffix("==") for p in mode.SPEC.needs.packages)
    skeleton = f"{family.SKELETON_CODE}\n\n" if mode.SPEC.engine == "torch" else ""
    plain = f"""## Without Earbench

`pip install numpy soundfile {needs}`, unpack this zip, put a recording beside it as `speech.wav` (16 kHz, mono) and run
in its folder:

```python
{skeleton}{mode.SPEC.open_code}

{family.RUN_CODE}
```
"""
    return f"""# {known["model"]}, {_variant(known)}

{mode.SPEC.label}: {mode.SPEC.weights.text}. Activations: {mode.SPEC.activations.text}.

- weights: {known["checkpoint"]}
- built on {known["device"]}, {time.strftime("%Y-%m-%d", time.gmtime(known["built_s"]))}, in {known["build_s"]:.0f} s

with

{versions}
`{MANIFEST}` names every file with its size and its SHA-256.

## With Earbench

```sh
python -m bench artefacts import {file_name(known)}
```

On a device that has the same weights the mode is then opened from it instead of being built. Elsewhere the model is in
the list under a name of its own, which the command prints.

{plain if family.RUN_CODE else ""}"""


def _variant(known: Mapping[str, Any]) -> str:
    mode = modes.modes().get(known["mode"])
    usual = {name: option.default for name, option in mode.SPEC.settings.items()} if mode else {}
    return spelled(known["mode"], {k: v for k, v in known["settings"].items() if usual.get(k) != v})


# --- in


def read(archive: Path, progress: Progress = lambda _: None) -> tuple[str, str]:
    """Take in a zip that `write` wrote -> (digest, the name by which its model can be asked for here).

    It is in the cache wholly or not at all. Raises ArtefactError.
    """
    name = archive.name
    try:
        many = f"{name} holds more than {MAX_FILES} files. Allowed: what `artefacts export` wrote."
        if unzip.directory_entries(archive) > MAX_LISTED:
            raise ArtefactError(many)
        with zipfile.ZipFile(archive) as packed:
            if len(packed.infolist()) > MAX_FILES:
                raise ArtefactError(many)
            entries = _entries(packed, name)
            known = _manifest(packed, entries, name)
            _check_files(entries, known, archive)
            digest = recipe.digest_of(known)
            if not (cache.folder(digest) / MANIFEST).is_file():
                _unpack(packed, known, digest, name, progress)
    except ArtefactError:
        raise
    except Exception as e:  # what zipfile raises on a file made to break it is no short list
        raise ArtefactError(
            f"{name} can't be read ({type(e).__name__}: {e}). Allowed: a zip that `python -m bench artefacts export` "
            "wrote. Copy it again, and see that this device has free space."
        ) from e
    try:
        mark = json.loads((cache.folder(digest) / catalogue.IMPORTED).read_text())
    except OSError:  # it was built here before
        mark = {"name": ""}
    return digest, mark["name"] or known["model"]


def _entries(packed: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """The files of the zip by name, each of them plain."""
    found: dict[str, zipfile.ZipInfo] = {}
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
        # Other methods let a block of any size grow out of a few bytes before it could be counted.
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ArtefactError(f"{name} packs “{file}” in an unusual way. Allowed: stored or deflated.")
        if file in found:
            raise ArtefactError(f"{name} holds “{file}” twice. Export the artefact again.")
        found[file] = entry
    return found


def _manifest(packed: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo], name: str) -> dict[str, Any]:
    """What the zip says that it is, of a mode and a family that are here."""
    if MANIFEST not in entries:
        raise ArtefactError(
            f"{name} holds no {MANIFEST}, so it is no artefact. Allowed: a zip that `python -m bench artefacts export` "
            "wrote."
        )
    with packed.open(entries[MANIFEST]) as file:
        text = file.read(MAX_MANIFEST_BYTES + 1)
    if len(text) > MAX_MANIFEST_BYTES:
        raise ArtefactError(f"{name}: {MANIFEST} has more than {in_words(MAX_MANIFEST_BYTES)}, which is the limit.")
    known = json.loads(text)
    if not isinstance(known, dict):
        raise ArtefactError(f"{name}: {MANIFEST} is no JSON object. Export the artefact again.")
    for key, kind in _TYPES.items():
        if not isinstance(known.get(key, ...), kind):
            raise ArtefactError(f"{name}: {MANIFEST} has no proper “{key}”. Export the artefact again.")
    numbers = [known[key] for key in ("built_s", "build_s", "build_peak_rss_bytes", "build_disk_bytes")]
    if not all(x is None or 0 <= x < 1e15 for x in numbers):  # neither is what is not a number
        raise ArtefactError(f"{name}: {MANIFEST} has numbers that can't be. Export the artefact again.")
    plain = all(isinstance(text, str) for key in ("versions", "details") for text in known[key].values())
    if not plain or not re.fullmatch(r"[^\x00-\x1f]{1,200}", known["model"]):
        raise ArtefactError(f"{name}: {MANIFEST} has other things than texts where texts belong. Export it again.")
    known["details"].pop(cache.ELSEWHERE, None)
    mode = modes.modes().get(known["mode"])
    if mode is None or known["family"] not in families():
        raise ArtefactError(
            f"{name} holds {known['mode']} of a {known['family']} model, which this Earbench does not know. Allowed: "
            f"{', '.join(modes.modes())} of {', '.join(families())}. Use the same version of Earbench on both "
            "devices."
        )
    if known["mode version"] != mode.SPEC.version:
        raise ArtefactError(
            f"{name} holds {known['mode']} as version {known['mode version']} of that mode writes it, and here is "
            f"version {mode.SPEC.version}. Use the same version of Earbench on both devices, and build it anew."
        )
    try:
        complete = modes.complete(mode, known["settings"])
    except ModeError as e:
        raise ArtefactError(f"{name} does not fit this Earbench: {e}") from e
    if complete != known["settings"]:
        raise ArtefactError(f"{name} lacks settings of {known['mode']}. Export the artefact again.")
    if "coverage" in known:
        coverage_from(known["coverage"])
    return known


def _check_files(entries: Mapping[str, zipfile.ZipInfo], known: Mapping[str, Any], archive: Path) -> None:
    """Raises ArtefactError where the files are not those of the manifest, or too large."""
    name, files = archive.name, known["files"]
    for file, told in files.items():
        if not isinstance(told, dict) or type(told.get("bytes")) is not int or not isinstance(told.get("sha256"), str):
            raise ArtefactError(
                f"{name}: {MANIFEST} tells no size or no digest of “{file}”. Export the artefact again."
            )
    there = set(entries) - {MANIFEST, README}
    carried = families()[known["family"]].FILES
    if missing := sorted({*files, *carried} - there):
        raise ArtefactError(f"{name} lacks {', '.join(missing)}. Copy it again, or export the artefact again.")
    if added := sorted(there - set(files)):
        raise ArtefactError(f"{name} holds what {MANIFEST} does not name: {', '.join(added)}. Export it again.")
    for file, told in files.items():
        if entries[file].file_size != told["bytes"]:
            raise ArtefactError(
                f"{name}: “{file}” has {entries[file].file_size} bytes where {MANIFEST} says {told['bytes']}. Copy it "
                "again, or export the artefact again."
            )
    total = sum(told["bytes"] for told in files.values())
    if total > MAX_BYTES:
        raise ArtefactError(f"{name} unpacks to {in_words(total)}; allowed: {in_words(MAX_BYTES)}.")
    if total > max(MAX_RATIO * archive.stat().st_size, RATIO_FROM_BYTES):
        raise ArtefactError(f"{name} grows to more than {MAX_RATIO} times its size, as no weights do.")
    cache.home().mkdir(parents=True, exist_ok=True)
    if total > (free := shutil.disk_usage(cache.home()).free):
        raise ArtefactError(f"{name} unpacks to {in_words(total)}, and {in_words(free)} are free here. Make room.")


def _unpack(packed: zipfile.ZipFile, known: Mapping[str, Any], digest: str, name: str, progress: Progress) -> None:
    """The files into the cache, each compared with its digest while it is written."""
    place = cache.folder(digest)
    beside = place.with_name(f".{digest}.{os.getpid()}")
    beside.mkdir(parents=True)
    try:
        for file, told in known["files"].items():
            progress(f"reading {file}")
            with packed.open(file) as source, (beside / file).open("xb") as sink:
                if _copy(source, sink, told["bytes"]) != told["sha256"]:
                    raise ArtefactError(
                        f"{name}: “{file}” is not what {MANIFEST} says: it was damaged or changed on the way. Copy it "
                        "again, or export the artefact again."
                    )
        family = families()[known["family"]]
        for file in family.FILES:
            if file.endswith(".json") and not isinstance(json.loads((beside / file).read_text()), dict):
                raise ArtefactError(f"{name}: {file} is no JSON object. Export the artefact again.")
        config = json.loads((beside / CONFIG_FILE).read_text())
        try:
            family.check(config, name)
            family.networks(config), family.profile(config, family.COVERAGE_SIZE)
        except ModelError as e:
            raise ArtefactError(str(e)) from e
        except Exception as e:
            raise ArtefactError(f"{name}: {CONFIG_FILE} describes no {known['family']} model ({e!r}).") from e
        (beside / MANIFEST).write_text(json.dumps(known, indent=1))
        mark = {
            "name": _name_here(known),
            "mode": _variant(known),
            "family": known["family"],
            "checkpoint": known["checkpoint"],
            "imported_s": time.time(),
        }
        (beside / catalogue.IMPORTED).write_text(json.dumps(mark, indent=1))
        shutil.rmtree(place, ignore_errors=True)  # half of one, without a manifest
        beside.rename(place)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _copy(source: Any, sink: BinaryIO, limit: int) -> str:
    """Copy at most so many bytes and one -> the digest of what was copied."""
    digest, left = hashlib.sha256(), limit + 1
    while left and (block := source.read(min(left, _BLOCK_BYTES))):
        digest.update(block)
        sink.write(block)
        left -= len(block)
    return digest.hexdigest()


def _name_here(known: Mapping[str, Any]) -> str:
    """What the checkpoint is to be called here; "" if it is here under its own name, with the same weights."""
    for checkpoint in catalogue.catalogue():
        # What a hub's name stands for may change, and asking takes a network.
        if checkpoint.name == known["model"] and checkpoint.source in ("random", "folder"):
            identity, _ = catalogue.family(checkpoint).identity(checkpoint, lambda _: None)
            if identity == known["checkpoint"]:
                return ""
    plain = re.sub(r"[^\w./-]+", "-", known["model"])[:60]
    state = re.sub(r"\W", "", known["checkpoint"].split()[-1] if known["checkpoint"].split() else "")
    return f"{plain}@{state[:8]}"
