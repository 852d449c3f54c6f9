"""Two processes on processors, started by torchrun, must train one network together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

STEPS = 3

WORKER = """
import sys
from pathlib import Path
import torch
from posedistill.recipe.recipe import load_recipe
from posedistill.recipe.stages import teacher_of
from posedistill.tasks.registry import open_task
from posedistill.training import step
from posedistill.training import run as running


def find_gradients(out):
    fabric = step.make_fabric("float32")
    batch = torch.load(out / f"batch{fabric.global_rank}.pt", weights_only=False)
    estimator = torch.load(out / "network.pt", weights_only=False)
    model = fabric.setup(step.Untouched(estimator))
    terms = step.losses(model, estimator, batch, torch.Generator().manual_seed(0), None)
    fabric.backward(sum(terms.values()))
    gradients = {name: weight.grad for name, weight in estimator.named_parameters()}
    torch.save((fabric.world_size, gradients), out / f"gradients{fabric.global_rank}.pt")
    return fabric.global_rank


def train_teacher(recipe, path):
    ends, train = {}, running.train

    def watch(fabric, estimator, *args, **kwargs):
        train(fabric, estimator, *args, **kwargs)
        ends.update({name: weight.detach().clone() for name, weight in estimator.named_parameters()})

    running.train = watch
    running.train_stage(open_task(recipe), teacher_of(recipe))
    torch.save(ends, path)


if __name__ == "__main__":
    torch.set_num_threads(1)
    out = Path(sys.argv[2])
    rank = find_gradients(out)
    train_teacher(load_recipe(Path(sys.argv[1])), out / f"weights{rank}.pt")
"""


@pytest.fixture(scope="module")
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_two_processes_train_one_network(raw_recipe, network, batch, tmp_path: Path, free_port: int):
    """Gradients of both are the mean of what each would find alone; weights agree to the last bit after 3 steps."""
    source = {"models": "code", "objects": [1], "count": 2, "settings": {"width": 160, "height": 120}}
    source["settings"] |= {
        "objects_per_image": [1, 1],
        "distractors": [0, 0],
        "depth": False,
        "ambient_occlusion": False,
    }
    raw_recipe["train"]["steps"] = STEPS
    raw_recipe["data"] |= {"train": [source], "objects": [1]}
    (tmp_path / "mini.yaml").write_text(yaml.safe_dump(raw_recipe))
    (tmp_path / "worker.py").write_text(WORKER)
    estimator = network()
    torch.save(estimator, tmp_path / "network.pt")
    batches = [batch(seed=rank) for rank in range(2)]
    for rank, given in enumerate(batches):
        torch.save(given, tmp_path / f"batch{rank}.pt")

    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", str(free_port)]
    command = [*launch, str(tmp_path / "worker.py"), str(tmp_path / "mini.yaml"), str(tmp_path)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr

    (worlds, gradients) = zip(*(torch.load(tmp_path / f"gradients{rank}.pt") for rank in range(2)), strict=True)
    assert worlds == (2, 2)
    alone = [gradients_of(network(), given) for given in batches]
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name])
        torch.testing.assert_close(gradient, (alone[0][name] + alone[1][name]) / 2, rtol=1e-4, atol=1e-7)
    assert any(not torch.allclose(alone[0][name], alone[1][name], rtol=1e-2) for name in alone[0])

    weights = [torch.load(tmp_path / f"weights{rank}.pt") for rank in range(2)]
    assert weights[0] and all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    folder = tmp_path / "runs" / "mini" / "teacher" / "seed0"
    last = load_file(folder / "last.safetensors")
    assert all(torch.equal(last[f"model.{name}"], value) for name, value in weights[0].items())
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines if "loss" in line]
    assert steps == list(range(1, STEPS + 1))  # written once, by one of them
    assert (folder / "done.json").exists()


def gradients_of(estimator, batch) -> dict[str, torch.Tensor]:
    prediction = estimator.train()(batch, torch.Generator().manual_seed(0))
    sum(estimator.loss(prediction, batch).values()).backward()
    return {name: weight.grad for name, weight in estimator.named_parameters()}
