"""The commands ``posedistill data ...``. Heavy imports happen inside them."""

import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from posedistill.cli_options import FrameList, Scenes, Split
from posedistill.errors import PoseDistillError

data_app = typer.Typer(no_args_is_help=True, help="Render, check, label and convert data sets.")


@data_app.command()
def render(
    models: Annotated[Path, typer.Argument(help="Folder of obj_XXXXXX meshes (.ply, .obj, .glb), or 'code'.")],
    out: Annotated[Path, typer.Argument(help="BOP folder to write.")],
    count: Annotated[int, typer.Option(help="Images.")] = 1000,
    seed: Annotated[int, typer.Option(help="Another seed, other images.")] = 0,
    obj: Annotated[list[int] | None, typer.Option(help="Object id; default: all.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="key=value of the render settings, e.g. distance=[400,900] backgrounds=photos"),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes; 0 for all cores.")] = 0,
) -> None:
    """Render a BOP training set from CAD by ray casting: no OpenGL, all cores, resumable."""
    from posedistill.interrupts import told
    from posedistill.tasks.object_sources import render_folder

    with told(lambda: "stopped; the same command goes on: pictures that are rendered are kept"):
        report = render_folder(models, out, count, seed, obj or None, settings or [], workers or None)
    preview = f"preview: {out / 'train_render_preview.jpg'}"
    if not report.images:
        print(f"nothing to render: {out} holds {count} images or more; {preview}")
        return
    print(
        f"{report.images} images in {report.seconds:.0f} s: {report.images_per_second:.1f} images/s, "
        f"{report.images_per_second_per_core:.1f} per core; {preview}"
    )
    if report.too_small:
        print(f"{report.too_small} pictures are too small for backgrounds and were left out")


@data_app.command()
def model(
    source: Annotated[Path, typer.Argument(help="CAD file: .stl, .ply, .obj or .glb, of any name.")],
    folder: Annotated[Path, typer.Argument(help="Models folder to write it to; other objects in it stay.")],
    id: Annotated[int, typer.Option(min=1, max=999_999, help="Object id.")] = 1,
    unit: Annotated[str, typer.Option(help="Of lengths in the file: mm, cm, m or in.")] = "mm",
    turns: Annotated[str, typer.Option(help="Axis (x, y, z) about which it looks the same however it is turned.")] = "",
) -> None:
    """Make a CAD file an object to render and train: millimetres, its middle at the origin."""
    from posedistill.data.cad import add_model

    info = add_model(source, folder, id, unit, turns)
    size = " x ".join(f"{info[f'size_{axis}']:.0f}" for axis in "xyz")
    print(f"object {id}: {size} mm, diameter {info['diameter']:.0f} mm; {folder / f'obj_{id:06d}.ply'}")


@data_app.command()
def camera(
    photographs: Annotated[
        list[Path], typer.Argument(help="As the camera wrote them, of one size and zoom; folders, patterns.")
    ],
    board: Annotated[str, typer.Option(help="They show a checkerboard of so many inner corners: 9x6.")] = "",
) -> None:
    """Find the camera's intrinsics (K): from a checkerboard, or from the focal length that a phone states (EXIF)."""
    from posedistill.data.camera import camera_of_board, camera_of_exif, parse_board
    from posedistill.deploy.predict.pictures import photographs_in

    paths = [path for word in photographs for path in photographs_in(word)]
    found = camera_of_board(paths, parse_board(board)) if board else camera_of_exif(paths)
    print(f"images of {found.size[0]}x{found.size[1]}: --camera {found.option()}")
    print(f"{found.about}{'; behind fx,fy,cx,cy stands the lens: k1,k2,p1,p2' if found.distortion else ''}")


@data_app.command()
def categories(
    shapes: Annotated[Path, typer.Argument(help="Folder of CAD models: CATEGORY/SHAPE.* or CATEGORY01.*.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: annotations.csv, images, shapes.")],
    count: Annotated[int, typer.Option(min=1, help="Pictures of each category.")] = 200,
    poses: Annotated[Path | None, typer.Option(help="Annotated viewpoints whose poses are drawn.")] = None,
    category: Annotated[list[str] | None, typer.Option(help="Category to render; default: all.")] = None,
    backgrounds: Annotated[Path | None, typer.Option(help="Folder of photographs.")] = None,
    size: Annotated[int, typer.Option(min=32, max=8192, help="Side of a picture, pixels.")] = 160,
    seed: Annotated[int, typer.Option(help="Another seed, other pictures.")] = 0,
) -> None:
    """Render things of named categories from CAD, as a data set of viewpoints; a quarter of them for testing."""
    from posedistill.data.formats.viewpoint.annotations import open_categories
    from posedistill.data.render.categories import category_settings, load_shapes, render_categories
    from posedistill.log import progress_of

    found = load_shapes(shapes, category or None)
    drawn = None if poses is None else open_categories(poses)
    with progress_of("render", str(out)) as progress:
        total = render_categories(found, out, count, category_settings(size, backgrounds), drawn, seed, progress)
    print(f"{total} pictures of {len({name for name, _ in found})} categories, {len(found)} shapes; {out}")


