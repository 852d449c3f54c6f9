from pathlib import Path

import cv2
import numpy as np
import pytest

from posedistill.deploy.predict import pictures
from posedistill.deploy.predict.pictures import Film, open_sources
from posedistill.errors import DataError


def photograph(path: Path, value: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((24, 32, 3), value, np.uint8))
    return path


def film(path: Path, frames: int = 5) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.0, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), (0, 0, 40 * number), np.uint8))
    writer.release()
    return path


def test_photographs_folders_and_patterns_are_one_source_in_natural_order(tmp_path):
    folder = tmp_path / "shots"
    for name in ("shot10.png", "shot9.PNG", "notes.txt"):
        photograph(folder / name) if name != "notes.txt" else (folder / name).write_text("")
    single, other = photograph(tmp_path / "one.jpg"), photograph(tmp_path / "deep" / "two.png", 200)
    (source,) = open_sources([single, str(folder), str(tmp_path / "d*" / "*.png")])
    assert source.rate == 0
    assert [path.name for path in source.paths] == ["one.jpg", "shot9.PNG", "shot10.png", "two.png"]
    shown = list(source.frames())
    assert [path for path, _ in shown] == list(source.paths)
    assert shown[-1][0] == other and shown[-1][1].mean() == 200


def test_photographs_that_only_phones_read_are_told(tmp_path, capsys):
    photograph(tmp_path / "one.jpg")
    (tmp_path / "two.HEIC").write_bytes(b"\0\0\0\x18ftypheic")
    (source,) = open_sources([tmp_path])
    assert [path.name for path in source.paths] == ["one.jpg"]
    assert "1 .heic left out, expected a jpg: export it as one" in capsys.readouterr().err
    with pytest.raises(DataError, match=r"two\.HEIC: 'image': found a \.HEIC, expected a jpg: export it as one"):
        list(open_sources([tmp_path / "two.HEIC"])[0].frames())


def test_a_pattern_may_be_relative_and_a_name_may_hold_brackets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    photograph(Path("a[1].png"))
    assert [path.name for path in open_sources(["a[1].png"])[0].paths] == ["a[1].png"]
    assert [path.name for path in open_sources(["*.png"])[0].paths] == ["a[1].png"]


def test_a_video_gives_its_frames_in_rgb_by_number(tmp_path):
    path = film(tmp_path / "clip.avi")
    source, limited = open_sources([path])[0], open_sources([path], limit=2)[0]
    shown = list(source.frames())
    assert source.rate == pytest.approx(12.0) and source.paths == ()
    assert [name for name, _ in shown] == [path / f"{number:06d}" for number in range(5)]
    assert shown[0][1].shape == (48, 64, 3)
    red, _, blue = shown[4][1].reshape(-1, 3).mean(axis=0)
    assert red > 140 and blue < 20
    assert len(list(limited.frames())) == 2


@pytest.mark.parametrize(
    ("word", "index"), [("webcam", 0), ("webcam:2", 2), ("rtsp://robot/left", "rtsp://robot/left")]
)
def test_cameras_and_streams(monkeypatch, word, index):
    class Capture:
        def __init__(self, address):
            self.address, self.left = address, 3
            opened.append(self)

        def isOpened(self):
            return True

        def get(self, _):
            return 0.0

        def read(self):
            self.left -= 1
            return self.left >= 0, np.zeros((4, 4, 3), np.uint8)

        def release(self):
            self.left = "released"

    opened: list[Capture] = []
    monkeypatch.setattr(pictures.cv2, "VideoCapture", Capture)
    (source,) = open_sources([word])
    assert source.rate == 30 and len(list(source.frames())) == 3
    assert opened[0].address == index and opened[0].left == "released"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("gone.mp4", r"gone\.mp4: 'video': found no such file"),
        ("empty", r"empty: 'images': found none, expected a folder with photographs"),
        ("*.jpg", r"\*\.jpg: 'images': found none, expected a pattern"),
        ("text.mp4", r"text\.mp4: 'video': found nothing that can be read"),
        ("webcam:77", r"webcam77: 'video': found nothing that can be read"),
    ],
)
def test_what_cannot_be_opened_is_told_before_anything_is_looked_at(tmp_path, monkeypatch, word, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.mp4").write_text("no video")
    with pytest.raises(DataError, match=message):
        open_sources([word])


def test_a_film_is_written_and_read_again(tmp_path):
    made = Film(tmp_path / "new" / "out.mp4", 10.0)
    for _ in range(3):
        made.add(np.full((48, 64, 3), 128, np.uint8))
    made.close()
    assert len(list(open_sources([made.path])[0].frames())) == 3
    Film(tmp_path / "none.mp4", 10.0).close()
    assert not (tmp_path / "none.mp4").exists()
