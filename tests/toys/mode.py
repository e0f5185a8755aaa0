"""A mode on an engine of its own: NumPy multiplies weights that are stored in 16 bits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.core.records import Coverage
from bench.core.specs import Placement, Setting
from bench.families.family import Config, Family
from bench.families.network import Feed, Network, Profile
from bench.modes.mode import Cost, Data, Exercise, Mode, ModeError, ModeSpec, Needs, Option, Precision, Progress
from bench.modes.torch import engine


class Halves:
    """PyTorch does the work; what is stored in 16 bits becomes 32 again when it is opened."""

    def __init__(self, opened: engine.TorchOpened) -> None:
        self.opened = opened

    def start(self) -> Callable[[Feed], Feed]:
        return self.opened.start()


class Toy(Mode):
    """See the module."""

    SPEC = ModeSpec(
        name="toy-halves",
        label="fp16 in the file (toy engine)",
        engine="toy",
        weights=Precision(16, "all weights are stored in 16 bits"),
        activations=Precision(32, "32-bit floating point"),
        needs=Needs(packages=("torch", "safetensors")),
        cost=Cost(memory_bytes=450_000_000, memory_copies=2.2, disk_copies=1.0),
        stores={"": 16},
        settings={"scale": Option(1.0, "what weights are multiplied with before they are rounded", 0.5, 2.0)},
        min_snr_db=40.0,
    )

    def check(self) -> str:
        return "a toy"

    def supports(self, family: Family, config: Config) -> str:
        return "it takes no more than a thousand words" if config["vocab_size"] > 1000 else ""

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        import torch
        from safetensors.torch import save_file

        scale = float(settings["scale"])
        for name, module in source.items():
            weights = {k: (w * scale).to(torch.float16).contiguous() for k, w in module.state_dict().items()}
            if any(w.isinf().any() for w in weights.values()):
                raise ModeError(f"{self.name}: a weight of {name} is larger than 16 bits hold. Choose a smaller scale.")
            save_file(weights, out / f"{name}.toy.safetensors")
        (out / "scale.txt").write_text(str(scale))
        return {"scale": str(scale)}

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, Halves]:
        from safetensors.torch import load_file

        scale, skeleton = float((directory / "scale.txt").read_text()), family.skeleton(directory)
        opened = {}
        for network in networks:
            file, module = directory / f"{network.name}.toy.safetensors", skeleton[network.name]
            module.load_state_dict({k: w.float() / scale for k, w in load_file(file).items()}, assign=True)
            opened[network.name] = Halves(engine.TorchOpened(module, network, placement, file))
        return opened

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        return engine.count({n: halves.opened for n, halves in opened.items()}, profile, exercise, lambda module: None)


MODE = Toy()
