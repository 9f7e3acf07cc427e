"""Folders that a user names from a home folder."""

from pathlib import Path

from lmc_ray.errors import UserError


def expanded(path: str) -> Path:
    """The path with the home folder in place of its `~` or `~user`.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        word = path.partition("/")[0]
        raise UserError(f"{path}: nobody's home is {word}; below yours: ~/{path[1:]}") from None
