"Verifiers of other kinds, texts beyond the context, votes of all solutions: situations of public reports."
import pytest
import torch
import transformers as tf

from tokenstudy import lm as lms
from tokenstudy.tvm.labels import ValueDataError
from tokenstudy.tvm.search import Candidate, SearchResult
from tokenstudy.tvm.policies import step_beam
from tokenstudy.tvm.verifier import TokenValueModel, score_responses


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
    from tokenstudy import reasoning
    generator = reasoning.load_generator()
    problems = reasoning.arithmetic(2, "chain", split="test")
    for r in step_beam(generator, lambda prompt, response: .5, problems, K=6, b=2, delimiter=";", max_new_tokens=60, answer=reasoning.arithmetic_answer):
        assert set(r.told) == set(r.finished) >= {i for i in r.final if r.nodes[i].finished}
        assert r.answers == [r.told.get(i) for i in r.final]
