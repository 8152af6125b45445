"""Operators: the forms agree, a wrong one stops the run, a wrong peer is left out, and rows hold what they should."""

from __future__ import annotations

import dataclasses
import re
import sys
import types

import pytest
import torch

from internimage.bench import catalog, deformable, op, peers
from internimage.bench.gate import Disagreement
from internimage.bench.op import Setting
from internimage.bench.operators import OURS, Form, calls
from internimage.bench.work import BOTH, FORWARD
from internimage.ops import dcnv4, native
from internimage.ops.dcnv4 import pack_offset_mask
from internimage.ops.dispatch import BackendError

needs_kernel = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))
SHAPES = {"dcnv3": "5x6x8/2", "dcnv4": "2x5x6x8/2", "ms_deform_attn": "64x96x16/2@7"}
FAST = Setting(seconds=0.0)


def made(name):
    known = catalog.OPERATORS[name]
    return known, known.make(known.parse(SHAPES[name]))


OWN_FORMS = [
    (name, form) for name in SHAPES for form, of in catalog.OPERATORS[name].forms("cpu").items() if not of.peer
]


@needs_kernel
@pytest.mark.parametrize(("name", "form"), OWN_FORMS)
def test_every_form_of_ours_is_the_same_function(name, form):
    known, inputs = made(name)
    assert op.check(known.forms("cpu")[form], inputs, known.exact(inputs), name) < 1e-5


@pytest.mark.parametrize("name", ["dcnv3", "dcnv4"])
def test_torchvision_is_the_same_function_in_its_own_layout(name):
    pytest.importorskip("torchvision")
    known, inputs = made(name)
    reason, error = op.check_peer(known.forms("cpu")["deform_conv2d"], inputs, known.exact(inputs))
    assert not reason and error < 1e-5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_plain_forms_keep_their_positions_in_half_types(name, dtype):
    known, inputs = made(name)
    inputs = inputs.to(dtype)
    for form in known.plain:
        if not known.forms("cpu")[form].peer:
            op.check(known.forms("cpu")[form], inputs, known.exact(inputs), form)


@pytest.mark.parametrize("name", SHAPES)
def test_samples_keep_off_grid_lines(name):
    known, inputs = made(name)
    if name == "ms_deform_attn":
        sizes = torch.tensor(inputs.fixed).flip(-1).view(1, 1, 1, -1, 1, 2)
        positions = inputs.tensors["sampling_locations"] * sizes - 0.5
    else:
        positions = (deformable.unpacked(inputs) if name == "dcnv4" else inputs).tensors["offset"]
        assert 1 < positions.std() < 3
    fraction = positions - positions.floor()
    assert fraction.min() > 0.02 - 1e-4 and fraction.max() < 0.98 + 1e-4


def test_without_queries_there_is_one_for_each_position_in_order():
    known = catalog.OPERATORS["ms_deform_attn"]
    inputs = known.make(known.parse("64x64x16/2"))
    mean = inputs.tensors["sampling_locations"][:, :64].mean((2, 3, 4))[0]  # of the 8 x 8 pixels of the first level
    assert inputs.tensors["sampling_locations"].shape[1] == 64 + 16 + 4 + 1
    assert mean[:8, 1].mean() < mean[-8:, 1].mean()


@pytest.mark.parametrize("name", SHAPES)
def test_on_a_card_there_are_compiled_forms_that_compute_the_same(name, monkeypatch):
    options = []
    monkeypatch.setattr(torch, "compile", lambda run, **given: options.append(given) or run)
    known, inputs = made(name)
    forms = known.forms("cuda")
    (compiled,) = [form for form in forms if form.endswith(" compiled")]
    assert op.check_peer(forms[compiled], inputs, known.exact(inputs))[0] == ""
    assert options == [{"dynamic": False, "fullgraph": True}]
    assert set(forms) - {compiled} == set(known.forms("cpu"))


