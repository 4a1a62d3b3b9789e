"""Unpacks a wheel into an empty folder and imports every module of it from there."""

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CARRIED = {".py", ".pyi", ".html"}

WALK = """
import importlib, pkgutil, ppl_vae
from pathlib import Path
assert Path(ppl_vae.__file__).is_relative_to({root!r}), ppl_vae.__file__
names = [m.name for m in pkgutil.walk_packages(ppl_vae.__path__, "ppl_vae.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
print(len(names), "modules imported from the wheel")
"""


def main(wheel: str) -> None:
    project = Path(__file__).parents[1]
    sources = {
        path.relative_to(project).as_posix()
        for folder in ("ppl_vae", "guides", "objectives")
        for path in (project / folder).rglob("*.*")
        if path.suffix in CARRIED
    }
    expected = {
        name if name.startswith("ppl_vae/") else f"ppl_vae/{name}"
        for name in sources
        if not name.startswith(("ppl_vae/guides", "ppl_vae/objectives"))
    }
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(folder)
            inside = {
                name
                for name in archive.namelist()
                if Path(name).suffix in CARRIED and ".dist-info" not in name
            }
        if inside != expected:
            raise SystemExit(
                f"missing from the wheel: {sorted(expected - inside)}; "
                f"not in the tree: {sorted(inside - expected)}"
            )
        environment = os.environ | {"PYTHONPATH": folder}
        code = WALK.format(root=os.path.realpath(folder))
        subprocess.run([sys.executable, "-c", code], check=True, cwd=folder, env=environment)


if __name__ == "__main__":
    main(sys.argv[1])
