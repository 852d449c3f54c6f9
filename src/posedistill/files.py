"""Files that appear under their name once they are whole, or not at all."""

import contextlib
import os
import shutil
from pathlib import Path

from posedistill.errors import DataError, PoseDistillError, describe


def write_file(path: Path, data: bytes | str, error: type[PoseDistillError] = DataError) -> None:
    """Write a file beside its place and rename it, making its folder; an interrupt or a kill leaves the old one whole.

    What a killed process leaves behind is a hidden file that ends in ``.part``.

    Args:
        data: text is written as UTF-8. error: what to raise.

    Raises:
        PoseDistillError: (``error``) a full disk, or any other refusal; a file that was there before is kept.
    """
    content = data.encode() if isinstance(data, str) else data
    # The number of the process: two that write the same file at once must not share the half-written one.
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        try:
            temporary.write_bytes(content)
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(content)
        temporary.replace(path)
    except BaseException as failure:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(failure, OSError):
            found = failure.strerror or str(failure)
            raise error(describe(path, "file", found, "a writable disk with free space")) from failure
        raise


def link_file(source: Path, target: Path, error: type[PoseDistillError] = DataError) -> None:
    """Give a file a second name, making the folder; on another disk, or where links are refused, a copy.

    An older file of that name is replaced. Both names are equal: the file lasts until the last of them is removed.

    Raises:
        PoseDistillError: (``error``) no such source, a full disk, or any other refusal; an older file is kept.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)
        try:
            os.link(source.resolve(), temporary)
        except OSError:
            shutil.copy2(source, temporary)
        temporary.replace(target)
        temporary.unlink(missing_ok=True)  # renaming a second name of a file onto that file leaves both
    except OSError as failure:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        found = f"{source}: {failure.strerror or failure}"
        raise error(describe(target, "file", found, "a readable file and a disk with free space")) from failure


def fresh(output: Path, *sources: Path) -> bool:
    """Whether an output is there and no older than what it is made from, as ``make`` decides."""
    return output.exists() and all(source.stat().st_mtime <= output.stat().st_mtime for source in sources)
