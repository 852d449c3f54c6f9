import json
import math
from pathlib import Path

import pytest
import torch
from pydantic import BaseModel
from safetensors.torch import load_file

from posedistill.distill import Distiller, DistillSpec, build_distiller
from posedistill.errors import CheckpointError, RecipeError, TrainingError
from posedistill.estimators.wdrnet import WDRNet
from posedistill.recipe.networks import TrainSettings
from posedistill.tasks.base import SELECT
from posedistill.training.checkpoints import load_tensors
from posedistill.training.loop import train
from posedistill.training.step import Untouched, losses, make_fabric
from posedistill.training.teaching.teachers import NetworkTeacher
from posedistill.training.teaching.teaching import Teaching

SIGNATURE = {"stage": "student", "seed": 0}


class Batches:
    """The batches a function of the step makes; keeps them all."""

    targets = WDRNet.targets

    def __init__(self, make) -> None:
        self.make, self.given = make, []

    def batch(self, step: int):
        return self.make(step)

    def prefetch(self, start: int, stop: int):
        for step in range(start, stop):
            self.given.append(self.make(step))
            yield self.given[-1]


def stopping(batch, at: int, error: type[BaseException] = KeyboardInterrupt):
    """A function for ``Batches``: the same batch each step, and an error, such as Ctrl-C, in place of batch ``at``."""

    def make(step: int):
        if step == at:
            raise error
        return batch

    return make


def schedule(**changes) -> TrainSettings:
    return TrainSettings(**{"steps": 4, "lr": 1e-3, "log_every": 1, "checkpoint_every": 1, "ema": 0.5} | changes)


