"""Arguments of the Python face, checked against their types before a verb begins."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from qexport.core.errors import InputError

P = ParamSpec("P")
R = TypeVar("R")


def checked(verb: Callable[P, R]) -> Callable[P, R]:
    """A verb that refuses arguments of other types than its annotations say.

    Raises:
        InputError: an argument has another type, or a value that the type excludes.
    """

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        from pydantic import ValidationError

        try:
            result: R = _strict(verb)(*args, **kwargs)
        except ValidationError as error:
            first = error.errors()[0]
            if error.title != verb.__name__:  # raised by the work, not by the call
                raise
            name = first["loc"][0]
            if isinstance(name, int):  # the place of a positional argument
                parameters = list(inspect.signature(verb).parameters.values())
                name = parameters[0 if parameters[0].kind is inspect.Parameter.VAR_POSITIONAL else name].name
            reason = first["msg"][:1].lower() + first["msg"][1:]
            raise InputError(
                f"{verb.__name__}: {name}={first['input']!r}: {reason}; see help(qexport.{verb.__name__})"
            ) from None
        return result

    return call


@functools.cache
def _strict(verb: Callable[P, R]) -> Callable[P, R]:
    """The verb with pydantic's check before it. The return type is left out: only type checkers import it."""
    from pydantic import ConfigDict, validate_call

    assert isinstance(verb, types.FunctionType)
    plain = types.FunctionType(verb.__code__, verb.__globals__, verb.__name__, verb.__defaults__)
    plain.__kwdefaults__ = verb.__kwdefaults__
    plain.__annotations__ = {name: kind for name, kind in verb.__annotations__.items() if name != "return"}
    return validate_call(config=ConfigDict(strict=True))(plain)
