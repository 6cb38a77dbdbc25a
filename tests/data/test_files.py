import struct
import zlib

import numpy as np
import pytest
from PIL import Image
from skimage import data

from demt.data import DataError
from demt.data.files import read_array
from demt.data.images import read_image, read_pixels
from demt.data.png16 import decode_colours, encode_colours
from tests.data import writers


def test_images_are_those_that_predict_sees(tmp_path):
    photo = data.astronaut()[:40, :60]
    turned = Image.Exif()
    turned[0x0112] = 6
    alpha = np.dstack([photo, np.linspace(0, 255, 60).astype(np.uint8)[None].repeat(40, 0)])
    pictures = {
        "rgb.png": Image.fromarray(photo),
        "grey.png": Image.fromarray(photo[:, :, 0]),
        "palette.png": Image.fromarray(photo).convert("P"),
        "alpha.png": Image.fromarray(alpha),
        "deep.png": Image.fromarray(photo[:, :, 0].astype(np.uint16) * 257),
    }
    for name, picture in pictures.items():
        picture.save(tmp_path / name)
    Image.fromarray(photo).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    for path in tmp_path.iterdir():
        seen = read_image(path).numpy().transpose(1, 2, 0)
        got = read_pixels(path)
        assert got.dtype == np.uint8
        assert got.shape == ((60, 40, 3) if path.name == "turned.jpg" else (40, 60, 3))
        assert np.abs(got / 255 - seen).max() < 0.51 / 255
    assert np.array_equal(read_pixels(tmp_path / "rgb.png"), photo)
    assert np.array_equal(read_pixels(tmp_path / "deep.png")[:, :, 0], photo[:, :, 0])


def test_values_are_those_stored(tmp_path):
    values = np.arange(12, dtype=np.uint16).reshape(3, 4) * 5000
    for name in ("a.png", "a.tiff"):
        writers.picture(tmp_path / name, values)
        assert np.array_equal(read_array(tmp_path / name, bits=16), values)
    writers.picture(tmp_path / "f.tiff", values.astype(np.float32) / 7)
    assert np.array_equal(read_array(tmp_path / "f.tiff"), values.astype(np.float32) / 7)
    indices = Image.fromarray((values % 7).astype(np.uint8))
    indices.putpalette(list(range(255, 255 - 21, -1)))
    indices.save(tmp_path / "p.png", bits=4)
    assert np.array_equal(read_array(tmp_path / "p.png", bits=8), values % 7)
    np.savez(tmp_path / "a.npz", one=values, two=values + 1)
    assert np.array_equal(read_array(tmp_path / "a.npz", key="two"), values + 1)
    writers.mat(tmp_path / "a.mat", depth=values / 3)
    assert np.array_equal(read_array(tmp_path / "a.mat"), values / 3)
    with pytest.raises(DataError, match=r"expected a variable None, got \['one', 'two'\]; declare it as `key`"):
        read_array(tmp_path / "a.npz")
    with pytest.raises(DataError, match=r"expected a variable 'x', got \['depth'\]"):
        read_array(tmp_path / "a.mat", key="x")


