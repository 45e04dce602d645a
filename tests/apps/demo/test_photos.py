"""Pictures that visitors bring: whole, of a format that is taken, not too large or too many."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from apps.demo import photos
from apps.demo.photos import receive
from apps.demo.session import Session


def gallery(folder: Path, *names: str) -> list[tuple[str, None]]:
    """Pictures as the page brings them."""
    for name in names:
        Image.new("RGB", (8, 8), "red").save(folder / name)
    return [(str(folder / name), None) for name in names]


def test_they_are_copied_as_they_are(session: Session, tmp_path: Path) -> None:
    brought = gallery(tmp_path, "b.png", "a.JPG")
    files = receive(brought, session.place("photos"), 1, 2)
    assert [file.name for file in files] == ["0000.png", "0001.jpg"]
    assert [file.read_bytes() for file in files] == [Path(f).read_bytes() for f, _ in brought]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "bring 1 to 2 pictures, found 0"),
        (("a.png", "b.png", "c.png"), "bring 1 to 2 pictures, found 3"),
        (("a.png", "b.gif"), r"picture 2 must be one of \.png, .*, found '\.gif'"),
    ],
)
def test_others_are_refused(
    session: Session, tmp_path: Path, names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        receive(gallery(tmp_path, *names), session.place("photos"), 1, 2)


def test_large_ones_are_refused(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    brought = gallery(tmp_path, "a.bmp")
    size = Path(brought[0][0]).stat().st_size
    monkeypatch.setattr(photos, "MAX_BYTES", size)
    receive(brought, session.place("photos"), 1, 1)
    monkeypatch.setattr(photos, "MAX_BYTES", size - 1)
    with pytest.raises(ValueError, match="picture 1 has more than 0 MB"):
        receive(brought, session.place("photos"), 1, 1)


def test_what_is_no_picture_is_refused(session: Session, photo: Path) -> None:
    with pytest.raises(ValueError, match=r"photo\.png is no picture"):
        receive([(str(photo), None)], session.place("photos"), 1, 1)
