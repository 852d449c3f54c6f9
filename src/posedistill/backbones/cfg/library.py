"""The Darknet networks of single-shot pose estimation, as ``.cfg`` texts.

YOLOv2-pose: Tekin, Sinha and Fua, "Real-Time Seamless Single Shot 6D Object Pose Prediction", CVPR 2018; Tiny-YOLO:
Redmon and Farhadi, "YOLO9000", CVPR 2017; YOLO-LITE: Huang, Pedoeem and Chen, 2018. Heads are of one object;
``posedistill.backbones.cfg.description.with_head`` gives them others.
"""

from typing import Final

_LITE: Final = "16 max 32 max 64 max 128 max 128 max 256"
_DARKNET19: Final = (
    "32 max 64 max 128 64/1 128 max 256 128/1 256 max 512 256/1 512 256/1 512 max 1024 512/1 1024 512/1 1024"
)
_BODIES: Final = {
    "yolo_pose": f"{_DARKNET19} 1024 1024 route:-9 64/1 reorg route:-1,-4 1024",
    "tiny_yolo": "16 max 32 max 64 max 128 max 256 max 512 max/1 1024 1024",
    "yolo_lite": _LITE,
    "yolo_lite_bn": _LITE,
}
"""``256``: a 3x3 convolution of 256 filters, ``128/1``: a 1x1 one; ``max/1``: a pooling that keeps the size."""
_REGION: Final = """[region]
anchors=
classes=1
coords=18
num=1
object_scale=5
noobject_scale=0.1
class_scale=1
coord_scale=1
"""
SHIPPED: Final = tuple(_BODIES)
MULTI_ANCHORS: Final = ((1.4820, 2.2412), (2.0501, 3.1265), (2.3946, 4.6891), (3.1018, 3.9910), (3.4879, 5.8851))
"""Width and height in cells at 13 x 13, of the published network for the 13 objects of LINEMOD."""


def is_cfg(name: str) -> bool:
    """Whether a backbone of this name is made by a ``.cfg``: a shipped one, or ``cfg:FILE``."""
    return name in SHIPPED or name.startswith("cfg:")


def shipped_text(name: str) -> str:
    """The ``.cfg`` of a name in ``SHIPPED``, at 416 x 416 with the head of one object (9 keypoints).

    >>> shipped_text("yolo_lite").splitlines()[:3]
    ['[net]', 'width=416', 'height=416']
    """
    normalised = name != "yolo_lite"
    words = [word.partition("/") for word in _BODIES[name].split()]
    body = [_section(word, option, normalised) for word, _, option in words]
    head = _convolution(20, 1, False, "linear")
    return "\n".join(["[net]\nwidth=416\nheight=416\nchannels=3\n", *body, head, _REGION])


def _section(word: str, option: str, normalised: bool) -> str:
    if word == "max":
        return f"[maxpool]\nsize=2\nstride={option or 2}\n"
    if word == "reorg":
        return "[reorg]\nstride=2\n"
    if word.startswith("route:"):
        return f"[route]\nlayers={word.removeprefix('route:')}\n"
    return _convolution(int(word), int(option or 3), normalised, "leaky")


def _convolution(filters: int, size: int, normalised: bool, activation: str) -> str:
    first = "batch_normalize=1\n" if normalised else ""
    return f"[convolutional]\n{first}filters={filters}\nsize={size}\nstride=1\npad=1\nactivation={activation}\n"
