"What comes to the trainer from outside: streams, weights made for other tokens, other formats, rows without texts. Situations of public reports."
import math
import warnings

import numpy as np
import pytest
import torch
from datasets import Dataset, IterableDataset
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

from tokenstudy import lm as lms
from tokenstudy.cdpo import contrast, critical, weights as W
from tokenstudy.cdpo.trainer import TokenWeightedDPOConfig, TokenWeightedDPOTrainer
from tokenstudy.cdpo.weights import PreferenceDataError, review_pair, review_pairs, tokenize_pairs, weights_from_spans
from cdpo.toys import THREE, ones, pairs, toy, trainer


TEXTS = Dataset.from_list([dict(row, rejected_weights=[1.]*(len(row["rejected"].split()) + 1)) for row in THREE])


def stream(rows): return IterableDataset.from_generator(lambda: iter(rows))


def completion_tokens(t):
    "Of every row of the batches, chosen rows first."
    return [n for batch in t.get_train_dataloader() for n in batch["completion_mask"].sum(1).tolist()]


# ---- streams

LONG = [dict(prompt="7 - 9 "*6 if i in (1, 2, 5) else "7 - 9 =", chosen=" 8", rejected=" 3 8") for i in range(6)]


@pytest.mark.parametrize("max_length", (10, 13, 40))
def test_reported_streams_leave_out_prompts_that_fill_the_context(tmp_path, max_length):
    "As TRL leaves them out (trl#3382); three of six prompts have 18 words."
    kw = dict(per_device_train_batch_size=1, max_length=max_length)
    theirs = trainer(tmp_path, stream(LONG), ref=toy(1).model, make=DPOTrainer, config=DPOConfig, **kw)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        ours = trainer(tmp_path, stream([dict(r, rejected_weights=[1., 1., 0.]) for r in LONG]), **kw)
        counts = completion_tokens(ours)
    assert counts == completion_tokens(theirs) and 0 not in counts
    left = 0 if max_length == 40 else 3
    assert len(counts) == 2*(6 - left) and ours.report["train"]["kept"] == 6 - left
    assert any("have a prompt that fills max_length" in str(w.message) for w in told) == bool(left)


def test_reported_streams_of_ids_too(tmp_path):
    rows = [dict(prompt_ids=[4]*(12 if i % 2 else 3), chosen_ids=[5, 2], rejected_ids=[6, 2], rejected_weights=[1., 1.]) for i in range(4)]
    with pytest.warns(UserWarning, match="train: pairs that have a prompt that fills max_length .* .row 1 is the first"):
        assert completion_tokens(trainer(tmp_path, stream(rows), per_device_train_batch_size=1, max_length=10)) == [2]*4


def test_reported_a_step_of_long_prompts_is_no_nan(tmp_path):
    rows = [dict(r, rejected_weights=[1., 1., 0.]) for r in (LONG[1], LONG[2], LONG[0], LONG[3])]
    t = trainer(tmp_path, stream(rows), loss_type=["sigmoid", "sft"], loss_weights=[1., 1.], per_device_train_batch_size=2, max_length=10, max_steps=1)
    with pytest.warns(UserWarning, match="fills max_length"): t.train()
    assert math.isfinite(t.state.log_history[0]["loss"]) and t.state.log_history[0]["loss"] > .5


def test_reported_strict_streams_raise_at_the_row(tmp_path):
    t = trainer(tmp_path, stream([dict(r, rejected_weights=[1., 1., 0.]) for r in LONG]), bad_pairs="raise", max_length=10)
    with pytest.raises(PreferenceDataError, match=r"train: pairs that .* \(row 1 is the first\); mend them"): completion_tokens(t)


@pytest.mark.parametrize("make", (Dataset.from_list, stream))
def test_reported_empty_data_are_named(tmp_path, make):
    with pytest.raises(PreferenceDataError, match="is empty"): trainer(tmp_path, make([]))


# ---- formats

