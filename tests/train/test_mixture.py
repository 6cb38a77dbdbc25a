"""Training on a mixture: recipes, shares in every process, exact resuming, and what is evaluated."""

import signal

import numpy as np
import pytest
import torch
from PIL import Image

import demt
from demt.data import Mixture, SyntheticRooms, transforms
from demt.train import load_recipe, open_dataset
from demt.train.data import train_loader
from demt.train.reading import recipe_yaml, sources_of
from tests.train.test_resume import equal, states
from tests.train.worker import finish, in_process, quiet, run, tiny, train_and_die

CHANGES = ["ema=0.9", "balancing=uncertainty", "steps=4"]


def write_photos(root, count=3, size=(60, 70)):
    """Pictures with labels of boundaries and saliency, of which half the pixels have none."""
    rng = np.random.default_rng(0)
    for folder in ("images", "edge", "sal"):
        (root / folder).mkdir(parents=True)
    for number in range(count):
        Image.fromarray(rng.integers(0, 255, (*size, 3)).astype(np.uint8)).save(root / f"images/{number}.png")
        for task in ("edge", "sal"):
            values = rng.integers(0, 2, size).astype(np.uint8)
            values[: size[0] // 2] = 255
            Image.fromarray(values).save(root / f"{task}/{number}.png")
    return root


def sources(photos, more=""):
    rooms = "{dataset: rooms, tasks: [semseg, depth, edge], length: 6, val_length: 2}"
    own = f"{{root: {photos}, tasks: 'edge,sal', encodings: 'edge=values,sal=classes', weight: 1{more}}}"
    return f"data.sources=[{rooms}, {own}]"


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("mixture") / "photos")


@pytest.fixture(scope="module")
def unbroken(photos, tmp_path_factory):
    torch.set_num_threads(1)
    console = quiet()
    folder = tmp_path_factory.mktemp("unbroken") / "run"
    return run(tiny(folder, *CHANGES, sources(photos)), console=console), console.file.getvalue()


def test_killed_and_resumed(unbroken, photos, tmp_path):
    recipe = tiny(tmp_path / "run", *CHANGES, sources(photos))
    assert finish(in_process(train_and_die, recipe, 3)) == -signal.SIGKILL
    resumed = run(tiny(tmp_path / "run", *CHANGES, sources(photos), "data.workers=1"), resume=True)
    learnt = demt.create_model(f"local-dir:{tmp_path / 'run/last'}").pretrained_cfg.trained_on
    assert learnt == "synthetic rooms for semseg, depth, edge; own data (photos) for edge, sal"
    equal(states(tmp_path / "run"), states(unbroken[0].folder))
    equal(resumed.model.state_dict(), unbroken[0].model.state_dict())
    assert resumed.results == unbroken[0].results


def test_the_run_says_what_it_mixes_and_evaluates_all_tasks(unbroken):
    trained, printed = unbroken
    assert "Training mixes Mixture(50% SyntheticRooms(" in printed
    assert "Training, labels of sal: 3 of 9 images, 50.0% of their pixels" in printed
    assert "Training, labels of depth: 6 of 9 images" in printed
    assert list(trained.model.tasks) == ["semseg", "depth", "edge", "sal"]
    assert {"semseg/miou", "depth/rmse", "edge/odsF", "sal/maxf"} <= set(trained.results)
    assert "synthetic rooms" in (trained.folder / "last/README.md").read_text()


def test_sources_may_move_but_not_change(unbroken, photos, tmp_path):
    folder = unbroken[0].folder
    moved = tmp_path / "moved"
    moved.symlink_to(photos)
    assert run(tiny(folder, *CHANGES, sources(moved)), resume=True).results == unbroken[0].results
    with pytest.raises(ValueError, match=r"another recipe: data\.sources"):
        run(tiny(folder, *CHANGES, sources(photos, ", max_size: 50")), resume=True)


