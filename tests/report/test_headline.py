from posedistill.report.headline import headline
from posedistill.report.results import Evaluation, load_run


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