@pytest.mark.parametrize("form", ("torch", "numpy", "pandas"))
@pytest.mark.parametrize("data", ("ids", "texts"))
def test_reported_formats_of_tables_change_nothing(tmp_path, form, data):
    plain = pairs() if data == "ids" else TEXTS
    a, b = (next(iter(trainer(tmp_path, some).get_train_dataloader())) for some in (plain, plain.with_format(form)))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_reported_formats_of_other_functions():
    made = tokenize_pairs(TEXTS.with_format("numpy"), toy().tokenizer)
    assert made[:] == tokenize_pairs(TEXTS, toy().tokenizer)[:]
    assert review_pairs(pairs().with_format("torch")) == review_pairs(pairs())


# ---- rows that cannot be read

@pytest.mark.parametrize("change, words", [
    (dict(rejected=None), "row 1: rejected is None"), (dict(prompt=None), "row 1: prompt is None"), (dict(chosen=7), "chosen is 7"),
    (dict(chosen=[]), r"chosen is \[\]"), (dict(chosen=[dict(role="user")]), "messages with role and content"),
    (dict(chosen=[dict(role="user", content="a")]), "some of prompt, chosen, rejected are texts")])
@pytest.mark.parametrize("where", ("function", "stream"))
def test_reported_rows_without_texts_are_named(tmp_path, change, words, where):
    rows = [THREE[0], {**THREE[1], **change}]
    with pytest.raises(PreferenceDataError, match=words):
        if where == "stream": completion_tokens(trainer(tmp_path, stream(rows), use_token_weights=False))
        else: W.check_texts(rows, toy().tokenizer)


def test_reported_tables_that_cannot_be_tokenized_are_named():
    tokenizer = toy().tokenizer
    with pytest.raises(PreferenceDataError, match="no column rejected"): tokenize_pairs(Dataset.from_list([dict(prompt="7", chosen="9")]), tokenizer)
    with pytest.raises(PreferenceDataError, match="empty"): tokenize_pairs(Dataset.from_list([]), tokenizer)
    with pytest.raises(PreferenceDataError, match="row 2: chosen is None"): tokenize_pairs(Dataset.from_list([*THREE[:2], dict(THREE[2], chosen=None)]), tokenizer)
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>")
    with pytest.raises(PreferenceDataError, match="no eos_token"): tokenize_pairs(TEXTS, without)


@pytest.mark.parametrize("blank", ("", "  "))
def test_reported_a_blank_response_is_left_out(tmp_path, blank):
    "Only the end token would be trained."
    rows = [dict(THREE[0], rejected_weights=[1.]*(len(THREE[0]["rejected"].split()) + 1)), dict(THREE[1], rejected=blank, rejected_weights=[1.])]
    with pytest.warns(UserWarning, match="1 have an empty prompt or response"): assert trainer(tmp_path, Dataset.from_list(rows)).report["train"]["kept"] == 1


# ---- weights made for other tokens

@pytest.fixture(scope="module")
def merging():
    "A tokenizer that merges a space with the letter behind it, as byte-level ones do."
    from tokenizers import Tokenizer, models, pre_tokenizers, decoders
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = {t: i for i, t in enumerate(["<pad>", "</s>", *letters, "Ġf"])}
    made = Tokenizer(models.BPE(vocab=words, merges=[("Ġ", "f")]))
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def merging_trainer(tmp_path, merging, rows, **kw):
    model = lms.tiny_lm("llama", vocab=len(merging)).model
    return TokenWeightedDPOTrainer(model, args=TokenWeightedDPOConfig(str(tmp_path), use_cpu=True, report_to="none", **kw),
                                   train_dataset=Dataset.from_list(rows), processing_class=merging)


