"The drawn world: the same pictures everywhere, grids and pixels, kinds that nobody has seen."
import itertools
import random
import re
import types

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torch.nn import functional as F
from brat.drawn_world import fresh, drawn, reader

from tokenstudy.brat.world import ATTRIBUTES, CONCEPTS, IDENTITY, as_picture, as_pixels, check_creature, grid, held_out, random_creature, render
from tokenstudy.brat.captions import concept_pictures
from tokenstudy.brat.instruments import hits
from tokenstudy.brat import world as world_module


def test_renders_at_any_size():
    creature = fresh(0)
    small = np.asarray(render(creature, 32, seed=5), float)
    for size in (8, 31, 64, 130, 256, 400, 1024):
        picture = render(creature, size, seed=5)
        assert picture.size == (size, size) and picture.mode == "RGB"
        if size % 32 == 0: assert np.abs(np.asarray(picture.resize((32, 32), Image.Resampling.BOX), float) - small).mean() < 6 # the same scene, finer
    assert render(creature, seed=5).tobytes() == render(dict(reversed(creature.items())), 32, 5).tobytes() != render(creature, seed=6).tobytes()
    for size in (7, 0, -32, 4097):
        with pytest.raises(ValueError, match="between 8 and 4096"): render(creature, size)


@pytest.mark.parametrize("by", [0, 1, 2, 7])
def test_outline_is_the_maximum_over_squares(by):
    mask = Image.fromarray((np.random.default_rng(by).random((40, 40)) ** 20 * 255).astype(np.uint8))
    assert world_module._grown(mask, by).tobytes() == mask.filter(ImageFilter.MaxFilter(2*by + 1)).tobytes()


@pytest.mark.parametrize("attribute", ATTRIBUTES)
def test_every_value_changes_the_picture(monkeypatch, attribute):
    "Without the accidents, which differ between creatures anyhow."
    still = types.SimpleNamespace(uniform=lambda a, b: 0.)
    scenes = [fresh(i, accessory="nothing") for i in range(8)]
    monkeypatch.setattr(world_module, "random", types.SimpleNamespace(Random=lambda seed: still))
    for scene in scenes:
        pictures = [np.asarray(render(scene | {attribute: value}), int) for value in ATTRIBUTES[attribute]]
        for a, b in itertools.combinations(pictures, 2): assert (np.abs(a - b).max(-1) > 16).sum() >= 5 # pixels that anyone can tell apart


def test_check_creature():
    creature = fresh(0)
    assert check_creature(creature) is creature
    for wrong, message in (({k: v for k, v in creature.items() if k not in ("top", "style")}, "has no top, style"), (creature | dict(hat="red"), "'hat' is no attribute; they are: shape"),
                           (creature | dict(colour="gren"), "colour cannot be 'gren'; it can be: red, orange"), (creature | dict(eyes=None), "eyes cannot be None")):
        for check in (check_creature, render):
            with pytest.raises(ValueError, match=message): check(wrong)
    for wrong, message in ((dict(colour="gren"), "colour cannot be 'gren'"), (dict(color="red"), "'color' is no attribute")):
        with pytest.raises(ValueError, match=message): random_creature(random.Random(0), **wrong)


def test_grid_pictures_and_pixels():
    pictures, batch = [drawn(i) for i in range(5)], as_pixels([drawn(i) for i in range(5)])
    assert batch.shape == (5, 3, 32, 32) and batch.dtype == torch.float32 and -1 <= batch.min() < 0 < batch.max() <= 1
    assert all(as_picture((x + 1)/2).tobytes() == p.tobytes() for x, p in zip(batch, pictures))
    assert torch.allclose(as_pixels((batch + 1)/2, 32), batch, atol=1e-6) and as_pixels(pictures, 16).shape == (5, 3, 16, 16) and as_pixels(pictures, 64).shape == (5, 3, 64, 64)
    assert torch.allclose(as_pixels(pictures, 16), F.avg_pool2d(batch, 2), atol=1e-6)
    grey = as_picture(Image.new("L", (4, 3), 7))
    assert grey.mode == "RGB" and grey.size == (4, 3) and grey.getpixel((0, 0)) == (7, 7, 7)
    assert as_picture(torch.tensor([-1., .5, 2.]).view(3, 1, 1)).getpixel((0, 0)) == (0, 128, 255)
    sheet = grid(pictures, columns=3, side=40, gap=2)
    assert sheet.size == (3*42 - 2, 2*42 - 2) and sheet.getpixel((125 - 2, 83 - 2)) == (255, 255, 255) # the sixth place is empty
    assert grid(iter(pictures)).size == (5*66 - 2, 64) and grid((batch + 1)/2).tobytes() == grid(pictures).tobytes()
    assert np.array_equal(np.asarray(grid(pictures[:1], side=64))[::2, ::2], np.asarray(pictures[0])) # pixels stay squares
    with pytest.raises(ValueError, match="no picture to show"): grid([])
    for wrong in (torch.zeros(1, 32, 32), torch.zeros(2, 3, 32, 32), torch.zeros(32, 32, 3)):
        with pytest.raises(ValueError, match=re.escape(f"a picture is [3, H, W], not {list(wrong.shape)}")): as_picture(wrong)
    for wrong in (torch.zeros(3, 32, 32), torch.zeros(2, 1, 32, 32)):
        with pytest.raises(ValueError, match=re.escape(f"pictures are [B, 3, H, W], not {list(wrong.shape)}")): as_pixels(wrong)


