import re

from posedistill.report.headline import headline
from posedistill.report.results import Evaluation, evaluation_of, load_run


def test_the_headline_says_what_was_kept_gained_and_how_sure_it_is(run_folder):
    run = load_run(run_folder)
    sentence, certainty = headline(run)
    assert sentence.startswith("The distilled student keeps 93 % of the teacher's ADD(-S) 0.1 d recall at 1/25 of its")
    assert "adds 6.1 points" in certainty and "95 % interval" in certainty and "includes zero" not in certainty


def test_the_headline_does_not_sell_noise_or_losses():
    group = [Evaluation("student", seed, scores={"AR": 0.5}) for seed in range(3)]
    group += [
        Evaluation("distilled", seed, scores={"AR": 0.5 + delta}) for seed, delta in enumerate((-0.05, 0.0, 0.03))
    ]
    run = load_run("nowhere")
    run.evaluations = group
    sentence, certainty = headline(run)
    assert sentence == "The distilled student reaches 49.3 % in AR."
    assert "costs 0.7 points" in certainty and "includes zero" in certainty
    run.evaluations = group[:1] + group[3:4]
    assert "chance cannot be ruled out" in headline(run)[1]
    run.evaluations = []
    assert headline(run) == ("Nothing was evaluated yet.", "")


def test_of_cameras_it_names_both_errors_the_gain_and_the_trivial_answers(camera_folder):
    sentence, certainty = headline(load_run(camera_folder))
    number = r"\d\.\d{3} m and \d\.\d{2}°"
    assert re.fullmatch(
        rf"The distilled student is off by {number} in the median, the teacher, 25 times its size, by {number}\.",
        sentence,
    )
    assert re.match(
        r"Distillation lowers the median position error of the same student alone by 0\.0\d+ m, \d+ % "
        r"\(95 % interval 0\.0\d+ to 0\.\d+ m, paired bootstrap of medians, 3 seeds x 80 targets\)\. "
        r"Distillation lowers the median orientation error of the same student alone by \d\.\d+°, \d+ % "
        r"\(95 % interval 0\.\d+ to \d\.\d+°\)\. For comparison: constant pose \d",
        certainty,
    )
    assert "nearest image" in certainty and "nearest position" in certainty


def test_of_cameras_a_loss_is_told_as_one(camera_evaluation):
    run = load_run("nowhere")
    records = [camera_evaluation("student", seed) for seed in range(3)]
    worse = [camera_evaluation("student", seed, 0.6) | {"variant": "distilled"} for seed in range(3)]
    run.evaluations = [evaluation_of(record) for record in [*records, *worse]]
    certainty = headline(run)[1]
    assert "Distillation raises the median position error" in certainty and "includes zero" not in certainty
    low, high = map(float, re.search(r"interval (\S+) to (\S+) m", certainty).groups())
    assert 0 < low < high
    same = [record | {"variant": "distilled"} for record in records]
    run.evaluations = [evaluation_of(record) for record in [*records, *same]]
    assert "by 0.000 m, 0 % (95 % interval 0.000 to 0.000 m" in headline(run)[1]
    assert "the interval includes zero" in headline(run)[1]


def test_trivial_answers_alone_are_no_result(references):
    run = load_run("nowhere")
    run.evaluations = [evaluation_of(record) for record in references]
    assert headline(run)[0] == "Nothing was evaluated yet."
