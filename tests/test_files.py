"""Files appear whole or not at all, and others may read them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from internimage.files import check_file, make_folder, sole_writer, write_through


def test_a_file_appears_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with write_through(path) as temporary:
        temporary.write_text("all of it")
        assert not path.exists()
    assert path.read_text() == "all of it"
    assert [*path.parent.iterdir()] == [path]


def test_it_is_on_the_disk_before_it_has_its_name_and_the_name_after(tmp_path, monkeypatch):
    path, flushed = tmp_path / "file.txt", []
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda file: (flushed.append((os.fstat(file).st_ino, path.exists())), fsync(file)))
    with write_through(path) as temporary:
        temporary.write_text("all of it")
    assert flushed == [(path.stat().st_ino, False), (tmp_path.stat().st_ino, True)]


def test_what_was_there_stays_when_writing_fails(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("before")
    with pytest.raises(RuntimeError), write_through(path) as temporary:
        temporary.write_text("half of")
        raise RuntimeError
    assert path.read_text() == "before"
    assert [*tmp_path.iterdir()] == [path]


def test_who_may_read_it_does_not_depend_on_who_writes_it(tmp_path):
    plain, path = tmp_path / "plain", tmp_path / "weights.safetensors"
    plain.touch()
    with write_through(path) as temporary:
        save_file({"a": torch.zeros(1)}, temporary)
    assert path.stat().st_mode == plain.stat().st_mode


def test_a_folder_is_made_and_left_empty(tmp_path):
    make_folder(tmp_path / "new" / "folder", "--output")
    assert [*(tmp_path / "new").iterdir()] == [tmp_path / "new" / "folder"]
    assert not [*(tmp_path / "new" / "folder").iterdir()]


def test_a_folder_that_takes_no_files_is_named_with_its_option(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^--output .*file is a file, expected a folder$"):
        make_folder(tmp_path / "file", "--output")
    with pytest.raises(OSError, match=r"^--output: no file can be made in .*below \(Not a directory\)"):
        make_folder(tmp_path / "file" / "below", "--output")


def test_a_file_that_cannot_be_written_is_named_with_its_option(tmp_path):
    check_file(tmp_path / "new" / "a.svg", "--plot")
    assert not [*(tmp_path / "new").iterdir()]
    with pytest.raises(OSError, match=r"^--plot .* is a folder, expected the name of a file$"):
        check_file(tmp_path / "new", "--plot")
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"^--plot .*file is a file, expected a folder$"):
        check_file(tmp_path / "file" / "a.svg", "--plot")


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="a folder in which not even root makes files")
def test_an_existing_folder_that_takes_no_files_is_named():
    with pytest.raises(OSError, match="^--save-dir: no file can be made in /proc "):
        make_folder("/proc", "--save-dir")


@pytest.mark.skipif(os.name != "posix", reason="locks are of POSIX")
def test_a_folder_has_one_writer_until_it_ends_or_is_killed(tmp_path):
    script = (
        "import sys; from internimage.files import sole_writer\n"
        "with sole_writer(sys.argv[1]) as alone: print(alone, flush=True); sys.stdin.read()"
    )

    def writer() -> tuple[subprocess.Popen, str]:
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        process = subprocess.Popen([sys.executable, "-c", script, tmp_path], **pipes)
        return process, process.stdout.readline().strip()

    first, alone = writer()
    assert alone == "True"
    second, alone = writer()
    assert alone == "False"
    with sole_writer(tmp_path) as alone:
        assert not alone
    first.kill()
    first.communicate()
    third, alone = writer()
    assert alone == "True"
    for process in (second, third):
        process.communicate(timeout=60)
