"Captions say what is so, and nothing else."
import itertools
import random
import re

import pytest
from hypothesis import given, settings, strategies as st
from brat.drawn_world import CREATURES, fresh

from tokenstudy.brat.world import ATTRIBUTES
from tokenstudy.brat.captions import caption, parse, phrase


def check_caption(creature, text, mention):
    "A caption says what it was asked to say, and nothing that is not so."
    said = parse(text)
    assert said.items() <= creature.items()
    if mention is not None: assert set(said) == {k for k in mention if creature[k] != "nothing"}


@settings(max_examples=300)
@given(CREATURES, st.integers(0, 10**9), st.none() | st.sets(st.sampled_from(sorted(ATTRIBUTES))))
def test_captions_are_true(creature, seed, mention):
    text = caption(creature, random.Random(seed), mention)
    check_caption(creature, text, mention)
    assert text == caption(creature, random.Random(seed), mention) and re.fullmatch(r"\w[\w ,]*\w", text) and "  " not in text
    assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", text), "a or an"
    marked = caption(creature, random.Random(seed), mention, subject="<x>")
    assert marked.count("<x>") == 1
    check_caption(creature, marked, mention)


@settings(max_examples=60)
@given(CREATURES, st.integers(0, 10**9), st.sampled_from(sorted(ATTRIBUTES)), st.data())
def test_a_false_caption_is_caught(creature, seed, attribute, data):
    other = data.draw(st.sampled_from([v for v in ATTRIBUTES[attribute] if v != creature[attribute]]))
    false = caption(creature | {attribute: other}, random.Random(seed), ATTRIBUTES)
    with pytest.raises(AssertionError): check_caption(creature, false, ATTRIBUTES)
    with pytest.raises(AssertionError): check_caption(creature, caption(creature, random.Random(seed), set(ATTRIBUTES) - {"shape"}), ATTRIBUTES)


def test_captions_in_plain_words():
    "Against words written by hand, not against the table that makes captions."
    creature = dict(shape="starry", colour="orange", top="antennae", pattern="spotted", eyes="three", limbs="wings",
                    background="sea", place="centre", size="small", accessory="scarf", style="sticker")
    words = {"a sticker of", "small", "starry", "orange", "spotted", "antennae", "three eyes", "wings", "on the sea", "in the middle", "wearing a scarf"}
    for seed in range(20): assert all(w in caption(creature, random.Random(seed), ATTRIBUTES) for w in words)
    assert parse("A Sticker of an orange, SMALL thing -- on the sea") == dict(style="sticker", colour="orange", size="small", background="sea")
    assert parse("") == parse("one creature of the sea in snowy cities") == {}
    bare = {caption(creature, random.Random(seed), ()) for seed in range(400)}
    assert bare == {f"{opening} {noun}".strip() for opening in ("a picture of", "a photo of", "an image of", "") for noun in ("a creature", "a monster", "an animal")}
    assert caption(creature, random.Random(0), ["colour"], subject="<x>").endswith("an orange <x>")
    with pytest.raises(ValueError, match="'color' is no attribute"): caption(creature, mention=["color"])
    assert phrase("accessory", "nothing") is None
    with pytest.raises(ValueError, match="two values of colour: red, blue"): parse("a blue red creature")
    for wrong in (lambda: phrase("background", "moon"), lambda: phrase("hat", "red"), lambda: caption(creature | dict(colour="gren")), lambda: caption(dict(colour="red"))):
        with pytest.raises(ValueError): wrong()


def test_mention_may_be_any_iterable():
    assert parse(caption(fresh(0), random.Random(0), (k for k in ("colour", "shape")))).keys() == {"colour", "shape"}
    assert parse(caption(fresh(0), random.Random(0), "colour")).keys() == {"colour"}


def test_phrases_do_not_hide_in_each_other():
    said = {(k, v): f" {p} " for k, values in ATTRIBUTES.items() for v in values if (p := phrase(k, v))}
    assert len(said) == sum(map(len, ATTRIBUTES.values())) - 1
    for a, b in itertools.permutations(said.values(), 2): assert a not in b
