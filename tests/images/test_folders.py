"""Finding and pairing image files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lorgnette.images.folders import PassedOver, by_folder, find_images, pair_images, walk


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def test_find_images_is_recursive_sorted_and_ignores_case_and_hidden_files(tmp_path: Path):
    touch(tmp_path, "b.PNG", "a.jpeg", "sub/c.Tif", "note.txt", ".hidden.png", ".cache/d.png", "sub/._c.tif")
    found = [path.relative_to(tmp_path).as_posix() for path in find_images(tmp_path)]
    assert found == ["a.jpeg", "b.PNG", "sub/c.Tif"]


def test_find_images_refuses_what_holds_none(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no images in .* \(looked for \.png, "):
        find_images(touch(tmp_path, "note.txt"))
    with pytest.raises(FileNotFoundError, match=r"no such folder: .*absent"):
        find_images(tmp_path / "absent")
    with pytest.raises(ValueError, match=r"note\.txt is a file"):
        find_images(tmp_path / "note.txt")


@pytest.mark.parametrize(
    ("lr", "hr"),
    [
        (["x/1.png", "x/2.png"], ["x/1.jpg", "x/2.png"]),  # as microscope users have them
        (["0801x4.png", "0802x4.png"], ["0801.png", "0802.png"]),  # DIV2K
        (["baby_LR_x4.png", "bird_LR_x4.png"], ["baby_HR_x4.png", "bird_HR_x4.png"]),  # Set5
        (["img_001_SRF_4_LR.png", "img_002_SRF_4_LR.png"], ["img_001_SRF_4_HR.png", "img_002_SRF_4_HR.png"]),
        (["Canon_001_LR4.png", "Canon_002_LR4.png"], ["Canon_001_HR.png", "Canon_002_HR.png"]),  # RealSR
        (["babyx2.png", "birdx2.5.png"], ["baby_GT.bmp", "bird_GT.bmp"]),
    ],
)
def test_pair_images_by_the_names_of_published_data_sets(tmp_path: Path, lr: list[str], hr: list[str]):
    lr_folder, hr_folder = touch(tmp_path / "lr", *lr), touch(tmp_path / "hr", *hr)
    expected = [(lr_folder / a, hr_folder / b) for a, b in zip(lr, hr, strict=True)]
    assert pair_images(lr_folder, hr_folder) == expected


def test_exact_names_win_over_marks(tmp_path: Path):
    """Both scales of one scene in one folder are fine as long as the other folder tells them apart too."""
    names = ["a_x2.png", "a_x4.png"]
    pairs = pair_images(touch(tmp_path / "lr", *names), touch(tmp_path / "hr", *names))
    assert [(a.name, b.name) for a, b in pairs] == [(name, name) for name in names]


def test_pair_images_refuses_what_does_not_match(tmp_path: Path):
    hr = touch(tmp_path / "hr", "a.png", "b.png")
    with pytest.raises(ValueError, match=r"1 images? .* no partner of the same name, for example .*b\.png"):
        pair_images(touch(tmp_path / "one", "ax2.png"), hr)
    with pytest.raises(ValueError, match=r"ax2\.png and .*ax4\.png bear the same name"):
        pair_images(touch(tmp_path / "two", "ax2.png", "ax4.png", "b.png"), hr)
    with pytest.raises(ValueError, match=r"a\.jpg and .*a\.png bear the same name"):
        pair_images(touch(tmp_path / "three", "a.jpg", "a.png"), hr)


def test_a_walk_names_all_that_it_passes_over(tmp_path: Path):
    folder = touch(tmp_path / "in", "a.png", "sub/b.JPG", "note.txt", "d.psd", ".DS_Store", ".git/c.png", "out/e.png")
    touch(tmp_path / "elsewhere", "far.png")
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "linked.png").symlink_to(tmp_path / "elsewhere" / "far.png")
    (folder / "gone.png").symlink_to(tmp_path / "nothing.png")
    touch(folder, ".lorgnette-kept.jsonl")
    names = [[path.relative_to(folder).as_posix() for path in paths] for paths in walk(folder, apart=folder / "out")]
    assert names == [
        ["a.png", "linked.png", "sub/b.JPG"],
        ["d.psd", "gone.png", "note.txt"],
        [".DS_Store", ".git"],
        ["linked"],
    ]


def test_pictures_that_are_not_read_are_told(tmp_path: Path):
    """In all that reads folders: training, scoring, classifying."""
    folder = touch(tmp_path / "in", "a.png", *(f"{n}.psd" for n in range(5)), "labels.csv", ".DS_Store")
    (folder / "linked").symlink_to(tmp_path)
    with pytest.warns(PassedOver) as said:
        assert [path.name for path in find_images(folder)] == ["a.png"]
    told = "5 that cannot be read (0.psd, 1.psd, 2.psd, ...), 1 behind links to folders (linked)"
    assert str(said[0].message) == f"passed over in {folder}: {told}"
    (folder / "a.png").unlink()
    with pytest.raises(FileNotFoundError, match=r"no images in .*; passed over in .*: 5 that cannot be read"):
        find_images(folder)


def test_a_file_belongs_to_the_innermost_of_the_folders(tmp_path: Path):
    files = [tmp_path / "all" / "a.png", tmp_path / "all" / "north" / "b.png", tmp_path / "south" / "c.png"]
    for folders in (["all", "all/north", "south"], ["all/north", "south", "all"]):
        found = by_folder(files, [str(tmp_path / folder) for folder in folders])
        assert found == {"all": [0], "north": [1], "south": [2]}
    assert by_folder(files, [str(tmp_path)]) is None
    same = by_folder([tmp_path / "x/a/1.png"], [str(tmp_path / "x/a"), str(tmp_path / "y/A")])
    assert same == {"1-a": [0], "2-A": []}
