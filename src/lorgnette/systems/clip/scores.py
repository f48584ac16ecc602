"""How good a classifier is: accuracy, losses, calibration, a table of the classes and its picture."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image as Pillow, ImageDraw, ImageFont
from torch import Tensor


def scores(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures of all predictions together.

    Args:
        logits: (N, K).
        labels: (N,) numbers of classes.

    Returns:
        accuracy; balanced_accuracy, the mean over classes; nll, the mean negative log likelihood; and ece.
    """
    labels = labels.to(logits.device)
    each = class_accuracies(logits, labels)
    return {
        "accuracy": float((logits.argmax(-1) == labels).double().mean()),
        "balanced_accuracy": sum(each.values()) / len(each),
        "nll": float(F.cross_entropy(logits.double(), labels)),
        "ece": calibration_error(logits, labels),
    }


def class_accuracies(logits: Tensor, labels: Tensor) -> dict[int, float]:
    """The accuracy within each class that occurs, by its number."""
    right = (logits.argmax(-1) == labels.to(logits.device)).double().cpu()
    return {int(k): float(right[labels.cpu() == k].mean()) for k in labels.cpu().unique()}


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: how far confidence lies from accuracy, in bins of confidence of equal width.

    Guo et al., "On Calibration of Modern Neural Networks", arXiv 1706.04599, equation 3, with its 15 bins.
    """
    confidence, predicted = logits.double().softmax(-1).max(-1)
    right = (predicted == labels.to(predicted.device)).double()
    place = (confidence * bins).ceil().clamp(1, bins).long()
    gaps = [(right[place == b] - confidence[place == b]).sum().abs() for b in place.unique()]
    return float(torch.stack(gaps).sum() / len(labels))


def confusion(logits: Tensor, labels: Tensor) -> NDArray[np.int64]:
    """(K, K): how many of each true class (row) were taken for each class (column)."""
    k = logits.shape[-1]
    pairs = labels.cpu() * k + logits.argmax(-1).cpu()
    return torch.bincount(pairs, minlength=k * k).view(k, k).numpy()


def confusion_picture(counts: NDArray[np.int64], classes: Sequence[str]) -> NDArray[np.uint8]:
    """The table as a picture: shares of each row by shade, counts as numbers where there is room."""
    k = len(classes)
    cell = max(4, min(44, 800 // k))
    font = ImageFont.load_default(max(9, cell // 3))
    named = cell >= 12
    left = int(max(font.getlength(name) for name in classes)) + 12 if named else 8
    top = 8
    canvas = Pillow.new("RGB", (left + k * cell + 8, top + k * cell + 8), "white")
    pen = ImageDraw.Draw(canvas)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    for row in range(k):
        middle = top + (row + 0.5) * cell
        if named:
            pen.text((left - 6, middle), classes[row], fill="black", font=font, anchor="rm")
        for column in range(k):
            share = float(shares[row, column])
            full = (0, 120, 100) if row == column else (200, 60, 30)
            shade = tuple(round(255 - share * (255 - value)) for value in full)
            x = left + column * cell
            pen.rectangle((x, top + row * cell, x + cell - 2, top + (row + 1) * cell - 2), fill=shade)
            if named and counts[row, column]:
                ink = "white" if share > 0.5 else "black"
                pen.text((x + cell / 2, middle), str(counts[row, column]), fill=ink, font=font, anchor="mm")
    return np.asarray(canvas)
