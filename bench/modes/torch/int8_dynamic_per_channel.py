"""Dynamic int8 of the linear layers by `quantize_dynamic`, with one scale per output channel.

Like `int8_dynamic`, but with a scale per row of a weight matrix, so that a row of small weights is not rounded with the
step of the largest row. It costs a few kilobytes and almost no time.
"""

from __future__ import annotations

from dataclasses import replace

from bench.modes.mode import Precision
from bench.modes.torch import dynamic, int8_dynamic

_CODE = """from torch.ao.quantization import per_channel_dynamic_qconfig

model = torch.quantization.quantize_dynamic(model, {torch.nn.Linear: per_channel_dynamic_qconfig}, dtype=torch.qint8)"""


class Int8DynamicPerChannel(dynamic.DynamicMode):
    """See the module."""

    PER_CHANNEL = True
    SPEC = replace(
        int8_dynamic.MODE.SPEC,
        name="torch-int8-dynamic-per-channel",
        label="int8 dynamic, linear layers, per channel (PyTorch)",
        weights=Precision(
            8,
            "weights of the linear layers become 8-bit integers, one scale per row; everything else stays fp32",
        ),
        min_snr_db=28.0,
        first=False,
        code=_CODE,
    )


MODE = Int8DynamicPerChannel()
