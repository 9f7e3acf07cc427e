"""A table for people: a title, cells of text, notes; as plain text, Markdown or LaTeX."""

import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from lmc_ray.errors import unknown
from lmc_ray.statistics import Summary

NOT_AVAILABLE = "n/a"
_WIDTH = 100  # characters a line of notes may have; tables are made to fit too
_GAP = "  "


@dataclass(frozen=True)
class Sheet:
    """One table.

    Attributes:
        title: a line above it.
        columns: headings; a newline in one is where plain text breaks it.
        rows: cells, as many a row as there are columns; the first column holds names.
        notes: sentences below it.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = field(default_factory=tuple)


def spread(
    summary: Summary | None, digits: int, scale: float = 1.0, std_digits: int | None = None
) -> str:
    """A mean and its sample standard deviation, with as many decimals or as many as given."""
    if summary is None:
        return NOT_AVAILABLE
    mean = f"{scale * summary.mean:.{digits}f}"
    if summary.std is None:
        return mean
    return f"{mean} ± {scale * summary.std:.{digits if std_digits is None else std_digits}f}"


def short(number: float | None) -> str:
    """A count in three digits: 940, 12.3k, 1.23M."""
    if number is None:
        return NOT_AVAILABLE
    for unit, word in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * unit:
            scaled = number / unit
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f}{word}"
    return f"{number:.0f}"


def render(sheets: Sequence[Sheet], form: str = "text") -> str:
    """Some tables, one below the other, as `text`, `markdown` or `latex`.

    Raises:
        UserError: no such form.
    """
    if form not in FORMS:
        raise unknown("format", form, FORMS)
    return "\n".join(FORMS[form](sheet) for sheet in sheets)


def _text(sheet: Sheet) -> str:
    headings = [heading.split("\n") for heading in sheet.columns]
    height = max(map(len, headings))
    # Headings stand on the rule: the last line of each in one row.
    head = [[""] * (height - len(lines)) + lines for lines in headings]
    table = [*zip(*head, strict=True), *sheet.rows]
    widths = [max(len(cells[index]) for cells in table) for index in range(len(headings))]
    lines = [
        _GAP.join(
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in table
    ]
    lines.insert(height, "─" * (sum(widths) + len(_GAP) * (len(widths) - 1)))
    notes = [
        textwrap.fill(note, _WIDTH, subsequent_indent=_GAP, break_on_hyphens=False)
        for note in sheet.notes
    ]
    below = ["", *notes] if notes else []
    return "".join(f"{line}\n" for line in [sheet.title, "", *lines, *below])


def _markdown(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        escaped = [cell.replace("|", "\\|").replace("\n", " ") for cell in cells]
        return f"| {' | '.join(escaped)} |\n"

    rule = line(["---", *["---:"] * (len(sheet.columns) - 1)])
    body = line(sheet.columns) + rule + "".join(line(row) for row in sheet.rows)
    notes = "".join(f"- {note}\n" for note in sheet.notes)
    return f"**{sheet.title}**\n\n{body}" + (f"\n{notes}" if notes else "")


_LATEX = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "&": r"\&",
        "%": r"\%",
        "#": r"\#",
        "_": r"\_",
        "$": r"\$",
        "{": r"\{",
        "}": r"\}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "→": r"$\to$",
        "<": r"$<$",
        ">": r"$>$",
        "\n": " ",
    }
)


def _latex(sheet: Sheet) -> str:
    def line(cells: Sequence[str]) -> str:
        return " & ".join(cell.translate(_LATEX) for cell in cells) + " \\\\\n"

    body = "".join(line(row) for row in sheet.rows)
    notes = "".join(f"% {note}\n" for note in sheet.notes)
    return (
        "\\begin{table}\n\\centering\n"
        f"\\caption{{{sheet.title.translate(_LATEX)}}}\n"
        f"\\begin{{tabular}}{{l{'r' * (len(sheet.columns) - 1)}}}\n\\toprule\n"
        f"{line(sheet.columns)}\\midrule\n{body}\\bottomrule\n"
        f"\\end{{tabular}}\n\\end{{table}}\n{notes}"
    )


FORMS: Mapping[str, Callable[[Sheet], str]] = {
    "text": _text,
    "markdown": _markdown,
    "latex": _latex,
}
