"""A YAML file that remembers on which line everything stands."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

Path = tuple[str | int, ...]
"""Where a value stands: keys and list indices from the top."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing that is wrong, and the line that it stands on (1-based)."""

    line: int
    message: str


@dataclass
class Document:
    """One document of a YAML file.

    Attributes:
        value: what YAML makes of it.
        lines: first line of every key and list item.
        spans: first and last line of every text.
        text: the whole file, line by line.
    """

    value: Any
    text: list[str]
    lines: dict[Path, int] = field(default_factory=dict)
    spans: dict[Path, tuple[int, int]] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def line(self, path: Path) -> int:
        """The line of a value, or of the nearest thing around it that the file has."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def line_of(self, path: Path, word: str) -> int:
        """The line of a text in which a word stands first."""
        first, last = self.spans.get(path, (self.line(path),) * 2)
        for number in range(first, last + 1):
            if word in self.text[number - 1]:
                return number
        return self.line(path)

    def add(self, path: Path, message: str) -> None:
        """Note something that is wrong with a value."""
        self.findings.append(Finding(self.line(path), message))

    def add_at(self, path: Path, word: str, message: str) -> None:
        """Note something that is wrong with a word in a text."""
        self.findings.append(Finding(self.line_of(path, word), message))


def read(text: str) -> tuple[list[Document], list[Finding]]:
    """The documents of a YAML file, or what keeps it from being one."""
    import yaml

    lines = text.splitlines() or [""]
    documents = []
    try:
        # Not C's loader: its marks lack what the lines of block texts need.
        for node in yaml.compose_all(text, yaml.SafeLoader):
            if node is None or node.tag.endswith(":null"):
                continue
            document = Document(None, lines)
            _walk(node, (), document, set())
            if not document.findings:
                document.value = _value(node)
            documents.append(document)
    except yaml.MarkedYAMLError as problem:
        mark = problem.problem_mark or problem.context_mark
        said = ", ".join(part for part in (problem.context, problem.problem) if part)
        return [], [Finding(mark.line + 1 if mark else 1, f"not YAML: {said}")]
    except yaml.YAMLError as problem:
        return [], [Finding(1, f"not YAML: {' '.join(str(problem).split())}")]
    if not documents:
        return [], [Finding(1, "the file is empty")]
    broken = [finding for document in documents for finding in document.findings]
    return ([], broken) if broken else (documents, [])


def _value(node: Any) -> Any:
    import yaml

    loader = yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _walk(node: Any, path: Path, document: Document, above: set[int]) -> None:
    import yaml

    document.lines.setdefault(path, node.start_mark.line + 1)
    if id(node) in above:
        document.add(path, "an alias that contains itself")
        return
    above = above | {id(node)}
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            line = key.start_mark.line + 1
            if key.tag.endswith(":merge"):
                _walk(value, path, document, above)
                continue
            if not isinstance(key, yaml.ScalarNode):
                document.findings.append(Finding(line, "a key must be a word"))
                continue
            if not key.tag.endswith(":str"):
                document.findings.append(Finding(line, f"the key {key.value} is no text: quote it"))
            if key.value in seen:
                document.findings.append(Finding(line, f"the key '{key.value}' is given twice"))
            seen.add(key.value)
            document.lines[*path, key.value] = line
            _check_scalar(key, (*path, key.value), document)
            _walk(value, (*path, key.value), document, above)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            _walk(value, (*path, index), document, above)
    else:
        # The end of a block text is where the next thing begins.
        end = node.end_mark.line + (0 if node.end_mark.column == 0 else 1)
        document.spans[path] = (node.start_mark.line + 1, max(end, node.start_mark.line + 1))
        _check_scalar(node, path, document)


def _check_scalar(node: Any, path: Path, document: Document) -> None:
    """Note what looks like a date or a number and is none, for which PyYAML has no error."""
    try:
        _value(node)
    except (ValueError, AttributeError):
        kind = node.tag.rpartition(":")[2]
        document.add(path, f"'{node.value}' is no {kind}: put it in quotes if it is a text")


def nearest(word: str, known: Any) -> str:
    """Advice for a word that is not known: the nearest one that is."""
    near = get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f": did you mean '{near[0]}'?" if near else ""


def texts(value: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    """Every text in a value, and where it stands."""
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from texts(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from texts(inner, (*path, index))
    elif isinstance(value, str):
        yield path, value