def metrics(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("float32")


@pytest.fixture
def run(fabric, network, batch, tmp_path):
    """``run(make=..., **settings)`` trains the smallest network into a folder of its own and returns the folder."""

    def start(make=None, *, folder="run", estimator=None, teaching=None, validate=None, signature=SIGNATURE, **changes):
        same = batch()
        train(
            fabric,
            estimator or network(),
            Batches(make or (lambda _: same)),
            schedule(**changes),
            tmp_path / folder,
            seed=0,
            signature=signature,
            teaching=teaching,
            validate=validate,
        )
        return tmp_path / folder

    return start


def test_batches_without_a_target_of_the_family_are_refused_before_training(fabric, network, batch, tmp_path):
    batches = Batches(lambda _: batch())
    batches.targets = frozenset({"masks"})
    expected = r"family: wdrnet.*the targets masks, expected .*\['diameters', 'keypoints', 'keypoints3d'\] missing"
    with pytest.raises(RecipeError, match=expected):
        train(fabric, network(), batches, schedule(), tmp_path / "run", seed=0, signature=SIGNATURE)
    assert not (tmp_path / "run").exists()


def test_a_few_steps_lower_the_loss(run):
    lines = metrics(run(steps=25, lr=3e-3, schedule="cosine", warmup=0.1))
    assert [line["step"] for line in lines] == list(range(1, 26))
    for term in ("loss", "loss/votes"):
        assert lines[-1][term] < 0.7 * lines[0][term]
    assert lines[0]["loss"] == pytest.approx(lines[0]["loss/score"] + lines[0]["loss/votes"], abs=2e-6)
    assert {"gradient", "lr", "steps_per_second", "images_per_second"} <= lines[0].keys()


def test_bfloat16(network, batch, tmp_path):
    """Mixed precision: the family's losses follow those of float32; weights and averages stay float32."""
    lines = {}
    for precision in ("bf16", "float32"):
        fabric, given = make_fabric(precision), batch()
        teaching = teaching_of({"name": "align"}, network=network, fabric=fabric)
        options = {"seed": 0, "signature": SIGNATURE, "teaching": teaching}
        train(fabric, network(), Batches(lambda _, given=given: given), schedule(), tmp_path / precision, **options)
        lines[precision] = metrics(tmp_path / precision)
    for half, full in zip(lines["bf16"], lines["float32"], strict=True):
        for term in ("loss/score", "loss/votes"):  # align also hangs on which cells the teacher is sure of
            assert half[term] == pytest.approx(full[term], rel=0.05)
    assert lines["bf16"][0]["loss"] != lines["float32"][0]["loss"]
    assert all(value.dtype != torch.bfloat16 for value in load_file(tmp_path / "bf16" / "last.safetensors").values())


def test_the_log_is_a_mean_over_its_interval(run):
    each, pairs = metrics(run()), metrics(run(folder="pairs", log_every=2))
    assert [line["step"] for line in pairs] == [2, 4]
    for index, line in enumerate(pairs):
        assert line["loss"] == pytest.approx((each[2 * index]["loss"] + each[2 * index + 1]["loss"]) / 2, abs=2e-6)


def test_what_is_kept_without_validation_is_the_average(run, network):
    estimator = network()
    before = {name: value.clone() for name, value in estimator.state_dict().items()}
    folder = run(estimator=estimator, ema=0.9)
    kept, metadata = load_tensors(folder / "model.safetensors")
    last, _ = load_tensors(folder / "last.safetensors")
    assert metadata == {"signature": SIGNATURE, "step": 4, "scores": {}, "objects": [1, 2]}
    name = "network.backbone." + next(iter(estimator.network.backbone.state_dict()))
    assert torch.equal(last[f"model.{name}"], estimator.state_dict()[name])
    assert torch.equal(last[f"average.{name}"], kept[name])
    assert not torch.equal(kept[name], last[f"model.{name}"]) and not torch.equal(kept[name], before[name])


def test_the_best_validation_is_kept(run):
    """Of equal scores the later; a worse one changes nothing. Training goes on with its own weights, in train mode."""
    scores, seen = iter([0.1, 0.5, 0.5, 0.2]), []

    def validate(estimator):
        assert not estimator.training
        seen.append({name: value.clone() for name, value in estimator.state_dict().items()})
        return {SELECT: next(scores), "val/other": 1.0}

    folder = run(validate=validate, validate_every=1)
    kept, metadata = load_tensors(folder / "model.safetensors")
    assert metadata["step"] == 3 and metadata["scores"] == {SELECT: 0.5, "val/other": 1.0}
    assert all(torch.equal(value, seen[2][name]) for name, value in kept.items())
    unvalidated, _ = load_tensors(run(folder="other") / "last.safetensors")
    validated, metadata = load_tensors(folder / "last.safetensors")
    assert metadata["best"] == 0.5
    assert all(torch.equal(value, unvalidated[name]) for name, value in validated.items())
    assert [line[SELECT] for line in metrics(folder) if SELECT in line] == [0.1, 0.5, 0.5, 0.2]


def test_the_best_is_remembered_over_a_resume(run, batch):
    with pytest.raises(KeyboardInterrupt):
        run(stopping(batch(), 2), validate=lambda _: {SELECT: 0.9}, validate_every=1)
    folder = run(validate=lambda _: {SELECT: 0.4}, validate_every=1)
    assert load_tensors(folder / "model.safetensors")[1]["step"] == 2


def test_the_seed_decides_everything(run, batch):
    def weights(folder: str, **options):
        return load_file(run(folder=folder, **options) / "last.safetensors")

    first, again = weights("first"), weights("again")
    assert all(torch.equal(first[name], again[name]) for name in first)
    other = weights("other", make=lambda _: batch(seed=1))
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_an_interrupt_leaves_what_goes_on_exactly(run, batch):
    """Batches of their own each step, validation, averaging, dropped log lines: as if never interrupted."""

    def validate(estimator):
        return {SELECT: float(next(estimator.parameters()).detach().abs().sum())}

    options = {"steps": 6, "validate": validate, "validate_every": 2, "checkpoint_every": 2}
    straight = run(lambda step: batch(seed=step), folder="straight", **options)
    for at in (1, 3, 5):  # before the first checkpoint, and one step past the next ones
        with pytest.raises(KeyboardInterrupt):
            run(lambda step, at=at: stopping(batch(seed=step), at)(step), **options)
    resumed = run(lambda step: batch(seed=step), **options)
    for name in ("model.safetensors", "last.safetensors"):
        (expected, expected_about), (found, about) = load_tensors(straight / name), load_tensors(resumed / name)
        assert about == expected_about and found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in expected)
    rates = ("steps_per_second", "images_per_second")
    lines = [[{k: v for k, v in line.items() if k not in rates} for line in metrics(f)] for f in (straight, resumed)]
    assert lines[0] == lines[1]


