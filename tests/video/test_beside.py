"""All that a clip holds beside its pictures is kept, or named: no container loses it in silence."""

from __future__ import annotations

import re
import struct
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest
from tests.video.clips import decoded, make_clip, packets, scene
from tests.video.rich import MIRRORED, ONE, found, rich_clip
from tests.video.tasks import frames_folder, interrupted, refusal

from lorgnette.images.file import Image, write_image
from lorgnette.train.task import Task
from lorgnette.video.codecs import CONTAINERS
from lorgnette.video.enhance import enhance_video
from lorgnette.video.read import read_clip

# What a note says where a property is gone.
NAMED = {
    "sound": "audio (",
    "subtitles": "subtitle (",
    "title and artist": "tag title, tag",
    "a tag of one's own": "tag my_own",
    "tags of QuickTime": "tag com.apple.quicktime.make",
    "chapters": "2 chapters",
    "languages of the sound": "language ger of the audio",
    "titles of the sound": "title the director of the audio",
    "title of the pictures": "title the stage of the video",
    "marks of the sound": "mark comment of the audio",
    "marks of the subtitles": "mark forced of the subtitle",
    "timecode": "timecode 01:02:03:04",
    "cover picture": "cover picture (png)",
    "attached font": "attachment font.ttf",
    "pixel aspect": "pixel aspect 4/3",
    "rotation and mirroring": "mirroring left to right",
    "mastering display (HDR10)": "mastering display of 1000 cd/m2",
    "light level (HDR10)": "light level of 900 cd/m2",
}
OF_A_STREAM = {
    "languages of the sound": "sound",
    "titles of the sound": "sound",
    "marks of the sound": "sound",
    "marks of the subtitles": "subtitles",
}
PAGE = Path(__file__).parents[2] / "docs" / "what-is-kept-clips.md"


def verdict(name: str, before: dict[str, object], after: dict[str, object], notes: str) -> str:
    """'kept' or 'named'; '' where there was nothing to keep, or its stream is gone. What is neither fails."""
    stream = OF_A_STREAM.get(name, name)
    if not before[name] or (stream != name and after.get(stream) != before[stream]):
        return ""
    if after.get(name) == before[name]:
        return "kept"
    assert NAMED[name] in notes, f"{name} is gone in silence: {notes}"
    return "named"


@pytest.fixture(scope="module")
def table(cleaner: Task, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, str]]:
    """Property -> kind of output -> 'kept', 'named', or both by the source's container."""
    folder = tmp_path_factory.mktemp("rich")
    rows: dict[str, dict[str, str]] = {}
    sources = [rich_clip(folder / f"in{suffix}") for suffix in (".mkv", ".mp4", ".mov")]
    for source in (*sources, rich_clip(folder / "opus.mkv", sound="libopus")):
        before: dict[str, Any] = found(source)
        for kind in (*CONTAINERS, "frames"):
            done = enhance_video(cleaner, source, folder / f"{source.name.replace('.', '-')}-to{kind}", overwrite=True)
            after = found(done.path) if done.path.is_file() else {}
            for name in NAMED:
                if here := verdict(name, before, after, "\n".join(done.notes)):
                    shown = f"{name}: {before[name][0]}" if name in ("sound", "subtitles") else name
                    row = rows.setdefault(shown, {})
                    row[kind] = here if row.get(kind, here) == here else "kept or named"
    places = list(NAMED)
    return dict(sorted(rows.items(), key=lambda row: places.index(row[0].partition(":")[0])))


def test_what_each_container_keeps_is_on_its_page(table: dict[str, dict[str, str]]):
    """The page's table is what the files say."""
    kinds = [*CONTAINERS, "frames"]
    cells = [["beside the picture", *kinds], ["---"] * (1 + len(kinds))]
    cells += [[name, *(row.get(kind, "") for kind in kinds)] for name, row in table.items()]
    lines = [f"| {' | '.join(line)} |" for line in cells]
    assert "\n".join(lines) in PAGE.read_text(encoding="utf-8"), "\n" + "\n".join(lines)


def test_what_matroska_holds_comes_back_from_matroska(table: dict[str, dict[str, str]]):
    names = set(table) - {"tags of QuickTime", "subtitles: mov_text"}
    assert {name: table[name][".mkv"] for name in names} == dict.fromkeys(names, "kept")


def test_marks_and_titles_of_each_stream_stay_with_it(cleaner: Task, tmp_path: Path):
    source = rich_clip(tmp_path / "in.mkv")
    done = enhance_video(cleaner, source, tmp_path / "out.mkv")
    assert (done.notes, found(done.path)) == ([], found(source))


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize(
    ("a", "b", "c", "d"),
    [(-1, 0, 0, 1), (-1, 0, 0, -1), (1, 0, 0, -1), (0, 1, 1, 0), (0, 1, -1, 0), (0, -1, -1, 0), (0, -1, 1, 0)],
)
def test_all_orientations(cleaner: Task, suffix: str, a: int, b: int, c: int, d: int, tmp_path: Path):
    matrix = (a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30)
    source = make_clip(tmp_path / "in.mp4", scene(1, (36, 48)), matrix=matrix)
    done = enhance_video(cleaner, source, tmp_path / f"out{suffix}")
    assert done.notes == []
    assert found(done.path)["rotation and mirroring"] == matrix


