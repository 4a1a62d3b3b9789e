"""Folders of images and files that stay on disk."""

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ppl_vae import BetaVAE, Experiment, load
from ppl_vae.cli import main
from ppl_vae.data import Arrays, Folder

RNG = np.random.default_rng(0)


def picture(path: Path, size: tuple[int, int] = (12, 16), **options: Any) -> np.ndarray[Any, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return pixels


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pictures")
    for name in ("cats", "dogs"):
        for k in range(10):
            picture(root / name / f"{k}.{'png' if k % 2 else 'jpg'}")
    picture(root / ".thumbnails" / "small.png")
    (root / "cats" / "._0.png").write_bytes(b"no image")
    (root / "cats" / "readme.txt").write_text("no image")
    return root


def test_sub_folders_are_classes_and_pixels_are_those_of_the_files(folder: Path) -> None:
    data = Folder(str(folder), held_out=0.25)
    assert data.classes == ("cats", "dogs")
    assert (len(data), data.size) == (15, (3, 12, 16))
    assert data.test_labels is not None
    labels = torch.cat([data.train_labels, data.test_labels])  # type: ignore[list-item]
    assert labels.bincount().tolist() == [10, 10]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))[5:]
    files = sorted(folder.glob("*s/?.*"))
    k = next(i for i in range(15) if files[order[i]].suffix == ".png")
    expected = np.asarray(Image.open(files[order[k]])).transpose(2, 0, 1) / 255
    np.testing.assert_allclose(data.train[k].numpy(), expected, atol=1e-6)


def test_size_crop_and_grey(folder: Path, tmp_path: Path) -> None:
    assert Folder(str(folder), size=8).size == (3, 8, 8)
    assert Folder(str(folder), size=[6, 8], grey=True).size == (1, 6, 8)
    assert Folder(str(folder), crop=10).size == (3, 10, 10)
    pixels = [picture(tmp_path / f"{k}.png", (10, 20)) for k in range(2)]
    data = Folder(str(tmp_path), size=10, held_out=0.5)  # as high, cut at the sides
    found = torch.cat([data.train, data.test])  # type: ignore[list-item]
    cut = [p[:, 5:15].transpose(2, 0, 1) / 255 for p in pixels]
    for image in cut:
        assert min(float((x - torch.from_numpy(image)).abs().max()) for x in found) < 1e-6
    assert data.train_labels is None
    assert data.classes == ()


def test_train_and_test_sub_folders_are_the_parts(tmp_path: Path) -> None:
    for part, n in (("train", 5), ("test", 3)):
        for k in range(n):
            picture(tmp_path / part / f"{k}.png")
    data = Folder(str(tmp_path))
    assert data.test is not None
    assert (len(data.train), len(data.test)) == (5, 3)
    for part in ("train", "test"):
        picture(tmp_path / "both" / part / "a" / "0.png")
    picture(tmp_path / "both" / "test" / "b" / "0.png")
    with pytest.raises(ValueError, match=r"train has the classes .* give both the same"):
        Folder(str(tmp_path / "both"))


def test_sixteen_bits_and_turned_photographs(tmp_path: Path) -> None:
    deep = (np.arange(60).reshape(6, 10) * 1000).astype(np.uint16)
    for k in range(2):
        Image.fromarray(deep).save(tmp_path / f"{k}.png")
    found = Folder(str(tmp_path), held_out=0.5, grey=True).train[0, 0]
    np.testing.assert_allclose(found.numpy(), deep / 65535, atol=1 / 255)
    turned = Image.Exif()
    turned[0x0112] = 6  # held upright, the camera lying
    for k in range(2):
        picture(tmp_path / "jpeg" / f"{k}.jpg", (8, 16), exif=turned)
    assert Folder(str(tmp_path / "jpeg"), held_out=0.5).size == (3, 16, 8)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_large_folder_is_streamed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    small = Folder(str(folder), size=8)
    monkeypatch.setattr("ppl_vae.data.folder._LARGE", 1)
    data = Folder(str(folder), size=8, workers=workers)
    assert set(data.streams) == {"train", "test"}
    assert torch.equal(data.train, small.train)
    assert torch.equal(data.test_labels, small.test_labels)  # type: ignore[arg-type]
    bad = folder / "dogs" / "bad.png"
    bad.write_bytes(b"no image")
    try:
        with pytest.raises(ValueError, match=r"dogs/bad.png' is not an image") as error:
            Folder(str(folder), size=8, workers=workers)
    finally:
        bad.unlink()
    assert "\n" not in str(error.value)


