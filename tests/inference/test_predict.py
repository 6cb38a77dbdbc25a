"""Images in all forms, predictions in their meaning, and the files of the command line."""

import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import data
from typer.testing import CliRunner

import demt
from demt.cli import app
from demt.data.images import read_image
from demt.inference.folder import predict_folder
from demt.tasks import Task
from demt.viz import panel, task_picture
from tests.released_form import released_form


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return demt.create_model(
        "degmix_nano", tasks={**demt.tasks.DATASETS["nyud"], **demt.tasks.DATASETS["pascal"]}
    ).eval()


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(data.astronaut()[:200, :300])


def test_forms_of_one_image_are_the_same(photo, tmp_path):
    array = np.asarray(photo)
    photo.save(tmp_path / "photo.png")
    expected = torch.from_numpy(array.transpose(2, 0, 1).copy()) / 255
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    for form in (
        photo,
        array,
        array / 255.0,
        tensor,
        tensor / 255,
        tmp_path / "photo.png",
        str(tmp_path / "photo.png"),
    ):
        torch.testing.assert_close(read_image(form), expected)


def test_exif_turns_the_image_upright(photo, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    photo.save(tmp_path / "turned.png", exif=exif)
    upright = read_image(tmp_path / "turned.png")
    assert upright.shape == (3, 300, 200)
    torch.testing.assert_close(upright, read_image(photo).rot90(-1, (1, 2)))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK", "YCbCr", "I", "I;16"])
def test_modes(mode, photo, tmp_path):
    if mode.startswith("I"):
        grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257
        image = Image.fromarray(grey if mode == "I;16" else grey.astype(np.int32))
    else:
        image = photo.convert(mode)
    values = read_image(image)
    assert values.shape == (3, 200, 300)
    reference = read_image(photo).mean(0)
    assert (values.mean(0) - reference).abs().mean() < (0.5 if mode == "1" else 0.06)


def test_sixteen_bits_keep_their_precision(tmp_path):
    values = np.arange(0, 65536, 17, dtype=np.uint16).reshape(-1, 1).repeat(3, 1)
    Image.fromarray(values).save(tmp_path / "deep.png")
    torch.testing.assert_close(
        read_image(tmp_path / "deep.png")[0], torch.from_numpy(values.astype(np.float32) / 65535)
    )


def test_transparency_lies_over_white():
    clear = Image.new("RGBA", (4, 3), (255, 0, 0, 0))
    assert (read_image(clear) == 1).all()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((2, 3, 4, 5)), r"shape \(H, W\) or \(H, W, C\), got \(2, 3, 4, 5\)"),
        (np.zeros((0, 3, 3), np.uint8), "at least one pixel"),
        (np.full((4, 4, 3), 200.0), "in .0, 1., got values from 200 to 200"),
        (np.full((4, 4, 3), np.nan), "in .0, 1."),
        (np.zeros((4, 4, 3), np.int64), "dtype bool, uint8, uint16 or floating, got torch.int64"),
        (torch.zeros(4, 4), r"shape \(C, H, W\), got \(4, 4\)"),
        (5, "path, PIL image, array or tensor, got int"),
    ],
)
def test_wrong_images(image, message, model):
    with pytest.raises(ValueError, match=message):
        demt.predict(model, image)


def test_files_that_are_no_images(tmp_path, photo):
    with pytest.raises(FileNotFoundError, match="No image at"):
        read_image(tmp_path / "none.png")
    text = tmp_path / "text.jpg"
    text.write_text("hello")
    photo.save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:2000])
    for file in (text, tmp_path / "cut.png", tmp_path):
        with pytest.raises(ValueError, match="cannot be read as an image"):
            read_image(file)


def test_channels_meet_the_model(photo):
    grey = demt.create_model("demt_nano", in_chans=1, tasks={"depth": 1})
    assert demt.preprocess(grey, photo, max_size=300).shape == (1, 1, 200, 300)
    assert demt.preprocess(grey, photo).shape == (1, 1, 171, 256)
    five = demt.create_model("demt_nano", in_chans=5, tasks={"depth": 1})
    assert demt.preprocess(five, torch.rand(5, 9, 9)).shape == (1, 5, 9, 9)
    with pytest.raises(ValueError, match="`image` with 5 channels, got 3"):
        demt.preprocess(five, photo)