def test_a_finished_run_does_nothing_more(run, batch):
    folder = run()
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    given = run(stopping(batch(), 0), validate=lambda _: {SELECT: 1.0})
    assert {path.name: path.stat().st_mtime_ns for path in given.glob("*.safetensors")} == before


def test_resume_with_another_recipe_is_refused(run):
    folder = run()
    before = (folder / "last.safetensors").read_bytes()
    other = {"stage": "student", "seed": 1, "distill": ["align"]}
    with pytest.raises(CheckpointError) as caught:
        run(signature=other)
    message = str(caught.value)
    assert "last.safetensors: 'signature': found" in message and "expected the same recipe" in message
    assert "seed was 0, is 1" in message and "distill was None, is ['align']" in message and "stage" not in message
    assert (folder / "last.safetensors").read_bytes() == before


def test_resume_with_another_architecture_is_refused(run, network):
    run()
    with pytest.raises(CheckpointError, match=r"last\.safetensors: 'weights': found .*where the network has"):
        run(estimator=network(width=64))


def spoilt(batch, at: int):
    """Batches whose keypoints are NaN at a step."""

    def make(step: int):
        made = batch()
        if step == at:
            made.K[:] = math.nan
        return made

    return make


def finite(path: Path) -> bool:
    return all(bool(torch.isfinite(value).all()) for value in load_file(path).values())


def test_a_nan_loss_stops_and_keeps_the_good_checkpoint(run, batch):
    with pytest.raises(TrainingError) as caught:
        run(spoilt(batch, 2))
    message = str(caught.value)
    assert "'loss': found NaN or infinite by step 3, expected a finite loss" in message
    assert "the last good checkpoint is" in message and "last.safetensors. Lower train.lr" in message
    folder = run()  # goes on from it
    assert finite(folder / "last.safetensors") and load_tensors(folder / "last.safetensors")[1]["step"] == 4


def test_a_nan_before_the_first_checkpoint(run, batch, tmp_path):
    with pytest.raises(TrainingError, match=r"by step 1, expected .* no checkpoint had been written yet"):
        run(spoilt(batch, 0))
    assert not list((tmp_path / "run").glob("*.safetensors"))


@pytest.mark.parametrize("stage", ["checkpoint_every", "validate_every", "log_every"])
def test_a_nan_is_seen_before_anything_is_kept(run, batch, tmp_path, stage):
    """It may come long before the next line of the log; neither checkpoint nor chosen weights may hold it."""
    rare = {"checkpoint_every": 100, "validate_every": 100, "log_every": 100} | {stage: 2}
    with pytest.raises(KeyboardInterrupt):
        run(stopping(batch(), 1), steps=8, validate=lambda _: {SELECT: 0.0}, checkpoint_every=1, validate_every=1)
    with pytest.raises(TrainingError, match="by step 4"):
        run(spoilt(batch, 2), steps=8, validate=lambda _: {SELECT: 0.0}, **rare)
    assert finite(tmp_path / "run" / "last.safetensors") and finite(tmp_path / "run" / "model.safetensors")


def test_a_finite_loss_with_a_nan_gradient_stops_too(run, network, tmp_path, monkeypatch):
    """The root of zero: a value of 0, a gradient of NaN, and so weights of NaN from there on."""
    estimator = network()
    loss = estimator.loss
    weight = next(estimator.parameters())
    monkeypatch.setattr(estimator, "loss", lambda *args: loss(*args) | {"root": (0 * weight).sum().sqrt()})
    with pytest.raises(TrainingError, match="NaN or infinite by step 1, expected a finite loss and gradient"):
        run(estimator=estimator)
    assert not (tmp_path / "run" / "last.safetensors").exists()


