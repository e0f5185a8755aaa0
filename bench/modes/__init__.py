"""Quantization modes: one file each. To add one, write a file with a `MODE` (see `mode.Mode`) and a line below.

Modes import their engine inside functions, so that reading this list costs nothing. Their order is the menu's order;
the first one is the original that all are compared with.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from functools import lru_cache

from bench.core import extras
from bench.core.specs import Setting, Variant, spelled
from bench.families.family import Config, Family
from bench.modes.mode import Mode, ModeError

# OpenVINO and NNCF tell their makers over the network how they are used if this package can be imported: now it can't.
# They do without, and a worker takes 7 MB less.
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


def modes() -> dict[str, Mode]:
    """All modes by name, in the menu's order."""
    return {mode.name: mode for mode in (*_listed(), *extras.named("MODE"))}


@lru_cache(maxsize=1)
def _listed() -> tuple[Mode, ...]:
    return tuple(importlib.import_module(f"{__name__}.{file}").MODE for file in ORDER)


def original() -> str:
    """The mode that all others are compared with by default."""
    return next(iter(modes()))


def first() -> tuple[str, ...]:
    """The modes that menus and commands begin with: what a quantization lab compares."""
    return tuple(name for name, mode in modes().items() if mode.SPEC.first)


def find(name: str) -> Mode:
    """The mode of a name. Raises ModeError."""
    by_name = modes()
    if name not in by_name:
        raise ModeError(f"There is no mode “{name}”. Allowed: {', '.join(by_name)}.")
    return by_name[name]


def check(variant: Variant) -> None:
    """Raises ModeError for a mode or a setting that there is not."""
    complete(find(variant.mode), dict(variant.settings))


def refuse_unsupported(mode: Mode, family: Family, config: Config, model: str) -> None:
    """Raises ModeError where a mode does not fit a model, or what it is built from does not."""
    for part in (mode, *([find(mode.SPEC.base)] if mode.SPEC.base else [])):
        if reason := part.supports(family, config):
            raise ModeError(f"{mode.name} can't be had of {model}: {reason}. Choose another mode.")


def complete(mode: Mode, given: Mapping[str, Setting]) -> dict[str, Setting]:
    """Every setting of a mode, by what was given and by default. Raises ModeError."""
    settings = mode.SPEC.settings
    for name in given:
        if name not in settings:
            allowed = ", ".join(settings) or "none: this mode has nothing to set"
            raise ModeError(f"{mode.name} has no setting “{name}”. Allowed: {allowed}.")
    return {name: o.read(name, given.get(name, o.default)) for name, o in settings.items()}


def menu() -> dict[str, str]:
    """What menus offer: every mode as it is, then with what it offers to be set; spelling -> label for people."""
    labels = {}
    for name, mode in modes().items():
        labels[name] = mode.SPEC.label
        for given in mode.SPEC.offered:
            labels[spelled(name, given)] = f"{mode.SPEC.label}, {', '.join(f'{k} = {v}' for k, v in given.items())}"
    return labels
