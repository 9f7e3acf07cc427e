"""Reports and figures as files: each whole or not at all."""

import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from lmc_ray.errors import UserError
from lmc_ray.report.collect import collect
from lmc_ray.report.exhibits import Chapter, Exhibit

if TYPE_CHECKING:
    from lmc_ray.store import Store


def write_report(store: "Store", sweep: str | None, path: Path) -> None:
    """Write the report on a results root as one HTML file.

    Args:
        store: the root.
        sweep: only this one; None for all.
        path: the file; one that is there is replaced.

    Raises:
        UserError: an empty root, an unknown sweep, or a place that cannot be written.
    """
    if path.is_dir():
        raise UserError(f"cannot write {path}: it is a folder; give a file, such as report.html")
    if not path.parent.is_dir():
        raise UserError(f"cannot write {path}: there is no folder {path.parent}")
    chapters = collect(store, sweep)
    from lmc_ray.report.page import page

    text = page(chapters, store.root)
    with _replacing(path) as new:
        new.write_text(text, encoding="utf-8")


def write_figures(store: "Store", sweep: str | None, folder: Path) -> list[Path]:
    """Draw every plot of the report for a paper, each as PDF and as PNG.

    Args:
        store: the root.
        sweep: only this one; None for all.
        folder: where to; made if it is not there, and files of the same names are replaced.

    Returns:
        The files.

    Raises:
        UserError: an empty root, an unknown sweep, nothing to draw, or a place that cannot be
            written.
    """
    drawings = list(_drawings(collect(store, sweep)))
    if not drawings:
        raise UserError(f"nothing to draw in {store.root} yet: no trial or cell has ended")
    from lmc_ray.report.figures import save

    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise UserError(f"cannot write to {folder}: {problem.strerror}") from None
    files: list[Path] = []
    for name, exhibit in drawings:
        for ending in ("pdf", "png"):
            file = folder / f"{name}.{ending}"
            with _replacing(file) as new:
                save(exhibit, new, ending)
            files.append(file)
    return files


def _drawings(chapters: list[Chapter]) -> Iterator[tuple[str, Exhibit]]:
    """Every exhibit that has a plot, and a file name of its own."""
    taken: set[str] = set()
    for chapter in chapters:
        several = len({section.part for section in chapter.sections if section.part}) > 1
        for section in chapter.sections:
            of = f"-{section.part}" if several and section.part else ""
            for exhibit in section.exhibits:
                if exhibit.panels:
                    words = f"{chapter.sweep}{of}-{exhibit.name}"
                    stem = re.sub(r"[^A-Za-z0-9._]+", "-", words)
                    name, number = stem.strip("-"), 2
                    while name in taken:
                        name, number = f"{stem}-{number}", number + 1
                    taken.add(name)
                    yield name, exhibit


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """A new file beside this one, which takes its place once it is whole."""
    new = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        yield new
        new.replace(path)
    except OSError as problem:
        raise UserError(f"cannot write {path}: {problem.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