def test_pixels_of_pictures_of_different_sizes():
    "As a folder of photographs has them."
    assert as_pixels([drawn(0, 32), drawn(1, 48), Image.new("RGB", (50, 20))], 32).shape == (3, 3, 32, 32)
    assert torch.equal(as_pixels(drawn(0)), as_pixels([drawn(0)])) and as_pixels(Image.new("RGB", (20, 100)), 32).shape == (1, 3, 32, 32)
    mixed = torch.rand(2, 3, 32, 32, requires_grad=True)
    assert torch.equal(as_pixels(list(mixed)), as_pixels(mixed)) and as_pixels(list(mixed)).requires_grad # not by way of 8 bits
    for wrong, message in (([], "no picture"), (torch.zeros(0, 3, 32, 32), "no picture"), ([drawn(0, 32), drawn(1, 48)], "different sizes"),
                           (as_pixels([drawn(0)]), "floats in"), (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), "floats in")):
        with pytest.raises(ValueError, match=message): as_pixels(wrong)


def test_transparent_pictures_lie_on_white():
    for clear in (Image.new("RGBA", (4, 4), (9, 9, 9, 0)), Image.new("LA", (4, 4), (9, 0))): assert as_picture(clear).getpixel((0, 0)) == (255, 255, 255)


def test_held_out_kinds():
    assert len(CONCEPTS) == 12 and held_out() == CONCEPTS and held_out(seed=1) != CONCEPTS
    for kind in CONCEPTS: assert list(kind) == list(IDENTITY) and all(v in IDENTITY[k] for k, v in kind.items())
    for a, b in itertools.combinations(CONCEPTS, 2): assert sum(a[k] != b[k] for k in IDENTITY) >= 4
    for k, values in IDENTITY.items(): assert {kind[k] for kind in CONCEPTS} == set(values)


def test_held_out_kinds_are_never_drawn_by_chance():
    rng = random.Random(0)
    for _ in range(20_000): assert {k: v for k, v in random_creature(rng).items() if k in IDENTITY} not in CONCEPTS

    class Stubborn:
        "Proposes the held-out kinds first."
        def __init__(self):
            last = dict(CONCEPTS[0], shape=next(s for s in IDENTITY["shape"] if s != CONCEPTS[0]["shape"]))
            self.values = iter([kind.get(k, v[0]) for kind in [*CONCEPTS, last] for k, v in ATTRIBUTES.items()])
        def choice(self, values):
            assert (value := next(self.values)) in values
            return value
    assert random_creature(Stubborn())["shape"] != CONCEPTS[0]["shape"]
    for kind in CONCEPTS: assert kind.items() <= random_creature(rng, **kind, place="left").items()


def test_concept_pictures(reader):
    for kind in CONCEPTS[:3]:
        pictures = concept_pictures(kind, 5, seed=2)
        found = reader.read(pictures)
        assert len(pictures) == 5 == len({f["background"] for f in found}) and {p.size for p in pictures} == {(32, 32)}
        assert np.mean([hits(f, kind | dict(accessory="nothing")) for f in found]) > .95
        assert [p.tobytes() for p in concept_pictures(kind, 5, seed=3)] != [p.tobytes() for p in pictures]
    assert concept_pictures(CONCEPTS[0], 1, size=64)[0].size == (64, 64)
    for wrong in ((dict(colour="red"),), (fresh(0),), (CONCEPTS[0], 0), (CONCEPTS[0] | dict(colour="gren"),)):
        with pytest.raises(ValueError): concept_pictures(*wrong)
