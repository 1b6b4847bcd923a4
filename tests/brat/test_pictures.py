"Pictures of users: every kind of file comes through one reader."
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from brat.drawn_world import drawn
from brat.toys import pipeline, seeded

from tokenstudy.brat.pictures import PictureError, load_pictures, read_pictures
from tokenstudy.brat.inversion import invert


def folder_of(tmp_path, **pictures):
    "A folder with a plain picture, so that nothing warns, and others."
    Image.new("RGB", (5, 5), "blue").save(tmp_path/"zz.png")
    for name, picture in pictures.items(): picture.save(tmp_path/name.replace("__", "."))
    return tmp_path


def first(folder):
    picture = load_pictures(folder)[0]
    assert picture.mode == "RGB"
    return picture


def test_own_pictures(tmp_path):
    picture = drawn(0, 60).resize((60, 40))
    for i, (suffix, how) in enumerate([("png", {}), ("JPG", dict(quality=95)), ("jpeg", dict(quality=95)), ("webp", dict(lossless=True)), ("Png", {})]): picture.save(tmp_path/f"{i}.{suffix}", **how)
    picture.save(tmp_path/"5.bmp")
    (tmp_path/"notes.txt").write_text("of my creature")
    (tmp_path/"older").mkdir()
    picture.save(tmp_path/"older"/"6.png")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = load_pictures(str(tmp_path))
    assert [p.size for p in found] == [(60, 40)]*5 and {p.mode for p in found} == {"RGB"}
    for i, p in enumerate(found): assert np.abs(np.asarray(p, int) - np.asarray(picture, int)).mean() < (10 if i in (1, 2) else 1e-9)


def test_hidden_files_and_folders_are_ignored(tmp_path):
    folder = folder_of(tmp_path, a__png=Image.new("RGB", (4, 4)))
    (folder/"._a.png").write_bytes(b"\0\5\26\7 what a Mac leaves on a stick")
    Image.new("RGB", (4, 4)).save(folder/".thumb.png")
    (folder/"old.png").mkdir()
    assert len(load_pictures(folder)) == 2


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_own_pictures_stand_upright(tmp_path, suffix):
    "Orientation 6: the camera was turned, the top of the scene is at the right of the file."
    upright = np.zeros((24, 16, 3), np.uint8)
    upright[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.rot90(upright).copy()).save(tmp_path/f"a.{suffix}", exif=exif)
    found = np.asarray(first(folder_of(tmp_path)), int)
    assert found.shape == upright.shape and np.abs(found - upright).mean() < 12


def test_own_pictures_of_every_kind(tmp_path):
    half, palette = Image.new("RGBA", (4, 4), (255, 0, 0, 128)), Image.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 200, 100, 50])
    folder = folder_of(tmp_path)
    for picture, how, colour in ((Image.new("RGBA", (4, 4), (9, 9, 9, 0)), {}, (255, 255, 255)), (half, {}, (255, 127, 127)), (Image.new("LA", (4, 4), (9, 0)), {}, (255, 255, 255)),
                                 (palette, {}, (200, 100, 50)), (palette, dict(transparency=1), (255, 255, 255)), (Image.new("L", (4, 4), 77), {}, (77, 77, 77)),
                                 (Image.new("RGB", (4, 4), (1, 2, 3)), dict(transparency=(1, 2, 3)), (255, 255, 255)), (Image.new("1", (4, 4), 1), {}, (255, 255, 255))):
        picture.save(folder/"a.png", **how)
        assert first(folder).getpixel((1, 1)) == pytest.approx(colour, abs=1), (picture.mode, how)
    Image.new("CMYK", (4, 4), (0, 255, 255, 0)).save(folder/"a.jpg")
    (folder/"a.png").unlink()
    assert first(folder).getpixel((1, 1)) == pytest.approx((255, 0, 0), abs=3)


def test_own_pictures_of_sixteen_bits(tmp_path):
    levels = np.array([[0, 20_000], [32_768, 65_535]], np.uint16)
    assert np.asarray(first(folder_of(tmp_path, a__png=Image.fromarray(levels))))[..., 0] == pytest.approx(levels/257, abs=1)