def test_reported_weights_of_a_merged_border_are_refused(tmp_path, merging):
    "The response is tokenised alone, and has as many tokens as with the prompt: nothing but the tokens tells the shift."
    row = dict(prompt="is ", chosen="foe", rejected="fog")
    alone = [*merging("fog")["input_ids"], merging.eos_token_id]
    trained = tokenize_pairs(Dataset.from_list([row]), merging)[0]["rejected_ids"]
    assert len(alone) == len(trained) and alone != trained
    with pytest.raises(PreferenceDataError, match="row 0: the end of the prompt, ' ', is one token with the start of the response"):
        merging_trainer(tmp_path, merging, [dict(row, rejected_weights=[1., 0., 0., 0.])])
    with pytest.raises(PreferenceDataError, match="rejected_tokens and the trained tokens part at place 0"):
        merging_trainer(tmp_path, merging, [dict(row, rejected_weights=[1., 0., 0., 0.], rejected_tokens=alone)])
    for tokens in (trained, merging.convert_ids_to_tokens(trained)): # ids or tokens
        made = merging_trainer(tmp_path, merging, [dict(row, rejected_weights=[1., 0., 0., 0.], rejected_tokens=tokens)])
        batch = next(iter(made.get_train_dataloader()))
        weighted = batch["input_ids"][1][(batch["token_weights"][1] == 1) & (batch["completion_mask"][1] == 1)]
        assert merging.convert_ids_to_tokens(weighted.tolist()) == ["Ġf"]


def test_reported_borders_that_do_not_merge_are_trained(tmp_path, merging):
    rows = [dict(prompt="is", chosen=" foe", rejected=" fog", rejected_weights=[1., 0., 0., 0.])]
    assert merging_trainer(tmp_path, merging, rows).report["train"]["kept"] == 1
    ids = tokenize_pairs(Dataset.from_list([dict(prompt="is ", chosen="foe", rejected="fog")]), merging)
    with_weights = [dict(ids[0], rejected_weights=[1., 0., 0., 0.])] # made for the very ids
    assert merging_trainer(tmp_path, merging, with_weights).report["train"]["kept"] == 1


def test_reported_tokens_beside_ids_are_compared(tmp_path):
    rows = [dict(r, rejected_tokens=list(r["rejected_ids"])) for r in ones(pairs(3))]
    assert trainer(tmp_path, Dataset.from_list(rows)).report["train"]["kept"] == 3
    rows[2]["rejected_tokens"] = rows[2]["rejected_tokens"][1:] + [2]
    with pytest.raises(PreferenceDataError, match="row 2: rejected_tokens and the trained tokens part at place"): trainer(tmp_path, Dataset.from_list(rows))
    with pytest.raises(PreferenceDataError, match="part at place"): completion_tokens(trainer(tmp_path, stream(rows), per_device_train_batch_size=1))


@pytest.mark.parametrize("spans, expected", [
    ([[0, 4, 1.]], [1., 0., 0., 0.]), ([[5, 7, .5]], [0., .5, 0., 0.]), ([[2, 6, .25], [5, 6, .75]], [.25, .75, 0., 0.]), ([], [0.]*4), ([[0, 9, 1.]], [1., 1., 1., 0.])])
def test_reported_weights_of_spans_of_characters(spans, expected):
    "nine = ┃four┃ ┃+5┃: words of several characters are tokens; the end has no characters."
    lm = W.word_lm(["is four +5 ab six"])
    row = dict(prompt="is", chosen=" six", rejected="four +5 ab", rejected_spans=spans or [[0., 0., 0.]][:0])
    row["rejected"] = " " + row["rejected"]
    row["rejected_spans"] = [[a + 1, b + 1, w] for a, b, w in spans]
    if not spans: row["rejected_spans"] = [[0, 1, 0.]]
    assert weights_from_spans(Dataset.from_list([row]), lm.tokenizer) == [expected]


def test_reported_spans_with_a_byte_level_tokenizer(merging, tmp_path):
    "Spans are found where the response merges with the prompt, and the weights pass the trainer's check."
    rows = Dataset.from_list([dict(prompt="is ", chosen="foe", rejected="fog", rejected_spans=[[0, 1, 1.]])])
    found = weights_from_spans(rows, merging)
    assert found == [[1., 0., 0., 0.]]
    with pytest.raises(PreferenceDataError, match=r"row 0: the span \[2, 9\] does not lie in a text of 3 characters"):
        weights_from_spans(Dataset.from_list([dict(rows[0], rejected_spans=[[2., 9., 1.]])]), merging)


# ---- weights above 1, what has no weighted form

