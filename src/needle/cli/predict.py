"""`needle predict`: what a trained network takes images for."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from needle.autograd import Tensor, no_grad
from needle.cli.datasets import LIGHT_ON_DARK, Description
from needle.cli.run_folder import load_run
from needle.cli.settings import PredictOptions
from needle.errors import FileFormatError, MissingDependencyError, OptionError
from needle.ops import softmax

__all__ = ["Prediction", "predict", "read_image"]

Array = np.ndarray[Any, Any]


class Prediction(NamedTuple):
    """The most and the second most probable class of an image, with their probabilities."""

    image: str
    label: str
    probability: float
    runner_up: str
    runner_up_probability: float


def predict(options: PredictOptions) -> None:
    """Print a line, or a JSON object, per image; remarks about an image go to stderr."""
    model, about = load_run(options.run, "images")
    _require_images(about)
    inputs = np.stack([read_image(path, about, options.invert) for path in options.images])
    if about.channels_first:
        inputs = np.ascontiguousarray(np.moveaxis(inputs, -1, 1))  # (N, C, H, W)
    with no_grad():
        shares = softmax(model(Tensor(inputs, requires_grad=False))).numpy()
    predictions = [
        _best_two(path, row, about.class_names)
        for path, row in zip(options.images, shares, strict=True)
    ]
    if options.json:
        print(json.dumps([prediction._asdict() for prediction in predictions], indent=2))
        return
    width = max(len(path) for path in options.images)
    for found in predictions:
        print(
            f"{found.image:<{width}}  {found.label}  {100 * found.probability:5.1f} %   "
            f"(then {found.runner_up}  {100 * found.runner_up_probability:.1f} %)"
        )


def read_image(path: str, about: Description, invert: bool) -> Array:
    """An image file as the network reads it: `about.shape`, float32.

    Colour becomes grey (or grey colour) as the training data has it; transparent means white;
    another size is stretched to fit. Raises FileNotFoundError, FileFormatError.
    """
    height, width = about.shape[:2]
    channels = about.shape[2] if len(about.shape) == 3 else 1
    image = _open(path)
    image = image.convert("L" if channels == 1 else "RGB")
    if image.size != (width, height):
        _remark(path, f"resized from {image.width} x {image.height} to {width} x {height}.")
        image = image.resize((width, height), resample=2)  # bilinear, smoothed when shrinking
    pixels = np.asarray(image, dtype=np.float32)
    if invert:
        pixels = 255 - pixels
    elif about.polarity == LIGHT_ON_DARK and pixels.mean() > 127:
        _remark(path, f"mostly light, but the network knows {LIGHT_ON_DARK}. Try --invert.")
    return np.asarray(pixels * np.float32(about.scale or 1)).reshape(about.shape)


def _open(path: str) -> Any:
    """The image, laid on white where it is transparent, with 8 bits to a channel."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise MissingDependencyError(
            "predict: expected Pillow to be installed, to read images, got none. "
            'Hint: pip install "needle-dl[demo]".'
        ) from error
    if not Path(path).is_file():
        raise FileNotFoundError(f"IMAGE: expected an image file, got no file at {path}.")
    try:
        with warnings.catch_warnings():
            # Pillow refuses what is larger still; what it only warns of is read
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(path)
        with image:
            image.load()
            if image.mode.startswith("I"):  # 16 bits of grey
                return Image.fromarray((np.asarray(image) / 257).round().astype(np.uint8))
            paper = Image.new("RGBA", image.size, "white")
            return Image.alpha_composite(paper, image.convert("RGBA")).convert("RGB")
    except UnidentifiedImageError as error:
        raise FileFormatError(f"IMAGE: expected a PNG, got {path}, no image.") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise FileFormatError(f"IMAGE: expected a whole PNG, got {path}. ({error})") from error


def _require_images(about: Description) -> None:
    is_image = len(about.shape) == 2 or (len(about.shape) == 3 and about.shape[2] in (1, 3))
    if not is_image or about.scale is None:
        raise OptionError(
            "RUN: expected a network trained on images (N, H, W), (N, H, W, 1) or (N, H, W, 3), "
            f"uint8 or in 0..1; got one trained on {about.name} of shape {about.shape}."
        )


def _remark(path: str, text: str) -> None:
    print(f"{path}: {text}", file=sys.stderr)


def _best_two(path: str, shares: Array, names: tuple[str, ...]) -> Prediction:
    first, second = np.argsort(-shares, kind="stable")[:2]
    return Prediction(
        path, names[first], float(shares[first]), names[second], float(shares[second])
    )
