import pytest
from tests.training.helpers import train

from posedistill.tasks.registry import open_task
from posedistill.training import forecast as forecasting
from posedistill.training.forecast import forecast, tell_forecast


def test_every_training_is_told_and_nothing_is_written(recipe, capsys, monkeypatch):
    loaded = recipe("seeds=2", "train.steps=100", "teacher.train.steps=1000")
    task = open_task(loaded)
    monkeypatch.setattr(forecasting, "_timed", lambda work: work(0) is not ... and 0.5)
    seconds = forecast(task)
    assert seconds["teacher seed 0"] == 500 and len(seconds) == 5
    assert all(seconds[f"student seed {seed}"] == 50 and seconds[f"distilled seed {seed}"] == 100 for seed in (0, 1))
    monkeypatch.setattr(forecasting, "cores", lambda: 2)
    for load, ends in ((1.0, "2 min"), (7.25, "2 min; less once the machine's other work is done (load average 7.2)")):
        monkeypatch.setattr(forecasting, "load_average", lambda load=load: load)
        tell_forecast(task)
        told = " ".join(capsys.readouterr().err.split())
        assert told.endswith(f"distilled seed 1 {ends}")
    assert "training will take about 13 min on" in told and "distilled seed 1 100" not in told
    assert "teacher seed 0 8 min" in told and "distilled seed 1 2 min" in told
    assert not loaded.folder.exists()


def test_views_that_come_again_are_paid_for_once():
    costs = forecasting._Costs(new=2.0, again=0.5, period=10)
    assert costs.of(4) == 8 and costs.of(30) == 30
    assert costs.with_teacher(1.0, 0.0).of(30) == 40


def test_what_is_finished_takes_no_time(recipe):
    loaded = recipe("train.steps=2")
    train(loaded, "teacher")
    seconds = forecast(open_task(loaded))
    assert list(seconds) == ["student seed 0", "distilled seed 0"] and all(value > 0 for value in seconds.values())


@pytest.mark.parametrize(("spent", "expected"), [([9, 1, 2, 3], 2), ([9], 9)])
def test_the_first_step_warms_up(monkeypatch, spent, expected):
    clock = iter([0.0] + [value for pause in spent for value in (0.0, pause, 0.0 if len(spent) > 1 else 99.0)])
    monkeypatch.setattr(forecasting.time, "perf_counter", lambda: next(clock))
    assert forecasting._timed(lambda _: None) == expected
