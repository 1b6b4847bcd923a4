"Verifiers of other kinds, texts beyond the context, votes of all solutions: situations of public reports."
import json
import subprocess
import sys

import pytest
import torch
import transformers as tf

from tokenstudy import core, lm as lms, reasoning
from tokenstudy.tvm.labels import ValueDataError
from tokenstudy.tvm.candidates import Candidate, SearchResult
from tokenstudy.tvm.policies import step_beam
from tokenstudy.tvm.verifier import TokenValueModel, load_verifier, save_verifier, score_responses, vocabulary_key


@pytest.fixture
def toy(): return lms.tiny_lm("llama", vocab=8, seed=1)


def token_classifier(labels=1):
    config = tf.LlamaConfig(vocab_size=8, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, num_labels=labels)
    return tf.LlamaForTokenClassification(config).eval()


@pytest.mark.parametrize("kind", ("language model", "token classifier", "two labels"))
def test_reported_models_without_values_are_refused(toy, kind):
    model = {"language model": lambda: toy.model, "token classifier": token_classifier, "two labels": lambda: token_classifier(2)}[kind]()
    with pytest.raises(ValueDataError, match=f"{type(model).__name__} gives no value after each token"): score_responses(model, [([1, 2], [3, 4])])
    for recompute in (False, True):
        with pytest.raises(ValueDataError, match="gives no value after each token.*from_causal_lm"):
            step_beam(toy, model, [[1, 2]], K=2, b=1, block=2, max_new_tokens=4, recompute=recompute)


def test_an_adapter_is_a_function(toy):
    model = token_classifier()
    def judge(prompt, response):
        with torch.no_grad(): return float(model(torch.tensor([prompt + response])).logits[0, -1, 0].sigmoid())
    found = step_beam(toy, judge, [[1, 2]], K=2, b=1, block=2, max_new_tokens=4)
    assert 0 < found[0].nodes[0].value < 1


@pytest.mark.parametrize("family", ("llama", "gpt2"))
def test_reported_scoring_beyond_the_context_is_refused(family):
    lm = lms.tiny_lm(family, vocab=8)
    model, most = TokenValueModel.from_causal_lm(lm), lm.model.config.max_position_embeddings
    fits = ([1], [2] * (most - 1))
    assert score_responses(model, [fits])[0].shape == (most - 1,)
    with pytest.raises(ValueDataError, match=f"sample 1: {most + 1} tokens .* do not fit"): score_responses(model, [fits, ([1, 1], [2] * (most - 1))])


@pytest.mark.parametrize("bad", (0, -1, 1.5, True, "2", None))
def test_bad_arguments_of_scoring(toy, bad):
    with pytest.raises(ValueError, match="batch_size"): score_responses(TokenValueModel.from_causal_lm(toy), [([1], [2])], batch_size=bad)


def test_reported_all_finished_solutions_vote():
    "Of five solutions that ended, the policy kept one: the others were paid for, and vote."
    nodes = [Candidate(0, -1, [5], .9, kept=True, finished=True)] + [Candidate(0, -1, [6], .4, finished=True) for _ in range(4)] + [Candidate(0, -1, [3], .99)]
    found = SearchResult("q", [1], nodes, [0], {}, answers=["1"], told={0: "1", 1: "1/2", 2: "0.5", 3: ".5", 4: None})
    assert found.finished == [0, 1, 2, 3, 4]
    assert (found.vote(), found.vote(among="final"), found.vote("mean"), found.answer) == ("1/2", "1", "1", "1")
    with pytest.raises(ValueError, match="among"): found.vote(among="all")
    with pytest.raises(ValueError, match="no answers"): SearchResult("q", [1], nodes, [0], {}).vote()


def test_a_search_reads_the_answers_of_all_solutions_that_ended():
    generator = reasoning.load_generator()
    problems = reasoning.arithmetic(2, "chain", split="test")
    for r in step_beam(generator, lambda prompt, response: .5, problems, K=6, b=2, delimiter=";", max_new_tokens=60, answer=reasoning.arithmetic_answer):
        assert set(r.told) == set(r.finished) >= {i for i in r.final if r.nodes[i].finished}
        assert r.answers == [r.told.get(i) for i in r.final]


def renamed(lm):
    "The same model with a tokenizer of as many tokens, two of which stand for each other's words."
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    made = json.loads(lm.tokenizer.backend_tokenizer.to_str())
    vocab = made["model"]["vocab"]
    a, b = list(vocab)[-2:]
    vocab[a], vocab[b] = vocab[b], vocab[a]
    return lms.LM(lm.model, PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(made)), **lm.tokenizer.special_tokens_map), "renamed")


