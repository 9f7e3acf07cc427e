"""The report as one HTML file that needs nothing else: styles, library, data and text in it."""

import html
from collections.abc import Iterator, Sequence
from importlib.resources import files

from plotly.io.json import to_json_plotly
from plotly.offline import get_plotlyjs

from lmc_ray import __version__
from lmc_ray.report.exhibits import Chapter, Exhibit, Section
from lmc_ray.report.interactive import draw
from lmc_ray.tables import Sheet


def page(chapters: Sequence[Chapter], root: str) -> str:
    """The whole file.

    Args:
        chapters: what to show.
        root: where the results are, as the user gave it.
    """
    return "".join(_page(chapters, root))


def _page(chapters: Sequence[Chapter], root: str) -> Iterator[str]:
    title = f"Report on {root}"
    yield (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(title)}</title>\n'
        f"<style>\n{_resource('page.css')}</style>\n</head>\n<body>\n"
        f"<header>\n<h1>{html.escape(title)}</h1>\n"
        "<p>Hover over a plot for its values; click a name in a legend to hide it. Below each plot "
        "is the SQL behind it, for <code>lmc-ray query</code>.</p>\n</header>\n"
    )
    yield from _contents(chapters)
    yield "<main>\n"
    for number, chapter in enumerate(chapters, start=1):
        yield f'<section id="c{number}">\n<h2>Sweep {html.escape(chapter.sweep)}</h2>\n'
        for index, section in enumerate(chapter.sections, start=1):
            yield from _section(section, f"c{number}-{index}")
        yield "</section>\n"
    yield f"</main>\n<footer>Written by lmc-ray {html.escape(__version__)}.</footer>\n"
    yield f"<script>{get_plotlyjs()}</script>\n<script>{_resource('page.js')}</script>\n"
    yield "</body>\n</html>\n"


def _resource(name: str) -> str:
    return files("lmc_ray.report").joinpath(name).read_text(encoding="utf-8")


def _contents(chapters: Sequence[Chapter]) -> Iterator[str]:
    yield '<nav aria-label="Contents">\n<h2>Contents</h2>\n<ul>\n'
    for number, chapter in enumerate(chapters, start=1):
        yield f'<li><a href="#c{number}">Sweep {html.escape(chapter.sweep)}</a>\n<ul>\n'
        for index, section in enumerate(chapter.sections, start=1):
            yield f'<li><a href="#c{number}-{index}">{html.escape(section.title)}</a></li>\n'
        yield "</ul></li>\n"
    yield "</ul>\n</nav>\n"


def _section(section: Section, key: str) -> Iterator[str]:
    yield f'<section id="{key}">\n<h3>{html.escape(section.title)}</h3>\n'
    for index, exhibit in enumerate(section.exhibits, start=1):
        yield from _exhibit(exhibit, f"{key}-{index}")
    yield "</section>\n"


def _exhibit(exhibit: Exhibit, key: str) -> Iterator[str]:
    yield (
        f"<figure>\n<figcaption>\n<h4>{html.escape(exhibit.title)}</h4>\n"
        f'<p class="text">{html.escape(exhibit.text)}</p>\n</figcaption>\n'
    )
    if exhibit.panels:
        figure = draw(exhibit)
        height = figure.layout["height"]
        yield (
            f'<div class="scroll"><div class="plot" id="{key}-plot" style="height: {height}px" '
            f'role="img" aria-label="{html.escape(exhibit.title)}"></div></div>\n'
            f'<script type="application/json" id="{key}-plot-data">'
            f"{_harmless(str(to_json_plotly(figure)))}</script>\n"
        )
    if exhibit.sheet:
        yield from _table(exhibit.sheet)
    if exhibit.notes:
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in exhibit.notes)
        yield f'<ul class="notes">{notes}</ul>\n'
    yield (
        f"<details><summary>SQL</summary><pre><code>{html.escape(exhibit.sql)}</code></pre>"
        "</details>\n</figure>\n"
    )


def _harmless(text: str) -> str:
    """JSON that no word in it can end: `<` only ever stands inside its strings."""
    return text.replace("<", "\\u003c")


def _table(sheet: Sheet) -> Iterator[str]:
    head = "".join(f'<th scope="col">{html.escape(column)}</th>' for column in sheet.columns)
    yield f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
    for row in sheet.rows:
        cells = "".join(f"<td>{html.escape(cell)}</td>" for cell in row)
        yield f"<tr>{cells}</tr>\n"
    yield "</tbody>\n</table></div>\n"
