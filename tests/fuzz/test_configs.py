"""Random configurations: read, or refused in one line that names the file; what is read can be outlined and written."""

import copy
import json
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

import demt
from demt.config import InteractionAttention, ModelConfig, NeckName, PretrainedCfg, QueryAttention, each_channel
from demt.hub.folder import read_config, write_folder
from tests.fuzz import few_and_many, replaced, replacements

NUMBERS = st.one_of(
    st.integers(-2, 70),
    st.integers(),
    st.sampled_from([10**400, 8192, 8193, 1e-320, 1e308]),
    st.floats(),
    st.booleans(),
)
TEXTS = st.one_of(
    st.text(max_size=8), st.sampled_from(["depth", "degmix", "resnet18", "hf-hub:a/b", "../a", "\x1b[2J", "x" * 300])
)
LEAVES = st.one_of(st.none(), NUMBERS, TEXTS)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=4) | st.dictionaries(TEXTS, v, max_size=3), max_leaves=8)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("valid")
    demt.create_model("degmix_nano.rooms", tasks={"semseg": 16, "depth": 1, "sal": 2}).save_pretrained(folder)
    return json.loads((folder / "config.json").read_text())


def places(values, path=()):
    """Paths to every value in nested mappings and lists."""
    items = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def changed(values, changes):
    values = copy.deepcopy(values)
    for number, action, new in changes:
        paths = list(places(values))
        if not paths:
            return values
        *path, last = paths[number % len(paths)]
        part = values
        for key in path:
            part = part[key]
        if action == "remove":
            del part[last]
        elif action == "add" and isinstance(part, dict):
            part[new if isinstance(new, str) else "more"] = new
        else:
            part[last] = new
    return values


CHANGES = st.lists(
    st.tuples(st.integers(0, 10_000), st.sampled_from(["set", "set", "set", "remove", "add"]), VALUES),
    min_size=1,
    max_size=3,
)


def read(file):
    """The configuration in a file, if it is one."""
    try:
        return read_config(file)
    except ValueError as error:
        assert file.name in str(error)  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017
        assert len(str(error)) < 2000  # noqa: PT017
        return None


@few_and_many(200, 5000)
def test_changed_values(valid, tmp_path, inputs):
    file = tmp_path / "config.json"

    @inputs
    @given(CHANGES)
    def run(changes):
        file.write_text(json.dumps(changed(valid, changes)))
        if (found := read(file)) is not None:
            config, cfg = found
            assert ModelConfig.from_dict(config.to_dict()) == config
            assert PretrainedCfg.from_dict(cfg.to_dict()) == cfg
            assert all(math.isfinite(value) for value in (*cfg.mean, *cfg.std))
            assert len(cfg.mean) == len(cfg.std) == config.in_chans

    run()


@few_and_many(200, 10_000)
def test_changed_characters(valid, tmp_path, inputs):
    file = tmp_path / "config.json"
    text = json.dumps(valid).encode()

    @inputs
    @given(replacements(text, 3))
    def run(places):
        file.write_bytes(replaced(text, places))
        read(file)

    run()


@few_and_many(10, 200)
def test_what_is_read_is_outlined_and_comes_back(valid, tmp_path, inputs):
    model = st.fixed_dictionaries(
        {},
        optional={
            "family": st.sampled_from(["demt", "demtg", "degmix"]),
            "backbone": st.sampled_from(
                ["resnet18", "mobilenetv4_conv_small", "swin_tiny_patch4_window7_224", "vit_tiny_patch16_224"]
            ),
            "in_chans": st.integers(1, 8),
            "width": st.integers(1, 130),
            "depth": st.integers(0, 5),
            "heads": st.integers(1, 5),
            "neck": st.sampled_from([*get_args(NeckName), None]),
            "interaction": st.sampled_from(get_args(InteractionAttention)),
            "query": st.sampled_from(get_args(QueryAttention)),
            "window": st.integers(1, 300),
            "points": st.integers(1, 40),
            "pre_norm": st.booleans(),
            "gating": st.booleans(),
            "offset_groups": st.one_of(st.none(), st.integers(1, 8)),
            "head_width": st.one_of(st.none(), st.integers(1, 40)),
            "backbone_kwargs": st.dictionaries(
                st.sampled_from(["drop_path_rate", "img_size", "depths", "embed_dim", "window_size", "norm_layer"]),
                st.one_of(st.integers(0, 64), st.floats(0, 1), st.lists(st.integers(0, 40), max_size=4)),
                max_size=2,
            ),
        },
    )

    @inputs
    @given(model)
    def run(changes):
        values = copy.deepcopy(valid)
        values["model"] |= changes
        values["pretrained_cfg"] |= {name: [0.5] * values["model"]["in_chans"] for name in ("mean", "std")}
        (tmp_path / "config.json").write_text(json.dumps(values))
        if (found := read(tmp_path / "config.json")) is None:
            return
        config, cfg = found
        try:
            network = demt.MultiTaskModel.outline(config, "the file")
        except ValueError:
            return
        assert network.config == config
        write_folder(tmp_path / "again", config, cfg, {})
        assert read_config(tmp_path / "again/config.json") == (config, each_channel(cfg, config.in_chans))

    run()