@pytest.mark.parametrize("limit", [0, 20_000])
def test_a_full_disk_stops_and_keeps_the_good_checkpoint(run, batch, full_disk, limit, capsys):
    with pytest.raises(KeyboardInterrupt):
        run(stopping(batch(), 2))
    with full_disk(limit), pytest.raises(TrainingError, match=r"found .*expected a .*disk with"):
        run()
    folder = run()  # with room again
    assert load_tensors(folder / "last.safetensors")[1]["step"] == 4
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4]


def teaching_of(*specs: dict, network, fabric) -> Teaching:
    teacher = network(seed=1, score_threshold=0.0)  # unsure of everything, but not silent
    distillers = [build_distiller(DistillSpec(**spec), teacher.offers, teacher.offers) for spec in specs]
    return Teaching(NetworkTeacher(teacher, fabric.device), distillers)


def test_the_teacher_sees_the_same_pixels_and_stays_as_it_is(run, network, batch, fabric, monkeypatch):
    teaching = teaching_of({"name": "align"}, network=network, fabric=fabric)
    assert isinstance(teaching.teacher, NetworkTeacher)
    teacher = teaching.teacher.estimator
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    student, forward, seen = network(), teacher.forward, []

    def watch(given, *args):
        assert not torch.is_grad_enabled() and not any(m.training for m in teacher.modules())
        seen.append(given.images)
        return forward(given, *args)

    monkeypatch.setattr(teacher, "forward", watch)
    drawn = [batch(seed=step) for step in range(4)]
    run(lambda step: drawn[step], estimator=student, teaching=teaching)
    first, *seen = seen  # to build the distillers by
    assert torch.equal(first, drawn[0].images)
    assert len(seen) == 4 and all(torch.equal(a, b.images) for a, b in zip(seen, drawn, strict=True))
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None and not weight.requires_grad for weight in teacher.parameters())


def test_distillers_appear_in_the_log_and_add_up(run, network, fabric):
    specs = ({"name": "align", "weight": 2.0}, {"name": "match", "weight": 0.5})
    taught = metrics(run(teaching=teaching_of(*specs, network=network, fabric=fabric), folder="taught"))
    for line in taught:
        terms = [line[f"loss/{name}"] for name in ("score", "votes", "align", "match")]
        assert line["loss"] == pytest.approx(sum(terms), abs=1e-5) and min(terms) > 0
    alone = metrics(run(folder="alone"))
    assert alone[0]["loss/votes"] == pytest.approx(taught[0]["loss/votes"], abs=1e-6)
    assert alone[-1]["loss/votes"] != taught[-1]["loss/votes"] and "loss/align" not in alone[0]


def test_weights_scale_terms_and_equal_names_add(network, batch, fabric):
    student, given = network(), batch()

    def terms(*specs: dict) -> dict[str, float]:
        teaching = teaching_of(*specs, network=network, fabric=fabric)
        found = losses(Untouched(student), student, given, torch.Generator().manual_seed(0), teaching)
        return {name: float(value.detach()) for name, value in found.items()}

    once = terms({"name": "align"})["align"]
    assert once != 0 and terms({"name": "align", "weight": 3.0})["align"] == pytest.approx(3 * once, rel=1e-5)
    both = terms({"name": "align", "weight": 2.0}, {"name": "align", "weight": 0.5})
    assert both["align"] == pytest.approx(2.5 * once, rel=1e-5)


def phased(network, fabric) -> Teaching:
    """Hints alone for two steps, then labels and votes."""
    specs = ({"name": "feature", "phase": "first"}, {"name": "match", "weight": 0.5})
    teaching = teaching_of(*specs, network=network, fabric=fabric)
    teaching.switch = 2
    return teaching


def test_two_phases(run, network, fabric):
    student = network()
    start = {name: value.clone() for name, value in student.state_dict().items()}
    lines = metrics(run(estimator=student, teaching=phased(network, fabric)))
    hints = [set(line) & {"loss/feature", "loss/match", "loss/votes"} for line in lines if "loss" in line]
    assert hints == [{"loss/feature"}] * 2 + [{"loss/match", "loss/votes"}] * 2
    frozen = {name for name, value in student.named_parameters() if not value.requires_grad}
    assert frozen and not any(name.startswith("network.head") for name in frozen)
    heads = [name for name, _ in student.named_parameters() if name.startswith("network.head")]
    assert any(not torch.equal(start[name], student.state_dict()[name]) for name in heads)


