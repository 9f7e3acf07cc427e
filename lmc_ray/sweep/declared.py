"""What a sweep script declares: its studies, and that they can be told apart."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from lmc_ray.errors import UserError, unknown
from lmc_ray.learners import METHODS, hyperparameters, own_methods
from lmc_ray.store.schemas import TABLES
from lmc_ray.sweep.space import Space, overlap

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True, kw_only=True)
class Study:
    """What a sweep script says about one method, or about one of several ways to set it."""

    method: str
    label: str | None = None
    """What the sweep calls it, where it has several studies of the method; None: the method."""
    space: Space = field(default_factory=dict)
    first: Sequence[Mapping[str, Any]] = ()
    """Settings to try before the sampler proposes, e.g. the paper's, where the space holds them."""
    pinned: bool = False
    """True: it keeps its space; only a --set that names the study changes it."""
    preset: str | None = None
    """The public implementation whose switches outweigh the space; None: the sweep's --preset."""
    trials: int | None = None
    """Search trials at most; None: as many as the sweep's --trials."""
    tuned: bool = False
    """True: where the package ships a tuned configuration for the benchmark, that is the space."""
    paths: bool = True
    """False: no paths are measured, and MC-SGD trains without companions: half the time."""
    control: str | None = None
    """The study whose settings it shares, but for its own space: its seeds are there to be
    measured against that study's, and are no results of their own."""

    @property
    def name(self) -> str:
        """What tables, --method and --set call it."""
        return self.label or self.method

    @property
    def title(self) -> str:
        """What people call it."""
        method = METHODS[self.method].title
        return method if self.label is None else f"{method} ({self.label})"


def check_studies(studies: Sequence[Study]) -> None:
    """Refuse studies that make no sweep.

    That is: none, an unknown method, a bad name or two alike, a preset or a control that does not
    fit.

    Raises:
        UserError: which of these.
    """
    if not studies:
        raise UserError("no studies: give the sweep at least one Study(method=…)")
    by_name: dict[str, Study] = {}
    taken = {word.casefold() for name in METHODS for word in (name, METHODS[name].title)}
    for study in studies:
        if study.method not in METHODS:
            raise unknown("method", study.method, METHODS)
        if study.label is not None and not _LABEL.fullmatch(str(study.label)):
            raise UserError(f"label {study.label!r}: use letters, digits, '_', '.' and '-' only")
        if study.label is not None and study.label.casefold() in taken:
            raise UserError(f"label {study.label!r} is a method's name: choose another")
        if study.preset is not None and study.method != "mcsgd":
            raise UserError(f"{study.name} has a preset, which is for mcsgd alone: leave it out")
        if study.name in by_name:
            raise UserError(f"two studies of {study.title}: give each a label of its own")
        by_name[study.name] = study
    for study in studies:
        _check_names(study.method)
        if study.control is not None:
            like = by_name.get(study.control)
            if like is None or like.control is not None:
                raise UserError(f"{study.name} is a control of {study.control}: give that a study")
            # Kept minima tell neither two controls apart nor whose a control is.
            if sum(each.control is not None or each.method == like.method for each in studies) > 2:
                raise UserError(
                    f"{study.name} is a control of {study.control}: other controls, and other"
                    f" studies of {like.method}, need a sweep of their own"
                )


def _check_names(method: str) -> None:
    """Refuse a method of one's own one of whose hyperparameters has the name of another column."""
    ours = [METHODS[name].hyperparameters for name in METHODS.keys() - own_methods().keys()]
    others = set(TABLES["runs"].schema.names) - {
        each.name for kind in ours for each in fields(kind)
    }
    for each in fields(METHODS[method].hyperparameters):
        if each.name in others:
            raise UserError(
                f"{method} has a hyperparameter {each.name}, and the table runs another column of"
                " that name: choose another"
            )


def check_apart(studies: Sequence[Study]) -> None:
    """Refuse two studies of a method that could train the same cell: it would count for one only.

    Args:
        studies: of one benchmark, with their spaces as the command line wants them.

    Raises:
        UserError: which two.
    """
    for number, one in enumerate(studies):
        for other in studies[:number]:
            if (one.method, one.control) == (other.method, other.control) and _meet(one, other):
                raise UserError(
                    f"{other.title} and {one.title} could train the same configuration with these"
                    " options: leave one out (--method), or set what differs (--set STUDY.NAME=…)"
                )


def _meet(one: Study, other: Study) -> bool:
    """Whether both studies of a method could come to one configuration."""
    default = asdict(hyperparameters(one.method, {}))
    return all(
        overlap(one.space.get(name, value), other.space.get(name, value))
        for name, value in default.items()
    )