def test_preprocessing_normalises(model):
    values = demt.preprocess(model, np.full((4, 4, 3), 0.5))
    torch.testing.assert_close(
        values[0, :, 0, 0], (0.5 - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    )


def test_predictions_have_their_meaning(model, photo):
    small = photo.resize((120, 80))
    prediction = demt.predict(model, small)
    with torch.no_grad():
        logits = model(demt.preprocess(model, small))
    assert list(prediction) == list(model.tasks)
    assert prediction["semseg"].dtype == np.uint8
    assert (prediction["semseg"] == logits["semseg"][0].argmax(0).numpy()).all()
    np.testing.assert_allclose(prediction["edge"], logits["edge"][0, 0].sigmoid(), rtol=1e-5)
    np.testing.assert_allclose(prediction["sal"], logits["sal"][0].softmax(0)[1], rtol=1e-5)
    np.testing.assert_allclose(prediction["depth"], logits["depth"][0, 0], rtol=1e-5)
    assert prediction["normals"].shape == (3, 80, 120)
    np.testing.assert_allclose(np.linalg.norm(prediction["normals"], axis=0), 1, rtol=1e-5)
    assert not model.training


def test_large_images_run_small_and_come_back_large(model, photo):
    prediction = demt.predict(model, photo, max_size=96)
    with torch.no_grad():
        logits = model(demt.preprocess(model, photo, max_size=96))
    assert logits["depth"].shape[-2:] == (64, 96)
    full = torch.nn.functional.interpolate(logits["semseg"], (200, 300), mode="bilinear")
    assert prediction["semseg"].shape == (200, 300)
    assert (prediction["semseg"] == full[0].argmax(0).numpy()).mean() > 0.9999
    assert prediction["normals"].shape == (3, 200, 300)


def test_several_images_equal_single_ones_and_keep_the_mode(model, photo):
    model.train()
    images = [photo.resize((64, 48)), photo.resize((50, 40)), photo.rotate(180).resize((64, 48))]
    together = demt.predict(model, images, batch_size=3)
    assert model.training
    model.eval()
    for image, several in zip(images, together):
        for task, values in demt.predict(model, image).items():
            np.testing.assert_allclose(several[task], values, atol=1e-4)
    assert demt.predict(model, []) == []


@pytest.mark.parametrize("options", [{"max_size": 0}, {"batch_size": 2.5}])
def test_wrong_options(options, model, photo):
    with pytest.raises(ValueError, match="integer >= 1"):
        demt.predict(model, [photo], **options)


def test_pictures_keep_class_ids():
    task = demt.tasks.BUILTIN["semseg"]
    ids = np.random.default_rng(0).integers(0, 21, (5, 6)).astype(np.uint8)
    picture = task_picture(task, ids)
    assert picture.mode == "P"
    assert (np.asarray(picture) == ids).all()
    assert tuple(np.asarray(picture.convert("RGB"))[0, 0]) == task.palette[ids[0, 0]]
    wide = Task(name="words", channels=300, activation="argmax")
    assert task_picture(wide, np.full((2, 2), 299, np.uint16)).mode == "RGB"


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (300, 7)])
def test_panels_of_any_shape(size, model):
    image = Image.new("RGB", size)
    sheet = panel(image, demt.predict(model, image), model.tasks, note="A note")
    assert sheet.width > 400


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_a_panel_shows_labels_beside_predictions():
    tasks = {name: demt.tasks.BUILTIN[name] for name in ("sal", "depth")}
    prediction = {"sal": np.ones((12, 16), np.float32), "depth": np.full((12, 16), 2.0, np.float32)}
    depth = np.full((1, 12, 16), 4.0, np.float32)
    depth[:, :6] = 255
    labels = {"sal": np.zeros((1, 12, 16), np.uint8), "depth": depth}
    sheet = np.array(panel(Image.new("RGB", (16, 12)), prediction, tasks, labels=labels, cell_width=64))
    # Cells are 128 wide, pictures 64 x 48, below a gap of 16 and a heading of 30.
    saliency = sheet[46:94, 160:288].mean(-1)
    assert saliency[:, :64].min() == 255
    assert saliency[:, 64:].max() == 0
    bottom = 46 + 30 + 48 + 44 + 16
    nearest, furthest = np.array([0, 0, 4]), np.array([252, 253, 191])
    picture = sheet[bottom : bottom + 48, 16:144]
    assert (picture[:, :64] == nearest).all()
    assert (picture[24:, 64:] == furthest).all()
    hatching = picture[:24, 64:]
    assert set(np.unique(hatching)) == {150, 225}


