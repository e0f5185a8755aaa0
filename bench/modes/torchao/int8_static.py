"""Static int8 of linear layers and convolutions by PyTorch's export flow (PT2E), run by torch.compile.

Weights are int8 with one symmetric scale per row (Arm: one per tensor). Activations are uint8 (Arm: int8) with ranges
from histogram observers on calibration clips. The artefact holds integers, scales and ranges. To open it, every
quantized layer in the skeleton is replaced by PT2E's reference pattern (quantize the input, dequantize input and
weight, multiply), which torch.compile replaces by oneDNN's 8-bit products. Storing the whole exported program is not an
option, because `torch.export.load` unpickles.

The first convolutions of the feature extractor stay float by default, because int8 reduces their accuracy. The
positional convolution always stays float: compiled to 8 bits, grouped convolutions give wrong results (torch 2.13). So
do 1-d convolutions, which is why 2-d ones of height 1 are used.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.core.records import Coverage
from bench.core.specs import Placement, Setting
from bench.families.family import Config, Family
from bench.families.network import Network, Profile
from bench.modes.mode import (
    Cost,
    Data,
    Exercise,
    ModeError,
    ModeSpec,
    Needs,
    Option,
    Precision,
    Progress,
    calibration,
    several_networks,
)
from bench.modes.torch import compiled
from bench.modes.torch import engine as torch_engine
from bench.modes.torchao import engine

if TYPE_CHECKING:
    from torch import nn

WARM_SIZE = 2.0  # of the pass that compiles: long enough that longer inputs use the same convolution


class Int8Static(torch_engine.TorchMode):
    """See the module."""

    SPEC = ModeSpec(
        name="torch-int8-static",
        label="int8 static, linear layers and convolutions (PyTorch, compiled)",
        engine="torch",
        weights=Precision(
            8,
            "weights of the linear layers and of the feature extractor's last convolutions become 8-bit integers; its "
            "first four convolutions and the positional one stay fp32",
        ),
        activations=Precision(
            8, "8-bit integers into the same layers, with ranges calibrated on clips; fp32 elsewhere"
        ),
        needs=Needs(packages=("torch", "transformers", "torchao", "safetensors"), compiles=True),
        # Measured: building took 0.6 GB for the demo model and 1.3 GB for base; compiling base afterwards, to count its
        # coverage, took 1.5 GB.
        cost=Cost(memory_bytes=600_000_000, memory_copies=2.5, disk_copies=1.0),
        stores={"convolution": 22, "linear": 8, "": 32},
        settings={
            **calibration(8),
            "float_convs": Option(4, "how many of the feature extractor's first convolutions stay float", 0, 7),
        },
        offered=({"float_convs": 0},),
        data="examples",
        float_reference="torch-fp32",
        min_snr_db=20.0,
        min_random_snr_db=1.0,  # as for onnx-int8-static, but peaks are not clipped
        code="""import torch._inductor.config
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

