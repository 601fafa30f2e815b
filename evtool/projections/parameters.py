"""The values of a definition's parameters: its own, those of evtool.toml, those of `--set`."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from typing import Any, NoReturn

from evtool.errors import ConfigError
from evtool.projections.definition import Definition, Parameter, is_value

LIST_SEPARATOR = ">"


def settings(texts: list[str]) -> dict[str, str]:
    """`name=value` texts of a command line as a mapping. Raises ConfigError."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise ConfigError(f"--set {text!r} names no value", "Write --set name=value, as in --set grain=week.")
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise ConfigError(f"--set {name}: its value is no text in UTF-8") from error
        found[name.strip()] = value
    return found


def configured(definition: Definition, tables: Mapping[str, Any]) -> dict[str, Any]:
    """What evtool.toml says: `tables` are its [projections.parameters], with tables for single projections in it.

    A value for all projections counts where a projection has such a parameter. Raises ConfigError.
    """
    shared = {name: value for name, value in tables.items() if not isinstance(value, Mapping)}
    own = tables.get(definition.name, {})
    chosen = {name: value for name, value in shared.items() if name in definition.parameters} | dict(own)
    try:
        return {name: _checked(definition, name, value) for name, value in chosen.items()}
    except ConfigError as error:
        raise ConfigError(
            f"{error.message}, which evtool.toml says in [projections.parameters]",
            error.hint or f"Give it another value in [projections.parameters.{definition.name}].",
        ) from error


def check_names(definitions: Iterable[Definition], tables: Mapping[str, Any]) -> None:
    """Raise ConfigError where evtool.toml names a parameter or a projection that there is not."""
    known = {definition.name: definition for definition in definitions}
    names = {name for definition in known.values() for name in definition.parameters}
    for name, value in tables.items():
        if isinstance(value, Mapping):
            if name not in known:
                _no_such(f"[projections.parameters.{name}]: there is no projection {name!r}", name, known)
            for parameter in value:
                _parameter(known[name], parameter)
        elif name not in names:
            _no_such(f"[projections.parameters]: no projection has a parameter {name!r}", name, names)


def _no_such(message: str, name: str, known: Iterable[str]) -> NoReturn:
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(f"evtool.toml: {message}", f"Did you mean {near[0]!r}?" if near else "")


def given(definition: Definition, texts: Mapping[str, str]) -> dict[str, Any]:
    """What a command line says: texts, read as the parameter's own value is one. Raises ConfigError."""
    return {name: _checked(definition, name, _read(definition, name, text)) for name, text in texts.items()}


def written(value: Any) -> str:
    """A value as `--set` takes it: what `given` reads as the same."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, list):
        return str(value)
    is_plain = all(item == item.strip() and item and LIST_SEPARATOR not in item for item in value)
    is_plain = is_plain and bool(value) and not value[0].startswith("[")
    return f" {LIST_SEPARATOR} ".join(value) if is_plain else json.dumps(value, ensure_ascii=False)


def values(definition: Definition, *changes: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each parameter: the definition's, unless one of the changes (the last counts) has another."""
    defaults = {name: parameter.default for name, parameter in definition.parameters.items()}
    for change in changes:
        defaults |= change
    return defaults


def _parameter(definition: Definition, name: str) -> Parameter:
    known = definition.parameters
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        listed = f"It has: {', '.join(known)}." if known else "It has none."
        hint = f"Did you mean {near[0]!r}?" if near else listed
        raise ConfigError(f"{definition.name} has no parameter {name!r}", hint)
    return known[name]


def _read(definition: Definition, name: str, text: str) -> Any:
    default = _parameter(definition, name).default
    if isinstance(default, bool):
        if text not in ("true", "false"):
            raise ConfigError(f"{name}={text} is neither true nor false")
        return text == "true"
    if isinstance(default, int):
        try:
            return int(text)
        except ValueError as error:
            raise ConfigError(f"{name}={text} is no whole number") from error
    if isinstance(default, list):
        return _listed(name, text)
    return text


def _listed(name: str, text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return [item.strip() for item in text.split(LIST_SEPARATOR)]
    try:
        return list(json.loads(text))
    except ValueError as error:
        raise ConfigError(f"{name}={text} is no JSON array", f"Or write A {LIST_SEPARATOR} B.") from error


def _checked(definition: Definition, name: str, value: Any) -> Any:
    parameter = _parameter(definition, name)
    is_right = is_value(value) and isinstance(value, list) == isinstance(parameter.default, list)
    if parameter.is_expression:
        is_right = isinstance(value, str)
    if not is_right:
        raise ConfigError(f"{definition.name}: {name} = {value!r} is not what this parameter takes")
    if parameter.choices and value not in parameter.choices:
        listed = ", ".join(map(str, parameter.choices))
        raise ConfigError(f"{definition.name}: {name} = {value!r} is none of {listed}")
    return value
