"""The networks of the course's last exercises: ResNet-9 for CIFAR-10, a language model for PTB."""

from __future__ import annotations

import numpy as np

from needle.models import ConvBN, LanguageModel, ResNet9

__all__ = ["ConvBN", "LanguageModel", "ResNet9"]

np.random.seed(0)