@data_app.command()
def views(
    shapes: Annotated[Path, typer.Argument(help="Folder of CAD models: CATEGORY/SHAPE.* or CATEGORY01.*.")],
    out: Annotated[Path, typer.Argument(help="Folder to write: CATEGORY/SHAPE/crop/rendering_EEE_AAA.png.")],
    count: Annotated[int, typer.Option(min=1, help="Renderings of each shape.")] = 12,
    tour: Annotated[int, typer.Option(min=1, max=3, help="Elevations: 30; 0 and 30; 0, 30 and 60.")] = 2,
    category: Annotated[list[str] | None, typer.Option(help="Category to render; default: all.")] = None,
    size: Annotated[int, typer.Option(min=32, max=2048, help="Side of a picture before it is cut, pixels.")] = 256,
) -> None:
    """Render CAD models from around them, for teachers that see shapes in several views."""
    from posedistill.data.formats.viewpoint.renderings import view_angles
    from posedistill.data.render.categories import load_shapes
    from posedistill.data.render.views import render_views
    from posedistill.log import progress_of

    angles, found = view_angles(count, tour), load_shapes(shapes, category or None)
    with progress_of("render", str(out)) as progress:
        total = render_views(found, out, angles, size, progress)
    print(f"{total} renderings of {len(found)} shapes; {out}")


@data_app.command()
def check(
    folder: Annotated[Path, typer.Argument(help="BOP folder, .data file, scene in any known format, or viewpoints.")],
    split: Annotated[str | None, typer.Option(help="Split; default: all of them together.")] = None,
    limit: Annotated[int | None, typer.Option(help="Look at this many frames only.")] = None,
    overlay: Annotated[
        Path | None, typer.Option(help="Where to draw a sample of frames; default: among the temporary files.")
    ] = None,
    shapes: Annotated[
        Path | None,
        typer.Option(help="Of viewpoints: folder of the CAD models or clouds; default: the data set's own."),
    ] = None,
) -> None:
    """Report every fault of a data set: files, poses, units, boxes, masks, with counts and names; 1 if there is any."""
    from posedistill.data.check.dataset import check_dataset
    from posedistill.log import console, progress_of

    drawn = overlay or Path(tempfile.gettempdir()) / f"posedistill-check-{folder.resolve().stem}.jpg"
    with progress_of("check", str(folder)) as progress:
        report = check_dataset(folder, split, drawn, limit, progress, shapes)
    report.render(console)
    if not report.ok:
        sys.exit(1)


@data_app.command()
def label(
    folder: Annotated[Path, typer.Argument(help="BOP folder: images, cameras, models. It needs no ground truth.")],
    csv: Annotated[Path, typer.Option(help="Poses of any estimator: scene_id,im_id,obj_id,score,R,t,time.")],
    out: Annotated[Path, typer.Option(help="BOP folder to write; images are linked.")],
    split: Split = "test",
    scene: Scenes = None,
    frames: FrameList = None,
    min_score: Annotated[float, typer.Option(help="Leave out poses below this score.")] = 0.0,
    ignore_unknown: Annotated[bool, typer.Option(help="Leave out poses of unknown images and objects.")] = False,
) -> None:
    """Label images with the poses of a BOP csv: a data set to train on, its scores kept as trust."""
    from posedistill.data.formats.bop import BopDataset
    from posedistill.data.render.label import label_dataset
    from posedistill.log import progress_of

    dataset = BopDataset(folder, split, scenes=scene or None, frames=frames)
    with progress_of("label", str(out)) as progress:
        report = label_dataset(dataset, csv, out, min_score=min_score, ignore_unknown=ignore_unknown, progress=progress)
    print(f"{report}; in {out}")