def test_a_shift_within_the_display_matrix_does_not_matter(cleaner: Task, tmp_path: Path):
    """Telephones write one, in pixels of the clip as it was."""
    turned = (0, ONE, 0, -ONE, 0, 0, 36 << 16, 0, 1 << 30)
    source = make_clip(tmp_path / "in.mp4", scene(1, (36, 48)), matrix=turned)
    done = enhance_video(cleaner, source, tmp_path / "out.mp4")
    assert found(done.path)["rotation and mirroring"] == (0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30)
    plain = make_clip(tmp_path / "plain.mp4", scene(1, (36, 48)), matrix=(ONE, 0, 0, 0, ONE, 0, 0, 0, 1 << 30))
    assert read_clip(plain).display is None


@pytest.mark.parametrize(("codec", "kept"), [("h264", True), ("hevc", True), ("av1", True), ("vp9", False)])
def test_mastering_display_and_light_level_by_codec(cleaner: Task, codec: str, kept: bool, tmp_path: Path):
    source = rich_clip(tmp_path / "in.mkv", matrix=MIRRORED)
    done = enhance_video(cleaner, source, tmp_path / "out.mkv", codec=codec)
    before, after = found(source), found(done.path)
    notes = "\n".join(done.notes)
    for name in ("mastering display (HDR10)", "light level (HDR10)"):
        same = after[name] == (pytest.approx(before[name], abs=2e-3) if name[0] == "m" else before[name])
        assert same == kept
        assert (NAMED[name] in notes) != kept


