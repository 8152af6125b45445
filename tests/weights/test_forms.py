"""Hugging Face folders, shards, our own file, and conversions between them and back, bit for bit."""

from __future__ import annotations

import dataclasses
import json

import pytest
import safetensors.torch
import torch

import internimage
from internimage.backbones import SIZES, InternImage
from internimage.data.transforms import Preprocessing
from internimage.models import InternImageClassifier
from internimage.weights import (
    ModelCard,
    WeightsError,
    config_from_hf,
    convert,
    read_card,
    read_model,
    save_model,
    to_released,
)
from internimage.weights.inert import read_pickle
from internimage.weights.released import to_hugging_face
from tests.weights.small import FAMILIES, T, assert_same_state, classifier, randomize

FEMTO = SIZES["internimage_femto"]
PREPROCESSING = Preprocessing(image_size=28, crop=False, mean=(0.3,), std=(0.4,), mode="L", dark_background=True)


def card(config=T, num_classes=5, **rest) -> ModelCard:
    return ModelCard(name="small", config=config, num_classes=num_classes, **rest)


def write_folder(folder, state, style: str):
    """A folder as Hugging Face writes it, in one file or three shards."""
    folder.mkdir()
    state = {key: tensor.contiguous() for key, tensor in state.items()}
    suffix, save = ("safetensors", safetensors.torch.save_file) if "safetensors" in style else ("bin", torch.save)
    stem = "model" if suffix == "safetensors" else "pytorch_model"
    if "shards" not in style:
        save(state, folder / f"{stem}.{suffix}")
        return
    keys, weight_map = list(state), {}
    for number in range(3):
        name = f"{stem}-0000{number + 1}-of-00003.{suffix}"
        part = {key: state[key] for key in keys[number::3]}
        save(part, folder / name)
        weight_map |= {key: name for key in part}
    (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


STYLES = ["safetensors", "bin", "safetensors shards", "bin shards"]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_hugging_face_folders(config, style, tmp_path):
    source, model = classifier(config), classifier(config, seed=1)
    write_folder(tmp_path / "hub", to_hugging_face(to_released(source)), style)
    report = internimage.load_weights(model, tmp_path / "hub")
    assert report.complete
    assert_same_state(model.state_dict(), source.state_dict())
    backbone = randomize(InternImage(config), 2)
    internimage.load_weights(backbone, str(tmp_path / "hub"))
    assert_same_state(backbone.state_dict(), source.backbone.state_dict())


def test_a_shard_that_is_not_there(tmp_path):
    write_folder(tmp_path / "hub", to_hugging_face(to_released(classifier())), "safetensors shards")
    (tmp_path / "hub" / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match="not beside it: model-00002-of-00003.safetensors"):
        internimage.load_weights(classifier(), tmp_path / "hub")


def test_folders_without_weights(tmp_path):
    with pytest.raises(WeightsError, match="holds none of model.safetensors"):
        internimage.load_weights(classifier(), tmp_path)
    (tmp_path / "mp_rank_00_model_states.pt").touch()
    with pytest.raises(WeightsError, match="zero_to_fp32"):
        internimage.load_weights(classifier(), tmp_path)


def test_the_released_config_json():
    fields = {
        "architectures": ["InternImageModel"],
        "core_op": "DCNv3",
        "channels": 320,
        "depths": [6, 6, 32, 6],
        "groups": [10, 20, 40, 80],
        "dw_kernel_size": 5,
        "level2_post_norm": True,
        "level2_post_norm_block_ids": [5, 11, 17, 23, 29],
        "center_feature_scale": True,
        "use_clip_projector": True,
        "res_post_norm": True,
        "layer_scale": None,
        "cls_scale": 1.5,
        "num_classes": 1000,
        "drop_path_rate": 0.0,
        "with_cp": False,
        "torch_dtype": "float32",
    }
    assert config_from_hf(fields) == dataclasses.replace(SIZES["internimage_h"], drop_path_rate=0.0)
    assert config_from_hf({**fields, "core_op": "DCNv3_pytorch"}) == config_from_hf(fields)
    with pytest.raises(WeightsError, match="core_op is 'DCNv5', expected one of 'DCNv3', 'DCNv4'"):
        config_from_hf({**fields, "core_op": "DCNv5"})
    with pytest.raises(ValueError, match="channels"):
        config_from_hf({**fields, "channels": 3})


def test_our_file_brings_its_card(tmp_path):
    path, state = tmp_path / "model.safetensors", randomize(InternImageClassifier(FEMTO, 10)).half().state_dict()
    written = card(
        FEMTO, 10, preprocessing=PREPROCESSING, class_names=tuple("abcdefghij"), note="ä", scores={"top1": 93.5}
    )
    save_model(path, state, written)
    assert [file.name for file in tmp_path.iterdir()] == ["model.safetensors"]
    assert read_card(path) == written
    tensors, again = read_model(path)
    assert again == written
    assert_same_state({name: tensors[name] for name in state}, state)
    model = InternImageClassifier(FEMTO, 10)
    assert internimage.load_weights(model, path).complete
    assert model.head.fc.weight.dtype == torch.float32


def test_shared_and_strided_tensors_are_saved_whole(tmp_path):
    base = torch.arange(6.0).view(2, 3)
    save_model(tmp_path / "m.safetensors", {"a": base, "b": base, "c": base.t(), "d": base[1]}, card())
    tensors, _ = read_model(tmp_path / "m.safetensors")
    assert (
        torch.equal(tensors["c"], base.t()) and torch.equal(tensors["b"], base) and torch.equal(tensors["d"], base[1])
    )


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(path, {"a": torch.ones(1)}, card())
    with pytest.raises(Exception):  # noqa: B017 - whatever safetensors raises
        save_model(path, {"a": torch.ones(2), "b": torch.ones(2, device="meta")}, card())
    assert torch.equal(read_model(path)[0]["a"], torch.ones(1))
    assert len(list(tmp_path.iterdir())) == 1


def test_files_without_a_card(tmp_path):
    safetensors.torch.save_file({"a": torch.ones(1)}, tmp_path / "bare.safetensors")
    with pytest.raises(WeightsError, match="no model card"):
        read_card(tmp_path / "bare.safetensors")
    with pytest.raises(FileNotFoundError, match="no file"):
        read_card(tmp_path / "absent.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(WeightsError, match="damaged"):
        read_card(tmp_path / "broken.safetensors")
    with pytest.raises(ValueError, match="2 names for num_classes=5"):
        card(class_names=("a", "b"))


@pytest.mark.parametrize("shard_bytes", [5 * 10**9, 10**6], ids=["one file", "shards"])
@pytest.mark.parametrize("config", FAMILIES.values(), ids=FAMILIES)
def test_conversions_there_and_back_keep_every_bit(config, shard_bytes, tmp_path):
    source = classifier(config)
    written = card(config, preprocessing=Preprocessing(image_size=224))
    save_model(tmp_path / "a.safetensors", source.state_dict(), written)
    convert(tmp_path / "a.safetensors", tmp_path / "b", "hf", shard_bytes=shard_bytes)
    assert (tmp_path / "b" / "model.safetensors.index.json").exists() == (shard_bytes == 10**6)
    convert(tmp_path / "b", tmp_path / "c.safetensors", "safetensors")
    convert(tmp_path / "c.safetensors", tmp_path / "d.pth", "released")
    released = read_pickle(tmp_path / "d.pth")
    assert list(released) == ["model", "internimage"]
    assert_same_state(released["model"], to_released(source))
    tensors, again = read_model(tmp_path / "c.safetensors")
    assert_same_state({name: tensors[name] for name in source.state_dict()}, source.state_dict())
    assert again == written
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_conversions_keep_the_dtype(dtype, tmp_path):
    source = randomize(InternImageClassifier(FEMTO, 10)).to(dtype)
    torch.save({"model": to_released(source)}, tmp_path / "internimage_femto.pth")
    convert(tmp_path / "internimage_femto.pth", tmp_path / "hf", "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["torch_dtype"] == str(dtype).removeprefix("torch.")
    convert(tmp_path / "hf", tmp_path / "own.safetensors", "safetensors")
    tensors, _ = read_model(tmp_path / "own.safetensors")
    assert_same_state({name: tensors[name] for name in source.state_dict()}, source.state_dict())


def test_hugging_face_files_say_how_pictures_are_prepared(tmp_path):
    source = randomize(InternImageClassifier(dataclasses.replace(SIZES["internimage_femto"], in_chans=3), 10))
    torch.save({"model": to_released(source)}, tmp_path / "my_model_384.pth")
    convert(tmp_path / "my_model_384.pth", tmp_path / "hf", "hf")
    preparation = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert preparation["crop_size"] == {"height": 384, "width": 384} and preparation["size"] == {"shortest_edge": 384}
    assert preparation["resample"] == 3 and preparation["image_mean"] == [0.485, 0.456, 0.406]
    settings = json.loads((tmp_path / "hf" / "config.json").read_text())
    assert settings["model_type"] == "internimage" and settings["num_classes"] == 10
    assert config_from_hf(settings) == source.config


def test_bare_backbones_convert_too(tmp_path):
    source = randomize(InternImage(FEMTO))
    torch.save({"state_dict": {f"backbone.{k}": v for k, v in to_released(source).items()}}, tmp_path / "b.pth")
    convert(tmp_path / "b.pth", tmp_path / "b.safetensors", "safetensors")
    assert read_card(tmp_path / "b.safetensors").num_classes == 0
    model = randomize(InternImage(FEMTO), 1)
    internimage.load_weights(model, tmp_path / "b.safetensors")
    assert_same_state(model.state_dict(), source.state_dict())


def test_refused_conversions(tmp_path):
    state = to_released(randomize(InternImageClassifier(FEMTO, 10)))
    torch.save({"model": state}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="to is 'onnx'"):
        convert(tmp_path / "a.pth", tmp_path / "b", "onnx")
    with pytest.raises(FileExistsError, match="--force"):
        convert(tmp_path / "a.pth", tmp_path / "a.pth", "released")
    with pytest.raises(FileNotFoundError, match="no folder"):
        convert(tmp_path / "a.pth", tmp_path / "no" / "b.pth", "released")
    torch.save({"model": state | {"extra.weight": torch.ones(1)}}, tmp_path / "more.pth")
    with pytest.raises(WeightsError, match="would lose tensors.*extra.weight|(?s:would lose.*extra.weight)"):
        convert(tmp_path / "more.pth", tmp_path / "b.pth", "released")
    detector = {f"backbone.{k}": v for k, v in state.items() if not k.startswith(("head", "conv_head"))}
    torch.save({"state_dict": detector | {"neck.w": torch.ones(1)}}, tmp_path / "det.pth")
    with pytest.raises(WeightsError, match="(?s:neck.w.*only classification models)"):
        convert(tmp_path / "det.pth", tmp_path / "b.pth", "released")
    torch.save({"model": to_released(classifier())}, tmp_path / "small.pth")
    with pytest.raises(WeightsError, match="none of the sizes"):
        convert(tmp_path / "small.pth", tmp_path / "b.pth", "released")
    assert not (tmp_path / "b.pth").exists() and not (tmp_path / "b").exists()
    convert(tmp_path / "a.pth", tmp_path / "a.pth", "released", force=True)
    assert_same_state(read_pickle(tmp_path / "a.pth")["model"], state)
