STORE = """
import torch
store = SlotStore()
store.write(0, torch.ones(2, 1, 3, 4), torch.ones(2, 1, 3, 4))
rows = torch.tensor([0, 1])
"""
CACHED = """
from tokenstudy.lm import tiny_lm
import numpy as np
model = CachedModel(tiny_lm(), 2)
model.extend([[3, 1], [4]])
"""
BRANCHES = """
import torch
from tokenstudy.lm import tiny_lm
lm = tiny_lm()
rows = Branches(branching(lm), [Trunk(lm, [3, 1, 4])], torch.tensor([0, 0]), torch.tensor([3, 2]))
"""
ROWS = """
import torch
from tokenstudy.lm import tiny_lm
model = tiny_lm().model
rows, _ = CachedRows.of(model, [[3, 1, 4], [1]])
"""
ROLLED = "from tokenstudy.lm import tiny_lm\nr = rollouts(tiny_lm(), [3, 1, 4], [1, 5], num_samples=2, max_new_tokens=3)\n"
SEEN = {
    "lm.branches.Branches.read": ("lm.branches", BRANCHES + "rows.read(torch.tensor([5, 6]))"),
    "lm.branches.Branches.go_on": ("lm.branches", BRANCHES + "rows.read(torch.tensor([5, 6]))\nrows.go_on(torch.tensor([0, 1, 1]))"),
    "lm.caches.PackedLinear.forward": ("lm.caches", "import torch\nPackedLinear(torch.nn.Linear(4, 2)).forward(torch.ones(3, 4))"),
    "lm.caches.SlotStore.write": ("lm.caches", STORE),
    "lm.caches.SlotStore.select": ("lm.caches", STORE + "store.select(rows)"),
    "lm.caches.SlotStore.pick": ("lm.caches", STORE + "store.pick(rows)"),
    "lm.caches.SlotStore.move": ("lm.caches", STORE + "store.move(rows[:1], rows[1:])"),
    "lm.caches.SlotStore.move_slots": ("lm.caches", STORE + "store.move_slots(rows[:1], rows[1:], rows[:1])"),
    "lm.caches.SlotStore.go_on": ("lm.caches", STORE + "store.go_on(rows, [torch.zeros(2)])"),
    "lm.caches.CachedModel.positions": ("lm.caches", CACHED + "model.positions(np.zeros((2, 2), int), 0)"),
    "lm.caches.CachedModel.extend": ("lm.caches", CACHED),
    "lm.caches.CachedModel.commit": ("lm.caches", CACHED + "model.commit([[0], [0]])"),
    "lm.caches.CachedModel.select": ("lm.caches", CACHED + "model.commit([[0], [0]])\nmodel.select([0])"),
    "lm.models.check_gguf": ("lm.models", "check_gguf('settings.ini')"),
    "lm.models.prepare_lm": ("lm.models", "prepare_lm('smollm2')"),
    "lm.models.verify_lm": ("lm.models", "verify_lm('smollm2')"),
    "lm.models.load_lm": ("lm.models", "load_lm('./no-such-model')"),
    "lm.resuming.SafeCheckpoints.train": ("lm.resuming", "from transformers import Trainer\nclass Safe(SafeCheckpoints, Trainer): pass\nSafe.__new__(Safe).train(False)"),
    "lm.resuming.check_checkpoint": ("lm.resuming", "check_checkpoint('folder')"),
    "lm.rollout.Rollouts.continuation": ("lm.rollout", ROLLED + "r.continuation(0, 1)"),
    "lm.rollout.Rollouts.responses": ("lm.rollout", ROLLED + "r.responses(0)"),
    "lm.rows.CachedRows.of": ("lm.rows", ROWS),
    "lm.rows.CachedRows.read": ("lm.rows", ROWS + "rows.read([[5], [6]])"),
    "lm.rows.CachedRows.feed": ("lm.rows", ROWS + "rows.feed(torch.tensor([[5], [6]]), torch.tensor([[True], [True]]))"),
    "lm.rows.CachedRows.positions": ("lm.rows", ROWS + "rows.positions(1)"),
    "lm.rows.CachedRows.pick": ("lm.rows", ROWS + "rows.pick(torch.tensor([0]))"),
    "lm.rows.CachedRows.go_on": ("lm.rows", ROWS + "rows.read([[5], [6]])\nrows.go_on(torch.tensor([0, 1]))"),
    "lm.sampling.warp": ("lm.sampling", "import torch\nwarp(torch.tensor([0., 1., 2.]), .5)"),
}
SAME = {"lm.branches.Trunk": {"prompt_ids": ["prompt"], "response_ids": ["prompt"]},
        "lm.rollout.rollouts": {"prompt_ids": ["prompt"], "response_ids": ["prompt", "response"], "num_samples": ["range"]},
        "lm.sampling.token_logprobs": {"sequences": ["prompt", "prompts"]}, "lm.models.prepare_lm": {"name": ["smollm2"]}, "lm.models.verify_lm": {"name": ["smollm2"]},
        "lm.rows.CachedRows.feed": {"ids": ["recompute"], "real": ["recompute"]}, "lm.rows.CachedRows.read": {"texts": ["recompute"]},
        "lm.finetuning.fine_tune": {"samples": ["sample"]}}
ANY = {"lm.models.check_gguf", "lm.models.prepare_lm", "lm.models.verify_lm", "lm.models.load_lm", "lm.resuming.check_checkpoint", "lm.resuming.SafeCheckpoints.train"}
LONG: set = set()
NEVER: dict = {}

