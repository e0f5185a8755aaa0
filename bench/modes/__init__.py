"""Quantization modes: one file each. To add one, write a file with a `MODE` (see `mode.Mode`) and list it below.

Modes import their engine inside functions, so that importing this list is cheap. Their order is the menu's order; the
first is the original that all others are compared with.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Container, Mapping
from functools import lru_cache

from bench.core import extras
from bench.core.specs import Setting, Variant, spelled
from bench.families.family import Config, Family
from bench.modes.mode import Mode, ModeError

# OpenVINO and NNCF send usage telemetry over the network if this package can be imported. This entry makes the import
# fail, which they tolerate; it also saves a worker 7 MB.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


# The files of the modes below this package, in the menu's order.
ORDER = (
    "torch.fp32",
    "torch.bf16",
    "torch.int8_dynamic",
    "torch.int8_dynamic_per_channel",
    "torchao.int8_dynamic",
    "torchao.int8_weight_only",
    "torchao.int8_static",
    "torchao.int8_qat",
    "onnx.fp32",
    "onnx.int8_dynamic",
    "onnx.int8_static",
    "onnx.int4",
    "openvino.fp32",
    "openvino.bf16",
    "openvino.int8_weight_only",
    "openvino.int8_static",
)
# Those that gain most on common processors, the best first. The first that runs and can be built here is shown beside
# the lab's modes on a first visit.
FASTEST = ("openvino.int8_static", "onnx.int8_static")


def modes() -> dict[str, Mode]:
    """Return all modes by name, in the menu's order."""
    return extras.with_own(_listed(), "MODE", lambda mode: mode.name)


@lru_cache(maxsize=1)
def _listed() -> tuple[Mode, ...]:
    return tuple(importlib.import_module(f"{__name__}.{file}").MODE for file in ORDER)


def original() -> str:
    """Return the name of the mode that all others are compared with by default."""
    return next(iter(modes()))


def first() -> tuple[str, ...]:
    """Return the names of the modes that are selected by default: those that a quantization lab compares."""
    return tuple(name for name, mode in modes().items() if mode.SPEC.first)


def fastest(usable: Container[str]) -> str:
    """Return the name of the usable mode that gains most on common processors; "" if none of them is usable."""
    names = (importlib.import_module(f"{__name__}.{file}").MODE.name for file in FASTEST)
    return next((name for name in names if name in usable), "")


def find(name: str) -> Mode:
    """Return the mode of a name. Raises ModeError."""
    by_name = modes()
    if name not in by_name:
        raise ModeError(f"There is no mode “{name}”. Allowed: {', '.join(by_name)}.")
    return by_name[name]


def check(variant: Variant) -> None:
    """Raise ModeError for an unknown mode, an unknown setting or a value that is not allowed."""
    complete(find(variant.mode), dict(variant.settings))


def refuse_unsupported(mode: Mode, family: Family, config: Config, model: str) -> None:
    """Raise ModeError if a mode, or the base that it is built from, does not support a model."""
    for part in (mode, *([find(mode.SPEC.base)] if mode.SPEC.base else [])):
        if reason := part.supports(family, config):
            raise ModeError(f"{mode.name} does not support {model}: {reason}. Choose another mode.")


def complete(mode: Mode, values: Mapping[str, Setting]) -> dict[str, Setting]:
    """Return all settings of a mode: `values` where present, else defaults. Raises ModeError."""
    settings = mode.SPEC.settings
    for name in values:
        if name not in settings:
            allowed = ", ".join(settings) or "none: this mode has nothing to set"
            raise ModeError(f"{mode.name} has no setting “{name}”. Allowed: {allowed}.")
    return {name: option.read(name, values.get(name, option.default)) for name, option in settings.items()}


def menu() -> dict[str, str]:
    """Return the menu's entries, spelling -> label: every mode with its defaults, then with its offered settings."""
    labels = {}
    for name, mode in modes().items():
        labels[name] = mode.SPEC.label
        for settings in mode.SPEC.offered:
            labels[spelled(name, settings)] = (
                f"{mode.SPEC.label}, {', '.join(f'{k} = {v}' for k, v in settings.items())}"
            )
    return labels
