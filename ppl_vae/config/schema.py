"""Names and settings of a configuration, read off the signatures of classes.

A part of a configuration is written `{class_path: ..., init_args: {...}}`, or by the class's name
alone. Names are found, whatever their case, among the library's own public classes that fit the
place, and nothing else is imported: a path from elsewhere is refused here, before any parser of
configurations, which would import it, has seen it. Only with `trust` may it pass.
"""

import difflib
import functools
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from ppl_vae.config.names import (
    BadInput,
    holds_part,
    import_paths,
    is_beyond,
    is_part,
    is_plain,
    load_class,
    parameters,
    public_classes,
    public_path,
)
from ppl_vae.config.slots import Slot, read_slot

__all__ = ["BadInput", "Schema"]


class Schema:
    """The settings of one class, and of the classes that its settings name.

    Args:
        root: the class.
        trust: let paths from outside the library pass.
    """

    def __init__(self, root: type, trust: bool = False) -> None:
        self.root, self.trust = root, trust

    def merge(self, old: Mapping[str, Any], new: object, where: str = "") -> dict[str, Any]:
        """The settings `old`, as this method returned them, with `new` ones put over them.

        Naming another class in some place drops the settings of the one before.

        Raises:
            BadInput: for an unknown setting, an unknown class, or a path from elsewhere.
        """
        if not isinstance(new, Mapping):
            raise BadInput(f"{where or 'the configuration'} is not a mapping of settings")
        return self._arguments(self.root, old, new, where)

    def parse(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """All settings, those left out at their defaults, with values of the right types.

        Args:
            settings: as `merge` returned them. Defaults that are objects are left out.

        Raises:
            BadInput: for a value of the wrong type, or one that is missing.
        """
        return self._parse(self.root, settings, "", given=0)

    def build(self, settings: Mapping[str, Any], **given: Any) -> Any:
        """The instance that parsed settings describe.

        Args:
            settings: as `parse` returned them.
            given: objects in the place of settings.
        """
        rest = {key: value for key, value in settings.items() if key not in given}
        return self._build_class(self.root, rest)(**given)

    def part(self, settings: Mapping[str, Any], name: str) -> Any:
        """What one of parsed settings describes."""
        return self._build(read_slot(parameters(self.root)[name]), settings[name])

    def named(self, slot: Slot) -> dict[str, type]:
        """The library's classes that fit a place, by name."""
        return {cls.__name__: cls for cls in public_classes() if slot.offers(cls)}

    def slot(self, path: Sequence[str], settings: Mapping[str, Any]) -> tuple[Slot, Any]:
        """The place at a dotted path and what stands there."""
        cls, here = self.root, settings
        for k, key in enumerate(path):
            annotations = parameters(cls)
            if key not in annotations:
                raise BadInput(_unknown(".".join(path[: k + 1]), key, annotations, cls))
            slot, value = read_slot(annotations[key]), here.get(key)
            if k + 1 == len(path):
                return slot, value
            if not isinstance(value, Mapping) or "class_path" not in value:
                raise BadInput(f"{'.'.join(path[: k + 1])} has no settings of its own")
            cls, here = load_class(value["class_path"]), value.get("init_args", {})
        raise BadInput("no setting named")

    def _arguments(
        self, cls: type, old: Mapping[str, Any], new: Mapping[str, Any], where: str, given: int = 0
    ) -> dict[str, Any]:
        annotations = dict(list(parameters(cls).items())[given:])
        merged = dict(old)
        for key, value in new.items():
            path = f"{where}.{key}" if where else str(key)
            if key not in annotations:
                raise BadInput(_unknown(path, str(key), annotations, cls))
            slot = read_slot(annotations[key])
            before = old[key] if key in old else _default_part(cls, key, slot)
            merged[key] = self._value(slot, before, value, path)
        return merged

    def _value(self, slot: Slot, old: Any, new: Any, where: str) -> Any:
        if isinstance(new, str):
            new = slot.parsed(new)
        if new is None and slot.is_known and type(None) not in slot.plain:
            raise BadInput(f"{where} is null, not {slot.described(self.named(slot))}")
        if isinstance(new, str) and slot.is_part and new not in slot.words:
            cls = self._find(slot, new, where)
            return new if cls is None else self._part(slot, cls, old, {}, where)
        if isinstance(new, Mapping) and slot.is_part:
            return self._mapping(slot, old, new, where)
        if isinstance(new, list):
            return [self._value(slot.item(i), None, v, f"{where}[{i}]") for i, v in enumerate(new)]
        if isinstance(new, Mapping):
            if "class_path" in new:
                raise BadInput(f"{where} names no class: remove class_path")
            return self._entries(slot.value, old, new, where)
        if isinstance(new, str) and "class_path" in new:
            raise BadInput(f"{where} names no class: remove class_path")
        return new

    def _mapping(self, slot: Slot, old: Any, new: Mapping[str, Any], where: str) -> Any:
        extra = set(new) - {"class_path", "init_args"}
        if "class_path" in new or (new and not extra):
            if extra:
                raise BadInput(
                    f"{where} has {sorted(extra)[0]!r} next to class_path: settings go under "
                    "init_args"
                )
            path = new.get("class_path", old["class_path"] if is_part(old) else None)
            if not isinstance(path, str):
                raise BadInput(f"{where} has init_args but no class_path")
            cls = self._find(slot, path, where)
            arguments = new.get("init_args") or {}
            if cls is None or not isinstance(arguments, Mapping):
                raise BadInput(f"{where}: init_args is not a mapping of settings")
            return self._part(slot, cls, old, arguments, where)
        if is_part(old) and (
            not slot.values or set(new) <= set(parameters(load_class(old["class_path"])))
        ):
            return self._part(slot, old["class_path"], old, new, where)
        if slot.values:
            return self._entries(slot.value, old, new, where)
        raise BadInput(
            f"{where} does not say which class its settings are for; name one of "
            f"{', '.join(sorted(self.named(slot)))}"
        )

    def _entries(self, slot: Slot, old: Any, new: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A mapping's entries, put over those that are there."""
        before = dict(old) if isinstance(old, Mapping) and not is_part(old) else {}
        changed = {k: self._value(slot, before.get(k), v, f"{where}.{k}") for k, v in new.items()}
        return before | changed

    def _part(
        self, slot: Slot, path: str, old: Any, new: Mapping[str, Any], where: str
    ) -> dict[str, Any]:
        before = old.get("init_args", {}) if is_part(old) and old["class_path"] == path else {}
        cls = load_class(path)
        if not slot.admits(cls):  # a trusted one: the library's were picked by this
            raise BadInput(f"{where}: {path} is not {slot.described(self.named(slot))}")
        given = slot.given(cls)
        return {
            "class_path": path,
            "init_args": self._arguments(cls, before, new, where, given),
        }

    def _find(self, slot: Slot, name: str, where: str) -> str | None:
        """The import path of the class meant; None if the text may stand for itself."""
        classes = self.named(slot)
        for found, cls in classes.items():
            if _key(name) == _key(found) or name in import_paths(cls):
                return public_path(cls)
        if "." in name:
            if name.partition(".")[0] != "ppl_vae":
                if self.trust:
                    return name
                raise BadInput(
                    f"{where}: {name!r} is from outside ppl_vae and was not imported; --trust "
                    "allows it"
                )
        elif slot.text:
            return None
        if slot.words or slot.plain - {type(None)} or not classes:
            what = slot.described(classes)
            raise BadInput(f"{where} is {name!r}, not {what}{_meant(name, classes)}")
        raise BadInput(
            f"{where}: there is no {name!r}{_meant(name, classes)}; known: "
            f"{', '.join(sorted(classes))}"
        )

    def _parse(
        self, cls: type, settings: Mapping[str, Any], where: str, given: int
    ) -> dict[str, Any]:
        from argparse import ArgumentError

        annotations = parameters(cls)
        names = list(annotations)[given:]
        defaults = inspect.signature(cls).parameters
        for name in names:
            if (
                name not in settings
                and name in defaults
                and defaults[name].default is inspect.Parameter.empty
            ):
                raise BadInput(f"{where}{name} is required")
        slots = {name: read_slot(annotations[name]) for name in names}
        parts = {k: v for k, v in settings.items() if holds_part(v)}
        parser = _parser(cls, frozenset({*parts, *list(annotations)[:given]}))
        plain = {k: v for k, v in settings.items() if k not in parts}
        parsed: dict[str, Any] = {}
        try:
            parsed = dict(parser.parse_object(plain).as_dict())
        except (ArgumentError, TypeError, ValueError) as error:
            # its text has several lines: the setting's name is all that is taken from it
            for name, value in plain.items():
                if f'"{name}"' in str(error):
                    wanted = slots[name].described(self.named(slots[name]))
                    raise BadInput(f"{where}{name} is {value!r}, not {wanted}") from error
            raise BadInput(f"{where or 'configuration'}: {str(error).splitlines()[-1]}") from error
        for name, value in parsed.items():
            if is_beyond(value):
                raise BadInput(f"{where}{name} is {value!r}, a whole number beyond 2^63")
        for name, value in parts.items():
            parsed[name] = self._parse_part(slots[name], value, f"{where}{name}")
        for name in names:
            if holds_part(parsed.get(name)) and name not in parts:
                default = self._value(slots[name], None, parsed[name], where + name)
                parsed[name] = self._parse_part(slots[name], default, where + name)
        return {name: parsed[name] for name in names if is_plain(parsed.get(name, ...))}

    def _parse_part(self, slot: Slot, value: Any, where: str) -> Any:
        if is_part(value):
            cls = load_class(value["class_path"])
            arguments = value.get("init_args", {})
            parsed = self._parse(cls, arguments, f"{where}.", slot.given(cls))
            return {"class_path": value["class_path"], "init_args": parsed}
        if isinstance(value, Mapping):
            return {k: self._parse_part(slot.value, v, f"{where}.{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [
                self._parse_part(slot.item(i), v, f"{where}[{i}]") for i, v in enumerate(value)
            ]
        return value

    def _build_class(self, cls: type, arguments: Mapping[str, Any]) -> functools.partial[Any]:
        annotations = parameters(cls)
        built = {
            key: self._build(read_slot(annotations[key]), value)
            for key, value in arguments.items()
            if key in annotations
        }
        return functools.partial(cls, **built)

    def _build(self, slot: Slot, value: Any) -> Any:
        if is_part(value):
            cls = load_class(value["class_path"])
            maker = self._build_class(cls, value.get("init_args", {}))
            return maker if slot.is_factory(cls) else maker()
        if isinstance(value, Mapping):
            return {k: self._build(slot.value, v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._build(slot.item(i), v) for i, v in enumerate(value))
        return value


@functools.lru_cache(256)
def _parser(cls: type, skip: frozenset[str]) -> Any:
    """What knows the types of a class's settings; it is slow to make, and made once."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, skip={*skip}, fail_untyped=False)
    return parser


def _default_part(cls: type, name: str, slot: Slot) -> dict[str, Any] | None:
    """The library's class that a setting has by default, if it has one."""
    parameter = inspect.signature(cls).parameters.get(name)
    default = None if parameter is None else parameter.default
    found = default if inspect.isclass(default) else type(default)
    if found in public_classes() and slot.offers(found):
        return {"class_path": public_path(found), "init_args": {}}
    return None


def _unknown(path: str, key: str, known: Mapping[str, Any], cls: type) -> str:
    return (
        f"{path}: {cls.__name__} has no setting {key!r}{_meant(key, known)}; it has "
        f"{', '.join(known) or 'none'}"
    )


def _meant(name: str, known: Mapping[str, Any]) -> str:
    lower = {_key(k): k for k in known}
    close = difflib.get_close_matches(_key(name), lower, n=1)
    return f" (did you mean {lower[close[0]]}?)" if close else ""


def _key(name: str) -> str:
    """A name as it is compared: in any case, `two_points` for `TwoPoints`."""
    return name.lower().replace("_", "").replace("-", "")
