"""Who presents the poses of which models in ``posedistill predict``."""

from posedistill.deploy.predict.base import Presenter
from posedistill.deploy.predict.category import CategoryPresenter
from posedistill.deploy.predict.objects import ObjectPresenter
from posedistill.deploy.predict.scene import ScenePresenter

PRESENTERS: dict[str, type[Presenter]] = {
    "objects": ObjectPresenter,
    "scene": ScenePresenter,
    "categories": CategoryPresenter,
}
"""By what the model's decoder says its ``task`` is."""