def test_what_the_first_phase_has_taught_stays_as_it_is(network, batch, fabric):
    student, teaching = network(), phased(network, fabric)
    teaching.prepare(student, batch())
    student.train()
    teaching.rest(student, step=1)
    assert all(value.requires_grad for value in student.parameters())
    teaching.rest(student, step=2)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    frozen = {name for name, value in student.named_parameters() if not value.requires_grad}
    terms = losses(Untouched(student), student, batch(), torch.Generator().manual_seed(0), teaching, step=2)
    torch.stack(list(terms.values())).sum().backward()
    statistics = {name for name in before if name.startswith("network.backbone") and "running" in name}
    assert frozen and statistics
    assert all(torch.equal(before[name], student.state_dict()[name]) for name in frozen | statistics)
    assert all(value.grad is None for name, value in student.named_parameters() if name in frozen)
    teaching.rest(student, step=1)  # as whoever times both phases goes back
    assert all(value.requires_grad for value in student.parameters())


def test_two_phases_go_on_as_if_never_interrupted(run, network, batch, fabric, tmp_path):
    whole = run(folder="whole", teaching=phased(network, fabric), checkpoint_every=1)
    with pytest.raises(KeyboardInterrupt):
        run(stopping(batch(), 3), folder="parts", teaching=phased(network, fabric), checkpoint_every=1)
    parts = run(folder="parts", teaching=phased(network, fabric), checkpoint_every=1)
    ours, theirs = (load_tensors(folder / "last.safetensors")[0] for folder in (parts, whole))
    assert len(metrics(parts)) == len(metrics(whole))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


class Adapted(Distiller):
    """The teacher's embedding from the student's, through a layer that is learned along."""

    Settings = type("Nothing", (BaseModel,), {})
    needs = frozenset({"embedding"})

    def prepare(self, example):
        widths = (side.embedding.shape[1] for side in (example.student, example.teacher))
        self.adapter = torch.nn.Linear(*widths)
        self.register_buffer("seen", torch.tensor(sum(len(pictures) for _, pictures in example.training_pictures())))

    def forward(self, student, teacher, batch):
        return (self.adapter(student.embedding.float()) - teacher.embedding.float()).square().mean()


def test_what_a_distiller_learns_is_trained_saved_and_taken_up_again(run, network, batch, fabric):
    def teaching() -> Teaching:
        torch.manual_seed(3)
        made = teaching_of({"name": f"{__name__}:Adapted"}, network=network, fabric=fabric)
        return Teaching(made.teacher, made.distillers, lambda: iter([batch(), batch()]))

    straight = teaching()
    run(teaching=straight, folder="straight")
    with pytest.raises(KeyboardInterrupt):
        run(stopping(batch(), 2), teaching=teaching(), folder="broken")
    resumed = teaching()
    folder = run(teaching=resumed, folder="broken")
    (ours,), (theirs,) = resumed.distillers, straight.distillers
    assert int(theirs.seen) == 2 * len(batch())
    for name, value in theirs.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name
    saved = load_tensors(folder / "last.safetensors")[0]
    assert torch.equal(saved["distill.0.adapter.weight"], theirs.adapter.weight)
    torch.manual_seed(3)
    untrained = teaching()
    untrained.prepare(network(), batch())
    assert not torch.equal(untrained.distillers[0].adapter.weight, theirs.adapter.weight)


def test_the_teacher_teaches(run, network, fabric):
    """Left to the teacher alone, the student's votes move to where the teacher's are."""
    spec = {"name": "match", "weight": 10.0, "options": {"score_weight": 0.0}}
    teaching = teaching_of(spec, network=network, fabric=fabric)
    teaching.teacher.estimator.network.centers += 10.0  # its votes lie aside
    student = network(score_weight=0.0, vote_weight=0.0)
    lines = metrics(run(estimator=student, teaching=teaching, steps=20, lr=3e-3))
    assert lines[-1]["loss/match"] < 0.5 * lines[0]["loss/match"]
