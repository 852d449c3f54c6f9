"""Measurement of models of objects, on a BOP folder or a .data file."""

from posedistill.decode.objects import of_objects
from posedistill.deploy.estimate import estimate
from posedistill.deploy.evaluate import boxes_for, open_bop, report_objects, trained_on, unlisted, whole_pictures
from posedistill.deploy.evaluators.base import Asked
from posedistill.log import console
from posedistill.metrics import Evaluation, load_scoring_models
from posedistill.runtime.predictor import Predictor


def evaluate_objects(predictor: Predictor, asked: Asked) -> Evaluation:
    """All scores of BOP, and where the family looks at whole pictures those of single-shot pose."""
    asked.refuse(["--metres-per-unit"], "none: BOP folders are in millimetres")
    decoder, boxes = of_objects(predictor.decoder, asked.model), asked.boxes
    objects = decoder.objects
    if decoder.whole_pictures:
        asked.refuse(["--boxes", "--detections"], f"none: {decoder.family} finds objects in whole pictures by itself")
        boxes = "none"
    opened = open_bop(asked.dataset, asked.split, asked.frames, objects.obj_ids, asked.scenes)
    models = load_scoring_models(opened)  # before hours of estimating, for a mesh may be missing
    known = predictor.record.frames
    if note := trained_on(opened, known) or unlisted(opened, asked.frames, known):
        console.print(f"[yellow]{note}", highlight=False)
    if decoder.whole_pictures:
        sought = whole_pictures(opened, objects)
    else:
        sought = boxes_for(opened, objects, boxes, asked.detections)
    estimates = estimate(predictor, sought)
    if asked.csv is not None:
        estimates.to_bop_csv(asked.csv)
    about = {"legacy_diameters": asked.legacy_diameters, "boxes": boxes, "source": asked.csv or "estimates"}
    return report_objects(estimates, opened, models, asked.json, **about)