def test_own_pictures_that_cannot_be_had(tmp_path):
    with pytest.raises(ValueError, match="no folder.*gone; give one with three to six"): load_pictures(tmp_path/"gone")
    (tmp_path/"notes.txt").write_text("nothing")
    with pytest.raises(ValueError, match="no folder"): load_pictures(tmp_path/"notes.txt")
    with pytest.raises(ValueError, match="holds no picture; put PNG, JPEG or WebP"): load_pictures(tmp_path)
    drawn(0).save(tmp_path/"only.png")
    with pytest.warns(UserWarning, match="holds one picture"): assert len(load_pictures(tmp_path)) == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_a_damaged_picture_is_named(tmp_path, suffix):
    folder = folder_of(tmp_path)
    bad = folder/f"bad.{suffix}"
    drawn(0, 64).save(bad)
    whole, rng = bad.read_bytes(), random.Random(0)
    assert len(load_pictures(folder)) == 2
    for data in (b"", b"no picture at all", *(whole[:n] for n in (4, 20, len(whole)//3, len(whole)*3//4))):
        bad.write_bytes(data)
        with pytest.raises(ValueError, match=f"bad.{suffix} cannot be read as a picture.*replace or remove it"): load_pictures(folder)
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3): data[rng.randrange(len(data))] = rng.randrange(256)
        bad.write_bytes(data)
        try: load_pictures(folder)
        except ValueError as e: assert f"bad.{suffix} cannot be read" in str(e)
def test_pictures_good_and_bad(tmp_path):
    size = 16
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"):
        assert read_pictures([Image.new(mode, (20, 10)), Image.new(mode, (9, 33))], size).shape == (2, 3, size, size)
    half = Image.new("RGB", (20, 20), "red")
    half.paste("blue", (0, 0, 20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6 # a quarter turn
    half.save(tmp_path/"turned.jpg", exif=exif, quality=95)
    turned, upright = read_pictures([tmp_path/"turned.jpg", half], size)
    assert (turned - upright.rot90(-1, (1, 2))).abs().mean() < .1 and (turned - upright).abs().mean() > .3
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    assert (read_pictures([clear, clear], 8) == 1).all()
    exact = torch.randint(256, (3, size, size), generator=seeded()) / 255
    assert torch.allclose(read_pictures([exact] * 2, size)[0], exact * 2 - 1, atol=1e-6)
    (tmp_path/"text.png").write_text("no picture")
    (tmp_path/"cut.png").write_bytes((half.save(tmp_path/"whole.png"), (tmp_path/"whole.png").read_bytes()[:60])[1])
    for bad in (tmp_path/"text.png", tmp_path/"cut.png", tmp_path/"none.png", str(tmp_path), 7, None, torch.zeros(1, 8, 8), torch.full((3, 8, 8), 2.), torch.full((3, 8, 8), float("nan")), torch.zeros(3, 8, 8, dtype=torch.uint8)):
        with pytest.raises(PictureError, match="picture 2"): read_pictures([half, bad], size)
    with pytest.raises(PictureError, match="no pictures"): invert(pipeline(), [], "<x>", init_word="cat")
    with pytest.warns(UserWarning, match="only one picture"): invert(pipeline(), [half], "<x>", init_word="cat", num_steps=1, progress=False)


DEPTHS = dict(wide=lambda x: Image.fromarray((x*65535).astype(np.uint16)), long=lambda x: Image.fromarray((x*65535).astype(np.int32)),
              floats=lambda x: Image.fromarray(x.astype(np.float32)), bytes=lambda x: Image.fromarray((x*255).astype(np.uint8)))

@pytest.mark.parametrize("depth", DEPTHS)
def test_reported_a_grey_ramp_arrives_as_a_ramp_by_every_way(depth, tmp_path):
    ramp = np.linspace(0, 1, 1024).reshape(32, 32)
    picture, file = DEPTHS[depth](ramp), tmp_path/("a.tif" if depth in ("floats", "long") else "a.png")
    picture.save(file)
    ways = [read_pictures([picture, picture], 32)[0], read_pictures([file, file], 32)[0], read_pictures([str(file)]*2, 32)[1]]
    if file.suffix == ".png":
        (tmp_path/"b.png").write_bytes(file.read_bytes())
        ways.append(read_pictures(load_pictures(tmp_path), 32)[0])
    for found in ways: assert np.abs(found[0].numpy() - (2*ramp - 1)).max() < .02


def test_reported_a_picture_that_unfolds_to_too_much_is_refused(tmp_path, monkeypatch):
    Image.new("1", (400, 400)).save(tmp_path/"bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(PictureError, match="bomb.png cannot be read as a picture .*more pixels"): read_pictures([tmp_path/"bomb.png"], 8)
