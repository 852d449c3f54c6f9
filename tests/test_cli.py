import json
import subprocess
import sys
import tempfile
from dataclasses import asdict, fields
from pathlib import Path

import click
import pytest
import typer.main
from typer.testing import CliRunner

import posedistill
from posedistill import cli
from posedistill.deploy.bench import BenchResult
from posedistill.errors import DataError

HEAVY = (
    "torch", "numpy", "cv2", "onnxruntime", "yaml", "scipy", "trimesh", "timm", "matplotlib",
    "lightning_fabric", "safetensors", "tensorboard", "poselib",
)  # fmt: skip
RECIPE = """
name: mini
seed: 4
data: {objects: [1], train: [{models: code, count: 1}], test: {source: {models: code, count: 1}}}
teacher: {}
student: {}
distill: [{name: align}]
"""


@pytest.fixture
def recipe_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)  # where its run would be
    path = tmp_path / "mini.yaml"
    path.write_text(RECIPE)
    return path


def commands() -> dict[str, click.Command]:
    """Every command by what one types."""
    group = typer.main.get_command(cli.app)
    found = {}
    for name, command in group.commands.items():
        below = getattr(command, "commands", None)
        found |= {f"{name} {sub}": entry for sub, entry in below.items()} if below else {name: command}
    return found


def invoke(*words: str):
    return CliRunner().invoke(cli.app, list(words), env={"COLUMNS": "200", "TERMINAL_WIDTH": "200", "NO_COLOR": "1"})


