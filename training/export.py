"""Write a checkpoint as a folder in Hugging Face format."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file, save_file
from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

from training.train import Training
from training.voices import RATE_HZ
from training.words import LABELS


def export(training: Training, folder: Path, averaged: bool) -> None:
    """Write weights (float32), configuration, vocabulary and preprocessing. What only training needs is left out."""
    config = copy.deepcopy(training.net.model.config)
    config.hidden_dropout = 0.0  # for training only
    model = Wav2Vec2ForCTC(config)
    model.load_state_dict(training.weights(averaged))
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(LABELS)}, indent=1) + "\n")
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json")).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(sampling_rate=RATE_HZ, do_normalize=True).save_pretrained(folder)


def average(models: Sequence[Path], folder: Path) -> None:
    """Write the mean of models' weights, where one's training began where another's ended (Wortsman et al. 2022).

    Such a mean is often better than each of the models, most of all for speakers that none was trained on. Raises
    ValueError.
    """
    if folder.resolve() in [model.resolve() for model in models]:
        raise ValueError(f"{folder} is one of the models: name another folder to write to.")
    weights = [load_file(model / "model.safetensors") for model in models]
    shapes = [{name: weight.shape for name, weight in w.items()} for w in weights]
    if any(other != shapes[0] for other in shapes):
        raise ValueError("The models differ in their weights' names or shapes: average those of one architecture.")
    shutil.copytree(models[0], folder, dirs_exist_ok=True)
    mean = {name: sum(w[name] for w in weights) / len(weights) for name in weights[0]}
    save_file(mean, folder / "model.safetensors", metadata={"format": "pt"})
