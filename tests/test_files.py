import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from posedistill.errors import CheckpointError, DataError, RecipeError
from posedistill.files import kept, occupied, read_json, read_text, write_file


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


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_texts_of_every_system_are_read(tmp_path, encoding):
    path = tmp_path / "list.txt"
    mark = "" if encoding in ("utf-8", "utf-8-sig", "utf-16") else "\ufeff"
    path.write_bytes((mark + "Küche\r\n7\r9\n").encode(encoding))
    assert read_text(path) == "Küche\n7\n9\n"


@pytest.mark.parametrize(
    ("data", "found"),
    [
        ("Küche".encode("latin-1"), "'utf-8' codec can't decode byte 0xfc in position 1"),
        ("000003\n".encode("utf-16-le"), "zero bytes, as in UTF-16 without a byte-order mark"),
        ("000003\n".encode("utf-32"), "zero bytes"),
        (b"\xff\xfe0", "'utf-16-le' codec can't decode byte"),
    ],
)
def test_other_encodings_are_refused_by_name(tmp_path, data, found):
    path = tmp_path / "list.txt"
    path.write_bytes(data)
    with pytest.raises(
        DataError, match=rf"list.txt: 'text': found {found}.*, expected a list, in UTF-8 or marked UTF-16"
    ):
        read_text(path, "a list")


def test_texts_that_are_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.txt: 'file': found no such file, expected a list"):
        read_text(tmp_path / "none.txt", "a list")
    with pytest.raises(RecipeError, match="'file': found Is a directory"):
        read_text(tmp_path, error=RecipeError)
    with pytest.raises(DataError, match="'file': found embedded null byte"):
        read_text(tmp_path / "a\0b")


@pytest.mark.parametrize("text", ["{", 100_000 * "[", "1" * 5000])
def test_broken_json_names_the_file(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(DataError, match=r"a.json: 'json': found .*, expected a json file"):
        read_json(tmp_path / "a.json")


def test_a_kept_file_is_read_again_once_it_changes(tmp_path):
    path, reads = tmp_path / "a.txt", []
    reader = kept(lambda path: reads.append(path) or read_text(path))

    def write(text, time, write_text=Path.write_text):
        write_text(path, text)
        os.utime(path, (time, time))

    write("one", 10)
    assert [reader(path), reader(path)] == ["one", "one"] and len(reads) == 1
    write("two", 11)
    assert [reader(path), reader(path)] == ["two", "two"] and len(reads) == 2
    write("three", 11)
    assert reader(path) == "three"
    write("three", 11, write_file)  # another file of the same size and time
    assert reader(path) == "three" and len(reads) == 4
    path.write_text("four")
    assert reader(path) == "four"
    path.write_text("five")  # within one tick of the clock
    assert reader(path) == "five"
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        reader(path)


HOLD = """
import sys, time
from pathlib import Path
from posedistill.files import occupied
with occupied(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_occupied_until_its_process_dies(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"in use by pid {holder.pid}, expected one process"), occupied(folder):
            pass
    finally:
        holder.kill()
        holder.communicate()
    for _ in range(2):
        with occupied(folder):
            assert (folder / ".lock").read_text() == str(os.getpid())


def test_a_full_disk_is_told_and_leaves_no_empty_file(tmp_path, full_disk):
    with full_disk(), pytest.raises(DataError, match="free space"), occupied(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []
