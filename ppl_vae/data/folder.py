"""Images of the user's, in a folder."""

import os
from collections.abc import Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset

from ppl_vae.arguments import whole
from ppl_vae.data.arrays import held_out_rows
from ppl_vae.data.dataset import Dataset

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Folder", "Images"]

# As floats: above so many bytes images are read from their files each epoch.
_LARGE = 2**29
# An image has so many pixels at most.
_PIXELS = 2**26
# Formats of the names that torchvision takes. Others have PIL run programs (Ghostscript for EPS),
# and it goes by what a file holds, whatever its name.
_FORMATS = ("PNG", "JPEG", "PPM", "BMP", "TIFF", "WEBP")


class Folder(Dataset):
    r"""Images in a folder, scaled to [0, 1], as torchvision's `ImageFolder` lays them out.

    Sub-folders are classes, by their names; images that lie in the folder itself have none. Two
    sub-folders `train` and `test`, laid out either way, are the training rows and those held out.
    Images are held in memory up to 512 MB of floats, and streamed from their files above.

    Args:
        path: the folder, with images that torchvision reads, such as PNG and JPEG.
        size: height and width of an image, or both at once. Images are scaled to cover it, and
            what is over of their longer side is cut off on both sides alike. By default all must
            have one size.
        crop: cut a square of so many pixels from the middle of each image first.
        grey: turn colours into grey, one channel; otherwise there are three.
        held_out: share of the images kept for testing where there is no `test`.
        seed: which images those are.
        workers: processes that read images that are streamed.

    Raises:
        FileNotFoundError: if there is no such folder, or no image in it.
        ValueError: for a file that is no image or of another size, which is named.

    Example:
        >>> import tempfile; from PIL import Image
        >>> path = Path(tempfile.mkdtemp())
        >>> for k in range(4):
        ...     Image.new("RGB", (12, 9), (60 * k, 0, 0)).save(path / f"{k}.png")
        >>> Folder(str(path), size=8, held_out=0.25)
        Folder(...: 3 training rows, 1 held out, each of shape (3, 8, 8))
    """

    def __init__(
        self,
        path: str,
        size: int | Sequence[int] | None = None,
        crop: int | None = None,
        grey: bool = False,
        held_out: float = 0.1,
        seed: int = 0,
        workers: int = 0,
    ) -> None:
        self.crop, root = crop, Path(path)
        folders = [each.name for each in _folders(root)]
        split = sorted(folders) == ["test", "train"]
        parts = [
            Images(root / part if split else root, size, crop, grey, workers)
            for part in (("train", "test") if split else ("",))
        ]
        classes = parts[0].classes
        if split and parts[1].classes != classes:
            raise ValueError(
                f"{path!r}: train has the classes {classes} and test {parts[1].classes}: give "
                "both the same sub-folders"
            )
        floats = 4 * sum(map(len, parts)) * parts[0].shape.numel()
        given: list[Any] = [*parts]
        if not split:
            train, test = held_out_rows(len(parts[0]), held_out, seed, str(path))
            given = [parts[0].some(rows.tolist()) for rows in (train, test)]
        labels: list[Tensor | None] = [None, None]
        if floats <= _LARGE:
            read = [part.whole() for part in given]
            given, labels = [x for x, _ in read], [y for _, y in read]
        super().__init__(
            given[0],
            given[1],
            labels[0],
            labels[1],
            name=root.resolve().name,
            classes=classes,
            normalise="bytes",
            channels="first",
        )


