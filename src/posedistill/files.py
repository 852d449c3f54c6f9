"""Files that are written whole or not at all, and text files as people's programs write them."""

import codecs
import contextlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from posedistill.errors import DataError, PoseDistillError, describe

Content = TypeVar("Content")
KEPT_FILES = 16
"""Files that a reader remembers."""
CLOCK_TICK = 100_000_000
"""Nanoseconds; file systems may give two changes within it the same time."""


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


def link_file(source: Path, target: Path) -> None:
    """Give a file a second name, making the folder; on another disk, or where links are refused, a copy.

    An older file of that name is replaced. Both names are equal: the file lasts until the last of them is removed.

    Raises:
        DataError: no such source, a full disk, or any other refusal; an older file is kept.
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
        raise DataError(describe(target, "file", found, "a readable file and a disk with free space")) from failure


def read_text(path: Path, expected: str = "a text file", error: type[PoseDistillError] = DataError) -> str:
    """A text in UTF-8, or in UTF-16 with a byte-order mark, as editors and shells of any system write it.

    Byte-order marks are left out, and every line ends in a line feed alone.

    Args:
        expected: what the file is to hold, for messages. error: what to raise.

    Raises:
        PoseDistillError: (``error``) a file that is missing, unreadable, or in another encoding.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as failure:  # a name may hold a zero byte
        missing = isinstance(failure, FileNotFoundError)
        found = "no such file" if missing else getattr(failure, "strerror", None) or failure
        raise error(describe(path, "file", found, expected)) from None
    wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = data.decode("utf-16" if wide else "utf-8-sig")
        if "\0" in text:
            raise ValueError("zero bytes, as in UTF-16 without a byte-order mark, UTF-32 and binary files")
    except ValueError as failure:
        raise error(describe(path, "text", failure, f"{expected}, in UTF-8 or marked UTF-16")) from None
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path, expected: str = "a json file", error: type[PoseDistillError] = DataError) -> Any:
    """The content of a json file; raises as :func:`read_text`, and at what is no json."""
    text = read_text(path, expected, error)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as failure:  # brackets nested deeply; integers of thousands of digits
        raise error(describe(path, "json", failure, expected)) from None


def write_if_changed(path: Path, text: str, error: type[PoseDistillError] = DataError) -> None:
    """Write a text as :func:`write_file` does; an equal file stays as old as it is, and what is newer stays fresh."""
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        write_file(path, text, error)


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder; none has a name that is too long to ask for."""
    return os.path.exists(path)  # noqa: PTH110 (which answers where Path.exists raises)


def fresh(output: Path, *sources: Path) -> bool:
    """Whether an output is there and no older than what it is made from, as ``make`` decides."""
    return output.exists() and all(source.stat().st_mtime <= output.stat().st_mtime for source in sources)


def shipped(path: Path, folder: str, ending: str) -> Path:
    """A file, or where there is none the one of that name that comes with posedistill, in a wheel or a checkout.

    Raises:
        DataError: a bare name of nothing that comes along.

    >>> shipped(Path("quickstart"), "recipes", ".yaml").name, shipped(Path("gone.yaml"), "recipes", ".yaml").name
    ('quickstart.yaml', 'gone.yaml')
    """
    if path.is_file():
        return path
    roots = (Path(__file__).parent / "shipped", Path(__file__).parents[2])
    known = {found.name: found for root in roots for found in sorted((root / folder).glob(f"*{ending}"))}
    found = known.get(path.name) or known.get(path.name + ending)
    if found is None and path.name == str(path) and not path.suffix and not path.exists():
        names = ", ".join(name.removesuffix(ending) for name in known)
        raise DataError(describe(path, "file", "no such file", f"a {ending} file, or one that comes along: {names}"))
    return found or path


def file_state(path: Path | None) -> bytes:
    """What identifies a source file's content without reading it."""
    try:
        stat = path.stat() if path is not None else None
    except FileNotFoundError:
        stat = None
    return repr((str(path), (stat.st_size, stat.st_mtime_ns) if stat else None)).encode()


def in_bytes(count: float) -> str:
    """A size as a reader counts it.

    >>> in_bytes(45_312), in_bytes(4_531_200), in_bytes(12.34e9)
    ('45.3 kB', '4.5 MB', '12.3 GB')
    """
    unit, size = next(((unit, size) for unit, size in (("GB", 1e9), ("MB", 1e6)) if count >= size), ("kB", 1e3))
    return f"{count / size:.1f} {unit}"


def reserve(path: Path, size: int) -> None:
    """Claim a sparse file's blocks now: a full disk is an error here, but would kill the process later (SIGBUS)."""
    try:
        with path.open("r+b") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
    except OSError as error:
        path.unlink()
        raise DataError(describe(path, "disk", error.strerror, f"{in_bytes(size)} of free space")) from error


def swap(partial: Path, folder: Path) -> None:
    """Put a finished folder in the place of an older one."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold a lock that the system frees when the process ends, however it ends."""
    import fcntl

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def occupied(folder: Path, error: type[PoseDistillError] = DataError) -> Iterator[None]:
    """Hold a folder, made where absent, for this process alone: the system frees it when the process ends.

    Raises:
        PoseDistillError: (``error``) another process holds it, or nothing can be written there.
    """
    import fcntl

    path = folder / ".lock"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as failure:
        raise error(describe(folder, "folder", failure.strerror, "a folder that can be written to")) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.read(lock, 32).decode(errors="replace") or "unknown"
        os.close(lock)
        raise error(describe(folder, "folder", f"in use by pid {holder}", "one process at a time")) from None
    except OSError as failure:
        path.unlink()
        os.close(lock)
        raise error(describe(path, "disk", failure.strerror, "free space")) from None
    try:
        yield
    finally:
        os.close(lock)


def kept(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """A reader that remembers what the last files held, for as long as they stay as they are.

    What several splits of a data set share is so read once in a run. What it returns is shared: change none of it.
    """

    @lru_cache(KEPT_FILES)
    def known(path: Path, *state: int) -> Content:
        return read(path)

    def reader(path: Path) -> Content:
        if not path.is_file():
            return read(path)
        stat = path.stat()
        if time.time_ns() - stat.st_mtime_ns < CLOCK_TICK:  # it may change again without another time
            return read(path)
        return known(path, stat.st_ino, stat.st_size, stat.st_mtime_ns)

    return reader
