"""Mistakes that a user can mend."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(Exception):
    """A mistake of the user's: one clear line that says what to do; commands exit with status 2."""


class UnavailableError(UserError):
    """Nothing in the command is wrong: later the same one may find what was missing."""


class FailedError(RuntimeError):
    """What could not be done on this machine, all else having been done; commands end with 1."""


def unknown(kind: str, word: str, choices: Iterable[str]) -> UserError:
    """The error for a name that does not exist, with the nearest one that does."""
    known = sorted(choices)
    near = get_close_matches(word, known, n=1, cutoff=0.5)
    advice = f"did you mean '{near[0]}'?" if near else f"choose one of: {', '.join(known)}"
    return UserError(f"unknown {kind} {word!r}: {advice}")
