"""Who presents the poses of which models in ``posedistill predict``."""

from posedistill.deploy.predict import Presenter
from posedistill.deploy.predict_category import CategoryPresenter
from posedistill.deploy.predict_objects import ObjectPresenter
from posedistill.deploy.predict_scene import ScenePresenter

PRESENTERS: dict[str, type[Presenter]] = {
    "objects": ObjectPresenter,
    "scene": ScenePresenter,
    "categories": CategoryPresenter,
}
"""By what the model's decoder says its ``task`` is."""
