"""Model cards: what stands in them, and that their code is true."""

import re

import pytest
from huggingface_hub import ModelCard as HubCard
from PIL import Image

import demt

RESULTS = {"semseg/miou": 0.4623, "depth/rmse": 0.5871, "depth/abs_rel": 0.1234, "edge/odsf": 0.769}


@pytest.fixture(scope="module")
def model():
    return demt.create_model("degmix_nano.nyud")


def write(model, folder, **card):
    model.save_pretrained(folder, card=demt.ModelCard(**card))
    return (folder / "README.md").read_text(encoding="utf-8")


def test_a_full_card(model, tmp_path):
    picture = Image.new("RGB", (60, 40), "red")
    picture.save(tmp_path / "panel.jpg")
    text = write(
        model,
        tmp_path / "model",
        summary="A small one.",
        licence="mit",
        training_data="NYUD-v2, 795 training images",
        initial_weights="mobilenetv4_conv_small.e2400_r224_in1k",
        results=RESULTS,
        protocol="atrc on the 654 test images of NYUD-v2",
        picture=tmp_path / "panel.jpg",
    )
    data = HubCard(text).data
    assert (data.library_name, data.license, data.pipeline_tag) == ("demt", "mit", "image-segmentation")
    assert {"degmix", "semseg", "depth", "normals", "edge"} <= set(data.tags)
    assert "# DeGMix on mobilenetv4_conv_small: nyud\n\nA small one.\n\n![" in text
    assert "| semseg | miou | 46.23 | % | higher |" in text
    assert "| depth | rmse | 0.5871 | m | lower |" in text
    assert "Protocol: atrc on the 654 test images of NYUD-v2" in text
    assert "| training data | NYUD-v2, 795 training images |" in text
    assert "| initial weights | mobilenetv4_conv_small.e2400_r224_in1k |" in text
    assert "| licence of the weights | mit |" in text
    assert "| `depth` | 1 | values (m) |" in text
    assert "0 wall, 1 floor, 2 cabinet" in text
    assert "2.87 M" in text
    assert "not stated" not in text
    with Image.open(tmp_path / "model/predictions.png") as written:
        assert written.format == "PNG"
        assert written.size == (60, 40)


def test_an_empty_card_claims_nothing(model, tmp_path):
    text = write(model, tmp_path)
    assert "license" not in HubCard(text).data.to_dict()
    assert "*No results are stated.*" in text
    assert len(re.findall(r"\| \*not stated\* \|", text)) == 3
    assert "![" not in text


def test_the_code_runs(model, tmp_path, monkeypatch):
    text = write(model, tmp_path / "my_model")
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (60, 40)).save("photo.jpg")
    names = {}
    exec(re.search(r"```python\n(.*?)```", text, re.S)[1], names)
    assert list(names["prediction"]) == ["semseg", "depth", "normals", "edge"]


@pytest.mark.parametrize(
    ("tasks", "pipeline"), [({"depth": 1}, "depth-estimation"), ({"normals": 3, "edge": 1}, "image-to-image")]
)
def test_the_kind_of_task(tasks, pipeline, tmp_path):
    text = write(demt.create_model("demt_nano", tasks=tasks), tmp_path)
    assert HubCard(text).data.pipeline_tag == pipeline
    assert f"# DeMT on mobilenetv4_conv_small: {', '.join(tasks)}\n" in text


def test_wrong_cards(model, tmp_path):
    with pytest.raises(ValueError, match="`protocol` beside `results`"):
        demt.ModelCard(results=RESULTS)
    with pytest.raises(ValueError, match=r"keys 'task/metric' in `results`, got \['miou'\]"):
        demt.ModelCard(results={"miou": 0.4}, protocol="atrc")
    with pytest.raises(ValueError, match=r"Results of tasks \['sal'\] that the model does not have"):
        model.save_pretrained(tmp_path, card=demt.ModelCard(results={"sal/maxf": 0.8}, protocol="atrc"))
    with pytest.raises(FileNotFoundError, match=r"nothing.png"):
        model.save_pretrained(tmp_path, card=demt.ModelCard(picture="nothing.png"))
