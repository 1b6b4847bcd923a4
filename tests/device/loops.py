"""Hot loops on a pretend card: how often the host waits for the card in each step, from two runs of different length."""
import pretend
from paths import clean, preferences, put, solutions, tiny, words
from tokenstudy import core, lm as lms

LOOPS = {}


def loop(short: int, long: int):
    "A loop and its two lengths; the function returns the number of steps if that is not the length."
    def note(run):
        LOOPS[run.__name__] = (run, short, long)
        return run
    return note


@loop(3, 9)
def sample(n): lms.sample(tiny(vocab=300), [[3, 1, 4], [5]], max_new_tokens=n, num_samples=4)
@loop(3, 9)
def rollouts_many(n): lms.rollouts_many(tiny(vocab=300), [([3, 1, 4], [])], positions=[[0]], num_samples=8, max_new_tokens=n)


@loop(4, 24)
def multidraft(n):
    from tokenstudy.multidraft import LMDraft, generate_multidraft
    done = generate_multidraft(tiny(vocab=12), LMDraft(tiny(vocab=12, seed=2)), [[1, 2]], K=3, L=3, max_new_tokens=n, ends=())
    return len(done.steps)


@loop(2, 6)
def tree_search(n):
    from tokenstudy.tvm.policies import step_beam
    step_beam(tiny(vocab=300), judge_of(300), [[1, 2]], K=4, b=2, block=2, max_steps=n, max_new_tokens=2*n + 2)


def judge_of(vocab):
    from tokenstudy.tvm.verifier import TokenValueModel
    return put(TokenValueModel.from_causal_lm(tiny(vocab=vocab, seed=3)))


@loop(1, 3)
def identify_trajectory(n):
    from tokenstudy.cdpo.critical import identify
    for _ in range(n): identify(tiny(vocab=8, seed=0), ([1, 2], [4, 3, 7]), clean, num_samples=16, max_total=8)


@loop(1, 4)
def fine_tune(n): lms.fine_tune(tiny(), [([3, 1], [4, 39]), ([5], [6, 2, 39])], n, lr=1e-2, batch_size=2)


@loop(1, 4)
def train_verifier(n):
    from tokenstudy.tvm.training import train_verifier
    train_verifier(tiny(vocab=8), solutions(), "tvm", epochs=n, batch_size=2, lr=1e-2, composition="question")
    return 2*n


@loop(1, 4)
def train_preferences(n):
    from tokenstudy.cdpo.methods import train
    train("critical_dpo", words(), preferences(), lr=1e-2, epochs=n, batch_size=4)


def per_step(run, short, long) -> dict:
    "Waits of a step, and the lines they come from."
    from accelerate.state import AcceleratorState
    found = []
    with pretend.card(): run(short)             # what is looked at once for each class of models
    for n in (short, long):
        AcceleratorState._reset_state(True)
        with pretend.card() as seen:
            steps = run(n) or n
            found.append((steps, sum(seen.waits.values()), dict(seen.waits)))
    (a, first, before), (b, second, after) = found
    lines = {line: round((k - before.get(line, 0))/(b - a), 2) for line, k in after.items() if k > before.get(line, 0)}
    return dict(waits=round((second - first)/(b - a), 2), lines=lines)


# ---- faults that have to be seen

def cpu_tensor_left():
    "A random tensor that was made without a device."
    import torch
    class Left(torch.nn.Module):
        def forward(self, x): return x + torch.rand(3)
    with pretend.card(): Left()(torch.rand(3, device=core.device()))


def numpy_on_card():
    import torch
    with pretend.card(): torch.rand(3, device=core.device()).numpy()


def generator_of_cpu():
    import torch
    with pretend.card(): torch.rand(3, device=core.device(), generator=torch.Generator().manual_seed(0))


def cpu_tensor_in_sample():
    "`sample` with the mask left on the CPU."
    from unittest import mock
    from tokenstudy.lm import queue
    real = queue.pad
    def left(*args, **options):
        ids, mask = real(*args, **options)
        return ids, mask.cpu()
    with pretend.card(), mock.patch.object(queue, "pad", left): lms.sample(tiny(), [[3, 1]], max_new_tokens=2)


def one_item_more() -> float:
    "Waits of a step of `sample` with one more `.item()`, less those without."
    from unittest import mock
    from tokenstudy.lm import queue
    run, short, long = LOOPS["sample"]
    before, real = per_step(run, short, long)["waits"], queue.warp_unseen
    def slow(logits, *args, **options):
        logits.sum().item()
        return real(logits, *args, **options)
    with mock.patch.object(queue, "warp_unseen", slow): return per_step(run, short, long)["waits"] - before


def restored() -> bool:
    "Whether torch is as it was once the card is gone, also after an error."
    import torch
    names = [name for name in pretend.CARD if hasattr(torch.cuda, name)]
    def state(): return [getattr(torch.cuda, n) for n in names] + [torch.Generator, torch.compile, torch.nn.Module._apply, torch.Tensor.pin_memory, torch.autocast.__init__]
    before = state()
    try:
        with pretend.card(): raise KeyError
    except KeyError: pass
    return all(a is b for a, b in zip(before, state())) and not torch.cuda.is_available() and type(torch.zeros(2) + 1) is torch.Tensor


FAULTS = (cpu_tensor_left, numpy_on_card, generator_of_cpu, cpu_tensor_in_sample)
