"""Teachers of one kind of vote for students of another, such as surface codes; the families say how."""

from collections.abc import Callable

import torch

from posedistill.data.loading.batch import Batch
from posedistill.estimators.base import Estimator, Translation
from posedistill.estimators.views import Prediction
from posedistill.geometry.meshes import Mesh
from posedistill.training.teaching.teachers import Teacher, networks_of


def translated(teacher: Teacher, student: Estimator, mesh: Callable[[int], Mesh]) -> Teacher:
    """The teacher, or what says the same in the student's kind of votes; ``mesh`` reads an object's by its id."""
    into = student.from_keypoints(mesh)
    if into is not None and any(type(network) is type(student) for network in networks_of(teacher)):
        return teacher
    said = as_keypoints(teacher)
    return said if into is None else TranslatedTeacher(said, into)


def as_keypoints(teacher: Teacher) -> Teacher:
    """The teacher, or where its votes are of another kind, what says the same in keypoints."""
    out_of = next((found for network in networks_of(teacher) if (found := network.to_keypoints()) is not None), None)
    return teacher if out_of is None else TranslatedTeacher(teacher, out_of)


class TranslatedTeacher:
    """Another teacher in another kind of votes; its feature maps and embedding are passed on."""

    def __init__(self, teacher: Teacher, translation: Translation) -> None:
        self.teacher, self.translation = teacher, translation

    @property
    def offers(self) -> frozenset[str]:
        """What the translation gives, and what needs none."""
        return self.translation.views | self.teacher.offers & {"features", "embedding"}

    @torch.no_grad()
    def predict(self, batch: Batch, step: int) -> Prediction:
        """The teacher's prediction, translated."""
        taught = self.teacher.predict(batch, step)
        said = self.translation.translate(taught, batch, step)
        said.features, said.embedding, said.spread = taught.features, taught.embedding, taught.spread
        return said
