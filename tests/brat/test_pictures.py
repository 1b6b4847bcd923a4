"Pictures of users: every kind of file comes through one reader."
import os
import random
import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from brat.drawn_world import drawn
from brat.toys import pipeline, seeded

from tokenstudy.brat.pictures import PictureError, load_pictures, open_picture, read_pictures, read_templates
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
    with pytest.raises(ValueError, match="holds no picture; put PNG, JPEG or WebP.*not read: notes.txt"): load_pictures(tmp_path)
    (tmp_path/"notes.txt").unlink()
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
    for bad in (tmp_path/"text.png", tmp_path/"cut.png", tmp_path/"none.png", str(tmp_path), 7, None, torch.zeros(2, 8, 8), torch.full((3, 8, 8), 2.), torch.full((3, 8, 8), float("nan")), torch.zeros(3, 8, 8, dtype=torch.int64)):
        with pytest.raises(PictureError, match="picture 2"): read_pictures([half, bad], size)
    with pytest.raises(PictureError, match="no pictures"): invert(pipeline(), [], "<x>", init_word="cat")
    with pytest.warns(UserWarning, match="only one picture"): invert(pipeline(), [half], "<x>", init_word="cat", num_steps=1, progress=False)


DEPTHS = dict(wide=lambda x: Image.fromarray((x*65535).astype(np.uint16)), long=lambda x: Image.fromarray((x*65535).astype(np.int32)),
              floats=lambda x: Image.fromarray(x.astype(np.float32)), bytes=lambda x: Image.fromarray((x*255).astype(np.uint8)))

@pytest.mark.parametrize("depth", DEPTHS)
def test_a_grey_ramp_arrives_as_a_ramp_by_every_way(depth, tmp_path):
    ramp = np.linspace(0, 1, 1024).reshape(32, 32)
    picture, file = DEPTHS[depth](ramp), tmp_path/("a.tif" if depth in ("floats", "long") else "a.png")
    picture.save(file)
    ways = [read_pictures([picture, picture], 32)[0], read_pictures([file, file], 32)[0], read_pictures([str(file)]*2, 32)[1]]
    if file.suffix == ".png":
        (tmp_path/"b.png").write_bytes(file.read_bytes())
        ways.append(read_pictures(load_pictures(tmp_path), 32)[0])
    for found in ways: assert np.abs(found[0].numpy() - (2*ramp - 1)).max() < .02


def said(found): return " | ".join(str(w.message) for w in found)


def test_reported_a_small_file_of_many_pixels_is_refused_by_name_and_limit(tmp_path, monkeypatch):
    "Twice Pillow's limit is an error there, once it is a warning there; both are refused here, whatever the mode."
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    for mode, side in (("1", 400), ("RGBA", 35), ("P", 35), ("I;16", 50)):
        Image.new(mode, (side, side)).save(tmp_path/"bomb.png")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for way in (tmp_path/"bomb.png", [str(tmp_path/"bomb.png")]*2, tmp_path):
                with pytest.raises(PictureError, match="bomb.png cannot be read as a picture .*limit of 1,000.*MAX_IMAGE_PIXELS.*make the picture smaller"): read_pictures(way, 8)
    Image.new("RGB", (31, 31)).save(tmp_path/"bomb.png")
    assert len(read_pictures([tmp_path/"bomb.png"]*2, 8)) == 2
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (400, 400)).save(tmp_path/"bomb.png")
    assert len(read_pictures([tmp_path/"bomb.png"]*2, 8)) == 2, "who lifts the limit has lifted it"


def test_reported_sixteen_thousand_squared_by_pillows_own_limit(tmp_path):
    "A quarter of a gigapixel in a few kilobytes, with nothing patched."
    Image.new("1", (16_000, 16_000)).save(tmp_path/"huge.png")
    assert (tmp_path/"huge.png").stat().st_size < 100_000
    with pytest.raises(PictureError, match="huge.png.*limit of 89,478,485"): read_pictures([tmp_path/"huge.png"], 8)


def test_reported_a_folder_of_every_kind_of_file(tmp_path):
    "Eight kinds of pictures, as in a phone's folder: those that Pillow opens are read, the others are named, once."
    red = Image.new("RGB", (12, 12), "red")
    for name in ("a.jpg", "b.png", "d.avif", "e.bmp", "f.tif", "g.gif", "h.jfif", "i.WEBP", "j.tiff"):
        red.save(tmp_path/name, format="JPEG" if name == "h.jfif" else None)
    for name in ("c.heic", "captions.txt", "metadata.jsonl"): (tmp_path/name).write_bytes(b"\0")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        read = read_pictures(str(tmp_path), 8)
    assert len(read) == 9 and (read[:, 0] > .9).all() and (read[:, 1:] < -.9).all() and len(found) == 1
    for word in ("c.heic", "captions.txt", "metadata.jsonl", "pillow_heif.register_heif_opener"): assert word in said(found)
    for name in ("a.jpg", "g.gif"): assert name not in said(found)