class Images(TorchDataset[Any]):
    """The images of a folder as bytes, `(c, h, w)`, each with its class if it has one.

    Args:
        path: the folder.
        size: as in `Folder`.
        crop: as in `Folder`.
        grey: as in `Folder`.
        workers: as in `Folder`.

    Attributes:
        classes: the names of the classes, empty if there are none.
        samples: the images' files and classes.
        first: the file that has the shape that all must have.

    Raises:
        FileNotFoundError: if there is no image.
    """

    def __init__(
        self,
        path: str | Path,
        size: int | Sequence[int] | None = None,
        crop: int | None = None,
        grey: bool = False,
        workers: int = 0,
    ) -> None:
        if crop is not None:
            whole(self, crop=crop)
        self._size: tuple[int, int] | None = None
        if size is not None:
            sides = [*size] if isinstance(size, Sequence) else [size, size]
            if len(sides) != 2:
                raise ValueError(f"size is {size}: give height and width, or one number")
            for side in sides:
                whole(self, size=side)
            self._size = (sides[0], sides[1])
        whole(self, 0, workers=workers)
        self._crop, self._grey, self.workers = crop, grey, workers
        found = _image_folder(Path(path))
        self.classes = tuple(name for name in found.classes if name)
        self.samples: list[tuple[str, int]] = found.samples
        self.first = self.samples[0][0]
        self.shape = self._read(self.first).shape

    def some(self, rows: Sequence[int]) -> "Images":
        """Those of the images at some places."""
        other = copy(self)
        other.samples = [self.samples[k] for k in rows]
        return other

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, k: int) -> Any:
        file, label = self.samples[k]
        image = self._read(file)
        if image.shape != self.shape:
            raise ValueError(
                f"{file!r} has {_pixels(image.shape)} pixels where {self.first!r} has "
                f"{_pixels(self.shape)}: give size= to scale them alike"
            )
        return (image, label) if self.classes else image

    def whole(self) -> tuple[Tensor, Tensor | None]:
        """All images, and their classes."""
        items = [self[k] for k in range(len(self))]
        if not self.classes:
            return torch.stack(items), None
        return torch.stack([x for x, _ in items]), torch.tensor([label for _, label in items])

    def _read(self, file: str) -> Tensor:
        from PIL import Image, ImageOps
        from torchvision.transforms.functional import pil_to_tensor

        if not Path(file).is_file():
            raise ValueError(f"{file!r} is no plain file: remove it")
        try:
            with Image.open(file, formats=_FORMATS) as opened:
                if opened.width * opened.height > _PIXELS:
                    raise ValueError(f"it has {opened.width} x {opened.height} pixels")
                image = _eight_bits(ImageOps.exif_transpose(opened))
                image = image.convert("L" if self._grey else "RGB")
        except Exception as error:  # a damaged file fails in PIL in any way
            why = str(error).partition(" '")[0].splitlines()[0]
            raise ValueError(f"{file!r} is not an image that can be read: {why}") from error
        if self._crop is not None:
            left, top = ((side - self._crop) // 2 for side in image.size)
            if min(left, top) < 0:
                raise ValueError(
                    f"{file!r} has {image.height} x {image.width} pixels, too few to crop "
                    f"{self._crop}"
                )
            image = image.crop((left, top, left + self._crop, top + self._crop))
        if self._size is not None:
            height, width = self._size
            image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
        found: Tensor = pil_to_tensor(image)
        return found


def _folders(root: Path) -> list[Path]:
    """The folders in a folder, those that programs leave there aside."""
    if not root.is_dir():
        raise FileNotFoundError(f"there is no folder {str(root)!r}")
    return [each for each in sorted(root.iterdir()) if each.is_dir() and _is_seen(each)]


def _check_links(root: Path) -> None:
    """Refuses folders that are in a folder twice, by a link, as those would be that lead round."""
    seen: dict[Path, str] = {}
    for place, _, _ in os.walk(root, followlinks=True):
        real = Path(place).resolve()
        if real in seen:
            raise ValueError(f"{place!r} is {seen[real]!r} again, by a link: remove one")
        seen[real] = place


def _is_seen(path: Path) -> bool:
    return not path.name.startswith((".", "__"))


def _image_folder(root: Path) -> Any:
    """Torchvision's view of a folder with classes, or of one without as that of a single class."""
    folders = _folders(root)
    _check_links(root)
    # torchvision takes seconds to import, and is so only once there is a folder
    from torchvision.datasets import ImageFolder
    from torchvision.datasets.folder import IMG_EXTENSIONS

    def is_image(file: str) -> bool:
        return _is_seen(Path(file)) and file.lower().endswith(IMG_EXTENSIONS)

    extra = [str(file) for file in sorted(root.iterdir()) if is_image(str(file))]
    if folders and extra:
        raise ValueError(
            f"{extra[0]!r} lies next to the folder {folders[0].name!r}: put all images into "
            "sub-folders, one for each class, or none"
        )
    names = [each.name for each in folders] or [""]

    class Seen(ImageFolder):
        def find_classes(self, directory: str) -> tuple[list[str], dict[str, int]]:
            return names, {name: k for k, name in enumerate(names)}

    try:
        return Seen(str(root), is_valid_file=is_image)
    except FileNotFoundError as error:
        empty = str(error).partition("classes ")[2].partition(".")[0]
        where = f"{str(root)!r}" + (f": {empty}" if empty else "")
        raise FileNotFoundError(
            f"no image in {where}: give PNG, JPEG or the like, or leave that folder out"
        ) from error


def _eight_bits(image: "Image") -> "Image":
    """An image of 16 bits a pixel as one of 8, which PIL would clip."""
    if not image.mode.startswith("I"):
        return image
    import numpy as np
    from PIL import Image

    values = np.asarray(image)
    return Image.fromarray((values >> 8 if values.max() > 255 else values).astype(np.uint8))


def _pixels(shape: torch.Size) -> str:
    return f"{shape[1]} x {shape[2]}"
