"""Decoders: features of an image -> its colours at any point. One file each family; what they share: `continuous`."""

from __future__ import annotations

from lorgnette.systems.superres.decoders.ciaosr import LMCiaoSR as LMCiaoSR
from lorgnette.systems.superres.decoders.continuous import ContinuousImage as ContinuousImage
from lorgnette.systems.superres.decoders.liif import LIIF as LIIF, LMLIIF as LMLIIF
from lorgnette.systems.superres.decoders.lte import LMLTE as LMLTE, LTE as LTE