def test_folders_that_are_refused_in_one_line(folder: Path, tmp_path: Path) -> None:
    whole = tmp_path / "a" / "0.png"
    picture(whole, (30, 30))
    torn = tmp_path / "a" / "1.png"
    torn.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(ValueError, match=r"1.png' is not an image that can be read"):
        Folder(str(tmp_path), held_out=0.5)
    picture(torn, (9, 16))
    with pytest.raises(ValueError, match=r"has 9 x 16 pixels where .*0.png' has 30 x 30: give si"):
        Folder(str(tmp_path), held_out=0.5)
    with pytest.raises(ValueError, match="too few to crop 20"):
        Folder(str(tmp_path), crop=20, held_out=0.5)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no image in .*: empty"):
        Folder(str(tmp_path))
    picture(tmp_path / "beside.png")
    with pytest.raises(ValueError, match=r"beside.png' lies next to the folder 'a'"):
        Folder(str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no folder"):
        Folder(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="no image in"):
        Folder(str(tmp_path / "empty"))


def test_no_program_is_run_for_an_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PIL goes by what a file holds, and has Ghostscript run what an EPS file says."""
    from PIL import EpsImagePlugin

    ran: list[object] = []
    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", lambda *args, **_: ran.append(args))
    held = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for k in range(4):
        (tmp_path / f"{k}.png").write_bytes(held)
    with pytest.raises(ValueError, match=r"0.png' is not an image that can be read"):
        Folder(str(tmp_path), held_out=0.25)
    assert not ran


@pytest.mark.parametrize("streamed", [False, True])
def test_from_flags_to_codes_of_a_new_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamed: bool
) -> None:
    """Cut and scaled as in training; the codes are those of the same rows in memory."""
    if streamed:
        monkeypatch.setattr("ppl_vae.data.folder._LARGE", 1)
    words = f"fit --data Folder --data.path {folder} --data.size 8 --data.crop 10 --data.grey true"
    more = f"--dim 2 --epochs 1 --out {tmp_path / 'run'}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert main([*words.split(), *more.split()]) == 0
        new = tmp_path / "new"
        for k in range(3):
            picture(new / f"{k}.png", (20, 30))
        out = tmp_path / "codes.npy"
        assert main(f"encode {tmp_path / 'run'} --data {new} --out {out}".split()) == 0
        run = load(tmp_path / "run")
        rows = Folder(str(new), 8, 10, grey=True, held_out=0.4)
        found = {tuple(code) for code in np.load(out).round(4).tolist()}
        both = torch.cat([rows.train, rows.test])  # type: ignore[list-item]
        expected = run.encode((both * 255).round().to(torch.uint8))
        assert found == {tuple(code) for code in expected.numpy().round(4).tolist()}
        assert run.encode(str(new)).shape == (3, 2)
        assert run.reconstruct(str(new)).max() > 1  # in bytes
        (tmp_path / "none").mkdir()
        words = f"encode {tmp_path / 'run'} --data {tmp_path / 'none'} --out {out}"
        assert main(words.split()) == 2


def test_a_path_is_for_images() -> None:
    from ppl_vae.data import TwoPoints
    from ppl_vae.likelihoods import Normal

    run = Experiment(TwoPoints(10), BetaVAE(), 1, likelihood=Normal)
    with pytest.raises(ValueError, match="a path, which is for images"):
        run.encode("pictures")


# Files that stay on disk


@pytest.mark.parametrize("kind", ["<f4", ">f8", "u1"])
def test_a_large_file_trains_as_its_rows(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = RNG.integers(0, 256, (300, 2, 4, 4)).astype(kind)
    np.save(tmp_path / "x.npy", rows)
    small = Arrays(str(tmp_path / "x.npy"))
    monkeypatch.setattr("ppl_vae.data.arrays._LARGE", 1000)
    data = Arrays(str(tmp_path / "x.npy"))
    assert set(data.streams) == {"train", "test"}
    assert not small.streams
    assert data.transform == small.transform
    assert (len(data), data.size) == (len(small), small.size)
    for part in ("train", "test"):
        passed = torch.cat([x for (x,) in data.batches(part).batches(64)])
        expected = small.arguments(part)[0]
        order = [x.flatten(1)[:, :6].double().numpy() for x in (passed, expected)]
        keys = [np.lexsort(each.T) for each in order]
        torch.testing.assert_close(passed[keys[0]], expected[keys[1]])


def test_a_file_that_stays_on_disk_takes_no_memory(tmp_path: Path) -> None:
    """A pass over 200 MB leaves its pages behind."""
    import resource

    path = tmp_path / "large.npy"
    large = np.lib.format.open_memmap(path, mode="w+", dtype="f4", shape=(50_000, 1000))
    large[:, 0] = np.arange(50_000)
    del large

    def mapped() -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    if not Path("/proc/self/status").exists():
        pytest.skip("no /proc here")
    files, before = mapped(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    data = Arrays(str(path))
    total = sum(float(x[:, 0].double().sum()) for (x,) in data.batches("train").batches(500))
    total += sum(float(x[:, 0].double().sum()) for (x,) in data.batches("test").batches(500))
    assert total == 50_000 * 49_999 / 2
    assert mapped() - files < 20_000
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024 < 120
    assert math.isclose(float(data.streams["train"].moments.high[1]), 0.0)
