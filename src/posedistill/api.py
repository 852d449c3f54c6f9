"""What the command line does, as functions: their values are returned and nothing is printed or asked."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from posedistill.data.images import read_image as _read_image
from posedistill.geometry.draw.poses import Image
from posedistill.metrics.evaluation import Evaluation
from posedistill.poses import Poses
from posedistill.runtime.predictor import Predictor

if TYPE_CHECKING:
    from posedistill.recipe.recipe import Recipe


def read_image(path: str | Path) -> Image:
    """A photograph as ``[H, W, 3]`` uint8 RGB, turned as viewers show it.

    Raises:
        DataError: a file that is missing, damaged, or no picture.
    """
    return _read_image(Path(path))


def score(
    estimates: Poses | str | Path,
    dataset: str | Path,
    split: str = "test",
    *,
    scenes: Sequence[int] | None = None,
    frames: str | Path | None = None,
    vsd: bool = False,
) -> Evaluation:
    """Scores of poses, or of a BOP csv of anybody's, on a BOP folder or .data file.

    Args:
        scenes: numbers of those that are scored; default: all. frames: text file with an image id a line.
        vsd: also measure VSD, which needs depth images.

    Raises:
        DataError: a damaged csv or data set, or no row that is about its images.
    """
    from posedistill.deploy.evaluate import open_bop
    from posedistill.metrics import score_estimates
    from posedistill.metrics.matching import refuse_foreign

    poses = estimates if isinstance(estimates, Poses) else Poses.from_bop_csv(estimates)
    listed = None if frames is None else Path(frames)
    opened = open_bop(Path(dataset), split, listed, None, None if scenes is None else list(scenes))
    source = "estimates" if isinstance(estimates, Poses) else estimates
    refuse_foreign(poses, opened, source)
    return score_estimates(poses, opened, vsd=vsd, source=source)


def evaluate(model: Predictor | str | Path, dataset: str | Path, split: str = "test") -> Evaluation:
    """Scores of a model of objects on a BOP folder or .data file, in true boxes where it needs any.

    Raises:
        CheckpointError: no model of objects. DataError: a damaged data set.
    """
    from posedistill.decode.objects import of_objects
    from posedistill.deploy.estimate import estimate
    from posedistill.deploy.evaluate import ground_truth_boxes, open_bop, whole_pictures
    from posedistill.metrics import score_estimates

    predictor = model if isinstance(model, Predictor) else Predictor.from_onnx(model)
    decoder = of_objects(predictor.decoder)
    opened = open_bop(Path(dataset), split, None, decoder.objects.obj_ids)
    sought = (whole_pictures if decoder.whole_pictures else ground_truth_boxes)(opened, decoder.objects)
    return score_estimates(estimate(predictor, sought), opened, boxes="none" if decoder.whole_pictures else "gt")


def run(recipe: "Recipe | str | Path", *overrides: str, jobs: int = 1) -> Path:
    """Walk all stages of a recipe, as ``posedistill run``; returns the run's folder. Needs the [train] extra.

    Args:
        overrides: ``key=value`` words, where the recipe is a file. jobs: networks trained at the same time.

    Raises:
        PoseDistillError: whatever is wrong with the recipe, its data or the training.
    """
    from posedistill.recipe.recipe import Recipe, load_recipe
    from posedistill.training.run import run as run_stages

    loaded = recipe if isinstance(recipe, Recipe) else load_recipe(Path(recipe), overrides)
    run_stages(loaded, jobs)
    return loaded.folder
