"""Kinds of pictures that people have: of each one file, made by `parts.own_pictures`."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import PIL.Image
import tifffile

from lorgnette.common.lazy import needed
from parts import own_pictures as own
from parts.own_pictures import Given, Maker, Pixels

TIFF_FAX = {"dpi": (204, 98), "compression": "group3"}


def phone(m: Maker) -> Given:
    return m.of_photo(".jpg", "coffee", own.night(m.rng), quality=88)


def turned(m: Maker) -> Given:
    large = m.crop("chelsea", 300, 450)
    exif = PIL.Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "A camera"  # turned by 90 degrees
    same = own.halved(large)
    return Given(m.saved(".jpg", np.rot90(same).copy(), quality=92, exif=exif), large, same)


def screenshot(m: Maker) -> Given:
    return Given(m.saved(".png", own.window(1)), own.window(2), own.window(1))


def dark_screenshot(m: Maker) -> Given:
    return Given(
        m.saved(".jpg", own.window(1, dark=True), quality=80), own.window(2, dark=True), own.window(1, dark=True)
    )


def grey_scan(m: Maker) -> Given:
    """The truth is the print, as white and as black as the scanner makes it."""
    scanned = own.picture(own.paper(m.rng)(own.page(1))).convert("L")
    large, same = (own.paper(None)(own.page(times)) for times in (2, 1))
    return Given(m.saved(".jpg", scanned, quality=75, dpi=(150, 150)), large, same)


def black_and_white_scan(m: Maker) -> Given:
    same = own.picture(own.page(1)).convert("1", dither=PIL.Image.Dither.NONE)
    return Given(m.saved(".tif", same, compression="group4", dpi=(200, 200)), None, own.floats(same))


def fax(m: Maker) -> Given:
    noisy = own.page(1) + m.rng.normal(0, 0.25, (200, 260, 1))
    return Given(m.saved(".tif", own.picture(noisy).convert("1", dither=PIL.Image.Dither.NONE), **TIFF_FAX))


def logo(m: Maker) -> Given:
    return Given(m.saved(".png", own.logo()))


def palette_logo(m: Maker) -> Given:
    image = own.logo().quantize(32)
    return Given(m.saved(".png", image))


def pixel_art(m: Maker) -> Given:
    art = own.sprite()
    return Given(m.saved(".png", art), art.repeat(2, 0).repeat(2, 1), art)


def animation(m: Maker) -> Given:
    reds = [own.INKS | {"r": red} for red in ("#d82800", "#00a800", "#0058f8")]
    frames = [own.picture(own.sprite(inks).repeat(4, 0).repeat(4, 1)) for inks in reds]
    return Given(m.saved(".gif", frames[0], save_all=True, append_images=frames[1:], duration=100))


def print_colours(m: Maker) -> Given:
    large = m.crop("coffee")
    same = own.halved(large)
    return Given(m.saved(".jpg", own.picture(same).convert("CMYK"), quality=92), large, same)


def microscope(m: Maker) -> Given:
    """Counts of 100 to 1,600 on 16 bits."""
    large, same = own.stars(160, 200, 90, m.rng)
    file = m.folder / "picture.tif"
    tifffile.imwrite(file, m.rng.poisson(same + 40).astype(np.uint16))
    return Given(file, *(grey((light + 40) / 65535) for light in (large, same)))


def pages(m: Maker) -> Given:
    """A document, a photograph, and a screenshot."""
    images = [
        own.picture(own.page(1)),
        own.picture(own.jpeg(own.halved(m.crop("chelsea", 300, 450)), 20)),
        own.picture(own.window(1)),
    ]
    return Given(m.saved(".tif", images[0], save_all=True, append_images=images[1:], compression="tiff_deflate"))


def holes(m: Maker) -> Given:
    """Floating point, with numbers that are none."""
    heights = own.halved(m.crop("chelsea", 300, 450)).mean(-1) * 900 - 100
    heights[20:30, 40:60] = np.nan
    file = m.folder / "picture.tif"
    tifffile.imwrite(file, heights.astype(np.float32))
    return Given(file)


def tomogram(m: Maker) -> Given:
    """A slice of CT: soft tissue within 300 of 4,096 levels, in a PNG of 16 bits."""
    rows, columns = np.mgrid[:400, :400] / 200 - 1
    body = ((rows / 0.75) ** 2 + (columns / 0.9) ** 2 < 1) * 1040.0
    for y, x, r, value in ((-0.2, -0.3, 0.22, 60), (0.1, 0.35, 0.3, 40), (0.4, 0, 0.12, 900), (0, 0, 0.15, -60)):
        body += ((rows - y) ** 2 + (columns - x) ** 2 < r * r) * (body > 0) * value
    large = cv2.GaussianBlur(body.astype(np.float32), (0, 0), 1.6)
    same = own.halved(large)
    taken = (same + m.rng.normal(0, 12, same.shape)).clip(0, 65535).astype(np.uint16)
    file = m.folder / "picture.png"
    cv2.imwrite(str(file), taken)
    return Given(file, *(grey(light / 65535) for light in (large, same)))


def star_field(m: Maker) -> Given:
    large, same = own.stars(160, 240, 120, m.rng)
    large, same = (np.sqrt(light.clip(0, 1200) / 1200) for light in (large, same))
    taken = same + m.rng.normal(0, 0.02, same.shape)
    return Given(m.saved(".png", own.picture(grey(taken)).convert("L")), grey(large), grey(same))


def street_map(m: Maker) -> Given:
    return Given(m.saved(".png", own.streets(1)), own.streets(2), own.streets(1))


def cartoon(m: Maker) -> Given:
    return Given(m.saved(".png", own.cartoon(1)), own.cartoon(2), own.cartoon(1))


def icon(m: Maker) -> Given:
    large = own.floats(own.picture(own.cartoon(4)).resize((48, 48), PIL.Image.Resampling.LANCZOS))
    same = own.floats(own.picture(own.cartoon(4)).resize((24, 24), PIL.Image.Resampling.LANCZOS))
    return Given(m.saved(".png", same), large, same)


def webp(m: Maker) -> Given:
    return m.of_photo(".webp", "rocket", quality=70)


def avif(m: Maker) -> Given:
    return m.of_photo(".avif", "astronaut", quality=60)


def poor_jpeg(m: Maker) -> Given:
    return m.of_photo(".jpg", "astronaut", quality=10)


def sound_jpeg(m: Maker) -> Given:
    return m.of_photo(".jpg", "motorcycle_left", quality=93, dpi=(72, 72))


def sound_png(m: Maker) -> Given:
    return m.of_photo(".png", "coffee")


def thrice_saved(m: Maker) -> Given:
    return m.of_photo(".jpg", "chelsea", lambda same: own.jpeg(own.jpeg(same, 70), 50), quality=75)


def blurred(m: Maker) -> Given:
    return m.of_photo(".jpg", "coffee", lambda same: cv2.GaussianBlur(same, (0, 0), 2.2), quality=90)


def old_film(m: Maker) -> Given:
    return m.of_photo(".jpg", "rocket", own.film(m.rng), quality=90)


def wide_border(m: Maker) -> Given:
    large = np.pad(m.crop("chelsea", 200, 300), ((300, 300), (300, 300), (0, 0)), constant_values=1.0)
    same = own.halved(large)
    noisy = np.where(same == 1, 1, own.night(m.rng)(same))
    return Given(m.saved(".jpg", noisy, quality=85), large, same)


def plot(m: Maker) -> Given:
    agg = needed("matplotlib.backends.backend_agg", "matplotlib", "its plot")
    figure_type = needed("matplotlib.figure", "matplotlib", "its plot").Figure
    figure = figure_type(figsize=(4.5, 3.2), dpi=480)
    axes, x = figure.add_subplot(), np.linspace(0, 10, 300)
    for k in range(4):
        axes.plot(x, np.sin(x + k) * np.exp(-x / (4 + k)), label=f"damped, k={k}")
    axes.set_title("Amplitude against time")
    axes.set_xlabel("t [s]")
    axes.grid(True)
    axes.legend()
    canvas = agg.FigureCanvasAgg(figure)
    canvas.draw()
    large = own.halved(own.halved(np.asarray(canvas.buffer_rgba())[..., :3].astype(np.float32) / 255))
    return Given(m.saved(".png", own.halved(large)), large, own.halved(large))


def dark_16_bits(m: Maker) -> Given:
    """An underexposed photograph, developed to a PNG of 16 bits."""
    large = m.crop("coffee") * 0.2
    same = own.halved(large)
    file = m.folder / "picture.png"
    cv2.imwrite(
        str(file), ((same + m.rng.normal(0, 0.004, same.shape)).clip(0, 1) * 65535)[..., ::-1].astype(np.uint16)
    )
    return Given(file, large, same)


def grey_with_alpha(m: Maker) -> Given:
    photo = own.picture(own.halved(m.crop("chelsea", 300, 450))).convert("L")
    ramp = PIL.Image.linear_gradient("L").resize(photo.size)
    return Given(m.saved(".png", PIL.Image.merge("LA", (photo, ramp))))


def twelve_megapixels(m: Maker) -> Given:
    photo = own.picture(m.crop("motorcycle_left", 2000, 3000)).resize((4000, 3000), PIL.Image.Resampling.BICUBIC)
    return Given(m.saved(".jpg", own.floats(photo) + m.rng.normal(0, 0.02, (3000, 4000, 3)), quality=92))


def panorama(m: Maker) -> Given:
    parts = [own.picture(m.crop(name, 300, 450)).resize((1000, 400)) for name in ("chelsea", "coffee") * 4]
    return Given(m.saved(".jpg", np.concatenate([own.floats(part) for part in parts], 1), quality=90))


def grey(light: Pixels) -> Pixels:
    return np.repeat(light[..., None], 3, -1).astype(np.float32)


KINDS: dict[str, Callable[[Maker], Given]] = {
    "phone at night": phone,
    "portrait, turned": turned,
    "screenshot": screenshot,
    "screenshot, dark, JPEG": dark_screenshot,
    "scan, grey": grey_scan,
    "scan, 1 bit": black_and_white_scan,
    "fax": fax,
    "logo, transparent": logo,
    "logo, palette": palette_logo,
    "pixel art 16x16": pixel_art,
    "GIF animation": animation,
    "CMYK JPEG": print_colours,
    "microscope counts": microscope,
    "three pages": pages,
    "floats with holes": holes,
    "CT slice": tomogram,
    "star field": star_field,
    "map": street_map,
    "drawing": cartoon,
    "icon 24x24": icon,
    "WebP": webp,
    "AVIF": avif,
    "JPEG of quality 10": poor_jpeg,
    "good JPEG": sound_jpeg,
    "sound PNG": sound_png,
    "saved three times": thrice_saved,
    "out of focus": blurred,
    "old film": old_film,
    "wide border": wide_border,
    "plot": plot,
    "dark, 16 bits": dark_16_bits,
    "grey and alpha": grey_with_alpha,
}
LARGE: dict[str, Callable[[Maker], Given]] = {"12 megapixels": twelve_megapixels, "panorama 8000x400": panorama}
