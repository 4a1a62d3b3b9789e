"""`make release`: checks the tree, the version and the changelog; builds the wheel; tags.

Nothing is pushed or uploaded. `--dry-run` says what stands in the way, or what would be done.
"""

import ast
import re
import subprocess
import sys
from pathlib import Path


def version(root: Path) -> str:
    """`__version__` of the package, the one place it is written in."""
    for node in ast.parse((root / "ppl_vae" / "__init__.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    raise ValueError("ppl_vae/__init__.py has no __version__")


def sections(changelog: str) -> dict[str, tuple[str, str]]:
    """By version: the date, and what is written under it."""
    heads = [*re.finditer(r"^## \[(.+?)\](?: - (\S+))?$", changelog, re.M)]
    ends = [*(head.start() for head in heads[1:]), len(changelog)]
    return {
        head[1]: (head[2] or "", changelog[head.end() : end].strip())
        for head, end in zip(heads, ends, strict=True)
    }


def faults(root: Path) -> list[str]:
    """What stands in the way of a release, in a line each."""
    new, found = version(root), []
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        found.append(f"ppl_vae.__version__ is {new!r}: a release has three numbers, as 0.2.0")
    written = sections((root / "CHANGELOG.md").read_text())
    date, text = written.get(new, ("", ""))
    if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
        found.append(f"CHANGELOG.md has no heading '## [{new}] - YEAR-MONTH-DAY'")
    elif not re.search(r"^- ", text, re.M):
        found.append(f"CHANGELOG.md says nothing under [{new}]")
    if written.get("Unreleased", ("", ""))[1]:
        found.append(f"CHANGELOG.md has entries under [Unreleased]: move them under [{new}]")
    if changed := _git(root, "status", "--porcelain"):
        found.append(f"the tree has changes: commit {changed.split()[-1]}, or put it away")
    if _git(root, "tag", "--list", f"v{new}"):
        found.append(f"the tag v{new} exists: raise ppl_vae.__version__")
    return found


def main(root: Path, dry: bool) -> int:
    if found := faults(root):
        print("no release:", *found, sep="\n  ")
        return 1
    tag = f"v{version(root)}"
    steps = [["make", "wheel"], ["git", "tag", "--annotate", tag, "--message", f"ppl-vae {tag}"]]
    for step in steps:
        print(*step, flush=True)
        if not dry:
            subprocess.run(step, cwd=root, check=True)
    print(f"then: git push origin {tag}, and upload dist/*.whl")
    return 0


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(["git", *arguments], cwd=root, check=True, capture_output=True, text=True)
    return run.stdout.strip()


if __name__ == "__main__":
    if unknown := [a for a in sys.argv[1:] if a != "--dry-run"]:
        sys.exit(f"release takes --dry-run alone, not {unknown[0]}")
    sys.exit(main(Path.cwd(), "--dry-run" in sys.argv))
