"""Labels as people store them are read right, or refused with what would read them right."""

import unicodedata

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torch.utils.data import random_split

from demt.data import Cityscapes, DataError, Encoding, MultiTaskFolder, as_multitask, summary, transforms
from demt.data.doctor.check import check_folder
from tests.data import writers

IDS = (np.arange(64).reshape(8, 8) % 5).astype(np.uint8)


def folder(root, task, values, name="a.png", image=None, **save):
    writers.picture(
        root / "images/a.png", np.zeros((*np.asarray(values).shape[:2], 3), np.uint8) if image is None else image
    )
    (root / task).mkdir(exist_ok=True)
    (values if isinstance(values, Image.Image) else Image.fromarray(values)).save(root / task / name, **save)
    return root


def read(root, task, channels, encoding=None):
    data = MultiTaskFolder(root, {task: channels}, encodings={task: encoding} if encoding else None)
    return data[0][task].as_subclass(torch.Tensor).numpy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_tags_turn_labels_as_images(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    folder(tmp_path, "semseg", IDS[:6], exif=exif)
    Image.fromarray(np.stack([IDS[:6] * 50] * 3, -1)).save(tmp_path / "images/a.png", exif=exif)
    sample = MultiTaskFolder(tmp_path, {"semseg": 5})[0]
    assert np.array_equal(sample["image"][0].numpy(), 50 * sample["semseg"][0].numpy())
    with Image.open(tmp_path / "semseg/a.png") as stored:
        assert np.array_equal(sample["semseg"][0].numpy(), np.array(ImageOps.exif_transpose(stored)))


def test_a_turned_image_explains_another_size(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    folder(tmp_path, "semseg", IDS[:6])
    Image.new("RGB", (8, 6)).save(tmp_path / "images/a.png", exif=exif)
    with pytest.raises(DataError, match="turned by its EXIF orientation tag"):
        read(tmp_path, "semseg", 5)
    report = check_folder(MultiTaskFolder(tmp_path, {"semseg": 5}))
    assert "EXIF" in report.problems[0].message
    assert "1 images are turned" in report.notes[0]


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_grey_of_few_bits_is_not_stretched(tmp_path, bits, ending):
    classes = 2 ** min(bits, 3)
    ids = (np.arange(64).reshape(8, 8) % classes).astype(np.uint8)
    if ending == "png":
        # Written by hand: Pillow writes palettes where few bits are asked for.
        import struct
        import zlib

        rows = np.unpackbits(ids[..., None], axis=2)[:, :, 8 - bits :].reshape(8, -1)
        raw = b"".join(b"\0" + np.packbits(row).tobytes() for row in rows)
        chunks = [
            (b"IHDR", struct.pack(">IIBBBBB", 8, 8, bits, 0, 0, 0, 0)),
            (b"IDAT", zlib.compress(raw)),
            (b"IEND", b""),
        ]
        body = b"".join(struct.pack(">I", len(b)) + n + b + struct.pack(">I", zlib.crc32(n + b)) for n, b in chunks)
        folder(tmp_path, "semseg", ids, "x.png")
        (tmp_path / "semseg/x.png").rename(tmp_path / "semseg/a.png")
        (tmp_path / "semseg/a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    elif bits in (1, 8):
        folder(tmp_path, "semseg", Image.fromarray(ids > 0) if bits == 1 else ids, "a.tif")
    else:
        pytest.skip("Pillow writes no such TIFF")
    assert np.array_equal(read(tmp_path, "semseg", max(classes, 3))[0], ids)


def test_masks(tmp_path):
    mask = np.where(IDS > 2, 255, 0).astype(np.uint8)
    for task in ("sal", "semseg"):
        folder(tmp_path, task, mask)
        with pytest.raises(DataError, match=r"only 0 and 255.*'mask'.*'classes'"):
            read(tmp_path, task, 2)
        assert np.array_equal(read(tmp_path, task, 2, "mask")[0], mask // 255)
        assert set(np.unique(read(tmp_path, task, 2, "classes"))) == {0, 255}
    with pytest.raises(DataError, match="declare the encoding 'classes'"):
        read(folder(tmp_path, "sal", mask // 255), "sal", 2, "mask")
    with pytest.raises(DataError, match=r"expected 8 bits.*'classes' reads 0 and 1"):
        read(folder(tmp_path, "sal", Image.fromarray(mask > 0)), "sal", 2, "mask")
    palette = Image.fromarray(mask // 255)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    assert np.array_equal(read(folder(tmp_path, "sal", palette), "sal", 2, "mask")[0], mask // 255)
    palette.putpalette([0, 0, 0, 200, 0, 0])
    colors = Encoding(colors={(0, 0, 0): 0, (200, 0, 0): 1})
    assert np.array_equal(read(folder(tmp_path, "sal", palette), "sal", 2, colors)[0], mask // 255)
    with pytest.raises(DataError, match=r"expected labels \(H, W\)"):
        read(tmp_path, "sal", 2, "mask")
    (tmp_path / "sal/a.png").unlink()
    assert set(np.unique(read(folder(tmp_path, "sal", mask, "a.jpg"), "sal", 2, "mask"))) == {0, 1}


@pytest.mark.parametrize(("name", "options"), [("a.jpg", {}), ("a.webp", {}), ("a.tif", {"compression": "jpeg"})])
def test_lossy_class_maps_are_refused(tmp_path, name, options):
    folder(tmp_path, "semseg", IDS, name, **options)
    with pytest.raises(DataError, match=r"lossy.*save class maps as PNG"):
        read(tmp_path, "semseg", 5)


def test_alpha_channels(tmp_path):
    opaque = Image.merge("LA", [Image.fromarray(IDS), Image.new("L", (8, 8), 255)])
    assert np.array_equal(read(folder(tmp_path, "semseg", opaque), "semseg", 5)[0], IDS)
    opaque.putalpha(Image.fromarray(IDS))
    with pytest.raises(DataError, match="transparent pixels"):
        read(folder(tmp_path, "semseg", opaque), "semseg", 5)


def test_normals_that_are_none(tmp_path):
    stored = np.full((8, 8, 3), (128, 128, 255), np.uint8)
    stored[0], stored[1], stored[2] = 128, 127, 0
    normals = read(folder(tmp_path, "normals", stored), "normals", 3, "rgb_normals")
    assert (normals[:, :3] == 255).all()
    assert (normals[:, 3:] != 255).all()


def test_depth(tmp_path):
    writers.picture(tmp_path / "images/a.png", np.zeros((1, 3, 3), np.uint8))
    writers.array(tmp_path / "depth/a.npy", np.float32([[0, 2, -1]]))
    with pytest.raises(DataError, match=r"label -1 .*invalid=\(-1,\)"):
        read(tmp_path, "depth", 1)
    assert read(tmp_path, "depth", 1, Encoding(invalid=(-1.0,)))[0].tolist() == [[255, 2, 255]]


def test_a_disparity_of_zero_is_no_label(tmp_path):
    writers.cityscapes(tmp_path)
    depth = Cityscapes(tmp_path, "train")[0]["depth"]
    assert (depth[0, :3] == 255).all()
    assert depth[depth != 255].min() > 0


def test_companions_are_no_samples(tmp_path):
    writers.cityscapes(tmp_path)
    for path in [*tmp_path.rglob("*.png")]:
        (path.parent / f"._{path.name}").write_bytes(b"\0\5\x16\7")
        (path.parent / "Thumbs.db").write_bytes(b"\0")
    assert len(Cityscapes(tmp_path, "train")) == 3


def test_names_in_another_form(tmp_path):
    composed, taken_apart = (unicodedata.normalize(form, "stra\u00dfe \u00e9") for form in ("NFC", "NFD"))
    for name in (f"images/{composed}.png", "images/B.png", "images/c.png"):
        writers.picture(tmp_path / name, np.zeros((8, 8, 3), np.uint8))
    for name in (f"semseg/{taken_apart}.png", "semseg/b.PNG", "semseg/c_mask.png"):
        writers.picture(tmp_path / name, IDS)
    with pytest.warns(RuntimeWarning, match=r"1 of 3 files.*no image.*c_mask\.png"):
        data = MultiTaskFolder(tmp_path, {"semseg": 5})
    assert ["semseg" in data[index] for index in range(3)] == [id != "c" for id in data.ids]


@pytest.mark.parametrize("chans", [1, 4])
def test_images_of_other_channels(tmp_path, chans):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    folder(tmp_path, "semseg", IDS, image=pixels[:, :, :chans] if chans == 4 else pixels[:, :, 0])
    finish = transforms.train_transform(size=(8, 8), mean=[0.5] * chans, std=[0.5] * chans)
    data = MultiTaskFolder(tmp_path, {"semseg": 5}, in_chans=chans)
    expected = pixels.transpose(2, 0, 1)[:chans]
    assert np.array_equal(data[0]["image"].numpy(), expected)
    data.transform = finish
    for seed in range(20):
        torch.manual_seed(seed)
        assert data[0]["image"].shape == (chans, 8, 8)
    np.save(tmp_path / "images/a.npy", expected.transpose(1, 2, 0))
    (tmp_path / "images/a.png").unlink()
    assert np.array_equal(MultiTaskFolder(tmp_path, {"semseg": 5}, in_chans=chans)[0]["image"].numpy(), expected)


def test_the_transform_settles_the_channels(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    folder(tmp_path, "semseg", IDS, image=pixels[:, :, :3])
    grey = MultiTaskFolder(tmp_path, {"semseg": 5}, transform=transforms.eval_transform(mean=[0.5], std=[0.5]))
    expected = (pixels[:, :, :3].astype(float).mean(-1) / 255 - 0.5) / 0.5
    assert np.allclose(grey[0]["image"].numpy()[0], expected, atol=1e-5)
    np.save(tmp_path / "images/a.npy", pixels)
    (tmp_path / "images/a.png").unlink()
    colour = MultiTaskFolder(tmp_path, {"semseg": 5}, transform=transforms.eval_transform())
    with pytest.raises(ValueError, match=r"Expected images of 3 channels.*got 4"):
        colour[0]


def test_parts_and_their_summary(tmp_path):
    for name in "abcd":
        writers.picture(tmp_path / f"images/{name}.png", np.zeros((8, 8, 3), np.uint8))
    half = IDS.copy()
    half[:4] = 255
    for name in "ab":
        writers.picture(tmp_path / f"semseg/{name}.png", half)
    data = MultiTaskFolder(tmp_path, "semseg=5")
    found = summary(data)["semseg"]
    assert (found.images, found.total, found.labelled) == (2, 4, 0.5)
    assert str(found) == "2 of 4 images, 50.0% of their pixels"
    one, other = (as_multitask(part) for part in random_split(data, [3, 1], torch.Generator().manual_seed(0)))
    assert sorted(one.ids + other.ids) == list("abcd")
    assert [one[index]["id"] for index in range(3)] == one.ids
    assert one.collate([one[0], one[1]])["semseg"].shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="got list"):
        as_multitask([1])
