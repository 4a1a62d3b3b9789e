"""Which test files come nearest to a function, by the names that they and the library use."""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.source import Module, Mutant

Definition = tuple[str, str]  # module, and top-level name in it


@dataclass(frozen=True)
class _File:
    """A file's imports and, for each of its top-level definitions, the names it uses.

    Attributes:
        imported: local name -> module and name it stands for; the name is "" for a module.
        uses: definition -> identifiers; what stands outside any is under "".
    """

    module: str
    text: str
    imported: dict[str, Definition]
    uses: dict[str, set[str]]


class Relevance:
    """Distances from library definitions to test files, along "is used by".

    Nothing is kept by hand: a test file at distance 0 names the definition, one at distance 1
    names something that uses it, and so on, helpers of the tests included.
    """

    def __init__(self, modules: Sequence[Module], tests: Path) -> None:
        here = [_read(m.name, m.text) for m in modules]
        extra = [_read(p.stem, p.read_text()) for p in sorted(tests.glob("*.py"))]
        self._tests = {
            f"{tests.name}/{file.module}.py": file
            for file in extra
            if file.module.startswith("test_")
            and not any(m.split(".")[0] == "mutants" for m, _ in file.imported.values())
        }
        self._users: dict[Definition, set[Definition]] = {}
        homes: dict[str, list[Definition]] = {}
        for file in (*here, *extra):
            for name in file.uses:
                homes.setdefault(name, []).append((file.module, name))
        for file in (*here, *extra):
            for name, words in file.uses.items():
                for home in _resolved(file, words, homes):
                    self._users.setdefault(home, set()).add((file.module, name))

    def files(self, mutant: Mutant, most: int) -> list[str]:
        """The nearest test files, those first that speak most of what is changed."""
        top, *inner = mutant.where.split(".")
        distance = {(mutant.module.name, top): 0}
        queue = list(distance)
        for home in queue:
            for user in sorted(self._users.get(home, ())):
                if user not in distance:
                    distance[user] = distance[home] + 1
                    queue.append(user)
        # A module's own test bears its name; a method is called without its class.
        own = mutant.module.name.rpartition(".")[2]
        words = [own, top.strip("_"), *inner]
        ranked = []
        for path, file in self._tests.items():
            reached = [distance[d] for d in ((file.module, n) for n in file.uses) if d in distance]
            named = own in file.module
            if reached or named:
                mentions = sum(file.text.count(word) for word in words)
                ranked.append((min(reached, default=9) - 2 * named, -mentions, path))
        return [path for _, _, path in sorted(ranked)[:most]]


def _read(module: str, text: str) -> _File:
    tree = ast.parse(text)
    imported: dict[str, Definition] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                imported[alias.asname or alias.name] = (node.module, alias.name)
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.asname:
                    imported[alias.asname] = (alias.name, "")
    uses: dict[str, set[str]] = {"": set()}
    for node in tree.body:
        name = ""
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            name = node.name
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
        uses.setdefault(name, set()).update(_identifiers(node))
    return _File(module, text, imported, uses)


def _identifiers(node: ast.AST) -> Iterable[str]:
    for child in ast.walk(node):
        if isinstance(child, ast.Name):
            yield child.id
        elif isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name):
            yield f"{child.value.id}.{child.attr}"


def _resolved(
    file: _File,
    words: set[str],
    homes: dict[str, list[Definition]],
) -> Iterable[Definition]:
    for word in words:
        owner, _, attribute = word.partition(".")
        if not attribute and (file.module, word) in homes.get(word, ()):
            yield file.module, word
            continue
        if owner not in file.imported:
            continue
        module, name = file.imported[owner]
        if attribute:  # an attribute of an imported module
            module, name = f"{module}.{name}" if name else module, attribute
        # A package may hand on the names of the modules in it, also when first asked for them.
        yield from (h for h in homes.get(name, ()) if f"{h[0]}.".startswith(f"{module}."))