def test_reported_a_verifier_folder_loads_alone(tmp_path):
    generator = reasoning.load_generator("cpu")
    model = TokenValueModel.from_causal_lm(generator)
    folder = save_verifier(model, tmp_path/"v", generator.tokenizer)
    assert not list(folder.glob("*.bin")) and not list(folder.glob("*.py")) and "auto_map" not in (folder/"config.json").read_text()
    code = f"""
from tokenstudy.tvm import load_verifier
model = load_verifier({str(folder)!r}, device="cpu")
ids = model.tokenizer("3 + 1 =")["input_ids"]
import torch, transformers
again = transformers.AutoModel.from_pretrained({str(folder)!r})
assert type(again) is type(model)
print(model.tokenizer.decode(ids), float(model(torch.tensor([ids])).values[0, -1]))"""
    text, value = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip().rsplit(" ", 1)
    ids = generator.tokenizer("3 + 1 =")["input_ids"]
    assert text == generator.tokenizer.decode(ids) and float(value) == pytest.approx(float(model(torch.tensor([ids])).values[0, -1]), abs=1e-6)
    with pytest.raises(ValueError, match="there already"): save_verifier(model, folder)
    with pytest.raises(core.MissingModelError, match="no verifier at"): load_verifier(tmp_path/"none")
    with pytest.raises(ValueError, match="TokenValueModel"): save_verifier(generator.model, tmp_path/"w")


def test_reported_verifiers_of_another_vocabulary_are_refused(tmp_path):
    generator = reasoning.load_generator("cpu")
    other, model = renamed(generator), TokenValueModel.from_causal_lm(generator)
    assert vocabulary_key(other.tokenizer) != vocabulary_key(generator.tokenizer) and len(other.tokenizer) == len(generator.tokenizer)
    problems = reasoning.arithmetic(1, "chain", split="test")
    with pytest.raises(ValueError, match="tokenizer: its vocabulary is not"): step_beam(other, model, problems, K=2, b=1, delimiter=";", max_new_tokens=20)
    with pytest.raises(ValueError, match="tokenizer: its vocabulary is not"): save_verifier(model, tmp_path/"v", other.tokenizer)
    folder = save_verifier(model, tmp_path/"v", generator.tokenizer)
    with pytest.raises(ValueError, match="tokenizer: its vocabulary is not"): load_verifier(folder, generator=other)
    other.tokenizer.save_pretrained(folder) # as if files of two models had been mixed
    with pytest.raises(core.CorruptFileError, match="vocabulary"): load_verifier(folder)


def test_reported_a_training_keeps_the_tokenizer(tmp_path):
    from tokenstudy.tvm.training import train_verifier
    generator = reasoning.load_generator("cpu")
    some = reasoning.sample_trajectories(generator, reasoning.arithmetic(1, "chain"), 2, grader=reasoning.grade_arithmetic, max_new_tokens=60)
    run = train_verifier(generator, some, "ovm", epochs=1, output_dir=tmp_path)
    found = load_verifier(tmp_path/"model", generator=generator, device="cpu")
    assert found.config.vocabulary == vocabulary_key(found.tokenizer) and torch.equal(found.value_head.weight, run.model.value_head.weight)
    assert train_verifier(generator, some, "ovm", epochs=1, output_dir=tmp_path, resume=True).settings == run.settings


def test_reported_a_function_gets_lists_of_its_own(toy):
    def greedy(prompt, response):
        found = len(response)/10
        prompt.append(0), response.append(0)
        return found
    kw = dict(K=2, b=1, block=2, max_new_tokens=6)
    one, two = (step_beam(toy, f, [[1, 2], [3]], **kw) for f in (greedy, lambda prompt, response: len(response)/10))
    assert one == two and one[0].prompt_ids == [1, 2]


def test_reported_beams_of_copies():
    "Three of four candidates are one text: a beam keeps it twice, a distinct one keeps two texts."
    from tokenstudy.tvm.policies import beam_policy
    nodes = [Candidate(0, -1, t, v) for t, v in (([5], .9), ([5], .9), ([6], .5), ([5], .9), ([7], .1))]
    assert beam_policy(4, 2)(nodes, [0, 1, 2, 3, 4], []) == [(0, 2), (1, 2)]
    assert beam_policy(4, 2, distinct=True)(nodes, [0, 1, 2, 3, 4], []) == [(0, 2), (2, 2)]
    assert beam_policy(4, 4, distinct=True)(nodes, [0, 1, 2, 3, 4], []) == [(0, 2), (2, 1), (4, 1)]
    nodes += [Candidate(1, 0, [8], .3), Candidate(1, 1, [8], .3), Candidate(1, 2, [8], .3)]
    assert beam_policy(4, 2, distinct=True)(nodes, [5, 6, 7], []) == [(5, 2), (7, 2)]


def test_labels_that_are_made_take_no_options(toy):
    from tokenstudy.tvm.labels import value_data
    from tokenstudy.tvm.training import train_verifier
    data = value_data([reasoning.Trajectory("p", [1], [2, 7], [0., 0.], "7", True, True)], "ovm")
    for kw in (dict(block=1), dict(delimiter=[2]), dict(unique=False), dict(prior=(1., 1.))):
        with pytest.raises(ValueDataError, match=f"{next(iter(kw))}: these labels are made already"): train_verifier(toy, data, **kw)
