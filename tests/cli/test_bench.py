"""``internimage bench``: what it prints and writes, and how it refuses."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from internimage.bench import catalog, compare, deformable, machine, model, report, session
from internimage.bench import results as results_file
from internimage.bench.compare import HERE
from internimage.bench.shapes import MapShape
from internimage.ops import native

pytestmark = pytest.mark.skipif(native.load_error() is not None, reason=str(native.load_error()))


@pytest.fixture
def quick(monkeypatch):
    """Operators at one tiny shape, networks not at all, no ceilings."""
    monkeypatch.setitem(deformable.DCNV3.sets, "quick", (MapShape(4, 5, 8, 2),))
    monkeypatch.setattr(catalog, "OPERATORS", {"dcnv3": deformable.DCNV3})
    monkeypatch.setattr(model, "run", lambda *_: [])
    monkeypatch.setattr(model, "where_time_goes", lambda *_: [])
    monkeypatch.setattr(model, "weigh", lambda *_: [])
    ceilings = machine.Ceilings("float32", 100.0, 10.0, 80.0)
    monkeypatch.setattr(machine, "measure_ceilings", lambda *_: ceilings)


def test_tables_are_printed_and_files_written(internimage, quick, tmp_path):
    got = internimage(
        *("bench", "op", "--quick", "--peers", "none", "--output", tmp_path / "new", "--markdown", tmp_path / "a.md"),
        *("--plot", tmp_path / "a.svg"),
    )
    assert got.code == 0
    for words in ("4x5x8/2", "reference", "Again: `internimage bench op --peers none --quick`"):
        assert words in got.out
    (path,) = (tmp_path / "new").iterdir()
    found = results_file.read(path)
    assert path.name == results_file.file_name(found) and path.name.startswith("cpu-op-")
    assert [key for key in found if key not in ("schema", "command", "date", "commit", "machine", "versions")] == [
        "quick", "setting", "op", "peers", "ceilings", "targets",
    ]  # fmt: skip
    assert found["peers"]["torchvision"] == "not asked for"
    assert (tmp_path / "a.md").read_text() == report.markdown(found)
    assert "Roofline" in (tmp_path / "a.svg").read_text()
    assert got.err.count("wrote ") == 3


def test_json_is_all_there_is_on_standard_output(internimage, quick):
    got = internimage("bench", "op", "dcnv3", "--quick", "--json", "--dtype", "bfloat16", "--peers", "none")
    assert got.json["setting"]["dtype"] == "bfloat16" and {row["dtype"] for row in got.json["op"]} == {"bfloat16"}
    assert got.json["targets"] == []


def test_without_a_word_both_parts_run(internimage, quick):
    got = internimage("bench", "--quick", "--json")
    assert {"op", "model"} <= set(got.json) and got.json["command"] == "internimage bench --quick"


def test_a_part_alone_is_alone(internimage, quick):
    got = internimage("bench", "model", "internimage_s", "--quick", "--json", "--shapes", "1x64x64")
    assert "op" not in got.json and got.json["setting"]["names"] == ["internimage_s"]


def test_options_arrive(internimage, quick, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "measure", lambda part, options, progress: asked.append((part, options)) or {})
    monkeypatch.setattr(report, "show", lambda *_: None)
    internimage(
        *("bench", "model", "--train", "--compile", "--features", "--threads", "2", "--compare", "main"),
        *("--device", "cpu", "--dtype", "float32,bfloat16", "--peers", "resnet50"),
    )
    ((part, options),) = asked
    assert part == "model" and options.train and options.compiled and options.features
    assert (options.threads, options.compare, options.peers) == (2, "main", "resnet50")
    assert options.words(part) == (
        "internimage bench model --device cpu --dtype float32,bfloat16 --peers resnet50 --threads 2 --compare main "
        "--train --compile --features"
    )


def test_another_commit_stands_in_the_results(internimage, quick, monkeypatch):
    rows = [{"what": "a", "this_ms": 1.0, "ref_ms": 2.0, "ratio": 2.0, "left_out": None}]
    monkeypatch.setattr(compare, "run", lambda *_: {"ref": "main", "commit": "abc", "rows": rows})
    got = internimage("bench", "op", "--quick", "--peers", "none", "--compare", "main")
    assert "This tree beside main (abc), in turns" in got.out


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("op", "dcnv5"), "there is no operator 'dcnv5'"),
        (("op", "--shapes", "1x2"), "--shapes '1x2' is no shape of dcnv3"),
        (("op", "--dtype", "int8"), "--dtype 'int8' is not timed; expected some of float32"),
        (("op", "--threads", "0"), "--threads is 0, expected 1 to "),
        (("op", "--threads", "1000000"), "--threads is 1000000, expected 1 to "),
        (("op", "--shapes", ""), "--shapes is empty"),
        (("op", "--dtype", ","), "--dtype is empty"),
        (("op", "--compare", ""), "--compare is empty"),
        (("op", "--compare", "no-such-ref"), "--compare 'no-such-ref' is no commit of"),
        (("op", "--shapes", "56x56x128/3"), "G a divisor of C"),
        (("op", "--shapes", "99999999999999999999x5x16/1"), "is no shape of dcnv3"),
        (("op", "--device", "tpu"), "device"),
        (("op", "--peers", "nobody"), "--peers 'nobody' is not known"),
        (("op", "--plot", "a.pdf"), "--plot a.pdf ends in '.pdf'"),
        (("op", "--plot", "."), "--plot . is a folder, expected the name of a file"),
        (("op", "--markdown", "."), "--markdown . is a folder, expected the name of a file"),
        (
            ("model", "internimage_femto"),
            "there is no model 'internimage_femto' to time; expected some of internimage_t",
        ),
        (("model", "--train", "--features"), "--train and --features do not go together"),
        (("model", "--shapes", "16x300"), "height and width at least 32"),
        (("model", "nobody"), "there is no model 'nobody' to time"),
        (("model", "--shapes", "x"), "--shapes 'x' is no size of images"),
        (("show", "nothing.json"), "nothing.json"),
    ],
)
def test_bad_words_are_one_line_before_anything_is_timed(words, error, internimage, quick, monkeypatch):
    monkeypatch.setattr(model, "run", lambda *_: pytest.fail("timed"))
    got = internimage("bench", *words)
    assert got.code == 1 and got.out == ""
    assert got.err.startswith("error: ") and error in got.err and got.err.count("\n") == 1


@pytest.mark.parametrize("shape", ["100000x100000x64/4", "999999999x999999999x16/1"])
def test_too_little_memory_is_one_line(shape, internimage, quick):
    got = internimage("bench", "op", "dcnv3", "--quick", "--peers", "none", "--shapes", shape)
    assert got.code == 1 and got.out == ""
    last = got.err.splitlines()[-1]
    assert last == f"error: there is not enough memory here to time dcnv3 at {shape}; choose smaller --shapes"


def test_a_variable_that_would_falsify_everything_is_refused():
    line = [sys.executable, "-m", "internimage.bench", "op", "--quick"]
    environment = {**os.environ, "INTERNIMAGE_BACKEND": "reference"}
    done = subprocess.run(line, capture_output=True, text=True, cwd=HERE, env=environment)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("error: INTERNIMAGE_BACKEND is set") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [("everything",), ("op", "--nonsense"), ("--quick", "op")])
def test_a_wrong_command_line_exits_with_2(words, internimage):
    assert internimage("bench", *words).code == 2


def test_show_prints_files_without_measuring(internimage, quick, tmp_path):
    internimage("bench", "op", "--quick", "--peers", "none", "--output", tmp_path)
    (path,) = tmp_path.glob("*.json")
    got = internimage("bench", "show", path, path, "--markdown", tmp_path / "a.md", "--plot", tmp_path / "a.png")
    assert got.code == 0 and got.out.count("Again: ") == 2
    found = json.loads(path.read_text())
    assert (tmp_path / "a.md").read_text() == "\n".join([report.markdown(found)] * 2)
    assert (tmp_path / "a.png").stat().st_size > 1000
