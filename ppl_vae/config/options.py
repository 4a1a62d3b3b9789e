"""Words of a command line as options with dotted names."""

from collections.abc import Collection, Sequence
from typing import Any

__all__ = ["nested", "split_options"]


def split_options(
    words: Sequence[str], switches: Collection[str]
) -> tuple[set[str], list[tuple[str, str]], list[str]]:
    """Splits words into switches that are on, options with their values, and other words.

    An option is `--name value` or `--name=value`; dashes in a name stand for underscores.

    Args:
        words: of the command line.
        switches: names of options that take no value (`true` and `false` are understood).

    Raises:
        ValueError: for an option without its value.

    Example:
        >>> split_options(["--data.root", "x", "--batch-size=3", "--trust", "y"], {"trust"})
        ({'trust'}, [('data.root', 'x'), ('batch_size', '3')], ['y'])
    """
    on: set[str] = set()
    options: list[tuple[str, str]] = []
    others: list[str] = []
    queue = list(words)
    while queue:
        word = queue.pop(0)
        if word == "-h":
            word = "--help"
        if not word.startswith("--"):
            others.append(word)
            continue
        name, equals, value = word[2:].partition("=")
        name = name.replace("-", "_")
        if name in switches:
            if value not in ("", "true", "false"):
                raise ValueError(f"--{name} takes no value, got {value!r}")
            on -= {name} if value == "false" else set()
            on |= {name} if value != "false" else set()
        elif equals:
            options.append((name, value))
        elif name.endswith(".help") and (not queue or queue[0].startswith("--")):
            options.append((name, ""))
        elif not queue or queue[0].startswith("--"):
            raise ValueError(f"--{name} needs a value")
        else:
            options.append((name, queue.pop(0)))
    return on, options, others


def nested(key: str, value: Any) -> dict[str, Any]:
    """A value under a dotted name, as a mapping in mappings.

    Example:
        >>> nested("a.b", 1)
        {'a': {'b': 1}}
    """
    for part in reversed(key.split(".")):
        value = {part: value}
    return value
