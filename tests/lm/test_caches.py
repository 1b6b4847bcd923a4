"The store of slots, packed weights, rows that come and go: against forward passes over whole texts, and mutants."
import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from tokenstudy import lm
from tokenstudy.lm import caches, rows as row_module

FAMILIES = ("llama", "qwen", "gpt2", "opt")


def numbered(rows, layers=0, slots=3):
    "A store whose keys say row and slot (10 × row + slot), its values the negative."
    store = caches.SlotStore(layers, more=4)
    keys = (10. * torch.arange(rows)[:, None] + torch.arange(slots))[:, None, :, None].expand(rows, 1, slots, 2)
    for layer in range(layers or 2): store.write(layer, keys, -keys)
    return store


def said(store, slots=None): return [x[0, :, 0, :slots, 0].int().tolist() for x in (store.keys[-1], -store.values[-1])]


@pytest.mark.parametrize("layers", (0, 2))
def test_slots_are_written_behind_those_that_stand(layers):
    store = numbered(2, layers)
    assert len(store) == 4 and store.stop == 3 and len(store.keys) == (1 if layers else 2)
    store.filled = 3
    keys, values = store.write(1, torch.full((2, 1, 2, 2), 7.), torch.full((2, 1, 2, 2), -7.))
    assert store.stop == 5 and len(caches.slot_cache(store).layers) == 2
    assert keys[:, 0, :, 0].tolist() == [[0, 1, 2, 7, 7], [10, 11, 12, 7, 7]] == (-values)[:, 0, :, 0].tolist()


@pytest.mark.parametrize("layers", (0, 2))
def test_rows_and_slots_of_a_store(layers):
    store = numbered(3, layers)
    copy = store.pick(torch.tensor([2, 0, 2]))
    assert said(copy) == [[[20, 21, 22], [0, 1, 2], [20, 21, 22]]] * 2 and said(store, 3)[0][1] == [10, 11, 12]
    store.move(torch.tensor([1]), torch.tensor([2]))
    store.move_slots(torch.tensor([0, 2]), torch.tensor([0, 1]), torch.tensor([2, 2]))
    assert said(store, 3) == [[[2, 1, 2], [20, 21, 22], [20, 22, 22]]] * 2
    store.select(torch.tensor([0]), 6)
    assert said(store) == [[[2, 1, 2, 0, 0, 0]]] * 2
    assert said(copy) == [[[20, 21, 22], [0, 1, 2], [20, 21, 22]]] * 2                # it shares nothing


@given(st.integers(1, 7).flatmap(lambda rows: st.tuples(st.just(rows), st.lists(st.integers(0, rows - 1), min_size=1, max_size=9))), st.floats(0, 1),
       st.booleans())
@settings(max_examples=120)
def test_children_follow_their_parents(case, share, wider):
    (rows, parents), store = (case[0], sorted(case[1])), numbered(case[0])
    places, (names,) = store.go_on(torch.tensor(parents), [torch.arange(rows)], share=share, slots=8 if wider else None)
    assert names[places].tolist() == parents and len(set(places.tolist())) == len(parents)
    assert [said(store, 3)[0][p] for p in places] == [[10 * p, 10 * p + 1, 10 * p + 2] for p in parents]
    assert len(store) == (8 if wider else 4)


def alone(model, text): return lm.sequence_logits(model, text)[-1]


