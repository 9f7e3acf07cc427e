"""The type checker of the tests."""

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from beartype import BeartypeConf, beartype

# As PEP 484 has it, an int will do where a float is asked for.
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))


def check(function: Callable[..., Any]) -> Callable[..., Any]:
    """Beartype, which can check a protocol only if that is marked as checkable."""
    for hint in function.__annotations__.values():
        if isinstance(hint, type) and Protocol in hint.__bases__:
            runtime_checkable(hint)
    return _check(function)
