"""Folders of 21-number labels as BOP folders: poses and masks written out, images linked."""

from pathlib import Path

import numpy as np

from posedistill.data.formats.bop_writer import BopWriter, write_camera, write_models
from posedistill.data.formats.labels.dataset import LabelDataset
from posedistill.data.images import image_size, read_mask
from posedistill.data.render.label import Progress, cast_masks
from posedistill.data.render.raycast import build_model
from posedistill.errors import DataError, describe


def write_bop(dataset: LabelDataset, out: Path, split: str, progress: Progress | None = None) -> int:
    """Write a split of label folders as ``out/split`` with ``out/models`` in mm; returns the number of frames.

    Whole silhouettes are cast from the meshes. The visible part is what a mask shows, or else what no other labelled
    object hides. An interrupted call goes on where it stopped.

    Raises:
        DataError: no frame of the objects, a missing or damaged image, mask or mesh, or a full disk.
    """
    obj_ids = dataset.objects().obj_ids
    if not len(dataset):
        raise DataError(describe(dataset.root, split, "no frame", f"frames with labels of {list(obj_ids)}"))
    meshes = {obj_id: dataset.mesh(obj_id) for obj_id in dataset.models_info}
    models = {obj_id: build_model(mesh, obj_id, ambient_rays=0) for obj_id, mesh in meshes.items()}
    write_models(out, meshes, infos=dataset.models_info)
    writer = BopWriter(out, split)
    for done, frame in enumerate(dataset.frames, start=1):
        if not writer.has_frame(frame.scene_id, frame.im_id):
            instances = frame.instances
            poses = [(each.obj_id, each.R, each.t) for each in instances]
            whole, visible = cast_masks(frame, poses, models) if poses else ([], [])
            for row, each in enumerate(instances):
                if each.mask_visib is not None:
                    visible[row] = read_mask(each.mask_visib)
                    whole[row] = np.logical_or(whole[row], visible[row])
            writer.add_frame(frame.scene_id, frame.im_id, frame.rgb, frame.K, poses, None, whole, visible)
        if progress is not None:
            progress(done, len(dataset))
    for scene in dataset.scenes:
        writer.finish_scene(scene.scene_id)
    write_camera(out, dataset.frames[0].K, *image_size(dataset.frames[0].rgb))
    return len(dataset)
