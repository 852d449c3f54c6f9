"""The Python interface: what docs/python.md says runs as it stands there."""

import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

import posedistill
from posedistill.data.formats.bop import BopDataset
from posedistill.poses import Poses

ROOT = Path(__file__).parents[1]


def test_every_name_is_there_typed_and_documented():
    assert set(posedistill.__all__) == set(posedistill._PLACES) <= set(dir(posedistill))
    for name in posedistill.__all__:
        thing = getattr(posedistill, name)
        assert inspect.getdoc(thing), name
        if inspect.isfunction(thing) and name != "run":
            assert "return" in typing.get_type_hints(thing), name
    assert (Path(posedistill.__file__).parent / "py.typed").exists()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = posedistill.nothing


def test_the_runtime_comes_without_the_training_side():
    code = "import sys, posedistill; assert 'numpy' not in sys.modules\n"
    code += (
        "from posedistill import Predictor, Poses, Tracker, evaluate, locate, score\nassert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()


def test_the_page_on_python_runs_as_it_is(bop, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name in ("models", "recipes"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "my_set").symlink_to(bop)
    truths = [(frame.im_id, one) for frame in BopDataset(bop, "train").frames for one in frame.instances]
    ids = np.array([(1, im_id, one.obj_id) for im_id, one in truths]).T
    R, t = (np.stack([getattr(one, name) for _, one in truths]) for name in ("R", "t"))
    Poses(*ids, np.array(1.0), R, t, np.array(0.1)).to_bop_csv("results.csv")
    text = (ROOT / "docs" / "python.md").read_text().replace('split="train_render"', 'split="train"')
    known: dict[str, object] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.S):
        exec(block, known)
    assert "1.0 16 0" in capsys.readouterr().out
