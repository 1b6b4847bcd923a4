"Wrong arguments that were once taken in silence, or answered with an error from inside; each case varies what was reported."
import numpy as np
import pytest
import torch

from tokenstudy import core, lm, multidraft, reasoning
from tokenstudy.app import commands
from tokenstudy.cdpo import contrast, critical, losses
from tokenstudy.core import show
from tokenstudy.multidraft import schemes
from tokenstudy.reasoning.trie import Trie
from tokenstudy.tvm import labels, setups

VALUES = np.array([.2, .9, .3, .7])


@pytest.fixture(scope="module")
def model(): return lm.tiny_lm()


@pytest.mark.parametrize("mask", [VALUES < .5, (VALUES < .5).tolist(), torch.tensor(VALUES < .5)])
def test_reported_boolean_mask_marks_its_tokens(mask):
    assert show.token_strip("abcd", VALUES, marker=mask).marked == {0, 2}


@pytest.mark.parametrize("marker", [[True, False], 1.5, [.5, 1.], VALUES, "a"])
def test_reported_markers_that_are_no_positions(marker):
    with pytest.raises((ValueError, TypeError), match="marker"): show.token_strip("abcd", VALUES, marker=marker)


@pytest.mark.parametrize("paths, weights", [
    ([[1.7, 2.2]], None), ([[3, 1], [4, 1.5]], None), ((np.array([1.7, 2.2]), np.array([0, 2])), None), ((np.array([1, 2]), np.array([0., 1.5, 2.])), None),
    ([[1], [2]], [2**62]*2), ([[1], [2]], [1, float("nan")]), ([[-1]], None), ([[2**31]], None)])
def test_reported_numbers_that_a_trie_would_cut(paths, weights):
    with pytest.raises(ValueError, match="tokens|weights|starts"): Trie(paths, weights=weights)


@pytest.mark.parametrize("node", [-1, 7])
def test_reported_nodes_that_a_trie_has_not(node):
    trie = Trie([[3, 1], [4]], [1, 0])
    for ask in (trie.children, trie.tokens):
        with pytest.raises(ValueError, match="node"): ask(node)
    with pytest.raises(ValueError, match="path"): trie.nodes(node)


@pytest.mark.parametrize("batch_size", [-1, 0, 1.5, "8", True])
def test_reported_batches_without_rows(model, batch_size):
    with pytest.raises(ValueError, match="batch_size"): lm.token_logprobs(model, [[3, 1]], batch_size=batch_size)


@pytest.mark.parametrize("banned", [{1: [-1]}, {1: [2, 32]}, {2: [1.5]}, {1: "7"}, {0: [3]}, {5: [3]}, {-1: [3]}, {"1": [3]}])
def test_reported_bans_of_other_tokens_or_places(model, banned):
    with pytest.raises(ValueError, match="banned"): lm.rollouts(model, [3, 1], [1, 5], num_samples=2, max_new_tokens=3, banned=banned)


def test_reported_empty_ban_bans_nothing(model):
    drawn = [lm.rollouts(model, [3, 1], [1, 5], num_samples=2, max_new_tokens=3, banned=banned).tokens.tolist() for banned in (None, {}, {2: []}, {2: ()})]
    assert drawn[1:] == drawn[:-1]


@pytest.mark.parametrize("name, value", [("seed", .5), ("seed", "7"), ("seed", -1), ("seed", 2**64), ("stream", "7"), ("stream", 1.5), ("stream", -1)])
def test_reported_seeds_that_are_no_whole_numbers(model, name, value):
    with pytest.raises(ValueError, match=name): lm.rollouts(model, [3, 1], [1, 5], num_samples=2, max_new_tokens=3, **{name: value})


@pytest.mark.parametrize("call", [
    lambda: contrast.pointing(np.array([.1, .9]), 7), lambda: contrast.pointing(np.array([.1, .9]), -1), lambda: contrast.pointing(np.array([.1, .9]), 1.5)])
def test_reported_pointing_outside_of_the_tokens(call):
    with pytest.raises(ValueError, match="index"): call()