def test_what_comes_with_single_frames_is_named(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from lorgnette.video import read

    source = make_clip(tmp_path / "in.mp4", scene(3, (36, 48)))
    real, asked = read.beside.of_frame, []

    def captioned(frame: av.VideoFrame) -> tuple[str, ...]:
        asked.append(frame)
        return (*real(frame), "closed captions") if frame.pts else ()

    monkeypatch.setattr(read.beside, "of_frame", captioned)
    said = "closed captions of 2 frames not kept in .mp4"
    interrupted(cleaner, source, tmp_path / "out.mp4", 3)  # all frames are done; the file is not written
    count = len(asked)
    assert enhance_video(cleaner, source, tmp_path / "out.mp4").notes == [said]
    assert [frame.pts for frame in asked[count:]] == [
        0,
        0,
    ]  # of both files; an earlier run has noted the rest


def test_the_mark_of_a_stereo_picture_is_kept_or_named(cleaner: Task, tmp_path: Path):
    source = make_clip(tmp_path / "in.mkv", scene(2, (36, 48)), of_video={"stereo_mode": "left_right"})
    assert enhance_video(cleaner, source, tmp_path / "out.mkv").notes == []
    assert read_clip(tmp_path / "out.mkv").of_frame == ("the mark of a stereo picture",)
    notes = enhance_video(cleaner, source, tmp_path / "out.mp4").notes
    assert "the mark of a stereo picture of 2 frames not kept in .mp4" in notes


def test_side_data_have_names(tmp_path: Path):
    class Kind(bytes):
        def __new__(cls, name: str, flags: tuple[int, int] = (1, 1)):
            kind = super().__new__(cls, bytes(80) + struct.pack("=2i", *flags))
            kind.type = type("", (), {"name": name})  # type: ignore[attr-defined]
            return kind

    class Frame:
        side_data = (*map(Kind, ("A53_CC", "DISPLAYMATRIX", "DOVI_METADATA", "DOVI_RPU_BUFFER", "AMBIENT_LIGHT")),)

    from lorgnette.video.beside import of_frame

    frame: Any = Frame()
    assert of_frame(frame) == ("Dolby Vision metadata", "ambient light", "closed captions")
    for flags, said in (((1, 1), ()), ((0, 1), ("incomplete mastering display",))):
        frame.side_data = [Kind("MASTERING_DISPLAY_METADATA", flags)]
        assert of_frame(frame) == said


def test_profiles_of_frames_are_named_in_a_video_file_and_kept_in_a_folder(cleaner: Task, tmp_path: Path):
    import PIL.ImageCms

    profile = PIL.ImageCms.ImageCmsProfile(PIL.ImageCms.createProfile("sRGB")).tobytes()
    for number, pixels in enumerate(scene(2, (24, 32))):
        write_image(tmp_path / "in" / f"{number}.png", Image(pixels, icc=profile))
    said = enhance_video(cleaner, tmp_path / "in", tmp_path / "out.mp4").notes
    assert said == ["colour profile of 2 frames not kept in .mp4"]
    assert enhance_video(cleaner, tmp_path / "in", tmp_path / "out").notes == []


def test_what_of_a_folder_is_no_frame_is_named(cleaner: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in", 2)
    (source / "note.txt").touch()
    (source / ".hidden.png").touch()
    (source / "more.png").mkdir()
    said = f"passed over in {source}: 1 of other kinds (note.txt), 1 subfolders (more.png), 1 hidden (.hidden.png)"
    assert enhance_video(cleaner, source, tmp_path / "out.mp4").notes == [said]


def test_other_files_in_the_folder_of_the_frames_are_named(cleaner: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in", 2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "12.png").write_text("of a longer clip")
    done = enhance_video(cleaner, source, tmp_path / "out", overwrite=True)
    assert done.notes == [f"1 other files in {tmp_path / 'out'} were left as they are"]
    assert sorted(path.name for path in done.path.iterdir()) == ["12.png", "8.png", "9.png"]


def test_what_is_there_is_replaced_where_that_is_asked_for_or_was(cleaner: Task, tmp_path: Path):
    source, target = make_clip(tmp_path / "in.mp4", scene(3, (36, 48))), tmp_path / "out.mp4"
    target.write_text("somebody's")
    assert "is there already: --overwrite replaces it" in refusal(lambda: enhance_video(cleaner, source, target))
    assert (target.read_text(), (tmp_path / "out.mp4.part").exists()) == ("somebody's", False)
    interrupted(cleaner, source, target, 2, overwrite=True)
    assert target.read_text() == "somebody's"
    assert enhance_video(cleaner, source, target).resumed == 2
    assert "is there already" in refusal(lambda: enhance_video(cleaner, source, target))


def test_a_kill_after_the_file_is_in_its_place(cleaner: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The working folder is still there: the same command ends as ever."""
    from lorgnette.video.journal import Journal

    source, target = make_clip(tmp_path / "in.mp4", scene(3, (36, 48))), tmp_path / "out.mp4"
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "remove", lambda self: None)
        enhance_video(cleaner, source, target)
    before = target.read_bytes()
    assert enhance_video(cleaner, source, target).resumed == 3
    assert target.read_bytes() == before
    assert not (tmp_path / "out.mp4.part").exists()


def test_frames_that_would_come_to_one_name_are_refused(cleaner: Task, tmp_path: Path):
    source = frames_folder(tmp_path / "in", 2)
    write_image(source / "8.bmp", Image(scene(1, (24, 32))[0]))
    line = refusal(lambda: enhance_video(cleaner, source, tmp_path / "out", frame_format="webp"))
    assert "would both become 8.webp" in line


def test_data_and_further_pictures_are_named(cleaner: Task, tmp_path: Path):
    source = tmp_path / "in.ts"
    with av.open(str(source), "w") as out:
        streams: list[Any] = [out.add_stream("libx264", rate=25) for _ in range(2)]
        for stream in streams:
            stream.height, stream.width, stream.pix_fmt = 36, 48, "yuv420p"
        data = out.add_data_stream("klv")
        for number, pixels in enumerate(scene(2, (36, 48))):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
                frame.pts, frame.time_base = number, Fraction(1, 25)
                out.mux(stream.encode(frame))
        packet = av.Packet(b"\x06\x0e\x2b\x34 where it was")
        packet.pts = packet.dts = 0
        packet.time_base, packet.stream = Fraction(1, 90000), data
        out.mux(packet)
        for stream in streams:
            out.mux(stream.encode(None))
    notes = enhance_video(cleaner, source, tmp_path / "out.mp4").notes
    assert any(re.match(r"another video stream \(h264\) does not go into \.mp4", note) for note in notes)
    assert any(re.match(r"data \(klv\) does not go into \.mp4", note) for note in notes)


# ------------------------------------------------------------------------------------------- a path is a path


@pytest.mark.parametrize(
    "name", ["talk: 1.mp4", "concat:x.mp4", "2024:trip/a.mp4", "http:a.mp4", "file:a.mp4", "-o.mp4", "a%d[b]*.mp4"]
)
def test_a_path_is_no_protocol_and_no_pattern(
    cleaner: Task, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    plain = make_clip(tmp_path / "plain.mp4", scene(2, (36, 48)), sound="aac")
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_bytes(plain.read_bytes())
    assert enhance_video(cleaner, Path(name), Path("read.mp4")).frames == 2
    Path(name).unlink()
    assert enhance_video(cleaner, plain, Path(name)).path == Path(name)
    for written in (Path("read.mp4"), Path(name)):
        assert len(decoded(written)) == 2
        assert packets(written, "audio") == packets(plain, "audio")


@pytest.mark.parametrize("name", ["shot%03d", "[ab]*", "concat:x", "a: b"])
def test_folders_of_frames_with_such_names(cleaner: Task, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    source = frames_folder(Path(name) / "in", name=name + "{}.png")
    done = enhance_video(cleaner, source, Path(name) / "out")
    assert sorted(p.name for p in done.path.iterdir()) == sorted(p.name for p in source.iterdir())
    assert enhance_video(cleaner, source, Path(name) / "film.mkv").frames == 4