def test_reported_weights_above_one(tmp_path):
    rows = [dict(r, rejected_weights=[1.3, .7] + [1.]*(len(r["rejected_ids"]) - 2)) for r in pairs(4, weights=False)]
    with pytest.raises(PreferenceDataError, match=r"rejected_weights\[0\] is 1.3; a weight must lie in \[0, 1\]; set max_weight"): trainer(tmp_path, Dataset.from_list(rows))
    t = trainer(tmp_path, Dataset.from_list(rows), max_weight=1.3)
    batch = next(iter(t.get_train_dataloader()))
    assert batch["token_weights"].max() == pytest.approx(1.3)
    for bad in ([-.1], [math.inf], [math.nan]):
        with pytest.raises(PreferenceDataError, match="a weight must lie"): W.check_weights(bad, most=math.inf)
    assert W.check_weights([7.], most=math.inf).tolist() == [7.]
    with pytest.raises(ValueError, match="max_weight"): TokenWeightedDPOConfig(str(tmp_path), use_cpu=True, max_weight=0)


def test_weights_above_one_are_the_formula(tmp_path):
    "Twice the weights and half of beta on the rejected side alone: the loss against a loop."
    data = Dataset.from_list([dict(r, chosen_weights=[1.]*len(r["chosen_ids"]), rejected_weights=[2.]*len(r["rejected_ids"])) for r in pairs(3, weights=False)])
    t = trainer(tmp_path, data, ref=toy(1).model, max_weight=2., per_device_train_batch_size=3)
    batch = next(iter(t.get_train_dataloader()))
    loss, by_hand = t.compute_loss(t.model, batch).item(), []
    for k in range(3):
        ratio = {}
        for side, row in (("chosen", k), ("rejected", k + 3)):
            ids, mask = batch["input_ids"][row], batch["completion_mask"][row].bool()
            total = 0.
            for model, sign in ((t.model, 1), (t.ref_model, -1)):
                logps = model(ids[None], attention_mask=batch["attention_mask"][row][None]).logits[0].log_softmax(-1)
                total += sign*sum(logps[i - 1, ids[i]].item() for i in range(1, len(ids)) if mask[i])
            ratio[side] = total
        by_hand.append(-math.log(1/(1 + math.exp(-.7*(ratio["chosen"] - 2*ratio["rejected"])))))
    assert loss == pytest.approx(np.mean(by_hand), abs=1e-5)


@pytest.mark.parametrize("column", ("sample_weight", "sample_weights"))
def test_reported_sample_weights_are_refused(tmp_path, column):
    with pytest.raises(PreferenceDataError, match=f"the column {column} would be ignored"): trainer(tmp_path, pairs().add_column(column, [1.]*8))
    with pytest.raises(PreferenceDataError, match="would be ignored"): trainer(tmp_path, stream([dict(r, sample_weight=1.) for r in pairs()]))


def test_reported_padding_free_is_refused(tmp_path):
    with pytest.raises(ValueError, match="padding_free = True has no token-weighted form"): TokenWeightedDPOConfig(str(tmp_path), use_cpu=True, padding_free=True)


# ---- texts where ids are needed

@pytest.mark.parametrize("call", (
    lambda lm, t: contrast.token_signals(lm, lm, lm, t), lambda lm, t: critical.identify(lm, t, lambda ids: False),
    lambda lm, t: critical.identify_sequential(lm, t, lambda ids: False)))
@pytest.mark.parametrize("sample, words", [
    (("7 - 9 =", "3"), "prompt_ids is the text '7 - 9 ='"), (([1], "3"), "response_ids is the text '3'"), ("ab", "prompt_ids is the text 'a'"), ("abc", "must be a pair"),
    (7, "must be a pair"), (([1], [2.5]), "whole numbers"), (([1], [None]), "whole numbers"), (([1], 3), "whole numbers")])
def test_reported_texts_instead_of_ids_are_named(call, sample, words):
    with pytest.raises(TypeError, match=words): call(lms.tiny_lm("llama", vocab=8), sample)


def test_review_pair_says_what_review_pairs_counts():
    assert review_pair(dict(prompt_ids=[1], chosen_ids=[3, 2], rejected_ids=[3])) == []
    assert review_pair(dict(prompt_ids=[1], chosen_ids=[3, 2], rejected_ids=[3]), eos={2}) == ["without_eos"]