# The linear layers; Earbench also makes 2-d convolutions of height 1 of the extractor's, which the quantizer takes.
quantizer = x86.X86InductorQuantizer().set_global(x86.get_default_x86_inductor_quantization_config())
with torch.no_grad():
    exported = torch.export.export(model, (audio,)).module()
    prepared = prepare_pt2e(exported, quantizer)
    prepared(audio)  # calibration: speech belongs here
    torch._inductor.config.freezing = True
    model = torch.compile(convert_pt2e(prepared))
    model(audio)  # compiles""",
        code_differs="it is calibrated on its own input, Earbench on clips; its convolutions stay float",
        open_code="""import torch._inductor.config
from safetensors import safe_open
from torch.ao.quantization.fx import _decomposed  # defines the operators below

ops = torch.ops.quantized_decomposed
with safe_open("model.safetensors", framework="pt") as file:
    tensors = {name: file.get_tensor(name) for name in file.keys()}
    low, high, dtype = json.loads(file.metadata()["activations"])


class Rounded(torch.nn.Module):
    def __init__(self, layer, weight, weight_scale, input_scale, input_zero, bias=None):
        super().__init__()
        self.weight, self.weight_scale, self.bias = weight, weight_scale, bias
        self.zero = torch.zeros_like(weight_scale, dtype=torch.int64)
        self.input = float(input_scale), int(input_zero), low, high, getattr(torch, dtype)
        self.stride = None if weight.dim() == 2 else (1, *layer.stride)

    def forward(self, x):
        x = x if self.stride is None else x.unsqueeze(2)
        x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *self.input), *self.input)
        weight = ops.dequantize_per_channel(self.weight, self.weight_scale, self.zero, 0, -128, 127, torch.int8)
        if self.stride is None:
            return torch.nn.functional.linear(x, weight, self.bias)
        return torch.nn.functional.conv2d(x, weight, self.bias, self.stride).squeeze(2)


layers = {}
for name in [n.removesuffix(".input_scale") for n in tensors if n.endswith(".input_scale")]:
    buffers = {n.rpartition(".")[2]: tensors.pop(n) for n in list(tensors) if n.rpartition(".")[0] == name}
    layers[name] = Rounded(model.get_submodule(name), **buffers)
    model.set_submodule(name, torch.nn.Identity())
model.load_state_dict(tensors, assign=True)
for name, layer in layers.items():
    model.set_submodule(name, layer)
torch._inductor.config.freezing = True
model = torch.compile(model, dynamic=True)""",
    )

    def check(self) -> str:
        """Return a remark that opening compiles. Raises RuntimeError without a C++ compiler."""
        remarks = [compiled.check(), "" if _arm() else engine.range_remark()]
        return "; ".join(filter(None, remarks))

    def supports(self, family: Family, config: Config) -> str:
        """See Mode."""
        return several_networks(family, config)

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Export, calibrate on the examples, convert, and write the tensors. Raises ModeError without examples."""
        import torch
        from safetensors.torch import save_file
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        ((name, model),) = source.items()
        (network,) = family.read_networks(out)
        feeds = [feed for feed, _ in data.examples]
        if not feeds:
            raise ModeError(
                f"{self.name} is calibrated on clips, and none came. Name a folder of them in its setting “data”."
            )
        names = [port.name for port in network.inputs]
        convs = _flatten(model, network.sensitive, int(settings["float_convs"]))
        with torch.no_grad():
            progress("exporting the graph")
            exported = torch.export.export(
                torch_engine.tensors_alone(model, network),
                tuple(torch.from_numpy(feeds[0][n]) for n in names),
                dynamic_shapes={n: _dynamic(network, n) for n in names},
                prefer_deferred_runtime_asserts_over_guards=True,
            ).module()
            prepared = prepare_pt2e(exported, _quantizer())
            for number, feed in enumerate(feeds, 1):
                progress(f"observing clip {number} of {len(feeds)}")
                prepared(*(torch.from_numpy(feed[n]) for n in names))
            progress("converting")
            converted = convert_pt2e(prepared)
        tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
        layers, activations = _layers(converted)
        for layer, layer_tensors in layers.items():
            tensors |= {f"{layer}.{key}": tensor for key, tensor in layer_tensors.items()}
        progress("writing the weights")
        save_file(tensors, out / f"{name}{torch_engine.ENDING}", {"activations": json.dumps(activations)})
        return {"layers": f"{len(layers)}, {len(convs)} of them convolutions", "activations": f"{activations[2]}"}

    def open(
        self, directory: Path, placement: Placement, family: Family, networks: Sequence[Network]
    ) -> Mapping[str, compiled.CompiledOpened]:
        """Open an artefact and compile it for all lengths at batch 1, which takes seconds to minutes."""
        (network,) = networks
        opened = compiled.CompiledOpened(reference(directory, family), network, placement)
        opened.start()(family.inputs(WARM_SIZE, 1, 0, "noise", family.read_files(directory)))
        return {network.name: opened}

    def coverage(self, opened: Mapping[str, Any], profile: Profile, exercise: Exercise) -> Coverage:
        """See Mode; weights are counted in the layers, activations by the operators of the compiled graph."""
        ran = {name: o.ran for name, o in opened.items()}
        return torch_engine.count(opened, profile, exercise, self.quantized, ran)

    def quantized(self, module: Any) -> tuple[int, int, int] | None:
        """See TorchMode."""
        if getattr(module, "weight_scale", None) is None:
            return None
        return module.weight.itemsize * 8, module.weight.numel(), 0 if module.bias is None else module.bias.numel()


MODE = Int8Static()


def reference(directory: Path, family: Family) -> nn.Module:
    """Return the module with quantized layers in PT2E's reference pattern; it also runs uncompiled, but slowly."""
    from safetensors import safe_open
    from torch import nn

    ((name, module),) = family.skeleton(directory).items()
    with safe_open(directory / f"{name}{torch_engine.ENDING}", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        activations = json.loads(file.metadata()["activations"])
    layers = dict[str, nn.Module]()
    for name in [n.removesuffix(".input_scale") for n in tensors if n.endswith(".input_scale")]:
        layer_tensors = {n.rpartition(".")[2]: tensors.pop(n) for n in list(tensors) if n.rpartition(".")[0] == name}
        layers[name] = _rounded(module.get_submodule(name), layer_tensors, activations)
        module.set_submodule(name, nn.Identity())
    module.load_state_dict(tensors, assign=True)
    for name, layer in layers.items():
        module.set_submodule(name, layer)
    return module.eval()


def _dynamic(network: Network, name: str) -> dict[int, Any]:
    """Return the free dimensions of an input, except the batch, which is 1."""
    import torch

    (port,) = (p for p in network.inputs if p.name == name)
    # PT2E's observers need longer clips than the network itself.
    free = {i: d for i, d in enumerate(port.shape) if i and not isinstance(d, int)}
    return {i: torch.export.Dim(d.name, min=1000, max=16_000 * 3600) for i, d in free.items()}


def _arm() -> bool:
    return platform.machine().lower() in ("aarch64", "arm64")


def _quantizer() -> Any:
    """Return the processor's quantizer, extended to convolutions without an activation function that it can fuse."""
    import torch

    config: Any
    base: Any
    if _arm():
        from torchao.quantization.pt2e.quantizer import arm_inductor_quantizer as arm

        base, config = arm.ArmInductorQuantizer, arm.get_default_arm_inductor_quantization_config()
    else:
        from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

        base = x86.X86InductorQuantizer
        config = x86.get_default_x86_inductor_quantization_config(reduce_range=engine.reduced_range())

    class WithConvolutions(base):  # type: ignore[misc]
        def annotate(self, model: Any) -> Any:
            super().annotate(model)
            for node in model.graph.nodes:
                if node.target is torch.ops.aten.conv2d.default:
                    self._annotate_conv_node_helper(node, True, config)
            return model

    return WithConvolutions().set_global(config)


def _flatten(model: nn.Module, sensitive: Sequence[str], float_convs: int) -> list[str]:
    """Replace the sensitive convolutions after the first `float_convs` by 2-d ones, which the quantizer supports.

    Returns their names.
    """
    import torch
    from torch import nn

    class Flat(nn.Module):  # type: ignore[misc]
        def __init__(self, conv: nn.Conv1d) -> None:
            super().__init__()
            self.weight, self.bias, self.stride = nn.Parameter(conv.weight.unsqueeze(2)), conv.bias, (1, *conv.stride)

        def forward(self, x: Any) -> Any:
            return torch.nn.functional.conv2d(x.unsqueeze(2), self.weight, self.bias, self.stride).squeeze(2)

    convs = [name for name in sensitive if isinstance(model.get_submodule(name), nn.Conv1d)][float_convs:]
    for name in convs:
        conv: Any = model.get_submodule(name)
        model.set_submodule(name, Flat(conv))
    return convs


def _layers(converted: Any) -> tuple[dict[str, dict[str, Any]], tuple[int, int, str]]:
    """Return (integers, scales and ranges of a converted graph by module, activations' (lowest, highest, type))."""
    import torch

    aten, ops = torch.ops.aten, torch.ops.quantized_decomposed
    layers: dict[str, dict[str, Any]] = {}
    kinds: set[tuple[int, int, str]] = set()

    def constant(node: Any) -> Any:
        return getattr(converted, node.target) if isinstance(node, torch.fx.Node) else node

    for node in converted.graph.nodes:
        if node.target not in (aten.linear.default, aten.conv2d.default):
            continue
        x, w = node.args[:2]
        if x.target is not ops.dequantize_per_tensor.default:
            continue
        name = list(node.meta["nn_module_stack"].values())[-1][0].partition(".")[2]  # without the wrapper's name
        _, scale, zero, low, high, dtype = x.args
        kinds.add((low, high, str(dtype).removeprefix("torch.")))
        weight, rows = constant(w.args[0]).data, len(constant(w.args[0]))
        weight_scale = torch.as_tensor(constant(w.args[1]), dtype=torch.float32).expand(rows)  # Arm: one per tensor
        layers[name] = {
            "weight": weight.contiguous(),
            "weight_scale": weight_scale.contiguous(),
            "input_scale": torch.tensor(scale, dtype=torch.float64),
            "input_zero": torch.tensor(zero, dtype=torch.int32),
        }
    (kind,) = kinds
    return layers, kind


def _rounded(layer: Any, tensors: dict[str, Any], activations: tuple[int, int, str]) -> nn.Module:
    """Return a layer that quantizes its input and has an integer weight, in the pattern that inductor recognises."""
    import torch
    import torch.ao.quantization.fx._decomposed  # defines the operators
    from torch import nn

    ops = torch.ops.quantized_decomposed
    low, high, dtype = activations
    input_grid = float(tensors["input_scale"]), int(tensors["input_zero"]), low, high, getattr(torch, dtype)
    stride = None if tensors["weight"].dim() == 2 else (1, *layer.stride)

    class Rounded(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.weight_scale = nn.Buffer(tensors["weight"]), nn.Buffer(tensors["weight_scale"])
            self.zero = nn.Buffer(torch.zeros_like(tensors["weight_scale"], dtype=torch.int64))
            self.bias = nn.Parameter(tensors["bias"]) if "bias" in tensors else None

        def forward(self, x: Any) -> Any:
            x = x if stride is None else x.unsqueeze(2)  # (batch, channels, 1, frames)
            x = ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *input_grid), *input_grid)
            weight = ops.dequantize_per_channel(self.weight, self.weight_scale, self.zero, 0, -128, 127, torch.int8)
            if stride is None:
                return torch.nn.functional.linear(x, weight, self.bias)
            return torch.nn.functional.conv2d(x, weight, self.bias, stride).squeeze(2)

    return Rounded()