def test_command_writes_pictures_panel_and_values(photo, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("a.png", "b.jpg", "other/a.png"):
        photo.save(tmp_path / name)
    out = tmp_path / "out"
    files = [tmp_path / n for n in ("a.png", "b.jpg", "other/a.png")]
    result = run("predict", *files, "-m", "demt_nano.nyud", "--random-weights", "-o", out, "--batch-size", 2)
    assert result.exit_code == 0, result.output
    assert "Random weights" in result.stderr
    tasks = ["semseg", "depth", "normals", "edge"]
    expected = {f"{s}_{t}.png" for s in ("a", "b", "a_2") for t in [*tasks, "panel"]} | {"a.npz", "b.npz", "a_2.npz"}
    assert {p.name for p in out.iterdir()} == expected
    values = np.load(out / "a.npz")
    assert sorted(values) == sorted(tasks)
    assert values["normals"].shape == (3, 200, 300)
    assert (np.asarray(Image.open(out / "a_semseg.png")) == values["semseg"]).all()


def test_command_takes_a_folder_or_a_released_checkpoint(photo, tmp_path):
    photo.save(tmp_path / "a.png")
    network = demt.create_model("demt_hrnet_w18.nyud").eval()
    torch.save(
        {"state_dict": released_form(network.state_dict(), family="demt", tasks=list(network.tasks))},
        tmp_path / "m.ckpt",
    )
    result = run("convert", tmp_path / "m.ckpt", tmp_path / "folder")
    assert result.exit_code == 0, result.output
    assert "demt on hrnet_w18_small_v2" in result.output
    assert "semseg (40), depth (1)" in result.output
    for source in ("m.ckpt", "folder"):
        result = run(
            "predict", tmp_path / "a.png", "-m", tmp_path / source, "-o", tmp_path / source[:2], "--max-size", 64
        )
        assert result.exit_code == 0, result.output
        assert "Random" not in result.output
    first, second = (np.load(tmp_path / f / "a.npz") for f in ("m.", "fo"))
    assert all((first[t] == second[t]).all() for t in first)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.png", "-m", "demt_nano", "--random-weights"], "No image at 'none.png'"),
        (["none.png", "-m", "demt_nano"], "There are no weights for 'demt_nano' yet; add --random-weights"),
        (["none.png", "-m", "demt_nano", "--random-weights", "--device", "foo"], "Cannot run on --device 'foo'"),
        (["none.png", "-m", ".", "--random-weights"], "No config.json in '.'; expected local-dir:PATH"),
        (["none.png", "-m", "demt_nan"], "did you mean one of ['demt_nano'"),
        (["none.png", "-m", "folder/model"], "No folder at 'folder/model'; expected local-dir:PATH"),
    ],
)
def test_command_errors_are_one_line(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run("predict", *arguments)
    assert result.exit_code == 1
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "predictions").exists()


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_broken_images_are_reported_and_the_others_predicted(tmp_path):
    paths = [tmp_path / f"{name}.png" for name in "abcdef"]
    for value, path in enumerate(paths):
        Image.fromarray(np.full((24, 32, 3), 40 * value, np.uint8)).save(path)
    paths[1].write_bytes(paths[1].read_bytes()[:60])
    paths[4].unlink()
    (tmp_path / "g[red].txt").write_text("no image")
    command = ["predict", *paths, tmp_path / "g[red].txt", "-m", "multitask_baseline_nano.rooms", "-o"]
    result = run(*command, tmp_path / "out", "--batch-size", 4)
    assert result.exit_code == 1
    assert {path.stem for path in (tmp_path / "out").glob("*.npz")} == set("acdf")
    lines = result.stderr.splitlines()
    assert [name in line for line, name in zip(lines, ("b.png", "e.png", "g[red].txt"))] == [True] * 3
    assert lines[3] == "3 of 7 images have no predictions"
    alone = run("predict", paths[2], "-m", "multitask_baseline_nano.rooms", "-o", tmp_path / "alone")
    assert alone.exit_code == 0, alone.output
    for name, values in np.load(tmp_path / "alone/c.npz").items():
        np.testing.assert_allclose(np.load(tmp_path / "out/c.npz")[name], values, atol=1e-4)


