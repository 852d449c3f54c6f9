"""The task of objects for families that look at whole pictures and find every object in them at once."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Unpack

import numpy as np

from posedistill.data.loading.batch import Batch
from posedistill.data.loading.loader import Loader, LoaderOptions
from posedistill.data.loading.picture_view import PictureSize, PictureView
from posedistill.decode import Pose
from posedistill.decode.base import Arrays
from posedistill.decode.objects import of_objects
from posedistill.deploy.estimate import FrameQuery
from posedistill.deploy.evaluate import whole_pictures
from posedistill.deploy.export import torch_predictor
from posedistill.estimators.base import Estimator
from posedistill.geometry.cameras import Array
from posedistill.metrics import Evaluation
from posedistill.metrics.single_shot import score_boxes, score_single_shot
from posedistill.poses import Poses
from posedistill.report.cases import save_votes
from posedistill.runtime.predictor import Predictor
from posedistill.tasks.base import Rows
from posedistill.tasks.objects import DRAWN, ObjectsTask
from posedistill.tasks.validation import assign_in_pictures


class PicturesTask(ObjectsTask):
    """Where in the picture are the objects, if there are any, and how do they lie?"""

    with_others = True
    validated = 16
    reads_outputs = True

    @property
    def sizes(self) -> Sequence[PictureSize]:
        """As the recipe's test lists them."""
        return self.data.test.sizes

    @cached_property
    def queries(self) -> Sequence[FrameQuery]:
        """The test frames, each with the objects that are sought in it; no boxes."""
        return whole_pictures(self.test_set.dataset, self.objects)

    @cached_property
    def others(self) -> Rows:
        """The training frames that show none of the objects, numbered through the packs."""
        packs = self.training_set.packs
        starts = np.cumsum([0, *(len(pack.frames) for pack in packs)])
        empty = [np.setdiff1d(np.arange(len(pack.frames)), pack.instances.frame) for pack in packs]
        return np.concatenate([start + rows for start, rows in zip(starts, empty, strict=False)])

    def loader(self, rows: Rows, **options: Unpack[LoaderOptions]) -> Loader:
        """Whole frames with some of the instances; varied ones come with frames and photographs that show nothing."""
        varied, data = options.get("augment", True), self.data
        pictures, others = (self._backdrops, self.others) if varied else (None, None)
        view = PictureView(self.training_set.packs, self.objects, data.picture, rows, pictures, others)
        return Loader(view, shares=data.shares, **options)

    def assign(self, poses: Sequence[Pose], batch: Batch) -> Sequence[int]:
        """Which instance of a batch each pose is of: of its picture and object, the nearest ones."""
        return assign_in_pictures(poses, batch, self.objects)

    def score(self, poses: Poses | None) -> Evaluation:
        """BOP's scores, ADD(-S), and the figures that such families are published with; no boxes were given."""
        found = replace(super().score(poses), boxes="none")
        if poses is None:
            return found
        return found.beside(score_single_shot(poses, self.test_set.dataset, self.test_set.models))

    def looked_into(self, evaluation: Evaluation, estimator: Estimator, outputs: Sequence[Arrays] = ()) -> Evaluation:
        """With the error of the boxes that the network says itself, where its family says any."""
        predictor = torch_predictor(*self.deployed(estimator), next(estimator.parameters()).device)
        decoder, boxes = of_objects(predictor.decoder), defaultdict[tuple[int, int, int], list[Array]](list)
        known: Sequence[Arrays | None] = outputs or [None] * len(self.queries)
        for query, said in zip(self.queries, known, strict=True):
            request = query.request()
            prepared = decoder.prepare(request)
            said = predictor.outputs_of([prepared])[0] if said is None else said
            for obj_id, box in decoder.boxes_seen(request.image, said, prepared):
                boxes[query.scene_id, query.im_id, obj_id].append(box)
        if not boxes:
            return evaluation
        return evaluation.beside(score_boxes(boxes, self.test_set.dataset, self.test_set.models))

    def draw_votes(self, predictor: Predictor, name: str, folder: Path) -> None:
        """Confidences of cells and the votes behind each pose, over a few photographs."""
        decoder, pictures = of_objects(predictor.decoder), []
        for query in self.queries[:: -(-len(self.queries) // DRAWN)]:
            request = query.request()
            prepared = decoder.prepare(request)
            drawn = decoder.explain(request.image, predictor.outputs_of([prepared])[0], prepared)
            if drawn is not None:
                caption = f"scene {query.scene_id}, image {query.im_id}: confidence of each cell, votes, poses"
                pictures.append((drawn, caption))
        save_votes(folder, name, pictures)
