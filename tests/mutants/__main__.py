"""The command line of `make mutants`."""

import argparse
import sys
import tempfile
import tomllib
from pathlib import Path

from mutants.faults import written
from mutants.operators import draw
from mutants.relevance import Relevance
from mutants.run import Outcome, Tests
from mutants.source import Mutant, library

ROOT = Path(__file__).resolve().parents[2]
REASONS = Path(__file__).with_name("explained.toml")
LEAST = 0.95
NEAREST = 8  # test files a fault is tried on


def main() -> int:
    """Prints each fault with the test that caught it, then shares and survivors."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    parser.add_argument("--number", type=int, default=60, help="faults by operators")
    parser.add_argument("--jobs", type=int, default=2, help="faults tried at a time")
    parser.add_argument("--only", default="", help="part of a module's or function's full name")
    parser.add_argument("--list", action="store_true", help="show faults and tests, run nothing")
    given = parser.parse_args()

    modules = library()
    chosen = [m for m in written(modules) if given.only in f"{m.module.name}.{m.where}"]
    hand = len(chosen)
    chosen += draw(modules, given.number, given.seed, given.only)
    if not chosen:
        parser.error(f"no fault is in a function whose full name has {given.only!r}")
    print(f"seed {given.seed}: {hand} faults by hand, {len(chosen) - hand} by operators")
    relevance = Relevance(modules, ROOT / "tests")
    work = [(mutant, relevance.files(mutant, NEAREST)) for mutant in chosen]
    if given.list:
        for mutant, files in work:
            print(f"{mutant.operator}: {mutant}  {' '.join(files[:3])}")
        return 0
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for outcome in Tests(ROOT, Path(folder), given.jobs).outcomes(work):
            outcomes.append(outcome)
            _show(outcome)
    return _conclude(outcomes, tomllib.loads(REASONS.read_text()))


def _show(outcome: Outcome) -> None:
    verdict = "SURVIVED" if outcome.test is None else "caught  "
    by = "" if outcome.test is None else f"{outcome.test}, "
    mutant = outcome.mutant
    print(f"{verdict} {mutant}  [{mutant.operator}; {by}{outcome.seconds:.0f} s]", flush=True)


def _conclude(outcomes: list[Outcome], reasons: dict[str, str]) -> int:
    """Prints shares and survivors; the exit status."""
    lost = [o.mutant for o in outcomes if o.test is None]
    counted = [o for o in outcomes if o.test is not None or o.mutant.key not in reasons]
    caught = sum(o.test is not None for o in counted)
    by_area: dict[str, list[bool]] = {}
    for outcome in counted:
        by_area.setdefault(str(outcome.mutant.module.area), []).append(outcome.test is not None)
    print()
    for area, hits in sorted(by_area.items()):
        print(f"{area}: {sum(hits)} of {len(hits)} caught")
    print(f"all: {caught} of {len(counted)} caught, {len(outcomes) - len(counted)} explained")
    for mutant in lost:
        _explain(mutant, reasons)
    return int(caught < LEAST * len(counted))


def _explain(mutant: Mutant, reasons: dict[str, str]) -> None:
    print(f"\nsurvivor {mutant}\n  {reasons.get(mutant.key, 'NOT EXPLAINED')}")
    if mutant.key not in reasons:
        print(f"  key: {mutant.key!r}")


if __name__ == "__main__":
    sys.exit(main())