@needs_kernel
@pytest.mark.parametrize("name", SHAPES)
def test_a_row_holds_every_form_and_variant(name, results):
    known, _ = made(name)
    rows = op.measure(known, known.parse(SHAPES[name]), FAST)
    assert [row["direction"] for row in rows] == [FORWARD, BOTH]
    for row in rows:
        assert set(row) == set(results["op"][0])
        assert list(row["forms"]) == [form for of, form in OWN_FORMS if of == name]
        assert set(row["left_out"]) == set(known.forms("cpu")) - set(row["forms"])
        assert set(row["variants"]) == {"bfloat16", "float16", "float64", *op.available_instruction_sets()[1:]}
        for figures in (*row["forms"].values(), *row["variants"].values()):
            assert 0 < figures["min_ms"] <= figures["p10_ms"] <= figures["median_ms"] <= figures["p90_ms"]
        assert row["forms"][OURS]["extra_bytes"] == 0 < row["forms"]["gs4"]["extra_bytes"]
        assert row["gflops"] == pytest.approx(row["flop"] / row["forms"][OURS]["min_ms"] / 1e6)


@needs_kernel
def test_another_dtype_is_timed_without_variants():
    known, _ = made("dcnv4")
    rows = op.measure(known, known.parse(SHAPES["dcnv4"]), Setting(dtype=torch.bfloat16, seconds=0.0))
    assert rows[0]["dtype"] == "bfloat16" and rows[0]["variants"] == {}


def _shifted(*args):
    return deformable.gs(*args) + 1e-1


def _wrong_gradient(input, offset, mask, groups):
    return deformable.gs(input, offset.detach() + 0 * offset, mask, groups)


def _not_a_number(*args):
    return deformable.gs(*args) * float("nan")


def _with_form(monkeypatch, form):
    forms = {**deformable.forms_dcnv3("cpu"), "gs": form}
    return dataclasses.replace(deformable.DCNV3, forms=lambda device: forms)


@needs_kernel
@pytest.mark.parametrize(
    ("wrong", "what"), [(_shifted, "output"), (_wrong_gradient, "gradient of offset"), (_not_a_number, "output")]
)
def test_nothing_is_timed_when_a_form_is_wrong(wrong, what, monkeypatch):
    monkeypatch.setattr(op, "in_turns", lambda *_, **__: pytest.fail("timed"))
    operator = _with_form(monkeypatch, Form(wrong))
    with pytest.raises(Disagreement, match=f"dcnv3 gs at 5x6x8/2, {what}: relative error .* nothing was timed"):
        op.measure(operator, operator.parse("5x6x8/2"), FAST)


def _raises(*args):
    raise RuntimeError("no kernel image\nis available")


@needs_kernel
@pytest.mark.parametrize(
    ("run", "reason"), [(_shifted, "wrong here: relative error"), (_raises, "fails .RuntimeError: no kernel image.")]
)
def test_a_peer_that_fails_is_left_out_with_its_reason(run, reason, monkeypatch):
    operator = _with_form(monkeypatch, Form(run, peer="torchvision"))
    rows = op.measure(operator, operator.parse("5x6x8/2"), Setting(seconds=0.0, peers={"torchvision": ""}))
    assert "gs" not in rows[0]["forms"] and "gs4" in rows[0]["forms"]
    assert re.match(reason, rows[0]["left_out"]["gs"])


@needs_kernel
def test_the_instruction_set_is_restored_also_after_an_error():
    best = native.instruction_set()
    with pytest.raises(KeyError), op.instruction_set("baseline"):
        assert native.instruction_set() == "baseline"
        raise KeyError
    assert native.instruction_set() == best
    with pytest.raises(ValueError, match="does not run sse9; it has .*baseline"), op.instruction_set("sse9"):
        pass


def test_an_unknown_best_instruction_set_has_all_others_below(monkeypatch):
    monkeypatch.setattr(native, "instruction_set", lambda: "avx1024")
    assert op.available_instruction_sets() == ["avx1024", "avx512", "avx2", "baseline"]


def test_without_the_kernel_there_is_nothing_to_time(monkeypatch):
    monkeypatch.setattr(native, "load_error", lambda: "the native kernel was not built")
    with pytest.raises(BackendError, match="nothing to time: the native kernel was not built"):
        op.run([], [], FAST, quick=True)


@pytest.mark.parametrize("device", ["mps", "xpu"])
def test_a_device_without_kernels_is_refused(device):
    with pytest.raises(ValueError, match=f"--device {device} cannot be timed; expected cpu or cuda"):
        op.require_kernel(torch.device(device))


def test_an_unknown_operator_is_refused():
    with pytest.raises(ValueError, match="there is no operator 'dcnv5'; expected some of dcnv3, dcnv4, ms_deform_attn"):
        op.run(["dcnv5"], [], FAST)


