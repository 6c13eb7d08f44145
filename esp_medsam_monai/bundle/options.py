"""The options of a bundle, read from its config: what stands there as a plain value can be given on a command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

__all__ = ["Option", "config_options"]

_COMPUTED = ("@", "$", "%")


@dataclass(frozen=True)
class Option:
    """A top-level entry of a config with a plain value.

    Args:
        name: the entry.
        default: its value in the config.
        help: the comment behind it, empty when there is none.
    """

    name: str
    default: Any
    help: str

    def read(self, text: str) -> Any:
        """The value of a text on a command line: what the same text would mean in the config file.

        Raises:
            ValueError: when it is of another kind than the default, for instance a word for a number.
        """
        if isinstance(self.default, str):
            return text
        try:
            value = yaml.safe_load(text)
        except yaml.YAMLError:
            value = text
        if isinstance(self.default, bool):
            if not isinstance(value, bool):
                raise ValueError(f"--{self.name} takes true or false, got {text!r}.")
        elif isinstance(self.default, int):
            if isinstance(value, bool) or not isinstance(value, int):
                raise ValueError(f"--{self.name} takes a whole number, got {text!r}.")
        elif isinstance(self.default, float):
            try:
                return float(text)  # YAML 1.1 reads 1e-4 as a word
            except ValueError as error:
                raise ValueError(f"--{self.name} takes a number, got {text!r}.") from error
        elif not isinstance(value, str | int | float | bool | list | dict | None):
            return text  # a file named like a date
        return value


def config_options(path: str | os.PathLike[str]) -> list[Option]:
    """The options of a YAML config, in its order.

    Args:
        path: a config whose top-level entries are the options; references, expressions and components are none.
    """
    text = Path(path).read_text(encoding="utf-8")
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    values = yaml.safe_load(text)
    lines = text.splitlines()
    options = []
    for key, node in root.value if isinstance(root, yaml.MappingNode) else []:
        value = values[key.value]
        if not isinstance(node, yaml.ScalarNode) or (isinstance(value, str) and value.startswith(_COMPUTED)):
            continue
        end = node.end_mark
        rest = lines[end.line][end.column :] if end.line < len(lines) else ""
        options.append(Option(key.value, value, rest.partition("#")[2].strip()))
    return options
