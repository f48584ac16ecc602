"""Trained models as files that other programs run: ONNX, torch.export, TorchScript, ExecuTorch, AOTInductor."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy
from lorgnette.export.manifest import Manifest as Manifest, read_manifest as read_manifest

if TYPE_CHECKING:
    from lorgnette.export.executorch import convert_for_mobile as convert_for_mobile
    from lorgnette.export.pictures import Exported as Exported
    from lorgnette.export.quantize import QuantizedModel as QuantizedModel, quantize_model as quantize_model
    from lorgnette.export.torchscript import export_torchscript as export_torchscript
    from lorgnette.export.writing import Report as Report, export as export, targets as targets

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
