"""Help for the command line, read off signatures and docstrings."""

import inspect
import textwrap
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, get_type_hints

from ppl_vae.config.names import is_part, load_class, parameters
from ppl_vae.config.schema import Schema
from ppl_vae.config.slots import Slot, read_slot

__all__ = ["describe_class", "describe_function", "describe_settings", "page", "resolved"]

_WIDTH = 96

Option = tuple[str, str]
"""How an option is written, and what it says."""

_COMMANDS: dict[str, tuple[str, list[Option]]] = {
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
            ("--resume RUN", "go on with a run from its last checkpoint, to --epochs in all."),
        ],
    ),
    "show": (
        "Prints the model that fit would train, or why it would not.",
        [("--out FILE", "draw its graph, by graphviz: a .png, .pdf or .svg.")],
    ),
}

_MODEL = ("data", "objective", "dim", "pair", "prior", "likelihood", "encoder")
"""Settings of an experiment that say what is trained; the others say how."""


def page(usage: str, text: str, groups: Mapping[str, Iterable[Option]]) -> str:
    """The help of a command.

    Args:
        usage: the words after the program's name.
        text: what it does; paragraphs are wrapped.
        groups: the options under their headings; empty ones are left out.
    """
    lines = textwrap.wrap(f"usage: ppl-vae {usage}", _WIDTH, subsequent_indent=" " * 15)
    for paragraph in inspect.cleandoc(text).split("\n\n"):
        lines += ["", *textwrap.wrap(" ".join(paragraph.split()), _WIDTH)]
    for heading, options in groups.items():
        entries = [line for option in options for line in _entry(*option)]
        lines += ["", f"{heading}:", *entries] if entries else []
    return "\n".join(lines)


def describe_settings(schema: Schema, settings: Mapping[str, Any], command: str) -> str:
    """The help of `ppl-vae fit` or `ppl-vae show`.

    Args:
        schema: of the configuration.
        settings: the defaults.
        command: which.
    """
    text, own = _COMMANDS[command]
    options = _settings(schema, schema.root, settings, "")
    words = " ".join(f"[{option}]" for option, _ in own)
    return page(
        f"{command} [--config FILE] {words} [--trust] [--SETTING VALUE ...]",
        f"{text} A part is given by its class (any case), its settings after a dot: "
        "--objective.divergence MMD --objective.scale 784.",
        {
            "options": [
                (
                    "--config FILE",
                    "YAML file of settings; options after it win.",
                ),
                *own,
                ("--trust", "allow classes from outside ppl_vae, by import path."),
                ("--PART.help [CLASS]", "show the settings of a part's class, and exit."),
            ],
            "the model and its loss": [o for name, o in options.items() if name in _MODEL],
            "the training": [o for name, o in options.items() if name not in _MODEL],
        },
    )


def describe_function(
    function: Callable[..., Any],
    many: str = "",
    first: str = "",
    skip: Collection[str] = (),
    more: Iterable[Option] = (),
) -> str:
    """The help of a command whose options are a function's arguments.

    Args:
        function: the command; what its docstring says of the arguments is said of the options.
        many: the argument that takes several words without a name.
        first: the one that stands without a name, or all that have no default do.
        skip: arguments that are no options.
        more: further options.
    """
    docs, hints = _documented(function), get_type_hints(function)
    needed: list[Option] = []
    options: list[Option] = []
    usage = function.__name__.replace("_", "-")
    for name, argument in inspect.signature(function).parameters.items():
        if name in skip:
            continue
        is_needed, text = argument.default is argument.empty, docs.get(name, "")
        slot, default = read_slot(hints[name]), argument.default
        head = f"--{name} {_placeholder(slot)}"
        if name in (many, first) or (is_needed and not first):
            head = f"{name.upper()} ..." if name == many else name.upper()
        elif hints[name] is bool and default is False:
            head = f"--{name}"
        if not is_needed and default not in (None, "") and default is not False:
            text += f" Default: {_shown(default)}."
        (needed if is_needed else options).append((head, text))
        usage += f" {head}" if is_needed else ""
    options += more
    text = (function.__doc__ or "").split("\n\n    Args:")[0]
    usage += " [--OPTION VALUE ...]" if options else ""
    return page(usage, text, {"required": needed, "options": options})


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
        return textwrap.fill(f"--{path} takes: {names}", _WIDTH)
    cls = load_class(value["class_path"])
    lines = [
        *textwrap.wrap(f"{cls.__name__}: {_summary(cls)}", _WIDTH),
        *textwrap.wrap(f"Others for --{path}: {names}", _WIDTH),
        "",
    ]
    inner = _settings(schema, cls, value.get("init_args", {}), f"{path}.", slot.given(cls))
    return "\n".join([*lines, *(line for option in inner.values() for line in _entry(*option))])


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
) -> dict[str, Option]:
    """The settings of a class as options, by their names."""
    options = {}
    docs, signature = _documented(*reversed(cls.__mro__[:-1])), _defaults(cls)
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
        options[name] = f"--{prefix}{name} {_placeholder(slot)}", text
    return options


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
    if isinstance(default, list | tuple):
        return str(list(default))
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


def _documented(*sources: object) -> dict[str, str]:
    """What docstrings say of each argument, later ones before earlier ones."""
    import docstring_parser

    found: dict[str, str] = {}
    for source in sources:
        if text := source.__doc__:
            parsed = docstring_parser.parse(text, docstring_parser.DocstringStyle.GOOGLE)
            found |= {p.arg_name: p.description or "" for p in parsed.params}
    return found
