"""Downloads: from a hub on this machine, once, resumed, cached, offline, and with errors that say what to do."""

from __future__ import annotations

import hashlib
import io
import json
import socket

import pytest
import torch

import internimage
from internimage.backbones import SIZES
from internimage.models import InternImageClassifier
from internimage.weights import WeightsError, catalog, hub, to_released
from internimage.weights.architecture import config_to_hf
from internimage.weights.released import to_hugging_face
from tests.weights.hub_server import Hub
from tests.weights.small import T, assert_same_state, classifier, randomize

REPO = catalog.entry.REPO


def saved(state) -> bytes:
    file = io.BytesIO()
    torch.save(state, file)
    return file.getvalue()


@pytest.fixture
def server(cache, monkeypatch):
    state = to_released(classifier())
    files = {f"{REPO}/internimage_t_1k_224.pth": saved({"model": state})}
    hf = to_hugging_face(state)
    half = list(hf)[: len(hf) // 2]
    parts = {"pytorch_model-1-of-2.bin": half, "pytorch_model-2-of-2.bin": [key for key in hf if key not in half]}
    index = {"weight_map": {key: name for name, keys in parts.items() for key in keys}}
    files |= {f"owner/sharded/{name}": saved({key: hf[key] for key in keys}) for name, keys in parts.items()}
    files["owner/sharded/pytorch_model.bin.index.json"] = json.dumps(index).encode()
    files["owner/sharded/config.json"] = json.dumps(config_to_hf(T, 5)).encode()
    files["OpenGVLab/internimage_s_1k_224/pytorch_model.bin"] = saved(hf)
    with Hub(files) as running:
        monkeypatch.setenv("HF_ENDPOINT", running.address)
        yield running


def test_a_released_name_is_downloaded_once(server, cache):
    model = classifier(seed=1)
    report = internimage.load_weights(model, "internimage_t_1k_224")
    assert report.complete and report.source == "internimage_t_1k_224"
    assert_same_state(model.state_dict(), classifier().state_dict())
    assert server.downloads == [(f"/{REPO}/resolve/main/internimage_t_1k_224.pth", None)]
    internimage.load_weights(model, "internimage_t_1k_224.pth")
    assert len(server.downloads) == 1
    path = hub.download(catalog.get("internimage_t_1k_224"))
    assert path.is_relative_to(cache) and path.name == "internimage_t_1k_224.pth"


def test_the_cache_is_all_that_is_used_offline(server, monkeypatch):
    internimage.load_weights(classifier(seed=1), "internimage_t_1k_224")
    internimage.load_weights(classifier(seed=1), "owner/sharded")
    server.requests.clear()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = classifier(seed=1)
    internimage.load_weights(model, "internimage_t_1k_224")
    assert_same_state(model.state_dict(), classifier().state_dict())
    internimage.load_weights(model, "owner/sharded")
    assert not server.requests


@pytest.mark.parametrize("name", ["internimage_b_1k_224", "OpenGVLab/internimage_b_1k_224"])
def test_offline_without_a_cache_says_so(name, cache, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE is set; fetch .* on a machine with network") as caught:
        internimage.load_weights(classifier(), name)
    assert str(cache) in str(caught.value)


def test_a_dropped_connection_is_taken_up_where_it_broke(server, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server.drop_after = 5000
    model = classifier(seed=1)
    internimage.load_weights(model, "internimage_t_1k_224")
    assert_same_state(model.state_dict(), classifier().state_dict())
    assert [wanted for _, wanted in server.downloads] == [None, "bytes=5000-"]


def test_files_and_repositories_that_are_not_there(server):
    with pytest.raises(OSError, match="could not download OpenGVLab/InternImage/internimage_l_22k_192to384.pth"):
        internimage.load_weights(classifier(), "internimage_l_22k_192to384")
    with pytest.raises(OSError, match="could not download nobody/nothing"):
        internimage.load_weights(classifier(), "nobody/nothing")
    server.files["owner/empty/readme"] = b""
    with pytest.raises(WeightsError, match="owner/empty holds none of model.safetensors"):
        internimage.load_weights(classifier(), "owner/empty")


def test_no_hub_at_all(cache, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between attempts
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(OSError, match="internimage_t_1k_224.pth"):
            internimage.load_weights(classifier(), "internimage_t_1k_224")


def test_a_repository_in_shards(server):
    model = classifier(seed=1)
    internimage.load_weights(model, "owner/sharded")
    assert_same_state(model.state_dict(), classifier().state_dict())
    folder = hub.download_repository("owner/sharded")
    assert (folder / "config.json").is_file() and not (folder / "preprocessor_config.json").exists()


def test_a_released_repository(server):
    model = classifier(seed=1)
    report = internimage.load_weights(model, "OpenGVLab/internimage_s_1k_224")
    assert report.complete and report.source == "OpenGVLab/internimage_s_1k_224"


def test_addresses_on_the_hub_go_through_its_cache(server, cache):
    model = classifier(seed=1)
    for form in ("resolve", "blob"):
        internimage.load_weights(model, f"{server.address}/{REPO}/{form}/main/internimage_t_1k_224.pth")
    assert len(server.downloads) == 1
    assert_same_state(model.state_dict(), classifier().state_dict())


def test_other_addresses_are_kept_under_their_name_and_checked(server, cache, monkeypatch, capsys):
    contents = server.files[f"{REPO}/internimage_t_1k_224.pth"]
    digits = hashlib.sha256(contents).hexdigest()[:8]
    server.files |= {f"files/small-{digits}.pth": contents, "files/small-01234567.pth": contents}
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    model = classifier(seed=1)
    for _ in range(2):
        internimage.load_weights(model, f"{server.address}/files/small-{digits}.pth?download=true")
    assert_same_state(model.state_dict(), classifier().state_dict())
    assert len(server.requests) == 1 and (cache / "addresses" / f"small-{digits}.pth").is_file()
    with pytest.raises(OSError, match="(?s)could not download.*invalid hash value"):
        internimage.load_weights(model, f"{server.address}/files/small-01234567.pth")
    with pytest.raises(OSError, match="could not download.*404"):
        internimage.load_weights(model, f"{server.address}/files/absent.pth")
    assert [path.name for path in (cache / "addresses").iterdir()] == [f"small-{digits}.pth"]
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OSError, match="HF_HUB_OFFLINE"):
        internimage.load_weights(model, f"{server.address}/files/absent.pth")


def test_files_that_only_a_browser_can_fetch():
    with pytest.raises(WeightsError, match="by hand from https://drive.google.com"):
        hub.download(catalog.get("bevformer_intern-s_occ"))


def test_create_model_loads_released_weights(server):
    whole = randomize(InternImageClassifier(SIZES["internimage_t"], 1000))
    server.files[f"{REPO}/internimage_t_1k_224.pth"] = saved({"model": to_released(whole)})
    model = internimage.create_model("internimage_t", pretrained=True)
    assert_same_state(model.state_dict(), whole.state_dict())
    assert not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))
    few = internimage.create_model("internimage_t", pretrained="internimage_t_1k_224", num_classes=3)
    assert few.head.fc.out_features == 3
    assert torch.equal(few.backbone.stem.conv1.weight, whole.backbone.stem.conv1.weight)
    maps = internimage.create_model("internimage_t", pretrained=True, features_only=True, dtype=torch.bfloat16)
    assert maps.backbone.stem.conv1.weight.dtype == torch.bfloat16
    with pytest.raises(ValueError, match="did you mean 'internimage_t_1k_224'"):
        internimage.create_model("internimage_t", pretrained="internimage_t_1k_22")


def test_the_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("INTERNIMAGE_CACHE", str(tmp_path))
    assert hub.cache_folder() == tmp_path
    monkeypatch.delenv("INTERNIMAGE_CACHE")
    assert hub.cache_folder().name == "hub"


@pytest.mark.parametrize("name", ["runs/finetune.safetensors", "out/checkpoint_00000008.pt", "a/b.pth"])
def test_a_file_that_is_not_there_is_not_asked_for_on_the_hub(name):
    assert not hub.looks_like_repository(name) and hub.looks_like_repository("OpenGVLab/internimage_t_1k_224")
    with pytest.raises(WeightsError, match="there is no file"):
        internimage.load(name)
