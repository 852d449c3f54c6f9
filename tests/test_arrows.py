"""Arrows go one way: what each room may lean on, as docs/architecture.md states it."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import posedistill

SOURCE = Path(posedistill.__file__).parent
SHARED = {"errors", "files", "interrupts", "log", "machine", "poses"}
LIGHT = {"geometry", "decode", "runtime"}
ALLOWED = {
    "geometry": {"errors"},
    "decode": {"geometry"},
    "backbones": {"geometry"},
    "data": {"geometry"},
    "runtime": {"geometry", "decode"},
    "metrics": {"geometry", "data"},
    "estimators": {"geometry", "decode", "backbones", "data"},
    "distill": {"geometry", "data", "estimators"},
    "report": {"geometry", "data", "metrics"},
    "deploy": {"geometry", "decode", "data", "runtime", "metrics", "report"},
    "recipe": {"geometry", "backbones", "data", "estimators", "distill"},
    "tasks": {
        *{"geometry", "decode", "data", "runtime", "metrics", "estimators", "report", "deploy", "recipe"},
    },
    "training": {
        *{"geometry", "data", "runtime", "metrics", "distill", "estimators", "report", "deploy", "recipe", "tasks"},
    },
    "compare": {"geometry", "report", "recipe", "tasks", "training"},
}


def imported(path: Path) -> set[str]:
    """Every module that a file imports, also inside functions."""
    modules: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} if node.module != "posedistill" else {f"posedistill.{n.name}" for n in node.names}
        elif isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
    return modules


def test_every_room_has_its_arrows():
    assert {path.parent.name for path in SOURCE.glob("*/__init__.py")} == set(ALLOWED)


@pytest.mark.parametrize("room", list(ALLOWED))
def test_arrows(room):
    for path in sorted((SOURCE / room).rglob("*.py")):
        for module in imported(path):
            top, _, rest = module.partition(".")
            if top == "posedistill" and rest != "__version__":
                target = rest.partition(".")[0]
                assert target in ALLOWED[room] | SHARED | {room}, f"{path}: {module}"
            if room in LIGHT:
                assert top not in ("torch", "timm", "lightning_fabric", "pydantic"), f"{path}: {module}"


def test_losses_know_no_estimator():
    for path in (SOURCE / "distill").rglob("*.py"):
        families = {module for module in imported(path) if module.startswith("posedistill.estimators")}
        assert families <= {"posedistill.estimators.views", "posedistill.estimators.contrast"}, path


def test_tasks_and_training_know_no_family():
    for path in [*(SOURCE / "tasks").rglob("*.py"), *(SOURCE / "training").rglob("*.py")]:
        rooms = {f"posedistill.estimators.{name}" for name in ("base", "inherit", "registry", "views")}
        assert {module for module in imported(path) if module.startswith("posedistill.estimators")} <= rooms, path


def test_nothing_above_the_recipe_asks_which_task_it_is():
    """What differs is asked of the task or its data: no ``isinstance`` of a data section, a task or an estimator."""
    asked = re.compile(r"isinstance\([^)]*\b(\w*(?:DataSettings|SceneSettings|CategorySettings|Task|Predictor))\b")
    rooms = [room for room in ALLOWED if room != "recipe"]
    found = {path: asked.findall(path.read_text()) for room in rooms for path in (SOURCE / room).rglob("*.py")}
    assert not any(found.values()), {path: names for path, names in found.items() if names}


@pytest.mark.parametrize("name", ["views", "contrast"])
def test_what_losses_share_with_estimators_knows_no_family(name):
    assert not [module for module in imported(SOURCE / f"estimators/{name}.py") if module.startswith("posedistill")]


@pytest.mark.parametrize(
    ("room", "without"),
    [
        ("distill", ["posedistill.estimators.base", "posedistill.estimators.wdrnet", "timm"]),
        ("estimators.registry", ["posedistill.distill", "posedistill.training"]),
        ("decode.wdrnet", ["torch", "posedistill.estimators"]),
        ("decode.posenet", ["torch", "posedistill.estimators"]),
        ("decode.yolo6d", ["torch", "posedistill.estimators"]),
        ("runtime", ["torch", "posedistill.estimators", "posedistill.data"]),
    ],
)
def test_importing_a_room_loads_nothing_above_it(room, without):
    code = f"import sys, posedistill.{room}; print(*[name for name in {without} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert loaded.split() == []
