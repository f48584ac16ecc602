"""Pictures: files, pixels, resizing, metrics, patches to learn from. What the rooms of pictures share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lorgnette.common.lazy import lazy

if TYPE_CHECKING:
    from lorgnette.images.about import About as About
    from lorgnette.images.errors import ImageError as ImageError, ImageWarning as ImageWarning
    from lorgnette.images.file import (
        Image as Image,
        check_output as check_output,
        count_images as count_images,
        read_image as read_image,
        read_images as read_images,
        write_image as write_image,
        write_images as write_images,
    )
    from lorgnette.images.folders import find_images as find_images, pair_images as pair_images
    from lorgnette.images.metrics import luma as luma, psnr as psnr, ssim as ssim
    from lorgnette.images.pixels import crop_to_multiple as crop_to_multiple, to_uint8 as to_uint8
    from lorgnette.images.resize import imresize as imresize

__getattr__, __dir__, __all__ = lazy(__name__, __file__)
