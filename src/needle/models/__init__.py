"""Networks to train and to look at: what `needle train` offers and what the course builds.

mlp             TwoLayerNet, MLPResNet: networks of linear layers
resnet          ResNet9, ResNet18: images
language_model  LanguageModel: RNN, LSTM, GRU or Transformer over words
gpt             GPT: GPT-2's decoder, with a cache for generation
foreign         their weights from and for PyTorch and Hugging Face
"""

from __future__ import annotations

from needle.models.foreign import foreign_state, load_foreign
from needle.models.gpt import GPT
from needle.models.language_model import LanguageModel
from needle.models.mlp import MLPResNet, ResidualBlock, TwoLayerNet
from needle.models.resnet import BasicBlock, ConvBN, ResNet9, ResNet18

__all__ = [
    "GPT",
    "BasicBlock",
    "ConvBN",
    "LanguageModel",
    "MLPResNet",
    "ResNet9",
    "ResNet18",
    "ResidualBlock",
    "TwoLayerNet",
    "foreign_state",
    "load_foreign",
]
