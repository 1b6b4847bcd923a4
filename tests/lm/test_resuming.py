"lm.resuming: nothing that a trainer keeps is a pickle, and what cannot be kept is said before the first step."
import pickletools
import shutil
import zipfile

import pytest
import torch
from datasets import Dataset
from transformers import PrinterCallback, Trainer, TrainingArguments

from tokenstudy import core, lm as lms
from tokenstudy.lm.resuming import SafeCheckpoints


class SafeTrainer(SafeCheckpoints, Trainer): "A trainer without pickles."


ROWS = Dataset.from_list([dict(input_ids=[1, 2 + i % 4, 3], labels=[1, 2 + i % 4, 3]) for i in range(4)])


def trainer(kind, folder, **options):
    args = TrainingArguments(folder, **dict(max_steps=2, per_device_train_batch_size=2, save_strategy="steps", save_steps=1, report_to=[], disable_tqdm=True, use_cpu=True) | options)
    made = kind(lms.tiny_lm().model.requires_grad_(True), args, train_dataset=ROWS)
    made.remove_callback(PrinterCallback)
    return made


def is_pickle(path):
    "Whether a pickle's machine could read a file, or a part of it if it is a zip."
    if zipfile.is_zipfile(path): return any(name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist())
    try: return any(op.name == "STOP" for op, *_ in pickletools.genops(path.read_bytes()))
    except Exception: return False


def kept(folder): return sorted(p for p in folder.rglob("*") if p.is_file())


def test_reported_nothing_in_a_training_folder_is_a_pickle(tmp_path):
    trainer(SafeTrainer, tmp_path/"ours").train()
    found = kept(tmp_path/"ours")
    assert {p.parent.name for p in found} >= {"checkpoint-1", "checkpoint-2", "optimizer", "random-0", "whole"} and any(p.name == "model.safetensors" for p in found)
    assert [p.name for p in found if is_pickle(p)] == []
    trainer(Trainer, tmp_path/"theirs").train()
    assert {p.name for p in kept(tmp_path/"theirs") if is_pickle(p)} >= {"optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"}, "the scan finds them"


def test_reported_checkpoints_that_do_not_fit_are_said_before_the_first_step(tmp_path, monkeypatch):
    made = trainer(SafeTrainer, tmp_path/"run")
    def worked(*args, **options): pytest.fail("worked in vain")
    monkeypatch.setattr(made, "training_step", worked)
    monkeypatch.setattr(made, "identity", worked)
    usage, size = shutil.disk_usage, 3*sum(p.numel()*p.element_size() for p in made.model.parameters())
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=size - 1))
    with pytest.raises(core.TokenStudyError, match="MB are needed there"): made.train()
    monkeypatch.setattr(shutil, "disk_usage", usage)
    shutil.rmtree(tmp_path/"run", ignore_errors=True)
    (tmp_path/"run").write_text("in the way")
    with pytest.raises(core.TokenStudyError, match="run is not a folder"): made.train()
    other = trainer(SafeTrainer, tmp_path/"none", save_strategy="no")
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage(place)._replace(free=0))
    assert other.train().global_step == 2, "nothing is kept, so nothing is asked"


def test_reported_a_disk_that_fills_up_is_said_and_the_training_goes_on_from_before(tmp_path, monkeypatch):
    from safetensors import SafetensorError
    whole = trainer(SafeTrainer, tmp_path/"whole", max_steps=3)
    whole.train()
    made = trainer(SafeTrainer, tmp_path/"run", max_steps=3)
    save = made.save_model
    def full(*args, **options):
        if made.state.global_step == 2: raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        return save(*args, **options)
    monkeypatch.setattr(made, "save_model", full)
    with pytest.raises(core.TokenStudyError, match="cannot write the checkpoint .*checkpoint-2 .*No space left.*resume_from_checkpoint=True"): made.train()
    again = trainer(SafeTrainer, tmp_path/"run", max_steps=3)
    again.train(resume_from_checkpoint=True)
    assert all(map(torch.equal, whole.model.state_dict().values(), again.model.state_dict().values()))


def test_reported_a_preference_training_is_told_of_a_file_in_the_way(tmp_path):
    from tokenstudy import cdpo
    (tmp_path/"file").write_text("in the way")
    row = dict(prompt_ids=[1], chosen_ids=[4, 7], rejected_ids=[3, 5, 7])
    with pytest.raises(core.TokenStudyError, match="file is not a folder"): cdpo.train("dpo", lms.tiny_lm(vocab=8), Dataset.from_list([row]*2), lr=.1, output_dir=tmp_path/"file"/"run")


def test_reported_other_long_work_is_told_of_a_file_in_the_way(tmp_path, monkeypatch):
    from tokenstudy import reasoning, tvm
    from tokenstudy.multidraft import distillation
    file = tmp_path/"file"
    file.write_text("in the way")
    some = [reasoning.Trajectory("q", [1, 2], [3, 11], [0.]*2, "7", True, True)]
    model = lms.tiny_lm(vocab=12)
    monkeypatch.setattr(torch.nn.Module, "__call__", lambda *args, **options: pytest.fail("worked in vain"))
    for work in (lambda: tvm.train_verifier(model, some, "tvm", epochs=1, output_dir=file/"run"), lambda: tvm.text_setup(folder=file), lambda: distillation.sample_corpus(model, file/"corpus", 1),
                 lambda: reasoning.train_generator(1, 1, batch_size=2, hidden=16, layers=1, output_dir=file/"run"), lambda: lms.fine_tune(model, [([1], [2, 11])], 1, output_dir=file/"run")):
        with pytest.raises(core.TokenStudyError, match="file is not a folder"): work()