def broken(tmp_path):
    """Files that cannot be read, and what must be said."""
    photo = data.astronaut()[:64, :64]
    for name in ("cut.jpg", "cut.png"):
        writers.picture(tmp_path / name, photo)
    writers.array(tmp_path / "cut.npy", photo)
    writers.mat(tmp_path / "cut.mat", values=photo[:, :, 0])
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for ending in ("png", "npy", "npz", "mat"):
        (tmp_path / f"empty.{ending}").write_bytes(b"")
        (tmp_path / f"text.{ending}").write_text("<html>404 not found</html>" * 20)
    (tmp_path / "hdf.mat").write_bytes(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(512) + b"\x89HDF\r\n\x1a\n")
    np.save(tmp_path / "pickle.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "words.npy", np.array([["a"]]))
    np.save(tmp_path / "line.npy", np.arange(5))
    (tmp_path / "label.xyz").write_text("1")
    (tmp_path / "folder.png").mkdir()
    said = {"hdf.mat": "version 7.3 .HDF5.*save it again", "words.npy": "real numbers", "line.npy": "array .H, W"}
    return {path: said.get(path.name, "") for path in [*tmp_path.iterdir(), tmp_path / "absent.png"]}


def test_broken_files_are_named(tmp_path):
    files = broken(tmp_path)
    assert len(files) == 19
    for path, said in files.items():
        with pytest.raises(DataError, match=f"{path.name}.*{said}"):
            read_array(path)
        if path.suffix in (".png", ".jpg"):
            with pytest.raises(DataError, match=path.name):
                read_pixels(path)
    with pytest.raises(FileNotFoundError, match=r"No file .*absent\.png"):
        read_array(tmp_path / "absent.png")


def test_bit_depth(tmp_path):
    values = np.full((4, 4), 9, np.uint8)
    writers.picture(tmp_path / "8.png", values)
    writers.picture(tmp_path / "16.png", values.astype(np.uint16))
    with pytest.raises(DataError, match=r"8.png.*expected 16 bits per channel, got 8"):
        read_array(tmp_path / "8.png", bits=16)
    with pytest.raises(DataError, match=r"16.png.*expected 8 bits per channel, got 16"):
        read_array(tmp_path / "16.png", bits=8)
    writers.picture(tmp_path / "rgba.png", np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(DataError, match=r"rgba.png.*transparent pixels.*without an alpha channel"):
        read_array(tmp_path / "rgba.png")


def test_colours_of_16_bits(tmp_path):
    av = pytest.importorskip("av")
    values = np.random.default_rng(0).integers(0, 2**16, (7, 5, 3)).astype(np.uint16)
    values[3] = values[2]
    (tmp_path / "own.png").write_bytes(encode_colours(values, {"Software": "a test"}))
    assert Image.open(tmp_path / "own.png").text == {"Software": "a test"}
    assert np.array_equal(read_array(tmp_path / "own.png", bits=16), values)
    with av.open(str(tmp_path / "own.png")) as container:
        (frame,) = container.decode(video=0)
        assert frame.format.name == "rgb48be"
        assert np.array_equal(frame.to_ndarray(), values)
    for prediction in ("none", "sub", "up", "avg", "paeth", "mixed"):
        file = tmp_path / f"{prediction}.png"
        with av.open(str(file), "w", format="image2", options={"update": "1"}) as container:
            stream = container.add_stream("png", options={"pred": prediction})
            stream.width, stream.height, stream.pix_fmt = 5, 7, "rgb48be"
            frame = av.VideoFrame.from_ndarray(values, format="rgb48be")
            container.mux([*stream.encode(frame), *stream.encode()])
        assert np.array_equal(read_array(file), values)


def test_other_channels_of_16_bits_are_refused(tmp_path):
    whole = encode_colours(np.zeros((2, 3, 3), np.uint16))
    # Interlaced, and with an alpha channel.
    for name, place, value in (("interlaced", 28, 1), ("alpha", 25, 6)):
        header = bytearray(whole[12:29])
        header[place - 12] = value
        file = tmp_path / f"{name}.png"
        file.write_bytes(whole[:12] + bytes(header) + struct.pack(">I", zlib.crc32(header)) + whole[33:])
        with pytest.raises(DataError, match=f"{name}.png"):
            read_array(file)
    for cut in range(0, len(whole) - 12, 7):
        with pytest.raises(ValueError, match="it is"):
            decode_colours(whole[:cut])
    exif = Image.Exif()
    exif[0x0112] = 6
    body = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(body)) + b"eXIf" + body + struct.pack(">I", zlib.crc32(b"eXIf" + body))
    (tmp_path / "turned.png").write_bytes(whole[:33] + chunk + whole[33:])
    with pytest.raises(DataError, match="turned by EXIF"):
        read_array(tmp_path / "turned.png")


def test_images_as_arrays(tmp_path):
    photo = data.astronaut()[:20, :20]
    for name, values in {"bytes": photo, "floats": photo / 255, "over": photo / 255 + 0.001}.items():
        writers.array(tmp_path / f"{name}.npy", values)
        assert np.array_equal(read_pixels(tmp_path / f"{name}.npy"), photo)
    for values in (photo / 127.0, photo[:, :, 0], photo.astype(np.int32), np.full((2, 2, 3), np.nan)):
        writers.array(tmp_path / "bad.npy", values)
        with pytest.raises(DataError, match=r"bad.npy"):
            read_pixels(tmp_path / "bad.npy")


@pytest.mark.parametrize("ending", ["tif", "png", "webp"])
def test_a_label_is_one_picture(tmp_path, ending):
    first = Image.fromarray(np.zeros((8, 8), np.uint8))
    options = {"lossless": True} if ending == "webp" else {}
    more = [Image.fromarray(np.full((8, 8), 9, np.uint8))]
    first.save(tmp_path / f"a.{ending}", save_all=True, append_images=more, **options)
    with pytest.raises(DataError, match=rf"a\.{ending}.*several pictures"):
        read_array(tmp_path / f"a.{ending}")
