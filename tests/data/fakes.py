"""Small sets in the layouts of the real ones, made after their descriptions."""

import gzip
import struct

import cv2
import h5py
import numpy as np

from tests.data.made import picture

CHARACTERS = "2301"  # of the numbers of svhn(), one digit more from image to image


def idx(images=None, labels=None):
    """An idx file of u8[n,h,w] or of u8[n]."""
    array = np.asarray(images if labels is None else labels, np.uint8)
    return struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def digit(number):
    return picture(number, 28, 28)


def mnist(folder, pack=True):
    """Six images of training, two of test."""
    folder.mkdir(parents=True, exist_ok=True)
    close, end = (gzip.compress, ".gz") if pack else (bytes, "")
    for name, numbers in (("train", range(6)), ("t10k", range(6, 8))):
        images = np.stack([digit(n) for n in numbers])
        (folder / f"{name}-images-idx3-ubyte{end}").write_bytes(close(idx(images)))
        (folder / f"{name}-labels-idx1-ubyte{end}").write_bytes(close(idx(labels=list(numbers))))
    return folder


def svhn(folder, count=4):
    """train/digitStruct.mat as MATLAB 7.3 writes it: names and boxes behind references. Numbers of
    one to four digits."""
    folder.mkdir(parents=True)
    with h5py.File(folder / "digitStruct.mat", "w") as file:
        names, boxes = [], []
        for i in range(count):
            name, n = f"{i + 1}.png", i % 4 + 1
            image = np.full((40, 120), 200, np.uint8)
            image[8:32, 10 : 10 + 20 * n] = picture(i, 20 * n)
            cv2.imwrite(str(folder / name), image)
            codes = file.create_dataset(
                f"#refs#/n{i}", data=np.array([[ord(c)] for c in name], np.uint16)
            )
            names.append(codes.ref)
            group = file.create_group(f"#refs#/b{i}")
            digits = [int(c) or 10 for c in CHARACTERS[:n]]
            columns = {
                "label": digits, "left": [10 + 20 * k for k in range(n)], "top": [8] * n,
                "width": [20] * n, "height": [24] * n,
            }  # fmt: skip
            for key, values in columns.items():
                if len(values) == 1:
                    group.create_dataset(key, data=np.array([values], np.float64))
                    continue
                refs = [
                    [
                        file.create_dataset(
                            f"#refs#/{key}{i}_{k}", data=np.array([[v]], np.float64)
                        ).ref
                    ]
                    for k, v in enumerate(values)
                ]
                group.create_dataset(key, data=np.array(refs, dtype=h5py.ref_dtype))
            boxes.append(group.ref)
        for key, refs in (("name", names), ("bbox", boxes)):
            file.create_dataset(
                f"digitStruct/{key}", data=np.array([[r] for r in refs], dtype=h5py.ref_dtype)
            )
    return folder


def svhn_cropped(folder, name="train", count=5):
    """NAME_32x32.mat, MATLAB 5."""
    from scipy.io import savemat

    folder.mkdir(parents=True, exist_ok=True)
    images = np.stack([np.repeat(picture(i, 32, 32)[..., None], 3, 2) for i in range(count)], -1)
    labels = np.array([[i % 10 or 10] for i in range(count)], np.uint8)
    savemat(folder / f"{name}_32x32.mat", {"X": images, "y": labels})
    return folder


def photograph(boxes):
    """A grey photograph with picture(i) in box i (x, y, w, h)."""
    image = np.full((120, 240), 190, np.uint8)
    for number, (x, y, w, h) in enumerate(boxes):
        image[y : y + h, x : x + w] = picture(number, w, h)
    return cv2.imencode(".png", image)[1].tobytes()


SVT_BOXES = [(10, 10, 60, 24), (90, 50, 80, 30)]
SVT = """<?xml version="1.0" encoding="utf-8"?><tagset><image><imageName>img/14_03.png</imageName>
<address>1 Main St</address><lex>LIVING,ROOM,THEATERS</lex><Resolution x="240" y="120"/><taggedRectangles>
<taggedRectangle height="24" width="60" x="10" y="10"><tag>LIVING</tag></taggedRectangle>
<taggedRectangle height="30" width="80" x="90" y="50"><tag>ROOM</tag></taggedRectangle>{}</taggedRectangles></image>{}</tagset>"""
KAIST = """<?xml version="1.0"?><images><image><imageName>DSC02585.JPG</imageName><resolution x="240" y="120"/><words>
<word x="10" y="10" width="60" height="24"><character x="10" y="10" width="20" height="24" char="A"/><character x="30" y="10" width="20" height="24" char="b"/></word>
<word x="90" y="50" width="80" height="30"><character x="90" y="50" width="40" height="30" char="한"/></word>{}</words></image></images>"""