class TestPeers:
    """What packages of others are given, with stand-ins that compute by our own operators."""

    def test_deformops_takes_a_tap_after_another(self, monkeypatch):
        def attn(value, packed, kernel_size, padding, groups, group_dims):
            taps = packed.unflatten(-1, (-1, 3))
            offset_mask = pack_offset_mask(taps[..., :2].flatten(-2), taps[..., 2], groups)
            return dcnv4(value, offset_mask, kernel_size, padding=padding, groups=groups, backend="reference")

        monkeypatch.setattr(peers, "module", lambda name: types.SimpleNamespace(attn=attn))
        for name in ("dcnv3", "dcnv4"):
            known, inputs = made(name)
            reason, error = op.check_peer(known.forms("cpu")["deformops"], inputs, known.exact(inputs))
            assert not reason and error < 1e-5

    def test_the_released_package_takes_what_it_is_given(self, monkeypatch):
        def apply(value, offset_mask, *numbers):
            assert numbers == (3, 3, 1, 1, 1, 1, 1, 1, 2, 4, 1.0, 256, False)
            return dcnv4(value, offset_mask, groups=2, backend="reference")

        function = types.SimpleNamespace(apply=apply)
        monkeypatch.setattr(peers, "module", lambda name: types.SimpleNamespace(DCNv4Function=function))
        known, inputs = made("dcnv4")
        form = known.forms("cpu")["DCNv4"]
        assert op.check_peer(form, inputs, known.exact(inputs))[0] == ""
        assert form.why_not(inputs) == "takes tensors on a card only"

    @pytest.mark.parametrize("name", ["transformers", "mmcv", "deformops"])
    def test_attention_of_others_is_given_levels(self, name, monkeypatch):
        from internimage.ops import ms_deform_attn

        class MultiScaleDeformableAttention:
            def __call__(self, value, shapes, pairs, starts, locations, weights, step):
                assert shapes.tolist() == [list(pair) for pair in pairs] and starts[0] == 0
                return ms_deform_attn(value, pairs, locations, weights, backend="reference")

        def plain(value, shapes, locations, weights):
            return ms_deform_attn(value, shapes, locations, weights, backend="reference")

        def msda(value, shapes, starts, locations, weights):
            assert starts[1] == shapes[0].prod()
            return plain(value, shapes, locations, weights)

        stand_in = types.SimpleNamespace(
            MultiScaleDeformableAttention=MultiScaleDeformableAttention,
            multi_scale_deformable_attn_pytorch=plain,
            msda=msda,
        )
        monkeypatch.setattr(peers, "module", lambda _: stand_in)
        known, inputs = made("ms_deform_attn")
        assert op.check_peer(known.forms("cpu")[name], inputs, known.exact(inputs))[0] == ""

    @pytest.fixture
    def only_transformers(self, monkeypatch):
        monkeypatch.setattr(peers, "missing", lambda name: "" if name == "transformers" else "not installed")

    def test_all_are_those_that_are_here(self, only_transformers):
        for words in (None, "all"):
            found = peers.chosen(words)
            assert found["transformers"] == "" and found["mmcv"] == "not installed"
        assert set(peers.chosen("none").values()) == {"not asked for"}

    def test_named_ones_must_be_here(self, only_transformers):
        assert peers.chosen("transformers")["mmcv"] == "not asked for"
        with pytest.raises(ValueError, match="--peers names mmcv: not installed"):
            peers.chosen("transformers, mmcv")
        with pytest.raises(
            ValueError, match="--peers 'tensorflow' is not known; expected all, none, or some of torchv"
        ):
            peers.chosen("tensorflow")

    def test_one_that_does_not_import_says_why(self, monkeypatch, tmp_path):
        (tmp_path / "DCNv4").mkdir()
        (tmp_path / "DCNv4" / "__init__.py").write_text("raise RuntimeError('no CUDA device')")
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "DCNv4", raising=False)
        assert peers.missing.__wrapped__("dcnv4") == "cannot be imported (RuntimeError: no CUDA device)"


def test_gradients_flow_in_the_layout_that_a_form_takes():
    known, inputs = made("dcnv3")
    form = known.forms("cpu")["deformops"]
    assert [tuple(t.shape) for t in form.arrange(inputs)] == [(1, 5, 6, 8), (1, 5, 6, 54)]
    assert set(calls(form, inputs)) == {FORWARD, BOTH}
