import os
import resource
import signal
import subprocess
import sys
import time

import pytest

from posedistill.errors import CheckpointError, DataError
from posedistill.files import write_file


def test_bytes_and_text_replace_what_was_there(tmp_path):
    path = tmp_path / "new" / "folder" / "note.txt"
    write_file(path, b"one")
    write_file(path, "zwei \u00e4")
    assert path.read_text(encoding="utf-8") == "zwei \u00e4"
    assert [entry.name for entry in path.parent.iterdir()] == ["note.txt"]


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = tmp_path / "note.txt"
    write_file(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(DataError, match=r"note\.txt: 'file': found .*, expected a writable disk with free space"):
            write_file(path, "x" * 1000)
        with pytest.raises(CheckpointError, match="note"):
            write_file(path, "x" * 1000, CheckpointError)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_a_place_that_cannot_be_is_an_error_of_ours(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match="file/note"):
        write_file(tmp_path / "file" / "note.txt", "text")


def test_an_interrupt_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "note.txt"
    write_file(path, "old")

    def interrupted(self, data):
        with self.open("wb") as file:
            file.write(data[:1])
        raise KeyboardInterrupt

    monkeypatch.setattr("pathlib.Path.write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, "new")
    assert path.read_text() == "old" and [entry.name for entry in tmp_path.iterdir()] == ["note.txt"]


def test_a_kill_never_shows_half_a_file(tmp_path):
    """A process that rewrites a large file over and over is killed at some moment."""
    path = tmp_path / "large"
    code = (
        "import itertools, pathlib, sys\nfrom posedistill.files import write_file\n"
        "for n in itertools.count(): write_file(pathlib.Path(sys.argv[1]), bytes([n % 256]) * 3_000_000)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    content = path.read_bytes()
    assert len(content) == 3_000_000 and content == content[:1] * len(content)
