"""Decode, resize, crop, pad: one line image at a time."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from dig_jax.data import images, transforms
from dig_jax.data.line_images import Preparation
from dig_jax.data.sizes import BadRecord, header_size, resized_width


def picture(height, width, channels=1, seed=0):
    """A smooth picture, so that JPEG and resizing change it little: u8[h, w, C]."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float64)
    waves = [np.sin(columns / (9 + 3 * c) + seed) + np.cos(rows / (5 + c)) for c in range(channels)]
    return np.clip(128 + 50 * np.stack(waves, -1), 0, 255).astype(np.uint8)


def encode(image, kind):
    out = io.BytesIO()
    options = {
        "JPEG": {"quality": 97, "subsampling": 0},
        "PNG": {},
        "WEBP": {"lossless": True},
        "GIF": {},
    }[kind]
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(out, kind, **options)
    return out.getvalue()


def png_claiming(width, height):
    """A valid PNG of a few bytes whose header claims any size: what a decompression bomb looks like
    from outside.
    """

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(999))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("channels", [1, 3])
def test_decode_returns_the_picture(kind, channels):
    image = picture(20, 50, channels)
    out = transforms.decode(encode(image, kind), channels)
    assert out.shape == (20, 50, channels) and out.dtype == np.uint8
    assert np.abs(out.astype(int) - image).max() <= (
        0 if kind != "JPEG" else 8
    )  # RGB order included