@pytest.mark.parametrize("start", [7, -.1, float("nan"), "0"])
def test_reported_start_that_is_no_share(start):
    with pytest.raises(ValueError, match="start"): critical.critical_token([1., .5, 0.], start=start)


@pytest.mark.parametrize("delimiter", [[1.7], [-1], [4, -2], [None], []])
def test_reported_delimiters_that_are_no_tokens(model, delimiter):
    with pytest.raises((ValueError, TypeError), match="delimiter"): labels.step_ends(Trie([[1, 2, 3]], [1]), delimiter)
    with pytest.raises((ValueError, TypeError), match="delimiter|index"): setups.StepEnds(model, delimiter)


@pytest.mark.parametrize("ends", [np.int64(5), np.int32(5), [5], (np.int64(5),), {5}, torch.tensor([5])])
def test_reported_ends_of_any_whole_number(model, ends):
    def text(ends): return multidraft.generate_multidraft(model, model, [[1, 2]], K=1, max_new_tokens=3, ends=ends).rows[0].response_ids
    assert text(ends) == text(5)


@pytest.mark.parametrize("ends", [1.5, -1, [3, -1], "5"])
def test_reported_ends_that_are_no_tokens(model, ends):
    with pytest.raises(ValueError, match="ends"): multidraft.generate_multidraft(model, model, [[1, 2]], K=1, max_new_tokens=3, ends=ends)


@pytest.mark.parametrize("rng", [None, 0, "rng", []])
@pytest.mark.parametrize("scheme", [multidraft.Optimal(), schemes.SpecTr(), schemes.SpecInfer(), multidraft.TruncatedLP()])
def test_reported_selection_without_a_generator(scheme, rng):
    with pytest.raises((ValueError, TypeError), match="rng"): scheme.prepare([.7, .2, .1], [[.4, .1, .5]] * 2).select([1, 2], rng)


@pytest.mark.parametrize("resamples", [0, -3, 1.5, "many"])
def test_reported_intervals_without_resamples(resamples):
    for interval, values in ((core.bootstrap_interval, [1, 2, 3]), (core.two_way_interval, [[1, 2]]), (core.crossed_interval, [[1, 2]])):
        with pytest.raises(ValueError, match="resamples"): interval(values, resamples=resamples)


@pytest.mark.parametrize("seeds, code", [("1000000000", 1), ("999999999999", 1)])
def test_reported_number_of_seeds(seeds, code, capsys, monkeypatch):
    monkeypatch.delenv("TOKENSTUDY_SEEDS", raising=False)
    assert commands.main(["study", "cdpo", "--seeds", seeds]) == code
    assert "at most a million" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["base-unet.safetensors", "prompts.jsonl"])
def test_reported_preparation_of_an_embedded_file_says_so(name, capsys):
    assert commands.main(["models", "prepare", name]) == 0
    assert capsys.readouterr().out == f"{name}: part of the package, there is nothing to prepare\n"


def test_reported_rectangles_that_would_be_stretched():
    "A reference of one row was subtracted from all of them; three rows were halved into two and one."
    logps, one = torch.zeros(4, 3), torch.zeros(1, 3)
    for loss in (losses.sigmoid_loss, losses.per_position_loss):
        with pytest.raises(ValueError, match="ref_logps"): loss(logps, one)
        with pytest.raises(ValueError, match="weights"): loss(logps, logps, one)
        with pytest.raises(ValueError, match="rows"): loss(logps[:3], logps[:3])
    with pytest.raises(ValueError, match="kl"): losses.tdpo_loss(logps, logps, torch.zeros(2))


def test_reported_table_of_rows_that_can_be_read_once():
    "Its cells were empty: the columns had used the rows up."
    with pytest.raises(ValueError, match="rows"): show.table(dict(a=i) for i in range(2))


@pytest.mark.parametrize("module", ["text", "numpy", "tokenstudy.nowhere", "tokenstudyx", ""])
def test_reported_imports_of_no_module_of_ours(module):
    "The front door's imports were given for any name."
    from tokenstudy.core.identity import imports_of, reachable
    for ask in (imports_of, reachable):
        with pytest.raises(ValueError, match="module"): ask(module)
