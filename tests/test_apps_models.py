"""`apps/models.py`: the networks of the last exercises, in both styles of import."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import numpy as np

sys.path.append(str(Path(__file__).resolve().parent.parent / "apps"))
sys.path.append(str(Path(__file__).resolve().parent.parent))

import models


def test_importing_seeds_numpy():
    np.random.seed(77)
    importlib.reload(models)
    assert np.random.rand() == np.random.RandomState(0).rand()


def test_flat_and_packaged_imports_bring_the_same_networks():
    packaged = importlib.import_module("apps.models")
    assert packaged.ResNet9 is models.ResNet9
    assert packaged.LanguageModel is models.LanguageModel


def test_a_star_import_brings_the_networks_and_nothing_that_shadows():
    names: dict = {}
    exec("from models import *", names)
    names.pop("__builtins__")
    assert set(names) == {"ConvBN", "LanguageModel", "ResNet9"}


def test_a_language_model_takes_the_arguments_of_the_course():
    model = models.LanguageModel(
        30, 10, 32, 2, seq_model="lstm", seq_len=20, device=None, dtype="float32"
    )
    kinds = [type(child).__name__ for child in vars(model).values()]
    assert kinds.index("Embedding") < kinds.index("LSTM") < kinds.index("Linear")
