"Names of new tokens, and init words."
import pytest
import torch
from brat.toys import pictures, pipeline, whole_state, changes

from tokenstudy.brat.tokens import LearnedEmbedding, PlaceholderError, install
from tokenstudy.brat.inversion import invert


@pytest.mark.parametrize("name, why", [
    ("cat", "already known to the tokenizer \\(as 'cat</w>'\\)"), ("redcat", "splits into the known pieces .*use <redcat>"), ("sks", "splits into"), ("a cat", "a space.*<a-cat>"),
    ("<x>,<y>", "a comma"), ("", "is empty"), ("<{}>", "a brace"), ("<a\nb>", "a space"), (None, "is empty"), ("x", "already known")])
def test_names_that_cannot_be_one_token_are_refused(name, why):
    pipe = pipeline()
    before = whole_state(pipe)
    with pytest.raises(PlaceholderError, match=why): invert(pipe, pictures(), name, init_word="cat")
    assert changes(before, whole_state(pipe)) == []


def test_reported_names_that_collide_are_refused():
    pipe = pipeline()
    pipe.tokenizer.add_tokens(["<x-bonus>", "<dog>_1", "<z>"])
    for name, why in (("<x>", "'<x-bonus>' is already known"), ("<dog>", "already known"), ("<z>_1", "already known to the tokenizer \\(as '<z>'\\)"), ("<Z>_12", "already known"), ("<Z>", "already known to the tokenizer \\(as '<z>'\\)")):
        with pytest.raises(PlaceholderError, match=why): invert(pipe, pictures(), name, init_word="cat")


@pytest.mark.parametrize("family, word, why", [
    ("sd", "redcat", "splits into 4 pieces: 'r'|splits into \\d pieces"), ("sd", "red cat", "splits into 2 pieces: 'red</w>', 'cat</w>'"), ("sd", "", "init_word is .*it must be a word"),
    ("sd", "é", "unknown|splits"), ("pixart", "zebra", "unknown to the tokenizer"), ("sana", "red cat", "splits into 2 pieces")])
def test_init_words_that_are_no_word_are_refused(family, word, why):
    with pytest.raises(ValueError, match=why): invert(pipeline(family), pictures(), "<x>", init_word=word, size=32)


def test_bad_arguments_rows_are_as_many_as_their_tokens():
    pipe, table = pipeline(), torch.nn.Embedding(5, 3)
    before = whole_state(pipe)
    for rows in (torch.ones(1, 16), torch.ones(3, 16)):
        with pytest.raises(ValueError, match="names, rows: 2, . entries"): install(pipe.tokenizer, pipe.text_encoder, ["<x>", "<y>"], rows)
    assert changes(before, whole_state(pipe)) == []
    for ids, width, why in (([5], 3, "ids, rows: 1, 2 entries"), ([5, 6], 4, "rows have width 4, the table 3")):
        with pytest.raises(ValueError, match=why): LearnedEmbedding(table, ids, torch.ones(2, width))