def check_rows(family, seed):
    "Rows that are read, have holes, split, end, are picked and merged: every one has the logits of its text."
    model, rng = lm.tiny_lm(family, vocab=16, seed=seed), np.random.default_rng(seed)
    blocks = []
    for size in (3, 2):
        texts = [rng.integers(0, 15, rng.integers(1, 5)).tolist() for _ in range(size)]
        rows, _ = row_module.CachedRows.of(model.model, texts)
        for _ in range(3):
            here = rng.random(len(texts)) < .7
            ids = rng.integers(0, 15, len(texts))
            rows.feed(torch.tensor(ids)[:, None], torch.tensor(here)[:, None])
            texts = [t + [int(i)] * bool(h) for t, i, h in zip(texts, ids, here)]
            parents = np.sort(rng.integers(0, len(texts), rng.integers(1, 6)))
            places = rows.go_on(torch.tensor(parents)).tolist()
            kept = dict(zip(places, (texts[p] for p in parents)))
            rows = rows.pick(torch.tensor(places))
            texts = [kept[p] for p in places]
        blocks += [(rows, i, text) for i, text in enumerate(texts)]
    some = [blocks[i] for i in rng.integers(0, len(blocks), 5)]
    merged = row_module.merge_rows([(rows, i) for rows, i, _ in some])
    out = merged.read([[3], [4, 5], [6], [7], [8]]).logits[:, -1]
    for row, (_, _, text), more in zip(out, some, ([3], [4, 5], [6], [7], [8])):
        assert torch.allclose(row, alone(model, text + more), atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_whole_texts(family, seed): check_rows(family, seed)


@pytest.mark.parametrize("mutant", ["rows not taken", "rows not moved", "hole counted", "hole seen", "slots not gathered"])
def test_row_mutants_are_caught(mutant, monkeypatch):
    store, rows = caches.SlotStore, row_module.CachedRows
    select, joined, feed = store.select, row_module._joined, rows.feed
    if mutant == "rows not taken": monkeypatch.setattr(store, "select", lambda self, r, slots=None: select(self, torch.arange(len(r)) % self.keys[0].shape[1], slots))
    if mutant == "rows not moved": monkeypatch.setattr(store, "move", lambda self, target, source: None)
    if mutant == "hole counted": monkeypatch.setattr(rows, "positions", lambda self, n: torch.arange(self.mask.shape[1])[None, -n:].expand(len(self.mask), -1))
    if mutant == "hole seen": monkeypatch.setattr(rows, "feed", lambda self, ids, real, **o: feed(self, ids, torch.ones_like(real), **o))
    if mutant == "slots not gathered": monkeypatch.setattr(row_module, "_joined", lambda blocks, back, longest, which: joined(
        [(r, n, torch.arange(slots.shape[1]).expand_as(slots), m) for r, n, slots, m in blocks], back, longest, which))
    with pytest.raises(AssertionError):
        for seed in range(12): check_rows("llama", seed)


def test_a_model_that_uses_another_cache_is_named():
    model = lm.tiny_lm()
    rows, _ = row_module.CachedRows.of(model.model, [[1, 2]])
    rows.store.stop = 0                                             # as if nothing had been written
    with pytest.raises(ValueError, match="LlamaForCausalLM did not use the cache that it was given"): rows.read([[3]])


def test_stores_are_freed_at_once():
    "A search keeps many rows; what it drops must not wait for the garbage collector."
    import weakref
    rows, out = row_module.CachedRows.of(lm.tiny_lm().model, [[1, 2]])
    gone = weakref.ref(rows.store.keys[0])
    del rows, out
    assert gone() is None


@pytest.mark.parametrize("family", FAMILIES)
def test_packed_models_say_the_same(family):
    model, ids = lm.tiny_lm(family), [3, 1, 4, 1, 5]
    fast = lm.packed(model)
    if fast is model: pytest.skip("no oneDNN here")
    assert torch.allclose(lm.sequence_logits(fast, ids), lm.sequence_logits(model, ids), atol=1e-4)
    assert any(isinstance(m, lm.PackedLinear) for m in fast.model.modules()) or family == "gpt2"
    assert not any(isinstance(m, lm.PackedLinear) for m in model.model.modules())


# --- masks and clocks -----------------------------------------------------------------------------------------------------------------------------------

def spied(model, monkeypatch):
    "Whether each pass of a model was given a mask."
    given, forward = [], type(model.model).forward
    def spy(self, *args, attention_mask=None, **options):
        given.append(attention_mask is not None)
        return forward(self, *args, attention_mask=attention_mask, **options)
    spy.__signature__ = __import__("inspect").signature(forward)
    monkeypatch.setattr(type(model.model), "forward", spy)
    return given


@pytest.mark.parametrize("family", FAMILIES)
def test_a_mask_is_left_out_only_where_nothing_is_hidden(family, monkeypatch):
    "On a card a prompt and the next token of one text, or of texts of one length, need none; what is read is the same."
    model = lm.tiny_lm(family, vocab=16, seed=3)
    for p in model.model.parameters(): p.data = p.data.double()
    def read():
        one, two, found = lm.CachedModel(model, 1), lm.CachedModel(model, 2), []
        found.append(one.extend([[3, 1, 4]], last=True))                                            # a prompt: no mask
        one.commit([[0, 1, 2]])
        found.append(one.extend([[5]]))                                                             # the next token: none
        found.append(one.extend([[6]], [[0]]))                                                      # and the one behind it: none
        found.append(one.extend([[7]], [[0]]))                                                      # not the one beside it
        one.commit([[0, 2]])
        found.append(one.extend([[1, 2, 3]], [[-1, 0, 0]]))                                         # a tree
        one.commit([[]])
        found.append(one.extend([[1, 2, 3]]))                                                       # a chain behind a text
        found.append(two.extend([[3, 1], [4, 1]]))                                                  # prompts of one length: none
        two.commit([[0, 1], [0]])
        found.append(two.extend([[1], [2]]))                                                        # texts of two lengths
        return found
    with_masks = read()
    given = spied(model, monkeypatch)
    monkeypatch.setattr(caches, "_always_masked", lambda device: False)
    for a, b in zip(with_masks, read()): assert torch.allclose(a, b, atol=1e-12)
    assert given == [False, False, False, True, True, True, False, True]


def test_on_a_cpu_the_mask_is_always_given(monkeypatch):
    model = lm.tiny_lm()
    given = spied(model, monkeypatch)
    lm.CachedModel(model, 1, checked=True).extend([[3, 1, 4]])
    assert all(given) and given


def test_a_card_is_timed_by_its_events_which_are_read_when_asked_for(monkeypatch):
    class Event:
        made = []
        def __init__(self, enable_timing): self.waited, self.at = False, None; Event.made.append(self)
        def record(self, stream): self.at = float(len(Event.made))
        def synchronize(self): self.waited = True
        def elapsed_time(self, other): return 1000 * (other.at - self.at)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
    watch = caches._Watch(torch.device("cuda"))
    for _ in range(2): watch.add(watch.mark(), watch.mark())
    assert not any(event.waited for event in Event.made), "nothing waits before it is asked"
    assert watch.seconds() == 2 and watch.seconds() == 2
    assert [event.waited for event in Event.made] == [False, True] * 2


def test_what_a_pass_needs_is_sent_at_once():
    arrays = np.arange(6).reshape(2, 3), np.array([[True, False]]), np.zeros((2, 0), int)
    for device in ("cpu", "meta"):
        found = caches._sent(torch.device(device), *arrays)
        assert [tuple(x.shape) for x in found] == [(2, 3), (1, 2), (2, 0)]
    assert [x.tolist() for x in caches._sent(torch.device("cpu"), *arrays)] == [x.tolist() for x in arrays]