@data_app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="BOP folder, or the .data file of label folders.")],
    out: Annotated[Path, typer.Argument(help="Folder to write; images are linked.")],
    split: Annotated[str, typer.Option(help="What is read: folder of scenes, or list of the .data file.")] = "train",
    to: Annotated[str | None, typer.Option(help="Split that is written; default: train or valid, or as read.")] = None,
    scene: Scenes = None,
    frames: FrameList = None,
    obj: Annotated[list[int] | None, typer.Option(help="Object id; default: all.")] = None,
) -> None:
    """Write a BOP folder as 21-number labels with a .data file (YOLO6D), or such labels as a BOP folder.

    Called again for another split, it adds to the folder.
    """
    from posedistill.data.formats.bop import BopDataset
    from posedistill.data.formats.labels.dataset import LabelDataset
    from posedistill.data.formats.labels.writer import write_labels
    from posedistill.data.render.from_labels import write_bop
    from posedistill.log import progress_of

    with progress_of("convert", str(out)) as progress:
        if source.suffix != ".data":
            dataset = BopDataset(source, split, scenes=scene or None, frames=frames)
            written = write_labels(
                dataset, out, to or ("train" if split.startswith("train") else "valid"), obj, progress=progress
            )
            words = f"{written}; in {written.data}"
        elif scene or frames:
            raise PoseDistillError("--scene, --frames: a .data file names its frames by its lists")
        else:
            labels = LabelDataset(source, split, obj_ids=obj or None)
            count = write_bop(labels, out, to or split, progress)
            words = "\n".join([*labels.notes, f"{count} frames; in {out / (to or split)}"])
    print(words)


@data_app.command()
def codes(
    models: Annotated[Path, typer.Argument(help="Folder of obj_XXXXXX meshes (.ply, .obj, .glb).")],
    out: Annotated[Path, typer.Option(help="Folder to write.")] = Path("codes"),
    obj: Annotated[list[int] | None, typer.Option(help="Object id; default: all.")] = None,
    bits: Annotated[int, typer.Option(min=1, max=16, help="Cuts.")] = 16,
    fold: Annotated[bool, typer.Option(help="Divide objects with a half-turn symmetry alike on both sides.")] = False,
    faithful: Annotated[
        bool, typer.Option(help="ZebraPose's own form: tables of classes and coloured meshes.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of the points on the surface.")] = 0,
) -> None:
    """Divide the surfaces of models into codes, and report how fine they are at each depth."""
    from posedistill.data.codes import CodesReport, write_codes

    def tell(report: CodesReport) -> None:
        folded = ", folded about its half turn" if report.folded else ""
        print(f"object {report.obj_id}: {report.diameter:.1f} mm{folded}; {report.seconds:.1f} s; {report.path}")
        if report.qualities:
            print("  bits   cells  mean mm  (% of diameter)  largest mm  over a gap %")
        for cells in report.qualities:
            share, gap = 100 * cells.mean / report.diameter, 100 * cells.straddling
            print(
                f"  {cells.bits:4}  {2**cells.bits:6} {cells.mean:8.2f} {share:16.2f} {cells.largest:11.1f} {gap:13.2f}"
            )
        for warning in report.warnings:
            print(f"  warning: {warning}")

    write_codes(models, out, obj or (), bits=bits, fold=fold, faithful=faithful, seed=seed, told=tell)


@data_app.command()
def anchors(
    folder: Annotated[Path, typer.Argument(help="BOP folder with models and ground truth, or .data file.")],
    split: Annotated[str, typer.Option(help="Split folder, or list of the .data file.")] = "train",
    obj: Annotated[list[int] | None, typer.Option(help="Object id; default: all.")] = None,
    count: Annotated[int, typer.Option(min=1, help="Anchors.")] = 5,
    columns: Annotated[int, typer.Option(min=1, help="Cells across a picture: its width over the stride.")] = 13,
    rows: Annotated[int, typer.Option(min=1, help="Cells down a picture.")] = 13,
) -> None:
    """Find the anchors of a single-shot network: the typical sizes of objects in pictures, in cells."""
    from posedistill.data.anchors import dataset_boxes, fit_anchors
    from posedistill.deploy.evaluate import open_bop

    boxes = dataset_boxes(open_bop(folder, split, None, obj or None), columns, rows)
    found = fit_anchors(boxes, count)
    print(f"anchors: {found}")
    print(f"mean overlap (IoU) of {len(boxes)} boxes with the most similar of {count}: {found.iou:.3f}")