def main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """What the entry point ends with."""
    monkeypatch.setattr(sys, "argv", ["posedistill", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


def test_all_commands_are_there():
    expected = [
        "run",
        "compare",
        "train",
        "distill",
        "evaluate",
        "score",
        "export",
        "report",
        "predict",
        "threshold",
        "bench",
        "quantise",
        "convert",
        "recipe",
        "card",
        "hub push",
        "hub pull",
    ]
    assert set(commands()) == {
        *expected,
        "data render",
        "data check",
        "data label",
        "data convert",
        "data anchors",
        "data categories",
        "data views",
        "data codes",
        "data model",
        "data camera",
        "yolo6d train",
        "yolo6d valid",
        "viewpoint train",
        "viewpoint distill",
        "viewpoint test",
    }


@pytest.mark.parametrize("name", commands())
def test_help_names_every_option_and_says_what_it_is_for(name: str):
    result, command = invoke(*name.split(), "--help"), commands()[name]
    assert result.exit_code == 0
    for parameter in command.params:
        if isinstance(parameter, click.Option) or parameter.param_type_name == "option":
            assert parameter.opts[0] in result.output
            assert parameter.help or parameter.name == "help", f"{name} {parameter.opts[0]} has no help"
        else:
            assert parameter.name in result.output.lower()
    assert command.help and command.help.split(".")[0].split("\n")[0] in result.output


def test_help_of_everything():
    result = invoke("--help")
    assert result.exit_code == 0
    assert all(name.split()[0] in result.output for name in commands())
    assert "posedistill run quickstart" in result.output


def test_version():
    assert invoke("--version").output.strip() == posedistill.__version__


@pytest.mark.parametrize("words", [[], ["--help"], ["--version"], ["evaluate", "--help"]])
def test_asking_for_help_imports_nothing_heavy(words: list[str]):
    code = (
        f"import sys; sys.argv = ['posedistill', *{words!r}]\n"
        "from posedistill.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        f"print('heavy:', *sorted(set({HEAVY!r}) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1].strip() == "heavy:"


def test_a_mistake_of_the_user_is_one_line_and_exit_code_2(tmp_path: Path):
    command = [sys.executable, "-m", "posedistill", "run", str(tmp_path / "none.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    expected = f"posedistill: {tmp_path / 'none.yaml'}: 'file': found no such file, expected a YAML recipe\n"
    assert (done.returncode, done.stdout, done.stderr) == (2, "", expected)


def test_a_missing_package_is_named_with_the_remedy(tmp_path: Path):
    code = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'torch':\n"
        "            raise ModuleNotFoundError('blocked', name=name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "sys.argv = ['posedistill', 'run', 'mini.yaml']\n"
        "from posedistill.cli import main\nmain()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == "posedistill: this needs more than the light install: pip install 'posedistill[train]' (found no torch)\n"
    )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train", "RECIPE", "--network", "pupil"], "--network: found 'pupil', expected 'teacher' or 'student'"),
        (["train", "RECIPE", "train.stepz=3"], "'train.stepz': found an unknown key"),
        (["evaluate", ".", "--split", "train", "--csv", "a.csv"], "--split, --csv: a run is measured as its recipe"),
        (["evaluate", "model.onnx"], "--dataset: found nothing, expected a BOP folder"),
        (["evaluate", "none.onnx", "--dataset", "."], "none.onnx"),
        (["evaluate", "."], "recipe.yaml: 'recipe': found no such file, expected a run folder"),
        (["score", "none.csv", "--dataset", "."], "none.csv"),
        (["export", "."], "recipe.yaml: 'recipe': found no such file"),
        (["predict", "none.onnx", "none.jpg"], "none.onnx"),
        (["bench", "none.onnx"], "none.onnx"),
        (["quantise", "none.onnx", "none.jpg"], "none.onnx"),
        (
            ["convert", "none.weights", "x.onnx"],
            "none.weights: 'file': found no such file, expected a Darknet .weights",
        ),
        (["data", "render", "nowhere", "out"], "nowhere: 'meshes': found none"),
        (["data", "render", "code", "out", "--set", "distance"], "--set: 'distance': found no such setting"),
    ],
)
def test_mistakes_are_explained(recipe_file, monkeypatch, capsys, words: list[str], expected: str):
    monkeypatch.chdir(recipe_file.parent)
    assert main(monkeypatch, *("mini.yaml" if word == "RECIPE" else word for word in words)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("posedistill: ") and expected in printed.err and "Traceback" not in printed.err
    assert len(printed.err.strip().splitlines()) == 1


@pytest.mark.parametrize("words", [["fly"], ["run"], ["score", "a.csv"], ["bench", "m.onnx", "--threads", "many"]])
def test_unknown_words_are_refused(words: list[str]):
    result = invoke(*words)
    assert result.exit_code == 2 and "Traceback" not in result.output


def test_an_interrupt_ends_with_130(monkeypatch, capsys):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_recipe", interrupt)
    assert main(monkeypatch, "run", "mini.yaml") == 130
    assert capsys.readouterr().err == "posedistill: stopped; the same command begins again\n"


def test_an_interrupt_says_what_is_true_of_the_command(monkeypatch, capsys, tmp_path):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("posedistill.tasks.object_sources.render_folder", interrupt)
    assert main(monkeypatch, "data", "render", "code", str(tmp_path / "out")) == 130
    assert capsys.readouterr().err.endswith("goes on: pictures that are rendered are kept\n")
    monkeypatch.setattr("posedistill.deploy.predict.base.predict_images", interrupt)
    model = Path(__file__).parents[1] / "models" / "linemod_cat.onnx"
    assert main(monkeypatch, "predict", str(model), "photo.jpg", "--out", "here") == 130
    assert capsys.readouterr().err.endswith("stopped; what was found before is in here\n")


@pytest.mark.parametrize("command", ["run", "train"])
def test_a_folder_that_cannot_be_written_to_is_a_mistake(recipe_file, monkeypatch, capsys, command):
    (recipe_file.parent / "file").touch()
    where = recipe_file.parent / "file" / "runs"
    assert main(monkeypatch, command, str(recipe_file), f"runs={where}") == 2
    expected = (
        f"posedistill: {where / 'mini'}: 'folder': found Not a directory, expected a folder that can be written to"
    )
    assert capsys.readouterr().err == expected + "\n"


def test_figures_that_cannot_be_written_are_a_mistake(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").touch()
    model = Path(__file__).parents[1] / "models" / "linemod_cat.onnx"
    words = ["bench", str(model), "--repeats", "1", "--json", str(tmp_path / "file" / "bench.json")]
    assert main(monkeypatch, *words) == 2
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err and "bench.json: 'file': found Not a directory" in printed.err
    assert "time p50" in printed.out  # what was measured is told all the same


def test_other_faults_of_files_are_mistakes_too(monkeypatch, capsys):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli, "_recipe", full)
    assert main(monkeypatch, "run", "mini.yaml") == 2
    assert "posedistill: disk: 'file': found No space left on device" in capsys.readouterr().err


def test_a_report_of_nothing_is_refused(monkeypatch, capsys, tmp_path):
    assert main(monkeypatch, "report", str(tmp_path / "nope")) == 2
    assert "found no such folder, expected a run folder" in capsys.readouterr().err
    assert main(monkeypatch, "report", str(tmp_path)) == 2
    assert "found none of recipe.yaml, evaluation.json" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    def fault(*_, **__):
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_recipe", fault)
    monkeypatch.setattr(sys, "argv", ["posedistill", "run", "mini.yaml"])
    with pytest.raises(ZeroDivisionError):
        cli.main()


class Recorder:
    """Stands in for what a command calls."""

    def __init__(self, result=None) -> None:
        self.result, self.calls = result, []

    def __call__(self, *args, **kwargs):
        self.calls.append((args, kwargs))
        return self.result


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["train"], ("teacher", 4)),
        (["train", "--network", "student"], ("student", 4)),
        (["train", "--network", "student", "--seed", "0"], ("student", 0)),
        (["distill"], ("distilled", 4)),
        (["distill", "--seed", "7"], ("distilled", 7)),
    ],
)
def test_train_and_distill(recipe_file, monkeypatch, words: list[str], expected: tuple[str, int]):
    recorder = Recorder()
    monkeypatch.setattr("posedistill.training.run.train_stage", recorder)
    result = invoke(*words[:1], str(recipe_file), "train.steps=77", *words[1:])
    assert result.exit_code == 0, result.output
    ((task, stage), _) = recorder.calls[0]
    assert (stage.name, stage.seed) == expected and task.recipe.train.steps == 77


def test_run_hands_on_recipe_and_jobs(recipe_file, monkeypatch):
    recorder = Recorder()
    monkeypatch.setattr("posedistill.training.run.run", recorder)
    assert invoke("run", str(recipe_file), "train.steps=77", "seed=1", "--jobs", "2").exit_code == 0
    ((recipe, jobs), _) = recorder.calls[0]
    assert (recipe.train.steps, recipe.seed, jobs) == (77, 1, 2)


def test_compare_tells_files_from_overrides(recipe_file, monkeypatch, tmp_path):
    recorder = Recorder()
    (tmp_path / "comparison.md").write_text("the table")

    def compare(*words, **options):
        recorder(*words, **options)
        return tmp_path / "comparison.html"

    monkeypatch.setattr("posedistill.compare.compare.compare", compare)
    result = invoke("compare", str(recipe_file), "other.yaml", "train.steps=77", "--seeds", "3", "--jobs", "2")
    assert result.exit_code == 0 and "the table" in result.output and "comparison.html" in result.output
    ((paths, overrides), options) = recorder.calls[0]
    assert paths == [recipe_file, Path("other.yaml")] and overrides == ["train.steps=77"]
    assert options == {"seeds": 3, "baseline": None, "jobs": 2}


def test_check_ends_with_1_where_there_are_faults(monkeypatch, tmp_path):
    def broken(*_, **__):
        raise DataError("nothing here")

    monkeypatch.setattr("posedistill.data.check.dataset.check_dataset", broken)
    assert main(monkeypatch, "data", "check", str(tmp_path)) == 2

    class Report:
        ok = False

        def render(self, console):
            pass

    monkeypatch.setattr("posedistill.data.check.dataset.check_dataset", lambda *_: Report())
    assert main(monkeypatch, "data", "check", str(tmp_path)) == 1


def test_a_check_draws_where_it_is_told_and_never_into_the_current_folder(monkeypatch, tmp_path):
    class Report:
        ok = True

        def render(self, console):
            pass

    drawn = []
    monkeypatch.setattr(
        "posedistill.data.check.dataset.check_dataset", lambda *words: drawn.append(words[2]) or Report()
    )
    for words in ((), ("--overlay", "here.jpg")):
        assert invoke("data", "check", str(tmp_path / "my_set"), *words).exit_code == 0
    assert drawn == [Path(tempfile.gettempdir()) / "posedistill-check-my_set.jpg", Path("here.jpg")]


def test_bench_makes_the_folder_of_its_figures(monkeypatch, tmp_path):
    numbers = dict.fromkeys((entry.name for entry in fields(BenchResult)), 1.0)
    result = BenchResult(**numbers | {"versions": {}})
    monkeypatch.setattr("posedistill.deploy.bench.bench", lambda *_: result)
    figures = tmp_path / "new" / "bench.json"
    assert invoke("bench", "model.onnx", "--json", str(figures)).exit_code == 0
    assert json.loads(figures.read_text()) == asdict(result)
