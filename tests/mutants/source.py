"""The library's source by import, and single replacements in it."""

import ast
import importlib.util
import pkgutil
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import ppl_vae

# An area of the library and the parts of a module's name that say it belongs there.
AREAS = {
    "objectives": {"objectives"},
    "evaluation": {"evaluation"},
    "diagnostics": {"diagnostics"},
    "distributions": {"distributions"},
    "training": {"training", "inference", "weights", "checks"},
}
# Modules of these areas that compute no number.
PICTURES = {"plots", "_arviz", "bridge"}


@dataclass(frozen=True)
class Module:
    """A module's name, file and text."""

    name: str
    path: Path
    text: str

    @property
    def area(self) -> str | None:
        parts = set(self.name.split("."))
        if parts & PICTURES:
            return None
        return next((area for area, names in AREAS.items() if parts & names), None)

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def raw(self) -> bytes:
        return self.text.encode()

    @cached_property
    def _lines(self) -> list[int]:
        starts = [0]
        for line in self.raw.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        return starts

    @cached_property
    def definitions(self) -> dict[str, ast.AST]:
        """Every function and class by qualified name."""
        found: dict[str, ast.AST] = {}

        def visit(node: ast.AST, prefix: str) -> None:
            for child in ast.iter_child_nodes(node):
                if isinstance(child, ast.FunctionDef | ast.ClassDef):
                    found[prefix + child.name] = child
                    visit(child, f"{prefix}{child.name}.")
                elif isinstance(child, ast.stmt):
                    visit(child, prefix)

        visit(self.tree, "")
        return found

    def span(self, node: ast.AST) -> tuple[int, int]:
        """First byte and end of a node; `ast` counts columns in bytes."""
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return (
            self._lines[node.lineno - 1] + node.col_offset,
            self._lines[node.end_lineno - 1] + node.end_col_offset,
        )

    def source(self, node: ast.AST) -> str:
        start, end = self.span(node)
        return self.raw[start:end].decode()


@dataclass(frozen=True)
class Mutant:
    """A module's text with the bytes from `start` to `end` replaced.

    Attributes:
        where: qualified name of the function or class that holds the change.
        operator: what was done.
    """

    module: Module
    where: str
    operator: str
    start: int
    end: int
    replacement: str

    @property
    def text(self) -> str:
        raw = self.module.raw
        return (raw[: self.start] + self.replacement.encode() + raw[self.end :]).decode()

    @property
    def line(self) -> int:
        return self.module.raw.count(b"\n", 0, self.start) + 1

    @property
    def change(self) -> tuple[str, str]:
        """The changed lines before and after, with white space collapsed."""
        raw = self.module.raw
        first = raw.rfind(b"\n", 0, self.start) + 1
        last = raw.find(b"\n", self.end)
        last = len(raw) if last < 0 else last
        old = raw[first:last].decode()
        new = (raw[first : self.start] + self.replacement.encode() + raw[self.end : last]).decode()
        return " ".join(old.split()), " ".join(new.split())

    @property
    def key(self) -> str:
        """Stays the same while the function's name and the line do."""
        old, new = self.change
        return f"{self.where}: {old} -> {new}"

    def __str__(self) -> str:
        old, new = self.change
        return f"{self.module.name}.{self.where}:{self.line}  {old}  ->  {new}"


def library() -> list[Module]:
    """Every module of the library, in the order of names."""
    names = [m.name for m in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae.")]
    modules = []
    for name in sorted(n for n in names if not n.endswith("__main__")):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        path = Path(spec.origin).resolve()
        modules.append(Module(name, path, path.read_text()))
    return modules
