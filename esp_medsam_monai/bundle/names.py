"""Names on a command line that no config knows: MONAI takes them in silence, and a mistyped option has no effect."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = ["unknown_names", "unknown_sentences"]

_SEPARATOR = re.compile(r"::|#")
_REFERENCE = re.compile(r"[@%]([\w:#]+)")


def unknown_names(names: Iterable[str], config: Mapping[str, Any]) -> dict[str, str | None]:
    """Which names no entry of a config answers to.

    What lies below a component (``_target_``), below a macro (``%id``, ``%file``) or below an entry that is itself
    among the names is not judged: MONAI, or the component, knows better. A name that the config refers to (``@name``)
    without having it is known too: such an entry is meant to be given on the command line.

    Args:
        names: ids as on MONAI's command line, ``a``, ``a#b`` or ``a::b``.
        config: content of the config files, merged.

    Returns:
        ``{unknown name: nearest known name, or None}``.
    """
    names = list(names)
    given = {_parts(name) for name in names}
    referred = {_parts(name)[:i] for name in _references(config) for i in range(1, len(_parts(name)) + 1)}
    candidates = list(dict.fromkeys(_ids(config)))
    unknown: dict[str, str | None] = {}
    for name in names:
        parts = _parts(name)
        above = {parts[:i] for i in range(1, len(parts))}
        if above & given or {parts, *above} & referred or _knows(config, parts):
            continue
        nearest = difflib.get_close_matches("#".join(parts), candidates, n=1)
        unknown[name] = nearest[0] if nearest else None
    return unknown


def unknown_sentences(names: Iterable[str], config: Mapping[str, Any], source: str) -> list[str]:
    """A sentence on each name that no entry of a config answers to.

    Args:
        names: see :func:`unknown_names`.
        config: see :func:`unknown_names`.
        source: where the config comes from, for the sentence.
    """
    return [
        f"--{name} is no option of {source}; " + (f"did you mean --{nearest}?" if nearest else "see its entries.")
        for name, nearest in unknown_names(names, config).items()
    ]


def _parts(name: str) -> tuple[str, ...]:
    return tuple(_SEPARATOR.split(name))


def _left_to_monai(node: Any) -> bool:
    return (isinstance(node, Mapping) and "_target_" in node) or (isinstance(node, str) and node.startswith("%"))


def _knows(config: Mapping[str, Any], parts: tuple[str, ...]) -> bool:
    node: Any = config
    for part in parts:
        if node is not config and _left_to_monai(node):
            return True
        if isinstance(node, Mapping) and part in node:
            node = node[part]
        elif isinstance(node, list) and part.isdecimal() and int(part) < len(node):
            node = node[int(part)]
        else:
            return False
    return True


def _ids(node: Any, prefix: str = "") -> Iterator[str]:
    """Ids of the entries that a person may mean: all, down to the arguments of components."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        if not str(key).startswith("_"):
            yield f"{prefix}{key}"
            yield from _ids(value, f"{prefix}{key}#")


def _references(node: Any) -> Iterator[str]:
    """Ids that the strings of a config refer to."""
    if isinstance(node, Mapping):
        for value in node.values():
            yield from _references(value)
    elif isinstance(node, list):
        for value in node:
            yield from _references(value)
    elif isinstance(node, str):
        yield from _REFERENCE.findall(node)