@pytest.mark.parametrize("processes", [1, 2])
def test_every_process_has_its_share_of_each_source(photos, tmp_path, processes):
    recipe = tiny(tmp_path / "run", sources(photos))
    dataset = open_dataset(recipe.data, "train")
    for rank in range(processes):
        batches = list(train_loader(dataset, recipe, 0, rank, processes))
        assert len(batches) == 6
        for batch in batches:
            rooms = [id.startswith("0-") for id in batch["id"]]
            assert sum(rooms) == len(rooms) / 2 == 2 / processes
            for task, labelled in (("depth", True), ("sal", False), ("semseg", True)):
                for is_room, labels in zip(rooms, batch[task]):
                    assert bool((labels == 255).all()) == (is_room != labelled), (task, is_room)


def test_a_source_can_be_left_out_of_the_evaluation(photos, tmp_path):
    recipe = tiny(tmp_path / "run", "steps=1", "optim.warmup=0", sources(photos, ", val_ids: []"))
    assert len(open_dataset(recipe.data, "val")) == 2
    assert set(open_dataset(recipe.data, "val").tasks) == {"semseg", "depth", "edge", "sal"}
    # Where the tasks are known, what has no part in the evaluation is not opened.
    known = open_dataset(recipe.data, "train").tasks
    gone = tiny(tmp_path / "run", sources("/nowhere", ", val_ids: []")).data
    assert open_dataset(gone, "val", tasks=known).tasks == known
    with pytest.warns(UserWarning, match="sal"):
        trained = run(recipe)
    assert list(trained.model.tasks) == ["semseg", "depth", "edge", "sal"]
    assert "depth/rmse" in trained.results
    assert not [name for name in trained.results if "sal" in name]
    alone = f"data.sources=[{{root: {photos}, tasks: edge, val_ids: []}}]"
    with pytest.raises(ValueError, match=r"All of `data.sources` are left out of the evaluation"):
        open_dataset(tiny(tmp_path, alone).data, "val")


def test_sources_of_other_sizes(photos, tmp_path):
    with pytest.raises(
        ValueError, match=r"images of the same shape, got \(3, 48, 64\) of SyntheticRooms.*\(3, 32, 32\) of"
    ):
        run(tiny(tmp_path / "run", sources(photos, ", size: [32, 32]")))
    assert not (tmp_path / "run/checkpoints").exists()


def test_in_python(tmp_path):
    parts = [
        SyntheticRooms((48, 64), 3, seed, tasks=[task], transform=transforms.train_transform(size=(48, 64)))
        for seed, task in enumerate(("depth", "normals"))
    ]
    rooms = SyntheticRooms((48, 64), 2, 9, tasks=["normals", "depth"], transform=transforms.eval_transform())
    mixture = Mixture([(parts[0], 3), (parts[1], 1)])
    trained = run(tiny(tmp_path / "run", "steps=1", "optim.warmup=0"), train_set=mixture, val_set=rooms)
    assert {"depth/rmse", "normals/mean"} <= set(trained.results)


def test_recipes_with_sources(photos, tmp_path):
    recipe = tiny(tmp_path / "run", sources(photos, ", in_memory: true"))
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(recipe))
    assert load_recipe(tmp_path / "recipe.yaml") == recipe
    (rooms, one), (own, other) = sources_of(recipe.data)
    assert (one, other, rooms.dataset, own.dataset) == (1, 1, "rooms", "folder")
    assert (rooms.size, own.size, rooms.in_memory, own.in_memory) == ((48, 64), (48, 64), False, True)
    assert (own.encodings, own.root) == ({"edge": "values", "sal": "classes"}, str(photos))
    whole = load_recipe("rooms").data
    assert sources_of(whole) == [(whole, 1.0)]


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ("{dataset: rooms}", "`data.sources` to be a list"),
        ("[rooms]", "to be a mapping, got 'rooms'"),
        ("[{kind: rooms}]", r"Unknown name `data.sources\[0\].kind`"),
        ("[{dataset: rooms}, {dataset: romms}]", r"`data.sources\[1\].dataset` to be one of"),
        ("[{dataset: rooms, weight: 0}]", r"`data.sources\[0\].weight` above 0, got 0"),
        ("[{dataset: rooms, weight: many}]", r"`data.sources\[0\].weight` to be float, got 'many'"),
        ("[{dataset: rooms, workers: 2}]", "`workers` is a field of `data`"),
    ],
)
def test_errors(sources, message):
    with pytest.raises(ValueError, match=message):
        load_recipe("rooms", [f"data.sources={sources}"])
