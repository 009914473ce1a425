import json
import os
import signal
import time

import pytest
import torch

from comics.engine.checkpoint import CheckpointError, load_checkpoint
from comics.engine.step import NonFiniteError
from comics.modeling.weights import read_weights


def losses(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    clocks = ("seconds", "data_seconds")
    return [{k: v for k, v in line.items() if k not in clocks} for line in lines]


def assert_same(one, other):
    assert type(one) is type(other)
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for left, right in zip(one, other, strict=True):
            assert_same(left, right)
    else:
        assert one == other or (one != one and other != other)


def without_clocks(state):
    state = {**state, "log_size": None}  # lines differ in the number of digits of their clocks
    for process in state["processes"]:
        for part in process["means"].values():
            part.pop("data_seconds", None)
    return state


def test_interrupted_run_equals_straight_run(tiny, tmp_path):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    options = {"evaluate": tiny.tiny_evaluation, "eval_period": 5, "accumulate": 2}
    tiny.build_trainer(straight, iterations=14, **options).run()
    tiny.build_trainer(cut, iterations=7, **options).run()
    (cut / "checkpoint_00000007.pt").unlink()  # as if it had been killed after iteration 5
    (cut / "model_final.safetensors").unlink()
    torch.manual_seed(99)
    tiny.build_trainer(cut, iterations=14, resume=True, **options).run()

    assert losses(cut) == losses(straight)
    assert_same(
        without_clocks(load_checkpoint(cut / "checkpoint_00000014.pt")),
        without_clocks(load_checkpoint(straight / "checkpoint_00000014.pt")),
    )
    assert_same(
        read_weights(cut / "model_final.safetensors").state,
        read_weights(straight / "model_final.safetensors").state,
    )


def test_losses_depend_on_the_random_state(tiny, tmp_path):
    # What the test above would miss if dropout were off: another seed gives other losses.
    tiny.build_trainer(tmp_path / "a", iterations=6).run()
    trainer = tiny.build_trainer(tmp_path / "b", iterations=6)
    torch.manual_seed(99)
    trainer.run()
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def wait_for(path, process):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_run_resumes_to_the_same_end(tiny, tmp_path, start_tiny):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    options = {"evaluate": tiny.tiny_evaluation, "eval_period": 5}
    tiny.build_trainer(straight, iterations=12, **options).run()

    process = start_tiny(cut, "--evaluate", "--delay", "0.1")
    wait_for(cut / "checkpoint_00000004.pt", process)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (cut / "model_final.safetensors").exists()

    tiny.build_trainer(cut, iterations=12, resume=True, **options).run()
    assert losses(cut) == losses(straight)
    assert_same(
        read_weights(cut / "model_final.safetensors").state,
        read_weights(straight / "model_final.safetensors").state,
    )


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_with_a_checkpoint(tiny, tmp_path, start_tiny, signum):
    process = start_tiny(tmp_path, "--delay", "0.1", "--iterations", "1000")
    wait_for(tmp_path / "checkpoint_00000004.pt", process)
    process.send_signal(signum)
    process.send_signal(signum)  # as torchrun does after the scheduler has
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + signum, output
    last = max(tmp_path.glob("checkpoint_*.pt"))
    state = load_checkpoint(last)
    assert 4 <= state["iteration"] < 1000
    assert read_weights(tmp_path / "model_last.safetensors").metadata["iteration"] == str(
        state["iteration"]
    )
    assert not (tmp_path / "model_final.safetensors").exists()

    straight = tmp_path / "straight"
    tiny.build_trainer(straight, iterations=state["iteration"] + 3).run()
    tiny.build_trainer(tmp_path, iterations=state["iteration"] + 3, resume=True).run()
    assert_same(
        read_weights(tmp_path / "model_final.safetensors").state,
        read_weights(straight / "model_final.safetensors").state,
    )


def test_signal_during_validation_ends_at_once_and_is_made_up_for(tiny, tmp_path):
    options = {"eval_period": 5, "iterations": 8}

    def interrupted(model):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as stopped:
        tiny.build_trainer(tmp_path, evaluate=interrupted, **options).run()
    assert stopped.value.code == 143
    assert signal.getsignal(signal.SIGTERM) is before

    validated = []

    def evaluate(model):
        validated.append(trainer.iteration)
        return {"segm/AP": 0.0}

    trainer = tiny.build_trainer(tmp_path, resume=True, evaluate=evaluate, **options)
    trainer.run()
    assert validated == [5, 8]


def test_nan_names_term_and_files_and_saves_nothing(tiny, tmp_path):
    model = tiny.TinyModel()
    model.nan_from = 6
    trainer = tiny.build_trainer(tmp_path, iterations=12, model=model)
    with pytest.raises(NonFiniteError, match="iteration 6: .*loss_second = nan") as raised:
        trainer.run()
    assert "loss_first" not in str(raised.value)
    assert all(f"image_5_{k}.png" in str(raised.value) for k in range(4))
    assert [path.name for path in tmp_path.glob("*.pt")] == ["checkpoint_00000004.pt"]
    assert not list(tmp_path.glob("*.safetensors"))
    assert all(p.isfinite().all() for p in model.parameters())


def test_nan_names_the_files_of_its_micro_batch_only(tiny, tmp_path):
    model = tiny.TinyModel()
    model.nan_from = 4  # second micro-batch of the second iteration
    trainer = tiny.build_trainer(tmp_path, iterations=12, model=model, accumulate=2)
    with pytest.raises(NonFiniteError) as raised:
        trainer.run()
    assert "image_1_2.png, image_1_3.png" in str(raised.value)
    assert "image_1_0.png" not in str(raised.value)


def test_non_finite_gradient_stops_before_the_weights_change(tiny, tmp_path):
    model = tiny.TinyModel()
    with torch.no_grad():
        model.second.bias.fill_(1.0)
    model.second.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = tiny.build_trainer(tmp_path, iterations=3, model=model)
    with pytest.raises(NonFiniteError, match=r"gradients are not: second.weight \(1 param"):
        trainer.run()
    assert_same({name: p.detach() for name, p in model.named_parameters()}, before)


def test_best_checkpoint_survives_rotation(tiny, tmp_path):
    values = iter([0.1, 0.5, float("nan"), 0.5, 0.3, 0.2])
    trainer = tiny.build_trainer(
        tmp_path,
        iterations=12,
        checkpoint_period=1,
        eval_period=2,
        evaluate=lambda model: {"segm/AP": next(values)},
    )
    result = trainer.run()
    assert result.best == (0.5, 4) and result.metrics == {"segm/AP": 0.2}
    assert read_weights(tmp_path / "model_best.safetensors").metadata["iteration"] == "4"
    names = sorted(path.name for path in tmp_path.glob("checkpoint_*.pt"))
    assert [int(name[11:19]) for name in names] == [4, 11, 12]
    assert result.iteration == 12 and result.stop_signal is None


def test_unknown_best_metric_is_an_error_after_the_checkpoint(tiny, tmp_path):
    trainer = tiny.build_trainer(
        tmp_path, iterations=2, evaluate=lambda model: {"bbox/AP": 0.1, "bbox/AP50": 0.2}
    )
    with pytest.raises(ValueError, match="'segm/AP' is not among .*bbox/AP, bbox/AP50"):
        trainer.run()
    assert load_checkpoint(tmp_path / "checkpoint_00000002.pt")["iteration"] == 2


def test_finished_run_has_nothing_left_to_do(tiny, tmp_path):
    trainer = tiny.build_trainer(tmp_path, iterations=4, evaluate=tiny.tiny_evaluation)
    first = trainer.run()
    before = (tmp_path / "metrics.jsonl").read_text()
    again = tiny.build_trainer(
        tmp_path, iterations=4, evaluate=tiny.tiny_evaluation, resume=True
    ).run()
    assert again.best == first.best and again.iteration == 4
    assert (tmp_path / "metrics.jsonl").read_text() == before


def test_accumulation_equals_one_large_batch(tiny, tmp_path):
    results = []
    for accumulate in (1, 2, 4):
        torch.manual_seed(1)
        model = tiny.TinyModel(dropout=0.0)
        folder = tmp_path / str(accumulate)
        tiny.build_trainer(folder, iterations=3, model=model, accumulate=accumulate).run()
        results.append(model.second.weight.detach().clone())
    torch.testing.assert_close(results[0], results[1])
    torch.testing.assert_close(results[0], results[2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_mixed_precision_trains_and_resumes(tiny, tmp_path, dtype):
    options = {"amp_dtype": dtype, "clip_norm": 1.0}
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    tiny.build_trainer(straight, iterations=8, **options).run()
    tiny.build_trainer(cut, iterations=5, **options).run()
    tiny.build_trainer(cut, iterations=8, resume=True, **options).run()
    state = load_checkpoint(cut / "checkpoint_00000008.pt")
    assert_same(state["model"], load_checkpoint(straight / "checkpoint_00000008.pt")["model"])
    assert bool(state["scaler"]) == (dtype is torch.float16)


def test_clipping_scales_the_whole_gradient(tiny, tmp_path):
    model = tiny.TinyModel(dropout=0.0)
    free = tiny.build_trainer(tmp_path / "a", iterations=1, model=model)
    norm = free.step.backward([tiny.make_batch(0, 4)]).gradient_norm
    gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    expected = sum(g.double().square().sum() for g in gradients.values()).sqrt()
    torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0)
    clipped = tiny.build_trainer(tmp_path / "b", iterations=1, model=model, clip_norm=0.25)
    assert norm > 0.25
    torch.testing.assert_close(clipped.step.backward([tiny.make_batch(0, 4)]).gradient_norm, norm)
    for name, parameter in model.named_parameters():
        if name in gradients:
            torch.testing.assert_close(parameter.grad, gradients[name] * 0.25 / norm)


def test_full_disk_stops_the_run_and_keeps_the_earlier_checkpoint(tiny, tmp_path, monkeypatch):
    trainer = tiny.build_trainer(tmp_path, iterations=12)
    real, calls = torch.save, []

    def save(state, file):
        calls.append(1)
        if len(calls) == 2:
            file.write(b"half a file")
            raise OSError(28, "No space left on device")
        real(state, file)

    monkeypatch.setattr(torch, "save", save)
    with pytest.raises(CheckpointError, match="checkpoint_00000008.pt: the disk is full"):
        trainer.run()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["checkpoint_00000004.pt", "metrics.jsonl"]
    assert load_checkpoint(tmp_path / "checkpoint_00000004.pt")["iteration"] == 4


def test_checkpoint_of_another_model_is_refused(tiny, tmp_path):
    tiny.build_trainer(tmp_path, iterations=2).run()
    model = tiny.TinyModel()
    model.first = torch.nn.Linear(3 * tiny.SIDE**2, 4, bias=False)
    with pytest.raises(ValueError, match=r"does not fit this model: .*unexpected \['first.bias'\]"):
        tiny.build_trainer(tmp_path, iterations=4, resume=True, model=model)


def test_finite_loader_is_an_error(tiny, tmp_path):
    trainer = tiny.build_trainer(tmp_path, iterations=3)
    trainer.batches = [tiny.make_batch(0, 4)]
    with pytest.raises(RuntimeError, match="loader ended after iteration 1"):
        trainer.run()
