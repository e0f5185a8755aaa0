"""A Wav2Vec2ForCTC of a few thousand weights, whose norms and biases are seen by every exporter."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CONFIG = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "conv_dim": [32] * 7,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,  # of 24 channels; of 12, OpenVINO gets bf16 wrong on processors with AMX
    "initializer_range": 0.1,
}
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", "|", *"ETAONIHSRDLUMWCFGYPBVK'XJQZ"]
PREPARATION = {"do_normalize": True, "sampling_rate": 16000, "feature_size": 1, "padding_value": 0.0}


def save(folder: Path, config: Mapping[str, Any]) -> Path:
    """Write one of seeded weights into a folder, in Hugging Face format."""
    import torch
    from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

    torch.manual_seed(1)
    model = Wav2Vec2ForCTC(Wav2Vec2Config(**config))
    for parameter in model.parameters():
        if parameter.dim() == 1:  # new norms are ones and biases zeros, and no exporter keeps what does nothing
            torch.nn.init.normal_(parameter, mean=parameter.mean().item(), std=0.1)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPARATION))
    return folder