@pytest.mark.parametrize("name", ["room_semseg.png", "room_panel.png", "room.npz"])
def test_files_of_others_are_not_replaced(name, photo, tmp_path):
    photo.save(tmp_path / "room.jpg")
    if name.endswith("png"):
        Image.fromarray(np.full((24, 32), 7, np.uint8)).save(tmp_path / name)
    else:
        np.savez(tmp_path / name, label=np.zeros(3))
    before = files_of(tmp_path)
    result = run("predict", tmp_path / "room.jpg", "-m", "demt_nano.rooms", "-o", tmp_path)
    assert result.exit_code == 1
    assert name in result.stderr
    assert "choose another folder" in result.stderr
    assert files_of(tmp_path) == before


def test_own_files_are_replaced(photo, tmp_path):
    photo.save(tmp_path / "room.jpg")
    command = ["predict", tmp_path / "room.jpg", "-m", "multitask_baseline_nano.rooms", "-o", tmp_path]
    assert run(*command).exit_code == 0
    first = files_of(tmp_path)
    assert run(*command, "--max-size", 64).exit_code == 0
    second = files_of(tmp_path)
    assert set(first) == set(second)
    assert first["room_semseg.png"] != second["room_semseg.png"]


def test_the_panel_says_what_the_model_was_trained_on(photo, tmp_path):
    photo.save(tmp_path / "room.jpg")
    model = demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()
    sizes = []
    for trained_on in ("synthetic rooms", None):
        model.pretrained_cfg = dataclasses.replace(model.pretrained_cfg, trained_on=trained_on)
        (saved,) = predict_folder(model, tmp_path / "room.jpg", tmp_path / str(trained_on), save=["panel"])
        with Image.open(saved.files[0]) as picture:
            sizes.append(picture.size)
    assert sizes[0][0] == sizes[1][0]
    assert sizes[0][1] > sizes[1][1]


@pytest.mark.parametrize("options", [{}, {"tile": 16}])
@pytest.mark.parametrize("value", [float("nan"), 3e38])
def test_values_that_are_not_finite_make_no_prediction(value, options):
    model = demt.create_model("multitask_baseline_nano.rooms", pretrained=True).eval()
    with torch.no_grad():
        model.head.heads["semseg"].logits.weight.fill_(value)
    with pytest.raises(ValueError, match="NaN or infinite values for semseg: its weights"):
        demt.predict(model, [np.zeros((20, 20, 3), np.uint8), np.full((20, 20, 3), 200, np.uint8)], **options)


def test_names_with_markup_are_printed_as_they_are(photo, tmp_path):
    photo.save(tmp_path / "[red]a.png")
    out = tmp_path / "[bold]out"
    result = run("predict", tmp_path / "[red]a.png", "-m", "multitask_baseline_nano.rooms", "-o", out)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "[red]a_panel.png")


def test_version():
    assert run("--version").output.strip() == f"demt {demt.__version__}"


def own_tasks(*names):
    return {
        name: Task(name=name, channels=2, activation="argmax", loss="cross_entropy", metric="miou") for name in names
    }


def test_tasks_of_any_name_have_files_of_their_own(photo, tmp_path):
    """`panel` is the overview's name, `file` an argument of np.savez."""
    tasks = own_tasks("panel", "file")
    model = demt.create_model("multitask_baseline_nano", tasks=tasks).eval()
    photo.resize((48, 32)).save(tmp_path / "room.png")
    (saved,) = predict_folder(model, tmp_path / "room.png", tmp_path / "out")
    names = {"room_panel.png", "room_file.png", "room_all_panel.png", "room.npz"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    assert saved.files[0].name == "room_all_panel.png"
    wanted = demt.predict(model, tmp_path / "room.png")
    with np.load(tmp_path / "out/room.npz") as found:
        assert set(found) == set(tasks)
        for name in tasks:
            assert np.array_equal(found[name], wanted[name])


def test_two_results_of_one_name(photo, tmp_path):
    model = demt.create_model("multitask_baseline_nano", tasks=own_tasks("b_c", "c")).eval()
    paths = [tmp_path / "a.png", tmp_path / "a_b.png"]
    for path in paths:
        photo.resize((48, 32)).save(path)
    with pytest.raises(FileExistsError, match=r"a_b_c\.png.*two images"):
        list(predict_folder(model, paths, tmp_path / "out"))
    assert not (tmp_path / "out").exists()