def test_reported_every_way_to_give_pictures(tmp_path):
    files = [tmp_path/f"{i}.png" for i in range(3)]
    for i, file in enumerate(files): drawn(i, 20).save(file)
    wanted = read_pictures(files, 16)
    arrays = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    tensors = [torch.from_numpy(a.copy()).permute(2, 0, 1) for a in arrays]
    ways = dict(folder=tmp_path, text=str(tmp_path), pattern=str(tmp_path/"*.png"), some=f"{tmp_path}/[0-2].*", generator=(f for f in files), glob=iter(sorted(tmp_path.glob("*.png"))),
                texts=tuple(map(str, files)), opened=map(Image.open, files), arrays=arrays, batch=np.stack(arrays), floats=[a/255 for a in arrays], wide=[a.astype(np.uint16)*257 for a in arrays],
                tensors=tensors, tensor=torch.stack(tensors), real=torch.stack(tensors)/255, names=np.array([str(f) for f in files]), mixed=[files[0], arrays[1], tensors[2]/255.])
    for name, way in ways.items(): assert torch.equal(read_pictures(way, 16), wanted), name
    for one in (files[1], str(files[1]), Image.open(files[1]), arrays[1], tensors[1], tensors[1].double()/255, open(files[1], "rb")):
        with pytest.warns(UserWarning, match="only one picture"): assert torch.equal(read_pictures(one, 16), wanted[1:2])
    opaque, grey = np.dstack([arrays[0], np.full((20, 20), 255, np.uint8)]), arrays[0][..., 0]
    assert torch.equal(read_pictures([opaque, torch.from_numpy(opaque).permute(2, 0, 1)], 16), wanted[[0, 0]])
    for form in (grey, grey[..., None], torch.from_numpy(grey.copy())[None], grey > 300): assert read_pictures([form]*2, 16).shape == (2, 3, 16, 16)
    clear = np.zeros((8, 8, 4))
    assert (read_pictures([clear, clear], 8) == 1).all()


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "RGBX", "RGBa", "La", "LA", "PA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16", "I;16B"])
def test_reported_every_mode_of_pillow(mode):
    picture = Image.new(mode, (9, 7))
    assert read_pictures([picture, picture], 8).isfinite().all() and open_picture(picture).mode == "RGB" and open_picture(picture).size == (9, 7)


def test_reported_long_pictures_and_films_are_said(tmp_path):
    "The panorama, the strip of 4000 by 40 and the second frame are not learned; a photograph of 16:9 is."
    frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
    frames[0].save(tmp_path/"film.gif", save_all=True, append_images=frames[1:])
    for size, long in (((4000, 40), True), ((40, 4000), True), ((90, 40), True), ((80, 40), False), ((16, 9), False)):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            read_pictures([Image.new("RGB", (8, 8)), Image.new("RGB", size)], 8)
        assert (f"middle square is learned of picture 2 ({size[0]} by {size[1]})" in said(found)) == long == bool(found), size
    with pytest.warns(UserWarning, match="film.gif holds 2 pictures; the first is used"): read = read_pictures([tmp_path/"film.gif"]*2, 8)
    assert (read[:, 0] > .9).all()


@pytest.mark.parametrize("wrong, word", [
    (None, "images is a NoneType"), (7, "images is a int"), (dict(image="a.png"), "images is a dict"), ({"a.png"}, "images is a set"), (b"a.png", "images is a bytes"), ([b"\x89PNG"], "picture 1: this bytes"),
    ([dict(image=1)], "picture 1: this dict"), ([], "no pictures"), ((), "no pictures"), (iter(()), "no pictures"), ("no/such/folder", "folder cannot be read"), ("no/such/*.png", "holds no picture"),
    ([np.zeros((4, 4, 2))], "shape is \\[4, 4, 2\\], not \\[H, W\\] or"), ([np.zeros((3, 5, 6))], "shape is \\[3, 5, 6\\]"), ([np.zeros(4)], "shape is \\[4\\]"), ([np.full((4, 4), 255.)], "floats in \\[0, 1\\]"),
    ([np.full((4, 4), np.nan)], "floats in"), ([np.zeros((4, 4), np.int64)], "values are int64"), ([np.zeros((4, 4, 3), complex)], "complex"), ([np.zeros((0, 4, 3))], "no pixels"), ([Image.new("L", (0, 3))], "no pixels"),
    ([torch.zeros(4, 4)], "shape is \\[4, 4\\], not \\[C, H, W\\]"), ([torch.zeros(5, 6, 3)], "not \\[C, H, W\\]"), ([torch.tensor(1.)], "shape is \\[\\]"), (np.zeros((2, 4, 4, 7)), "picture 1"), ([["a.png"]], "picture 1: this list")])
def test_bad_arguments_of_the_readers(wrong, word):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(PictureError, match=word): read_pictures(wrong, 8)


def test_bad_arguments_beside_pictures(tmp_path):
    grey = Image.new("L", (4, 4))
    for size in ((32, 48), 0, -1, 2.5, None, True, "8"):
        with pytest.raises(ValueError, match="size is .*whole number"): read_pictures([grey]*2, size)
    for folder in (None, 3, [], "", tmp_path/"gone"):
        with pytest.raises(ValueError, match="no folder"): load_pictures(folder)
    with pytest.raises(PictureError, match="images is an empty text"): read_pictures("", 8)       # and not this folder
    for templates in (None, 3, [], [None], "a photo of {}", ["{} {}"], dict(a=1)):
        with pytest.raises(ValueError, match="template"): read_templates(templates)
    with pytest.raises(PictureError, match=f"picture 2: {tmp_path.name}.*give a folder alone"): read_pictures([grey, tmp_path], 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe of Unix")
def test_bad_arguments_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path/"a.png")
    with pytest.raises(PictureError, match="a.png.*no ordinary file"): load_pictures(tmp_path)
