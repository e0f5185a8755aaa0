"""From a checkpoint to a folder in Hugging Face format."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from training.train import Training
from training.voices import RATE_HZ
from training.words import LABELS


def export(training: Training, folder: Path, averaged: bool) -> None:
    """Writes weights (float32), configuration, vocabulary and preparation; what only training needs stays behind."""
    training.net.model.config.hidden_dropout = 0.0
    model = Wav2Vec2ForCTC(training.net.model.config)
    model.load_state_dict(training.weights(averaged))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LABELS)}, indent=1) + "\n")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, do_normalize=True).save_pretrained(folder)
