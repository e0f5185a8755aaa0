"""Static int8 of linear layers and convolutions on ONNX Runtime: activation ranges are calibrated during the build.

Weights are int8 with one scale per output channel. Activations have one step per tensor in linear layers and one per
channel in convolutions (see `channel_scales`), as QuantizeLinear and DequantizeLinear around every product, which ONNX
Runtime fuses into integer kernels. The products of attention, whose factors are both activations, stay float.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.core.specs import Setting
from bench.families.family import Array, Family
from bench.families.network import Feed, Network
from bench.modes.mode import Cost, Data, ModeSpec, Needs, Option, Precision, Progress, calibration
from bench.modes.onnx import channel_convs, engine, export, integers, watch

_LINEAR_QUANTILE = 1e-5  # for the encoder's activations, whose few peaks must be kept


class Int8Static(engine.OnnxMode):
    """See the module."""

    SPEC = ModeSpec(
        name="onnx-int8-static",
        label="int8 static, linear layers and convolutions (ONNX Runtime)",
        engine="onnx",
        weights=Precision(
            8,
            "weights of the linear layers and of the feature extractor's convolutions become 8-bit integers, one scale "
            "an output channel; its first convolution and the positional one stay fp32",
        ),
        activations=Precision(
            8,
            "8-bit integers inside what is quantized, with ranges calibrated on clips: one per channel in the "
            "feature extractor, one per tensor in linear layers; fp32 elsewhere",
        ),
        needs=Needs(packages=("onnxruntime",), build_packages=("onnx",)),
        cost=Cost(memory_bytes=200_000_000, memory_copies=4.2, disk_copies=1.2),
        stores={"linear": 8, "convolution": 8, "": 32},
        settings={
            **calibration(16),
            "float_convs": Option(
                1, "how many of the feature extractor's first convolutions stay float: 7 are all", 0, 7
            ),
            "ranges": Option(
                "channel",
                "of the feature extractor's activations: one per channel with the least error, or one per tensor from "
                "the least to the greatest value of all clips, as is usual",
                allowed=("channel", "minmax"),
            ),
        },
        offered=({"float_convs": 0, "ranges": "minmax"},),
        base="onnx-fp32",
        data="examples",
        float_reference="onnx-fp32",
        min_snr_db=15.0,
        min_random_snr_db=3.0,  # frames of a random extractor differ far less than its activations peak
        version=2,
        code=export.code(
            """import onnx
from onnxruntime.quantization import QuantType, quantize_static


class Reader:
    clips = iter([audio.numpy()])  # calibrate on speech of your own

    def get_next(self):
        x = next(self.clips, None)
        return None if x is None else {session.get_inputs()[0].name: x}


session = onnxruntime.InferenceSession("model.onnx")
convs = [node.name for node in onnx.load("model.onnx").graph.node if node.op_type == "Conv"]
# One range a tensor: Earbench gives the feature extractor's convolutions one a channel.
quantize_static(
    "model.onnx", "model.onnx", Reader(), per_channel=True, op_types_to_quantize=["MatMul", "Conv"],
    activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8, nodes_to_exclude=[convs[0], convs[-1]],
    extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul"], "MatMulConstBOnly": True},
)"""
        ),
        code_differs="it is calibrated on its own input, Earbench on clips; its convolutions have one range a tensor",
        open_code=engine.OPEN_CODE,
    )

    def check(self) -> str:
        """Return a remark if the range is reduced to 7 bits here."""
        return integers.remark()

    def build(
        self, source: Any, family: Family, data: Data, settings: Mapping[str, Setting], out: Path, progress: Progress
    ) -> dict[str, str]:
        """Calibrate ranges on the examples, then quantize every product with a weight except the first convolutions."""
        for network in family.read_networks(out):
            _quantize(source, network, data.feeds[network.name], settings, out, progress)
        return {
            "range": "7 bits" if integers.reduced() else "8 bits",
            "calibrated on": f"{len(data.examples)} clips",
        }


MODE = Int8Static()


def _quantize(
    base: Path,
    network: Network,
    feeds: Sequence[Feed],
    settings: Mapping[str, Setting],
    out: Path,
    progress: Progress,
) -> None:
    """Quantize and write one network."""
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantType, quantize_static
    from onnxruntime.quantization.calibrate import TensorsData, save_tensors_data

    name = f"{network.name}{engine.ENDING}"
    source, signed = base / name, not integers.x86()
    with integers.scraps(out), tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        graph = onnx.load(source).graph
        weights = {tensor.name for tensor in graph.initializer}
        # Names of nodes, inputs and outputs only, so that no reference keeps the weights in memory.
        convs = {
            n.name: (n.input[0], n.output[0])
            for n in watch.convolutions(graph, network.sensitive)[int(settings["float_convs"]) :]
        }
        linears = {n.name: n.input[0] for n in graph.node if n.op_type == "MatMul" and n.input[1] in weights}
        gelus = watch.into_gelu(graph)
        del graph
        by_channel = settings["ranges"] == "channel"
        conv_tensors = dict.fromkeys(name for pair in convs.values() for name in pair)
        gelu_only = {name: name in gelus for name in conv_tensors} if by_channel else {}
        grids = watch.grids(source, gelu_only, feeds, folder, progress)
        shares = dict.fromkeys(linears.values(), _LINEAR_QUANTILE)
        if not by_channel:
            shares |= dict.fromkeys(conv_tensors, 0.0)
        ranges = _ranges(source, shares, feeds, folder, progress)
        ranges_file = folder / "ranges.json"
        tensors = {name: tuple(np.array(end, np.float32) for end in ends) for name, ends in ranges.items()}
        save_tensors_data(TensorsData(CalibrationMethod.MinMax, tensors), ranges_file)
        progress("quantizing")
        quantize_static(
            source,
            out / name,
            nodes_to_quantize=[*linears] if by_channel else [*convs, *linears],
            per_channel=True,
            reduce_range=integers.reduced(),
            activation_type=QuantType.QInt8 if signed else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibration_cache_path=ranges_file,
            extra_options={
                "ActivationSymmetric": signed,
                # Outputs of linear layers are not quantized: the sums of the residual path stay float.
                "OpTypesToExcludeOutputQuantization": ["MatMul"],
            },
        )
    model = onnx.load(out / name)
    if by_channel:
        levels = 63 if integers.reduced() else 127
        for node in [node for node in model.graph.node if node.name in convs]:
            input_grid, output_grid = (grids[tensor] for tensor in convs[node.name])
            channel_convs.quantize(model.graph, node, input_grid, output_grid, signed=signed, levels=levels)
    progress("writing the weights")
    integers.save(model, out / name)


def _ranges(
    source: Path, shares: Mapping[str, float], feeds: Sequence[Feed], folder: Path, progress: Progress
) -> dict[str, tuple[float, float]]:
    """Return (lowest, highest) by name for every activation that is quantized with one step per tensor.

    Each end is the mean over feeds of a quantile of the feed, with that share of its values beyond it. If the share is
    0, it is the most extreme value of all feeds.
    """
    ends: dict[str, list[Any]] = {name: [] for name in shares}

    def look(name: str, values: Array) -> None:
        if values.size:  # a cache is empty at first
            ends[name].append(np.quantile(values, (shares[name], 1 - shares[name])))

    watch.watch(source, shares, feeds, folder, progress, look)
    extremes = {name: (np.min(clip_ends, axis=0)[0], np.max(clip_ends, axis=0)[1]) for name, clip_ends in ends.items()}
    return {
        name: tuple(np.mean(clip_ends, axis=0)) if shares[name] else extremes[name] for name, clip_ends in ends.items()
    }