# Legal all the same: the result is of the valid call's kind, or a work that begins
LEGAL = {
    "lm.memory.layer_terms": {"dtype": "", "computes": "", "lora": "0", "padded": "0"},
    "lm.memory.Needs": {"what": "[]", "parts": "[]|{}|other keys|number keys"},
    "lm.memory.sampling_needs": {"dtype": "", "logits_to_keep": "0"},
    "lm.memory.verifier_needs": {"dtype": "", "computes": "", "lora": "0", "response_tokens": "0"},
    **{f"lm.memory.{name}": {"dtype": "", "computes": "", "lora": "0", "response_tokens": "0", "padded": "0"} for name in ("training_needs", "preference_needs")},
    "lm.memory.needs_checkpointing": {"device": ""},
    "lm.plans.plans": {"settings": "{}|other keys|number keys", "dtype": ""},
    "lm.plans.require_plans": {"settings": "{}|other keys|number keys", "device": ""},
    "lm.queue.rows_on_card": {"weights": "0"},
    "lm.queue.attending": {"name": "|text"},
    "lm.models.placed": {"device": ""},
    "lm.models.takes": {"name": "|text"},
    "lm.branches.Trunk": {"response_ids": "[]"},
    "lm.branches.Branches": {"trunks": "[[]]", "owners": "short", "prefixes": "short"},
    "lm.branches.Branches.go_on": {"parents": "short"},
    "lm.caches.PackedLinear.forward": {"x": "deep|nan|short"},
    "lm.sampling.elsewhere": {"tensor": "deep|nan"},
    "lm.sampling.warp_unseen": {"logits": "deep|nan|short", "temperature": "0", "top_k": "0"},
    "lm.caches.SlotStore": {"layers": "0"},
    "lm.caches.SlotStore.write": {"layer": "0", "keys": "nan|short", "values": "nan|short"},
    "lm.caches.SlotStore.select": {"rows": "short", "slots": "0"},
    "lm.caches.SlotStore.pick": {"rows": "short"},
    "lm.caches.SlotStore.go_on": {"parents": "short", "share": "0", "slots": "0"},
    "lm.caches.CachedModel.positions": {"depths": "short", "old": "0"},
    "lm.caches.CachedModel.extend": {"parents": "[]|[[]]"},
    "lm.caches.CachedModel.commit": {"paths": "[[]]"},
    "lm.finetuning.few_shot": {"problems": "[]|generator", "shown": "[]|generator"},
    "lm.finetuning.lessons": {"problems": "[]|generator"},
    "lm.finetuning.fine_tune": {"epochs": "0", "lr": "0", "lora": "0", "seed": "0", "output_dir": "missing|folder", "save_every": "inf|0"},
    "lm.models.as_lm": {"tokenizer": "1|text|[]|{}|object"},
    "lm.models.resting": {"model": "1|text|[]|{}|object"},
    "lm.models.load_lm": {"device": "|text", "dtype": "|text"},
    "lm.plans.plans": {"settings": "{}|other keys|number keys", "dtype": ""},
    "lm.plans.require_plans": {"settings": "{}|other keys|number keys", "device": ""},
    "lm.queue.rows_on_card": {"weights": "0"},
    "lm.models.require_memory": {"gigabytes": "0", "what": "|text", "device": ""},
    "lm.models.tiny_lm": {"seed": "0"},
    "lm.models.tiny_tokenizer": {"words": "[]|generator"},
    "lm.models.check_length": {"tokens": "0"},
    "lm.models.pad": {"sequences": "[[]]", "side": "|text", "pad_id": "0"},
    "lm.resuming.SafeCheckpoints.train": {"resume_from_checkpoint": "text", "args": "None|1|text|[]|{}|object"},
    "lm.resuming.whole_checkpoint": {"folder": "missing|folder"},
    "lm.resuming.check_checkpoint": {"path": "missing|folder", "identity": "{}|other keys|number keys"},
    "lm.rollout.rollout_numbers": {"count": "0", "seed": "0", "stream": "0", "position": "0", "rollout": "0"},
    "lm.rollout.draw_tokens": {"log_probs": "nan", "u": "nan"},
    "lm.rollout.Rollouts.continuation": {"i": "0", "j": "0"},
    "lm.rollout.Rollouts.responses": {"i": "0"},
    "lm.rollout.Rollouts": {
        "response_ids": "[]|[[]]|[None]|[object]|{}|[nan]", "positions": "[]|[[]]|[None]|[object]|{}|[nan]",
        "tokens": "[]|ragged|texts|{}|deep|short", "lengths": "[]|ragged|texts|{}|deep|short", "finished": "[]|ragged|texts|{}|deep|short",
        "logprobs": "[]|ragged|texts|{}", "prefix_tokens": "[]", "forwarded": "[]"},
    "lm.rollout.rollouts_many": {"temperature": "0", "top_k": "0", "seed": "0"},
    "lm.rollout.rollouts": {"stream": "0", "banned": "{}"},
    "lm.rows.CachedRows": {"mask": "short"},
    "lm.rows.CachedRows.go_on": {"parents": "short"},
    "lm.sampling.warp": {"logits": "deep|short", "temperature": "0", "top_k": "0"},
    "lm.sampling.check_warp": {"temperature": "0", "top_k": "0|huge"},
    "lm.sampling.next_token_probs": {"logits": "deep|short", "temperature": "0", "top_k": "0"},
    "lm.sampling.Sampled": {
        "prompt_ids": "[]|[[]]|[None]|[object]|{}|[nan]", "response_ids": "[]|[[]]|[None]|[object]|{}|[nan]",
        "logprobs": "[]|[[]]|[None]|[object]|{}|[nan]", "finished": "[]"},
    "lm.sampling.pick": {"probs": "nan", "u": "nan"},
    "lm.queue.sample": {"temperature": "0", "top_k": "0", "seed": "0"},
    "lm.sampling.token_logprobs": {"temperature": "0", "top_k": "0"},
}
FAULTS: dict = {}
