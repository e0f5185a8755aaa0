"""The model: a small Wav2Vec2 with a CTC head, and what is added for training only."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor, nn
from transformers import Wav2Vec2Config, Wav2Vec2ForCTC

from training.voices import RATE_HZ
from training.words import LABELS

DEMO = {
    "vocab_size": len(LABELS),
    "hidden_size": 192,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "intermediate_size": 768,
    "conv_dim": (64, 64, 64, 96, 96, 128, 128),
    "num_conv_pos_embeddings": 64,
    "num_conv_pos_embedding_groups": 8,
    "do_stable_layer_norm": True,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "ctc_zero_infinity": True,
}
MELS = 64
_FFT, _HOP = 400, 320  # the extractor's receptive field and stride: one spectrum per frame


def configuration(**changes: object) -> Wav2Vec2Config:
    """Return the demo model's configuration. Dropout and the like are 0: they brought no gain (data/README.md)."""
    dropouts = ("hidden_dropout", "attention_dropout", "activation_dropout", "feat_proj_dropout", "final_dropout")
    return Wav2Vec2Config(**{**DEMO, **dict.fromkeys(dropouts, 0.0), "layerdrop": 0.0, **changes})


class Trainee(nn.Module):  # type: ignore[misc]
    """The model with two heads for training only: CTC halfway up, and a log-mel spectrum at the bottom."""

    def __init__(self, config: Wav2Vec2Config) -> None:
        super().__init__()
        self.model = Wav2Vec2ForCTC(config)
        self.halfway = config.num_hidden_layers // 2
        self.middle_head = nn.Sequential(
            nn.LayerNorm(config.hidden_size), nn.Linear(config.hidden_size, config.vocab_size)
        )
        self.mel_head = nn.Linear(config.conv_dim[-1], MELS)

    def forward(self, audio: Tensor, masked: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return logits, logits halfway and spectrum, from audio (batch, samples) and hidden frames (batch, frames)."""
        speech = self.model.wav2vec2
        features = speech.feature_extractor(audio).transpose(1, 2)  # (batch, frames, channels)
        hidden, _ = speech.feature_projection(features)  # (batch, frames, hidden)
        hidden = torch.where(masked[..., None], speech.masked_spec_embed.to(hidden.dtype), hidden)
        hidden = hidden + speech.encoder.pos_conv_embed(hidden)
        middle = hidden
        for i, layer in enumerate(speech.encoder.layers, start=1):
            hidden = layer(hidden)
            if i == self.halfway:
                middle = hidden
        logits = self.model.lm_head(speech.encoder.layer_norm(hidden))  # (batch, frames, vocabulary)
        return logits, self.middle_head(middle), self.mel_head(features)


def log_mel(audio: Tensor) -> Tensor:
    """Return log-mel spectra (batch, frames, mels), one per frame of the model; zero mean, unit variance per band."""
    window = torch.hann_window(_FFT, device=audio.device)
    spectrum = torch.stft(audio, _FFT, _HOP, window=window, center=False, return_complex=True).abs().square()
    bands = torch.log(_filters().to(audio.device) @ spectrum + 1e-4).transpose(1, 2)
    return (bands - bands.mean(1, keepdim=True)) / (bands.std(1, keepdim=True) + 1e-3)


def encode(text: str) -> list[int]:
    """Return the labels of a text."""
    return [LABELS.index(letter) for letter in text.upper().replace(" ", "|")]


def ctc(logits: Tensor, texts: Sequence[str]) -> Tensor:
    """Return the mean negative log-likelihood per letter."""
    labels = [encode(text) for text in texts]
    lengths = torch.tensor([len(row) for row in labels])
    flat = torch.tensor([label for row in labels for label in row]).to(logits.device)
    probabilities = logits.float().log_softmax(-1).transpose(0, 1)  # (frames, batch, vocabulary)
    frames = torch.full((len(texts),), len(probabilities))
    loss = nn.functional.ctc_loss(probabilities, flat, frames, lengths, reduction="sum", zero_infinity=True)
    return loss / max(1, int(lengths.sum()))


@cache
def _filters() -> Tensor:
    def mel(hertz: float) -> float:
        return 2595 * float(np.log10(1 + hertz / 700))

    edges = 700 * (10 ** (np.linspace(mel(60), mel(RATE_HZ / 2), MELS + 2) / 2595) - 1)
    bins = np.linspace(0, RATE_HZ / 2, _FFT // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return torch.tensor(np.maximum(0, np.minimum(rising, falling)), dtype=torch.float32)
