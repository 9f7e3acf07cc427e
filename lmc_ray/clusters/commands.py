"""Checks the shell commands of a launcher file: syntax, Ray's options, an open dashboard."""

import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from typing import Any

from lmc_ray.clusters.document import Document, Path, nearest, texts

LISTS = (
    "initialization_commands",
    "setup_commands",
    "head_setup_commands",
    "worker_setup_commands",
    "head_start_ray_commands",
    "worker_start_ray_commands",
)
_QUOTE_OR_COMMENT = re.compile(
    r"""\\.|'[^']*'|"(?:\\.|[^"\\])*"|(?:^|(?<=[\s;&|()]))\#[^\n]*""", re.DOTALL | re.MULTILINE
)
START = {
    "head_start_ray_commands": ("--head", "--autoscaling-config"),
    "worker_start_ray_commands": ("--address",),
}
"""What `ray start` must be told, so that workers come."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


def check_commands(document: Document, effective: dict[str, Any]) -> None:
    """Note what a shell or `ray start` would refuse, and a dashboard that others can reach.

    Args:
        document: the file.
        effective: the same with Ray's defaults, one of which opens the dashboard.
    """
    bash = shutil.which("bash")
    for path, command in commands(document.value):
        if "\0" in command:
            document.add(path, "a NUL character, which no command can have")
        elif bash and (said := _misread(bash, command)):
            advice = "" if _misread(bash, command + "\n") else ": end it with a line break (`- |`)"
            said = f"bash cannot read the command as Ray runs it, `… && (it)`: {said}{advice}"
            document.add(path, said)
    for key, needed in START.items():
        given = effective.get(key)
        if isinstance(given, list):
            listed = [(i, each) for i, each in enumerate(given) if isinstance(each, str)]
            for index, command in listed:
                _check_ray(document, (key, index), command)
            if effective.get("max_workers") != 0:
                _check_start(document, key, "\n".join(each for _, each in listed), needed)


def commands(config: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    """Every shell command of a launcher file, and where it stands."""
    for key in LISTS:
        yield from texts(config.get(key), (key,))
    types = config.get("available_node_types")
    for name, node in types.items() if isinstance(types, dict) else ():
        for key in LISTS if isinstance(node, dict) else ():
            yield from texts(node.get(key), ("available_node_types", name, key))


def _misread(bash: str, command: str) -> str:
    """What bash says of a command within Ray's: a comment or heredoc can run past its end."""
    ended = subprocess.run(
        [bash, "-n"],
        input=f"true && ({command})\n".encode(errors="replace"),
        env={"LC_ALL": "C"},  # or it may complain of this machine's
        capture_output=True,
    )
    lines = ended.stderr.decode(errors="replace").splitlines()
    return lines[0].split(": ", 1)[-1] if lines else ""


def uncommented(command: str) -> str:
    """A command without its comments, nor those in the files that its heredocs and quotes write."""

    def kept(found: re.Match[str]) -> str:
        text = found[0]
        if text[0] in "'\"":
            return f"{text[0]}{uncommented(text[1:-1])}{text[0]}"
        return "" if text[0] == "#" else text

    return _QUOTE_OR_COMMENT.sub(kept, command)


def _check_ray(document: Document, path: Path, command: str) -> None:
    from ray.scripts.scripts import start

    known = [name for each in start.params for name in (*each.opts, *each.secondary_opts)]
    for words in _calls(command, "ray", "start"):
        for number, word in enumerate(words):
            name, _, value = word.partition("=")
            if not name.startswith("--"):
                continue
            if name not in known:
                message = f"`ray start` has no option {name}{nearest(name, known)}"
                document.add_at(path, name, message)
            if name == "--dashboard-host":
                host = value or (words[number + 1] if number + 1 < len(words) else "")
                if host not in LOOPBACK:
                    here = path in document.lines
                    document.add_at(
                        path if here else ("provider", "type"),
                        name,
                        f"the dashboard listens on {host}{'' if here else ' by default'}, open to "
                        "whoever reaches the head, who can run code there: start Ray with "
                        "--dashboard-host=127.0.0.1 in head_start_ray_commands and look with "
                        "`ray dashboard` (a tunnel)",
                    )


def _check_start(document: Document, key: str, script: str, needed: tuple[str, ...]) -> None:
    words = [word.partition("=")[0] for call in _calls(script, "ray", "start") for word in call]
    if not words and re.search("start|/", uncommented(script)):
        return  # a script, or a shell in quotes, may start Ray
    for option in needed:
        if option not in words:
            document.add((key,), f"{key} need a `ray start` with {option}, or no worker joins")


def _calls(command: str, *begin: str) -> Iterator[list[str]]:
    """The calls of a program in a command line, word by word."""
    for part in re.split(r"[;&|\n]+", uncommented(command).replace("\\\n", " ")):
        try:
            words = shlex.split(part, comments=True)
        except ValueError:  # a quote that spans what was split: no call of ours
            continue
        for index in range(len(words) - len(begin) + 1):
            program = words[index].rpartition("/")[2]  # wherever it lies
            if (program, *words[index + 1 : index + len(begin)]) == begin:
                yield words[index + len(begin) :]
