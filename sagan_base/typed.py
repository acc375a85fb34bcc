"""Plain JSON as the types that declare it: the one place where a file of ours is checked before it is believed."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from sagan_base.files import is_text

MOST = 2**63 - 1  # what PyTorch's sizes and seeds can be


def parse_json(text: str | bytes) -> Any:
    """Raises ValueError for what is no JSON, or is nested too deeply to be anything of ours."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def read_json(path: Path) -> Any:
    """The JSON value in a file; ValueError, which leaves the file's name to the caller, where it holds none."""
    return parse_json(path.read_bytes())


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Around the first use of what a file holds: whatever shape it has that it should not have is one error.

    Raises:
        ValueError: names the file; there is none, or it does not hold what is looked for.
    """
    if not path.is_file():  # reading a pipe would wait for ever
        raise ValueError(f"no file {path}")
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, OSError, RecursionError, TypeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else str(error) or type(error).__name__
        known = str(path) in reason
        raise ValueError(reason if known else f"{path} is damaged, or no file of this kind ({reason})") from error


def read_typed(cls: type, path: Path) -> Any:
    """A dataclass from the file of one, which may hold more than its fields; ValueError, which names the file."""
    with reading(path):
        values = read_json(path)
        return from_dict(cls, {f.name: values[f.name] for f in fields(cls) if f.name in values})


def from_dict(cls: type, values: dict[str, Any]) -> Any:
    """Rebuild a (nested) configuration dataclass from plain JSON types.

    Raises:
        ValueError: a field is unknown, or its value is of another type or refused by the dataclass.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} cannot be read from {values!r}; expected an object")
    names, values = {f.name for f in fields(cls)}, {name.replace(" ", "_"): value for name, value in values.items()}
    unknown = sorted(set(values) - names)
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {unknown}; its fields are {sorted(names)}")
    hints = get_type_hints(cls)
    arguments = {name: _typed(value, hints[name], f"{cls.__name__}.{name}") for name, value in values.items()}
    try:
        return cls(**arguments)
    except TypeError as error:
        raise ValueError(f"{cls.__name__} cannot be made from {arguments}: {error}") from error


def _typed(value: Any, hint: Any, name: str) -> Any:
    """A value of JSON as the type that a field declares; ValueError where it is none."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Any:
        return value
    if type(None) in inner:
        return None if value is None else _typed(value, inner[0], name)
    if is_dataclass(kind):
        return from_dict(kind, value)
    if kind is tuple and isinstance(value, (list, tuple)):
        types = inner[:1] * len(value) if inner[-1] is ... else inner
        if len(types) != len(value):
            raise ValueError(f"{name}={value!r} does not have {len(types)} parts")
        return tuple(_typed(part, type_, name) for part, type_ in zip(value, types, strict=True))
    if kind is dict and isinstance(value, dict):
        return {_typed(key, str, name): _typed(part, inner[1], f"{name}[{key!r}]") for key, part in value.items()}
    # JSON writes 2.0 as 2; but True is no number, and what PyTorch cannot count is none either.
    right = type(value) in (int, float) if kind is float else type(value) is kind
    if not right or (type(value) is int and abs(value) > MOST):
        raise ValueError(f"{name}={value!r} is no {kind.__name__}")
    if type(value) is str and not is_text(value):
        raise ValueError(f"{name}={value!r} holds control characters")
    return value
