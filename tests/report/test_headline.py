import re

from posedistill.metrics.evaluation import Evaluation, Metric
from posedistill.report.evaluations import Group
from posedistill.report.headline import headline
from posedistill.report.results import load_run


def test_the_headline_says_what_was_kept_gained_and_how_sure_it_is(run_folder):
    sentence, certainty = headline(load_run(run_folder).main_group())
    assert sentence == "The distilled student reaches 76.1 % in ADD(-S) 0.1 d; the teacher, 25 times its size, 81.7 %."
    assert "Distillation improves the ADD(-S) 0.1 d of the same student alone by 6.1 points (95 %" in certainty
    assert "95 % interval" in certainty and "includes zero" not in certainty


def test_the_headline_does_not_sell_noise_or_losses():
    about = {"metrics": (Metric("AR", "AR"),)}
    group = [Evaluation(**about, scores={"AR": 0.5}, stage="student", seed=seed) for seed in range(3)]
    group += [
        Evaluation(**about, scores={"AR": 0.5 + delta}, stage="distilled", seed=seed)
        for seed, delta in enumerate((-0.05, 0.0, 0.03))
    ]
    sentence, certainty = headline(Group(group))
    assert sentence == "The distilled student reaches 49.3 % in AR."
    assert "worsens the AR of the same student alone by 0.7 points" in certainty and "includes zero" in certainty
    assert "chance cannot be ruled out" in headline(Group(group[:1] + group[3:4]))[1]


def test_of_cameras_it_names_both_errors_the_gain_and_the_naive_baselines(camera_folder):
    sentence, certainty = headline(load_run(camera_folder).main_group())
    metres, degrees = r"\d\.\d{3} m", r"\d\.\d{2}°"
    assert re.fullmatch(
        rf"The distilled student reaches {metres} in median position and {degrees} in median orientation; "
        rf"the teacher, 25 times its size, {metres} and {degrees}\.",
        sentence,
    )
    assert re.match(
        r"Distillation improves the median position of the same student alone by 0\.0\d+ m, \d+ % "
        r"\(95 % interval 0\.0\d+ to 0\.\d+ m, paired bootstrap of medians, 3 seeds x 80 targets\)\. "
        r"Distillation improves the median orientation of the same student alone by \d\.\d+°, \d+ % "
        r"\(95 % interval 0\.\d+ to \d\.\d+°\)\. Naive baselines: constant pose \d",
        certainty,
    )
    assert "nearest image" in certainty and "nearest position" in certainty


def test_of_cameras_a_loss_is_told_as_one(camera_evaluation):
    records = [camera_evaluation("student", seed) for seed in range(3)]
    worse = [camera_evaluation("student", seed, 0.6) | {"stage": "distilled"} for seed in range(3)]
    certainty = headline(Group([Evaluation.from_dict(record) for record in [*records, *worse]]))[1]
    assert "Distillation worsens the median position of" in certainty and "includes zero" not in certainty
    low, high = map(float, re.search(r"interval (\S+) to (\S+) m", certainty).groups())
    assert 0 < low < high
    same = [record | {"stage": "distilled"} for record in records]
    certainty = headline(Group([Evaluation.from_dict(record) for record in [*records, *same]]))[1]
    told = "Distillation does not change the median position of the same student alone (95 % interval 0.000 to 0.000 m"
    assert told in certainty and "the interval includes zero" in certainty


def test_naive_baselines_alone_are_no_result(references):
    assert headline(Group([Evaluation.from_dict(record) for record in references]))[0] == "Nothing was evaluated yet."
