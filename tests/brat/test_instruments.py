"The instruments on fresh drawings, and that they fail where something is wrong."
import random
import re

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from brat.drawn_world import fresh, drawn, reader, contrast

from tokenstudy import core
from tokenstudy.brat.world import ATTRIBUTES, as_pixels, random_creature
from tokenstudy.brat.captions import caption
from tokenstudy.brat.bases import build_tokenizer
from tokenstudy.brat.instruments import HubSimilarity, chance, hits


def test_reader_reads_fresh_drawings(reader):
    creatures, pictures = [fresh(i) for i in range(300)], [drawn(i) for i in range(300)]
    right = lambda pictures: {k: np.mean([f[k] == c[k] for f, c in zip(reader.read(pictures), creatures)]) for k in ATTRIBUTES}
    share = right(pictures)
    assert np.mean([*share.values()]) >= .99 and min(share.values()) >= .97
    swapped = right((as_pixels(pictures)[:, [2, 0, 1]] + 1)/2)
    assert swapped["colour"] < .5 and np.mean([*swapped.values()]) < .9
    assert right(pictures[1:] + pictures[:1])["shape"] < .4
    assert [reader.read([p])[0] for p in pictures[:5]] == reader.read(pictures[:5]) and list(reader.read(pictures[:1])[0]) == list(ATTRIBUTES)
    large = [drawn(i, 64) for i in range(20)]
    assert np.mean([hits(f, c) for f, c in zip(reader.read(large), creatures)]) >= .98


def test_hits_and_chance():
    creature = fresh(0)
    assert hits(creature, creature) == 1 and hits(creature | dict(top="?"), dict(top="ears", size=creature["size"])) == .5
    with pytest.raises(ValueError, match="nothing was asked"): hits(creature, {})
    with pytest.raises(ValueError, match="found has no eyes"): hits(dict(colour="red"), dict(eyes="one"))
    for wrong in (lambda: hits(creature, dict(color="red")), lambda: hits(creature, dict(colour="rouge")), lambda: chance([]), lambda: chance(["hat"])):
        with pytest.raises(ValueError): wrong()
    assert chance(["colour"]) == 1/8 and chance(k for k in ("shape", "size")) == pytest.approx((1/6 + 1/2)/2)
    answers = [(random.Random(f"a {i}"), random.Random(f"b {i}")) for i in range(1500)]
    blind = np.mean([hits(random_creature(a), random_creature(b)) for a, b in answers])
    assert blind == pytest.approx(chance(ATTRIBUTES), abs=.02)


def unit(vectors, *shape): return vectors.shape == shape and torch.allclose(vectors.norm(dim=1), torch.ones(shape[0]), atol=1e-5)


def test_contrast_finds_the_caption(contrast):
    images = contrast.image([drawn(i) for i in range(64)])
    texts = contrast.text(said := [caption(fresh(i), random.Random(i), ATTRIBUTES) for i in range(64)])
    assert unit(images, 64, 128) and unit(texts, 64, 128)
    top1 = lambda a, b: float((a @ b.T).argmax(1).eq(torch.arange(64)).float().mean())
    assert top1(images, texts) > .8 and top1(texts, images) > .8 and top1(images, texts.roll(1, 0)) < .1
    assert torch.allclose(contrast.text(said[3:4]), texts[3:4], atol=1e-5), "a text's vector does not depend on its neighbours"
    assert torch.allclose(contrast.image((as_pixels([drawn(0)]) + 1)/2), images[:1], atol=1e-5)


def test_contrast_takes_one_text_with_any_signs(contrast):
    assert torch.allclose(contrast.text("a red creature"), contrast.text(["a red creature"]), atol=1e-6)
    assert torch.allclose(contrast.text("ä “red” creaturé"), contrast.text(["a red creature"]), atol=1e-6)


@pytest.fixture(scope="module")
def tiny_models(tmp_path_factory):
    "Folders of a tiny random CLIP and a tiny random ViT, as DINO is one."
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, ViTConfig, ViTImageProcessor, ViTModel
    folder, tokenizer = tmp_path_factory.mktemp("models"), build_tokenizer()
    small = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    words = dict(vocab_size=len(tokenizer), max_position_embeddings=40, **{f"{k}_token_id": getattr(tokenizer, f"{k}_token_id") for k in ("bos", "eos", "pad")})
    CLIPModel(CLIPConfig(text_config=small | words, vision_config=small | dict(image_size=32, patch_size=8), projection_dim=8)).save_pretrained(folder/"clip")
    tokenizer.save_pretrained(folder/"clip")
    CLIPImageProcessor(size=dict(shortest_edge=32), crop_size=dict(height=32, width=32)).save_pretrained(folder/"clip")
    ViTModel(ViTConfig(**small, image_size=32, patch_size=8)).save_pretrained(folder/"vit")
    ViTImageProcessor(size=dict(height=32, width=32)).save_pretrained(folder/"vit")
    return folder


@torch.no_grad()
def test_hub_models_from_a_folder(tiny_models):
    clip, dino = (HubSimilarity(str(tiny_models/name), "cpu") for name in ("clip", "vit"))
    pictures, texts = [drawn(0), drawn(1, 80)], ["a red creature", "a blue monster at night on the left"]
    images, said = clip.image(pictures), clip.text(texts)
    assert unit(images, 2, 8) and unit(said, 2, 8) and unit(dino.image(pictures), 2, 16)
    assert torch.allclose(clip.image(as_pixels([drawn(0)])/2 + .5), images[:1], atol=1e-5) and torch.allclose(clip.text(texts[:1]), said[:1], atol=1e-5)
    vision, ids = clip.model.vision_model(**clip.processor(pictures[:1], return_tensors="pt")), clip.tokenizer(texts[:1], return_tensors="pt")
    assert torch.allclose(images[:1], F.normalize(clip.model.visual_projection(vision.pooler_output)), atol=1e-5)
    assert torch.allclose(said[:1], F.normalize(clip.model.text_projection(clip.model.text_model(**ids).pooler_output)), atol=1e-5)
    token = dino.model(**dino.processor(pictures[:1], return_tensors="pt")).last_hidden_state[:, 0]
    assert torch.allclose(dino.image(pictures[:1]), F.normalize(token), atol=1e-5)
    with pytest.raises(ValueError, match="pictures only"): dino.text(["a"])


def test_hub_models_that_cannot_be_had(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path/"empty").mkdir()
    for name in ("nobody/nothing", str(tmp_path/"empty"), str(tmp_path/"gone")):
        with pytest.raises(core.MissingModelError, match=re.escape(name) + " could not be loaded"): HubSimilarity(name, "cpu")


def test_a_pickle_is_not_loaded(tmp_path):
    from transformers import ViTConfig, ViTModel
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4)
    model = ViTModel(config)
    config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path/"pytorch_model.bin")
    with pytest.raises(core.MissingModelError, match="no safetensors in this revision"): HubSimilarity(str(tmp_path), "cpu")
