"""Help for the command line, read off signatures and docstrings."""

import inspect
import textwrap
from collections.abc import Mapping
from typing import Any

from ppl_vae.config.names import is_part, load_class, parameters
from ppl_vae.config.schema import Schema
from ppl_vae.config.slots import Slot, read_slot

__all__ = ["describe_class", "describe_settings", "resolved"]

_WIDTH = 96


_COMMANDS = {
    "fit": (
        "Trains a model, evaluates it and writes a run folder.",
        [
            ("--out FOLDER", "the run's folder; by default the first free runs/DATA-1, -2 ..."),
            ("--overwrite", "replace a run that is in the folder."),
            (
                "--devices N",
                "train over so many processes of this machine, a GPU each if there are.",
            ),
            (
                "--timeout S",
                "seconds that each of them waits for another before it counts as lost.",
            ),
            ("--resume RUN", "go on with a run, from its last checkpoint to --epochs in all."),
        ],
    ),
    "show": (
        "Prints the model that fit would train, or why it would not.",
        [("--out FILE", "draw its graph, by graphviz: a .png, .pdf or .svg.")],
    ),
}


def describe_settings(schema: Schema, settings: Mapping[str, Any], command: str) -> str:
    """The help of `ppl-vae fit` or `ppl-vae show`.

    Args:
        schema: of the configuration.
        settings: the defaults.
        command: which.
    """
    text, own = _COMMANDS[command]
    lines = [
        f"usage: ppl-vae {command} [--config FILE] "
        + " ".join(f"[{option}]" for option, _ in own)
        + " [--trust] [--SETTING VALUE ...]",
        "",
        f"{text} A part is given by its class (any case),",
        "its settings after a dot: --objective.divergence MMD --objective.scale 784.",
        "",
        *_entry("--config FILE", "YAML file of settings; options on the command line come after."),
        *(line for option, what in own for line in _entry(option, what)),
        *_entry("--trust", "allow classes from outside ppl_vae, by import path."),
        *_entry("--PART.help [CLASS]", "show the settings of a part's class, and exit."),
        "",
        *_settings(schema, schema.root, settings, ""),
    ]
    return "\n".join(lines)


def describe_class(schema: Schema, settings: Mapping[str, Any], path: str, name: str) -> str:
    """The help of one part: its classes, and the settings of one of them.

    Args:
        schema: of the configuration.
        settings: the settings so far, which say what class stands there.
        path: dotted name of the part.
        name: the class; the one that stands there if empty.
    """
    if name:
        *above, last = path.split(".")
        new: dict[str, Any] = {last: name}
        for part in reversed(above):
            new = {part: new}
        settings = schema.merge(settings, new)
    slot, value = schema.slot(path.split("."), settings)
    names = ", ".join(sorted(schema.named(slot))) or slot.described()
    if not is_part(value):
        return f"--{path} takes: {names}"
    cls = load_class(value["class_path"])
    lines = [
        f"{cls.__name__}: {_summary(cls)}",
        f"Others for --{path}: {names}",
        "",
        *_settings(schema, cls, value.get("init_args", {}), f"{path}.", slot.given(cls)),
    ]
    return "\n".join(lines)


def resolved(settings: Mapping[str, Any]) -> list[str]:
    """Every setting on a line of its own, the parts with all of theirs.

    Args:
        settings: as `Schema.parse` gave them.
    """
    width = max(map(len, settings))
    lines: list[str] = []
    for name, value in settings.items():
        head = f"{name:{width}}  "
        text = _shown(value) or ""
        lines += textwrap.wrap(
            text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head)
        ) or [head]
    return lines


def _settings(
    schema: Schema, cls: type, settings: Mapping[str, Any], prefix: str, given: int = 0
) -> list[str]:
    lines: list[str] = []
    docs, signature = _documented(cls), _defaults(cls)
    for name, annotation in list(parameters(cls).items())[given:]:
        slot = read_slot(annotation)
        default = settings.get(name, signature.get(name, inspect.Parameter.empty))
        text = docs.get(name, "")
        classes = sorted(schema.named(slot))
        words = [repr(word) for word in slot.words]
        if classes:
            text += f" One of {', '.join([*words, *classes])}."
        shown = _shown(default)
        text += " Required." if shown is None else f" Default: {shown}."
        lines += _entry(f"--{prefix}{name} {_placeholder(slot)}", text)
    return lines


def _entry(head: str, text: str) -> list[str]:
    body = textwrap.wrap(" ".join(text.split()), _WIDTH - 6)
    return [f"  {head}", *(f"      {line}" for line in body)]


def _placeholder(slot: Slot) -> str:
    if slot.classes or slot.factories:
        return "CLASS"
    if slot.words and not slot.plain:
        return "{" + ",".join(map(str, slot.words)) + "}"
    for plain, word in ((float, "NUMBER"), (int, "INTEGER"), (bool, "{true,false}")):
        if plain in slot.plain:
            return "|".join([word, *map(str, slot.words)])
    return "LIST" if slot.items else "VALUE"


def _shown(default: Any) -> str | None:
    if default is inspect.Parameter.empty:
        return None
    if is_part(default):
        name = default["class_path"].rpartition(".")[2]
        inner = [f"{k}={_shown(v)}" for k, v in (default.get("init_args") or {}).items()]
        return f"{name}({', '.join(inner)})" if inner else name
    if inspect.isclass(default):
        return default.__name__
    if isinstance(default, float):
        return f"{default:.4g}"
    if default is None:
        return "null"
    return str(default).lower() if isinstance(default, bool) else str(default)


def _defaults(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for base in reversed(cls.__mro__):
        if "__init__" in vars(base) and base is not object:
            found |= {
                name: p.default
                for name, p in inspect.signature(vars(base)["__init__"]).parameters.items()
            }
    return found


def _summary(cls: type) -> str:
    return (inspect.getdoc(cls) or "").split("\n\n")[0].replace("\n", " ")


def _documented(cls: type) -> dict[str, str]:
    """What the docstrings of a class and its bases say of each argument."""
    import docstring_parser

    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        text = vars(base).get("__doc__")
        if text and base is not object:
            parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
            found |= {p.arg_name: p.description or "" for p in parsed.params}
    return found