def test_decode_converts_between_colour_and_grey():
    red = np.zeros((4, 6, 3), np.uint8)
    red[:, :, 0] = 200
    grey = transforms.decode(encode(red, "PNG"), 1)
    assert grey.shape == (4, 6, 1) and np.all(
        np.abs(grey.astype(int) - 60) <= 1
    )  # 0.299 * 200, ITU-R BT.601
    assert np.array_equal(transforms.decode(encode(grey, "PNG"), 3), np.repeat(grey, 3, axis=2))
    with pytest.raises(ValueError, match="channels is 4"):
        transforms.decode(encode(red, "PNG"), 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_header_size_without_decoding(kind):
    assert header_size(encode(picture(37, 211), kind)) == (211, 37)


def test_header_size_of_progressive_jpeg_with_metadata():
    out = io.BytesIO()
    exif = b"Exif\0\0" + bytes(500)
    Image.fromarray(picture(37, 211, 3)).save(
        out, "JPEG", progressive=True, exif=exif, comment=b"x" * 99
    )
    assert header_size(out.getvalue()) == (211, 37)


def test_the_size_is_the_headers_even_where_a_camera_turned_the_picture():
    out, exif = io.BytesIO(), Image.Exif()
    exif[274] = 6  # orientation: turn by 90 degrees
    Image.fromarray(picture(20, 50)[:, :, 0]).save(out, "JPEG", exif=exif)
    for channels in (1, 3):
        assert transforms.decode(out.getvalue(), channels).shape == (20, 50, channels)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("keep", [0.1, 0.5, 0.99])
def test_truncated_is_named(kind, keep):
    data = encode(picture(30, 200), kind)
    with pytest.raises(BadRecord, match="truncated|not an image"):
        transforms.decode(data[: int(len(data) * keep)], 1)


def test_every_truncation_of_a_jpeg_is_found():
    data = encode(picture(16, 40), "JPEG")
    for length in range(len(data) - 1):
        with pytest.raises(BadRecord):
            transforms.decode(data[:length], 1)


def test_a_cut_jpeg_is_found_where_opencv_returns_it_half_grey(monkeypatch):
    data = encode(picture(16, 40), "JPEG")
    monkeypatch.setattr(
        cv2, "imdecode", lambda *_: np.full((16, 40), 128, np.uint8)
    )  # OpenCV before 5
    assert transforms.decode(data, 1).shape == (16, 40, 1)
    with pytest.raises(BadRecord, match="no end marker"):
        transforms.decode(data[: len(data) * 3 // 4], 1)


def test_empty_and_no_image_are_named():
    with pytest.raises(BadRecord, match="empty"):
        transforms.decode(b"", 1)
    png = b"\x89PNG\r\n\x1a\n" + bytes(9)
    for data in (b"x", b"hello, this is no picture", b"\xff\xd8\xff", b"\xff\xd8" + bytes(40), png):
        with pytest.raises(BadRecord, match="not an image|truncated"):
            transforms.decode(data, 1)


@pytest.mark.parametrize("size", [(60000, 60000), (1 << 20, 1 << 20), (5000, 3356)])
def test_bomb_is_refused_before_it_is_decoded(size, monkeypatch):
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("decoded a bomb"))
    with pytest.raises(BadRecord, match=f"{size[0]} x {size[1]} px is more than data.max_pixels"):
        transforms.decode(png_claiming(*size), 1)


def test_bomb_in_a_format_that_pillow_reads():
    out = io.BytesIO()
    Image.new("1", (30000, 9000)).save(out, "TIFF", compression="group4")
    with pytest.raises(BadRecord, match="too large"):
        transforms.decode(out.getvalue(), 1)


def test_max_pixels_is_the_largest_allowed():
    data = encode(picture(10, 30), "PNG")
    assert transforms.decode(data, 1, max_pixels=300).shape == (10, 30, 1)
    with pytest.raises(BadRecord, match="max_pixels=299"):
        transforms.decode(data, 1, max_pixels=299)


@pytest.mark.parametrize("height,width", [(48, 611), (17, 90), (1, 40), (200, 3), (33, 32)])
@pytest.mark.parametrize("channels", [1, 3])
def test_resize_keeps_the_aspect_ratio(height, width, channels):
    out = transforms.resize_to_height(picture(height, width, channels), 32)
    assert out.shape == (32, int(resized_width(width, height, 32)), channels)
    assert abs(out.shape[1] - max(1, width * 32 / height)) <= 0.5


def test_resize_at_the_stored_height_is_the_same_array():
    image = picture(32, 77)
    assert transforms.resize_to_height(image, 32) is image


def test_resize_down_averages_and_does_not_alias():
    stripes = np.zeros((64, 64, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.all(np.abs(transforms.resize_to_height(stripes, 16).astype(int) - 128) <= 1)


def test_crop_positions_are_uniform_and_deterministic():
    line = np.arange(30, dtype=np.uint8)[None, :, None]
    draws = (np.arange(2100) + 0.5) / 2100
    starts = [int(transforms.crop(line, 10, u)[0][0, 0, 0]) for u in draws]
    assert np.array_equal(np.bincount(starts), np.full(21, 100))  # all 21 windows, the ends too
    out, width = transforms.crop(line, 10, 0.37)
    assert width == 10 and np.array_equal(out[0, :, 0], np.arange(out[0, 0, 0], out[0, 0, 0] + 10))
    assert np.array_equal(out, transforms.crop(line, 10, 0.37)[0])
    assert transforms.crop(line, 10, np.nextafter(1, 0))[0][0, 0, 0] == 20


def test_crop_of_a_narrow_line_pads_with_paper():
    line = picture(8, 5)
    out, width = transforms.crop(line, 12, 0.9)
    assert width == 5 and out.shape == (8, 12, 1)
    assert np.array_equal(out[:, :5], line) and np.all(out[:, 5:] == transforms.PAPER)
    assert np.array_equal(transforms.crop(picture(8, 12), 12, 0.9)[0], picture(8, 12))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("u", [0.0, 0.31, 0.999])
def test_crop_to_height_is_a_crop_of_the_resized_line(u, channels):
    line = picture(48, 900, channels)
    out, width = transforms.crop_to_height(line, 32, 256, u)
    assert out.shape == (32, 256, channels) and width == 256
    start = int(u * (900 - 384 + 1))  # 384 = 256 * 48 / 32
    whole = transforms.resize_to_height(line, 32)
    near = whole[:, round(start / 1.5) :][:, :256]
    assert (
        np.abs(out[:, : near.shape[1]].astype(int) - near).mean() < 2.5
    )  # half a pixel apart at most


def test_crop_to_height_of_a_line_that_fits_is_the_whole_line():
    line = picture(48, 300)
    out, width = transforms.crop_to_height(line, 32, 256, 0.7)
    assert width == 200
    assert np.array_equal(out[:, :200], transforms.resize_to_height(line, 32)) and np.all(
        out[:, 200:] == 255
    )
    same = picture(32, 700)
    assert np.array_equal(
        transforms.crop_to_height(same, 32, 100, 0.5)[0], transforms.crop(same, 100, 0.5)[0]
    )


@pytest.mark.parametrize(
    "height,width", [(1, 60000), (60000, 1), (3, 25), (47, 376), (47, 377), (5, 4000)]
)
def test_crop_to_height_has_its_shape_for_any_line(height, width):
    for u in (0.0, 0.5, 0.9999):
        out, real = transforms.crop_to_height(np.full((height, width, 1), 9, np.uint8), 32, 256, u)
        assert out.shape == (32, 256, 1) and 1 <= real <= 256
        assert np.all(out[:, :real] == 9) and np.all(out[:, real:] == 255)


@pytest.mark.parametrize("height, width", [(8, 5), (64, 500), (32, 128)])
def test_squeeze_has_its_shape_and_keeps_the_ends_of_a_ramp(height, width):
    ramp = np.broadcast_to(
        np.linspace(0, 255, width).astype(np.uint8)[None, :, None], (height, width, 1)
    )
    out = transforms.squeeze(ramp.copy(), 32, 128)
    assert out.shape == (32, 128, 1)
    assert (
        out[:, 0].max() < 40
        and out[:, -1].min() > 215
        and (np.diff(out[0, :, 0].astype(int)) >= 0).all()
    )


def test_one_thread_of_opencv():
    assert cv2.getNumThreads() == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_contrast_is_stretched_between_the_2nd_and_the_90th_percentile(channels):
    grey = np.random.default_rng(0).permutation(np.linspace(60, 160, 2000).round()).reshape(20, 100)
    line = np.repeat(grey.astype(np.uint8)[:, :, None], channels, axis=2)
    out = transforms.stretch_contrast(line)
    low, high = np.percentile(grey, [2, 90])
    expected = np.clip((line - low) * 255 / (high - low), 0, 255)
    assert out.dtype == np.uint8 and out.shape == line.shape
    assert np.abs(out - expected).max() < 4  # the percentiles are whole grey levels here
    assert (out == 0).mean() == pytest.approx(0.02, abs=0.01)
    assert (out == 255).mean() == pytest.approx(0.10, abs=0.015)
    again = transforms.stretch_contrast((line // 2 + 30).astype(np.uint8))
    assert np.abs(again.astype(int) - out).max() < 9  # a paler copy becomes the same line


def test_a_line_without_contrast_stays_as_it_is():
    for levels in ([200], [200, 204], [0], [255]):
        line = np.resize(np.array(levels, np.uint8), (8, 30, 1))
        assert transforms.stretch_contrast(line) is line


def strokes(height, width, every):
    """Black strokes of one pixel on white, u8[h, w, 1]."""
    image = np.full((height, width, 1), 255, np.uint8)
    image[:, ::every] = 0
    return image


def test_squeezing_a_low_and_wide_word_keeps_its_ink():
    """24 x 512 to 32 x 128: sideways averaged, upwards linear. Sampled, 3 of 4 strokes go."""
    out = transforms.squeeze(strokes(24, 512, 4), 32, 128)
    assert np.abs(out.astype(int) - 191).max() <= 1  # 3/4 white
    tall = transforms.squeeze(strokes(512, 24, 24)[:, :, :], 32, 128)
    assert tall.shape == (32, 128, 1) and tall.min() < 20
    turned = transforms.squeeze(strokes(24, 512, 4).transpose(1, 0, 2), 128, 32)
    assert np.abs(turned.astype(int) - 191).max() <= 1


def saved(image, kind, **options):
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


RAMP = np.linspace(0, 255, 600).round().astype(np.uint8).reshape(12, 50)
GREYS = {
    "float 0..1": (RAMP / 255.0).astype(np.float32),
    "float -1..1": (RAMP / 127.5 - 1).astype(np.float32),
    "float 0..255": RAMP.astype(np.float32),
    "12 bits": RAMP.astype(np.uint16) * 16,
    "10 bits": RAMP.astype(np.uint16) * 4,
    "16 bits": RAMP.astype(np.uint16) * 257,
    "8 bits in 16": RAMP.astype(np.uint16),
    "32 bits": RAMP.astype(np.int32) * 257,
}


@pytest.mark.parametrize("name", GREYS)
def test_greys_of_any_number_type_keep_their_picture(name):
    data = saved(Image.fromarray(GREYS[name]), "TIFF")
    out = transforms.decode(data, 1)[:, :, 0].astype(int)
    assert np.abs(out - RAMP).max() <= 2


def test_bits_of_a_png_and_of_what_the_file_states():
    for bits in (10, 12, 16):
        values = RAMP.astype(np.uint16) * (((1 << bits) - 1) // 255)
        data = saved(Image.fromarray(values), "PNG")
        for channels in (1, 3):
            out = transforms.decode(data, channels)[:, :, 0].astype(int)
            assert np.abs(out - RAMP).max() <= 3, bits
    dark = Image.fromarray(RAMP.astype(np.uint16) * 2)  # of 4095, says the file: a dark picture
    out = transforms.decode(saved(dark, "TIFF", tiffinfo={281: 4095}), 1)
    assert abs(int(out.max()) - 510 * 255 / 4095) <= 1
    inverted = saved(Image.fromarray(RAMP.astype(np.uint16) * 257), "TIFF", tiffinfo={262: 0})
    turned = Image.open(io.BytesIO(inverted))
    if turned.tag_v2[262] == 0:
        assert np.abs(transforms.decode(inverted, 1)[:, :, 0] - (255.0 - RAMP)).max() <= 2


def written(ink, alpha):
    """A word in `ink` on nothing: RGBA with a bar in the middle."""
    pixels = np.zeros((12, 40, 4), np.uint8)
    pixels[:, :, :3] = ink
    pixels[4:8, 5:30, 3] = alpha
    return Image.fromarray(pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("channels", [1, 3])
def test_writing_on_transparency_keeps_its_contrast(kind, channels):
    options = {"lossless": True} if kind == "WEBP" else {}
    for ink, ground in ((0, 255), (90, 255), (255, 0), (230, 0)):
        out = transforms.decode(saved(written(ink, 255), kind, **options), channels)
        assert out[0, 0, 0] == ground and abs(int(out[6, 10, 0]) - ink) <= 1, ink
    nothing = transforms.decode(saved(written(0, 0), kind, **options), channels)
    assert (nothing == 255).all()  # transparent is paper


def test_a_transparent_colour_of_a_palette_is_seen():
    image = Image.new("P", (20, 10), 0)
    image.putpalette([0, 0, 0, 10, 10, 10])
    image.paste(1, (5, 2, 15, 8))
    out = transforms.decode(saved(image, "PNG", transparency=0), 1)
    assert out[0, 0, 0] == 255 and out[5, 10, 0] == 10


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("tag", range(1, 9))
def test_a_turned_picture_is_read_as_make_records_stores_it(kind, tag):
    """A picture of Pillow, its bytes, and what a source makes of them: all upright."""
    image, exif = Image.fromarray(picture(24, 60)[:, :, 0]), Image.Exif()
    exif[transforms.ORIENTATION] = tag
    out = io.BytesIO()
    image.save(out, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    stored = images.Store(channels=1, height_px=100, max_pixels=10**6).decode(out.getvalue())[0]
    assert stored.shape == ((24, 60) if tag < 5 else (60, 24))
    prepare = Preparation(height_px=stored.shape[0], channels=1)
    for given in (out.getvalue(), Image.open(io.BytesIO(out.getvalue()))):
        np.testing.assert_array_equal(prepare(given).pixels[:, :, 0], stored)
