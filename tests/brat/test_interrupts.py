"Ctrl-C and SIGTERM at any place of a step: real signals in processes of their own, and what is left continues as if nothing had happened."
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from conftest import ROOT
from brat.toys import RUN, learn, pictures, pipeline, same

from tokenstudy import core
from tokenstudy.brat.pictures import read_pictures
from tokenstudy.brat.strategies import Options
from tokenstudy.brat.inversion import CHECKPOINT, Trainer


CHILD = """
    import os, signal, sys, warnings
    sys.path.insert(0, sys.argv[1])
    import torch
    from brat.toys import RUN, learn, pipeline
    from tokenstudy.brat import inversion
    from tokenstudy.brat.inversion import Trainer
    signal.signal(signal.SIGINT, signal.default_int_handler) # a shell may have started the tests without it

    WHERE = dict(draw=(Trainer, "draw"), loss=(Trainer, "loss"), tangent=(Trainer, "_to_tangent"), adam=(torch.optim.AdamW, "step"), follow=(Trainer, "_follow"),
                 validate=(inversion, "draw_concept"), save=(Trainer, "save"))

    def interrupted(place, number, at):
        "Send a signal to this process in the middle of something, the at-th time that it happens."
        owner, name = WHERE[place]
        whole, count = getattr(owner, name), []
        def broken(*args, **kw):
            count.append(name)
            if len(count) == at and place in ("adam", "follow"): whole(*args, **kw) # after it
            if len(count) == at: os.kill(os.getpid(), number)
            return whole(*args, **kw)
        setattr(owner, name, broken)
        return lambda: setattr(owner, name, whole)

    if sys.argv[3] == "all": # one run that Ctrl-C breaks in each of its steps, at another place
        run = dict(RUN, save_every=100, num_steps=7)
        for place in WHERE:
            back = interrupted(place, signal.SIGINT, 1 if place == "save" else 2)
            try: learn(pipeline(), output_dir=sys.argv[2], **run)
            except KeyboardInterrupt: print("interrupted in", place, flush=True)
            back()
    else:
        interrupted("loss", getattr(signal, sys.argv[3]), 4)
        learn(pipeline(), output_dir=sys.argv[2] or None, **dict(RUN, save_every=100))
"""


def child(folder, how):
    return subprocess.Popen([sys.executable, "-c", textwrap.dedent(CHILD), str(ROOT/"tests"), str(folder), how], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "PYTHONPATH": str(ROOT)})


def alike(one, two):
    pictures = [[(v["step"], v["prompt"], v["image"].tobytes()) for v in c.validation] for c in (one, two)]
    return same(one, two) and one.history == two.history and pictures[0] == pictures[1]


def test_reported_ctrl_c_and_sigterm_at_any_place_keep_the_last_whole_step(tmp_path):
    "No checkpoint is due before the end: what there is was written when the signal came. Then the rest, undisturbed."
    running = {how: child(tmp_path/how, how) for how in ("all", "SIGTERM")}
    straight = {n: learn(pipeline(), **dict(RUN, save_every=100, num_steps=n)) for n in (6, 7)}
    said = {how: process.communicate(timeout=600) for how, process in running.items()}
    assert running["all"].returncode == 0 and said["all"][0].count("interrupted in") == 7, said["all"]
    for done in range(1, 7): assert f"stopped after {done} of 7 steps; {tmp_path/'all'/CHECKPOINT} holds them, and the same call continues there" in said["all"][1]
    assert running["SIGTERM"].returncode == 128 + signal.SIGTERM and "stopped after 3 of 6 steps" in said["SIGTERM"][1]
    assert core.load_checkpoint(tmp_path/"SIGTERM"/CHECKPOINT).state["step"] == 3
    for how, number in (("all", 7), ("SIGTERM", 6)):
        assert alike(learn(pipeline(), output_dir=tmp_path/how, **dict(RUN, save_every=100, num_steps=number)), straight[number])


def test_reported_ctrl_c_without_a_folder_says_what_is_lost(monkeypatch):
    loss = Trainer.loss
    def interrupted(self, batch):
        if self.done == 2: raise KeyboardInterrupt
        return loss(self, batch)
    monkeypatch.setattr(Trainer, "loss", interrupted)
    with pytest.warns(UserWarning, match="stopped after 2 of 5 steps, which are lost: no output_dir"), pytest.raises(KeyboardInterrupt): learn(pipeline(), num_steps=5)


def test_reported_an_error_in_the_middle_keeps_the_last_whole_step_and_says_so(tmp_path, monkeypatch):
    draw = Trainer.draw
    def fail(self):
        if self.done == 3: raise OSError("the disk of the pictures is gone")
        return draw(self)
    monkeypatch.setattr(Trainer, "draw", fail)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(OSError, match="is gone") as broken: learn(pipeline(), output_dir=tmp_path, num_steps=5)
    assert "stopped after 3 of 5 steps" in broken.value.__notes__[0]
    with pytest.raises(OSError) as broken: learn(pipeline(), num_steps=5)
    assert "3 of 5 steps, which are lost" in broken.value.__notes__[0]
    monkeypatch.undo()
    assert alike(learn(pipeline(), output_dir=tmp_path, num_steps=5), learn(pipeline(), num_steps=5))
    assert signal.getsignal(signal.SIGTERM) == before


def test_reported_validation_pictures_keep_their_prompts(tmp_path):
    "A run that goes on with other prompts does not give the old pictures the new names; files of others are left alone."
    how = dict(validation_every=2, validation_options=dict(num_inference_steps=1), output_dir=tmp_path)
    learn(pipeline(), validation_prompts="a <x>", **how)
    (tmp_path/"validation"/"my-notes.png").write_bytes(b"none of ours")
    found = learn(pipeline(), validation_prompts=["a red <x>"], **how, num_steps=4).validation
    assert [(v["step"], v["prompt"]) for v in found] == [(2, "a <x>"), (4, "a red <x>")]


class Waits(TorchDispatchMode):
    "Counts how often the host reads a number of a tensor."
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("family", ["sd", "sd3"])
def test_reported_a_step_is_noted_with_one_wait_for_the_device(family):
    "One list of numbers is read, however many encoders there are; nothing is read one by one."
    with Trainer(pipeline(family), pictures(), "<x>", "cat", Options(num_bonus=2, size=32, batch_size=2)) as trainer:
        trainer.step()
        with Waits() as waits: trainer._follow(1, 0.)
        cos = [float(torch.cosine_similarity(r[i], r[j], 0)) for r in trainer.rows.values() for i in range(3) for j in range(i)]
        norm = torch.cat([r.norm(dim=1) for r in trainer.rows.values()]).mean()
    assert waits.count == 0 and trainer.history[-1]["loss"] == trainer.history[0]["loss"]
    assert abs(trainer.history[-1]["cos"] - sum(cos)/len(cos)) < 1e-5 and abs(trainer.history[-1]["norm"] - float(norm)) < 1e-5


def test_reported_pictures_are_not_kept_beside_their_latents():
    for cached in (True, False):
        with Trainer(pipeline(), pictures(), "<x>", "cat", Options(size=32, batch_size=2, flip=True, cache_latents=cached)) as trainer:
            held = trainer.pictures.untyped_storage().nbytes()
            assert held == (0 if cached else 3*3*32*32), "bytes, and no second copy for the mirrored ones"
            if not cached:
                wanted = read_pictures(pictures(), 32)
                assert torch.equal(trainer._pixels([0, 5]), torch.stack([wanted[0], wanted[2].flip(-1)]))
    assert trainer.settings["pictures"] == 3
