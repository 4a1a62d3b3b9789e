"""A classifier that the library trains on the data itself, and what it says of samples."""

import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional as F

from ppl_vae import files
from ppl_vae.arguments import checked_seed
from ppl_vae.evaluation.estimate import Estimate, share_of
from ppl_vae.evaluation.metric import Inapplicable, Metric, Subject
from ppl_vae.evaluation.pair import Pair
from ppl_vae.evaluation.programs import Data, Program, check_positive, evaluating
from ppl_vae.evaluation.samples import draws
from ppl_vae.pairs.semisupervised import SemiSupervisedVAE
from ppl_vae.state import ready_optimizers

__all__ = ["METRICS", "Classifier", "class_divergence", "classifier_of", "train_classifier"]


class Classifier(nn.Module):
    """A small convolutional net for images, or a perceptron for anything else.

    Args:
        size: the shape of one datum.
        classes: how many.

    Attributes:
        accuracy: on test data, set by `train_classifier`.
        num_features: the width of `features`.
    """

    num_features = 128

    def __init__(self, size: torch.Size, classes: int):
        super().__init__()
        self.size, self.classes = torch.Size(size), classes
        self.accuracy: Estimate | None = None
        image = len(size) in (2, 3) and min(size[-2:]) >= 4
        self.channels = (1 if len(size) == 2 else size[0]) if image else 0
        if image:
            h, w = size[-2] // 4, size[-1] // 4
            self.body = nn.Sequential(
                nn.Conv2d(self.channels, 16, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Conv2d(16, 32, 3, padding=1),
                nn.ReLU(),
                nn.MaxPool2d(2),
                nn.Flatten(),
                nn.Linear(32 * h * w, self.num_features),
                nn.ReLU(),
            )
        else:
            self.body = nn.Sequential(
                nn.Flatten(),
                nn.Linear(math.prod(size), 256),
                nn.ReLU(),
                nn.Linear(256, self.num_features),
                nn.ReLU(),
            )
        self.head = nn.Linear(self.num_features, classes)

    def features(self, x: Tensor) -> Tensor:
        """The last hidden layer, `(n, num_features)`."""
        shape = (self.channels, *self.size[-2:]) if self.channels else self.size
        return self.body(x.reshape(-1, *shape))

    def forward(self, x: Tensor) -> Tensor:
        """Logits `(n, classes)` of data `(n, *size)`."""
        return self.head(self.features(x))

    @torch.no_grad()
    def predict(self, x: Tensor, block: int = 1024) -> Tensor:
        """Class indices `(n,)`."""
        return torch.cat([self(rows).argmax(1) for rows in x.split(block)])


def train_classifier(
    train: Tensor,
    train_labels: Tensor | None,
    test: Tensor,
    test_labels: Tensor | None,
    cache: str | Path | None = None,
    steps: int = 1500,
    batch: int = 128,
    seed: int = 0,
) -> Classifier:
    """Trains a classifier on labelled data, or takes the one trained on the same data before.

    It is used by `class_divergence` and as the feature network of `fid` and `kid`. Its test
    accuracy is in `accuracy`: a divergence below the classifier's own errors means nothing.
    The caller's random state is left as it was.

    Args:
        train: `(n, *size)`.
        train_labels: `(n,)` class indices.
        test: `(m, *size)`.
        test_labels: `(m,)`.
        cache: a folder to keep the weights in (safetensors), under a name made of the data, the
            labels and the settings.
        steps: of Adam at learning rate 1e-3.
        batch: rows per step.
        seed: of the weights and batches.

    Raises:
        ValueError: for labels that are missing or do not match.
    """
    if train_labels is None or test_labels is None:
        raise ValueError("a classifier needs labels: these data have none")
    if len(train) != len(train_labels) or len(test) != len(test_labels):
        raise ValueError("a classifier needs one label for each datum")
    check_positive(steps=steps, batch=batch)
    net_size, classes = train.shape[1:], int(train_labels.max()) + 1
    settings = {"steps": steps, "batch": batch, "seed": seed}
    path = None if cache is None else Path(cache) / _name(train, train_labels, test, settings)
    devices = [train.device] if train.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(checked_seed(seed))
        net = Classifier(net_size, classes).to(train.device)
        if path is None or not _load(net, path):
            _fit(net, train, train_labels, steps, batch)
            net.eval()
            net.accuracy = _accuracy(net, test, test_labels)
            if path is not None:
                _save(net, path)
    return net.eval().requires_grad_(False)


def class_divergence(
    model: Program,
    guide: Program,
    x: Data,
    classifier: nn.Module,
    labels: Tensor | None = None,
    num_samples: int = 10_000,
    block: int | None = 1024,
    plate: str | None = None,
) -> Estimate:
    r"""How far the classes of generated data are from those of the data, in nats.

    $$\mathrm{KL}(\hat p \,\|\, \pi) = \sum_c \hat p_c \log \frac{\hat p_c}{\pi_c}$$

    with $\hat p$ the classifier's histogram over samples from the model and $\pi$ the labels'
    (uniform without labels). The plug-in value is too large by about (C - 1) / 2m for C classes
    and m samples, which the note gives; the standard error has the second order too, so that it
    is not too small at $\hat p = \pi$ (there it is up to half too large, with two classes). The
    value is infinite, without error, where a class appears that no label has.

    Args:
        model: the generative program.
        guide: the encoder program.
        x: rows of data; see `generate`.
        classifier: from `train_classifier`, or any module with logits `(n, C)` of data.
        labels: `(n,)`, whose frequencies are the reference.
        num_samples: m.
        block: samples held at once.
        plate: the data plate's name, where the pair leaves a choice.

    References:
        Zhao, Song and Ermon (2017), InfoVAE, arXiv:1706.02262, figure 3 C.
    """
    check_positive(num_samples=num_samples, block=block)
    pair = Pair(model, guide, x, plate, block)
    found = []
    with evaluating(model, guide, classifier):
        for images in draws(pair, num_samples):
            logits = classifier(images)
            found.append(torch.bincount(logits.argmax(1), minlength=logits.shape[1]))
    counts = torch.stack(found).sum(0).double()
    classes = len(counts)
    share = counts / num_samples
    reference = torch.full_like(share, 1 / classes)
    if labels is not None:
        reference = torch.bincount(labels, minlength=classes).to(share) / len(labels)
    ratio = torch.where(share > 0, torch.log(share / reference), 0.0)
    value = float((share * ratio).sum())
    bias = (classes - 1) / (2 * num_samples)
    # At equality the histogram's own noise gives the spread of log-ratios (C - 1) / m.
    spread = float((share * ratio.square()).sum()) - value**2
    variance = max(spread - 2 * bias, 0.0) / num_samples + bias / num_samples
    error = math.sqrt(variance) if math.isfinite(value) else None
    note = f"{num_samples} samples, bias about {bias:.1g}"
    accuracy = getattr(classifier, "accuracy", None)
    if isinstance(accuracy, Estimate):
        note += f", classifier right on {accuracy.value:.4f} of the test data"
    return Estimate(value, error, error, note=note)


def _fit(net: Classifier, x: Tensor, labels: Tensor, steps: int, batch: int) -> None:
    ready_optimizers()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    with torch.enable_grad():
        for _ in range(steps):
            rows = torch.randint(len(x), (min(batch, len(x)),), device=x.device)
            loss = F.cross_entropy(net(x[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def _accuracy(net: Classifier, x: Tensor, labels: Tensor) -> Estimate:
    right = float((net.predict(x) == labels).double().mean())
    return share_of(right, len(x))


def _name(train: Tensor, labels: Tensor, test: Tensor, settings: dict[str, int]) -> str:
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for tensor in (train, labels, test):
        digest.update(str((tuple(tensor.shape), tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return f"classifier-{digest.hexdigest()[:16]}.safetensors"


def _save(net: Classifier, path: Path) -> None:
    assert net.accuracy is not None
    kept = json.dumps([net.accuracy.value, net.accuracy.data_error])
    files.folder(path.parent)
    files.write_bytes(path, save(net.state_dict(), metadata={"accuracy": kept}))


def _load(net: Classifier, path: Path) -> bool:
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            value, error = json.loads((file.metadata() or {})["accuracy"])
            net.load_state_dict({key: file.get_tensor(key) for key in list(file.keys())})
    except (SafetensorError, KeyError, ValueError, RuntimeError):
        return False  # not ours, or of another version: trained anew and replaced
    net.accuracy = Estimate(value, 0.0, error)
    return True


def classifier_of(subject: Subject) -> Classifier:
    """One trained on the training rows of known class."""
    if subject.data.test is None:
        raise ValueError("a classifier needs held-out rows, and these data have none")
    (seen, classes), (told, truth) = subject.known("train"), subject.known("test")
    train, device = subject.arguments("train")[0], subject.x.device
    if bool(train.isnan().any()) or bool(subject.x.isnan().any()):
        raise ValueError("a classifier of rows needs all of their values, and some are missing")
    return train_classifier(
        *(train[seen], classes.to(device), subject.x[told], truth.to(device)),
        seed=subject.effort.seed,
    )


def _class_divergence(subject: Subject) -> Estimate:
    net = subject.once(classifier_of)
    labels = subject.known("train")[1].to(subject.x.device)
    return class_divergence(*subject.pair, subject.args, net, labels=labels)


def _own(subject: Subject) -> Estimate:
    """The accuracy of the classifier of a `SemiSupervisedVAE`, over rows of known class."""
    pair = next((m for m in subject.modules if isinstance(m, SemiSupervisedVAE)), None)
    if pair is None:
        raise Inapplicable("the pair has no classifier of its own")
    told, truth = subject.known(subject.data.held_out)
    with evaluating(pair):
        found = torch.cat([pair.classify(x).argmax(-1) for x in subject.x[told].split(1024)])
    right = found == truth.to(found.device)
    return share_of(float(right.double().mean()), len(right))


METRICS = (
    Metric(
        "accuracy", "The model's own classifier", "share right", "", "labels", _own, when="fit"
    ),
    Metric(
        "class_divergence",
        "Class divergence of samples",
        "nats",
        "0 where classes are as frequent as in data",
        "samples",
        _class_divergence,
        when="asked",
    ),
)
