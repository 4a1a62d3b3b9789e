"""Hand-written faults: slips that a reader would not see and that no operator makes."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from mutants.source import Module, Mutant


@dataclass(frozen=True)
class Fault:
    """A piece of a function and what to put in its place.

    Attributes:
        what: the fault in words.
        where: qualified name of the function, in whatever module.
        old: Python text that occurs once in it; white space does not count.
        new: its replacement.
    """

    what: str
    where: str
    old: str
    new: str


FAULTS = (
    Fault(
        "SVM fitted to training and test rows",
        "svm_probe",
        "(train[rows], target[rows], test, truth)",
        "(np.concatenate([train[rows], test]), np.concatenate([target[rows], truth]), "
        "test, truth)",
    ),
    Fault(
        "SVM that sees all labels",
        "svm_probe",
        "(train[rows], target[rows], test, truth)",
        "(train, target, test, truth)",
    ),
    Fault("unscaled linear probe", "linear_probe", "StandardScaler(), Log", "Log"),
    Fault(
        "SAP scored on training rows",
        "sap",
        "machine.predict(column[test, None]) == factor[test]",
        "machine.predict(column[train, None]) == factor[train]",
    ),
    Fault(
        "DCI scored on training rows",
        "dci",
        "forest.predict(z[test]) == factor[test]",
        "forest.predict(z[train]) == factor[train]",
    ),
    Fault(
        "FactorVAE's dimensions assigned on the votes that are scored",
        "factor_vae_score",
        "chosen = table[0]",
        "chosen = table[1]",
    ),
    Fault(
        "DCI's entropy in the base of the other axis",
        "_concentration",
        "math.log(max(importance.shape[1], 2))",
        "math.log(max(importance.shape[0], 2))",
    ),
    Fault(
        "KID's error as if subsets did not overlap",
        "_kid_variance",
        "return whole + max(",
        "return max(",
    ),
    Fault(
        "distortion's Monte Carlo error from the spread between data",
        "_terms",
        "mean_over_rows(cost, note",
        "mean_over_rows(cost.mean(1, keepdim=True), note",
    ),
    Fault(
        "leave-one-out bound of the information with log M",
        "mutual_information",
        "math.log(m - 1)",
        "math.log(m)",
    ),
    Fault(
        "MMD's error at q = p without half of the noise of a sampled prior",
        "MMDTerms.variance",
        "4 * zy / (n * m)",
        "2 * zy / (n * m)",
    ),
    Fault("k-hat's threshold by ln", "threshold", "math.log10(count)", "math.log(count)"),
    Fault(
        "predictive p-value that leaves ties out",
        "predictive_check",
        "+ (v == observed[k]).mean() / 2",
        "",
    ),
    Fault(
        "contraction's variance by L", "simulated_ranks", "(draws - 1)).numpy()", "draws).numpy()"
    ),
    Fault("covariance of a chain by K", "_averaged", "(num_samples - 1)", "num_samples"),
    Fault(
        "validation loss with new noise each time",
        "Training.validate",
        "here().seeded(seed)",
        "here().alike()",
    ),
    Fault(
        "training of a pair left in evaluation mode",
        "Training.epoch",
        "module.train()",
        "pass",
    ),
    Fault(
        "schedule that is the step itself",
        "Objective.at_step",
        "weight(self.step.clone())",
        "weight(self.step)",
    ),
)


def written(modules: Sequence[Module]) -> list[Mutant]:
    """The hand-written faults, in the order of `FAULTS`.

    Raises:
        LookupError: for a fault whose function or piece of text is not there any more.
    """
    return [_locate(number, fault, modules) for number, fault in enumerate(FAULTS, 1)]


def _locate(number: int, fault: Fault, modules: Sequence[Module]) -> Mutant:
    pattern = _pattern(fault.old)
    found = []
    for module in modules:
        node = module.definitions.get(fault.where)
        if node is not None:
            start, end = module.span(node)
            for match in pattern.finditer(module.raw, start, end):
                span = match.span()
                found.append(Mutant(module, fault.where, fault.what, *span, fault.new))
    if len(found) != 1:
        raise LookupError(
            f"fault {number} ({fault.what}) no longer applies: {fault.old!r} is {len(found)} "
            f"times in {fault.where}; rewrite it in {__name__}"
        )
    return found[0]


def _pattern(text: str) -> re.Pattern[bytes]:
    """The text's words and signs with any white space between them, also where a line ends."""
    words = re.findall(r"\w+|[^\w\s]", text)
    pieces = []
    for word in words:
        # Formatting puts a comma before a closing bracket of its own line.
        pieces.append((",?\\s*" if word in ")]}" else "") + re.escape(word))
    return re.compile("\\s*".join(pieces).encode())
