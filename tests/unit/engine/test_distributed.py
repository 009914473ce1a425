import json
import signal
import time

import pytest
import torch

from comics.engine import distributed

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def test_one_process_exchanges_nothing():
    assert (distributed.rank(), distributed.world_size(), distributed.is_main()) == (0, 1, True)
    assert distributed.gather("a") == ["a"] and distributed.broadcast("a") == "a"
    assert distributed.max_over_ranks(torch.tensor([1, 0])) == [1, 0]
    assert distributed.mean_over_ranks({"a": 0.5}) == {"a": 0.5}
    with distributed.process_group("cpu") as device:
        assert device == torch.device("cpu") and not torch.distributed.is_initialized()


def test_cuda_where_there_is_none():
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match="no CUDA device"), distributed.process_group("cuda"):
        pass


def test_a_group_of_gpus_is_told_its_device(monkeypatch):
    """NCCL would guess it otherwise; on the CPU there is none to tell."""
    told = []
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: False)
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(
        torch.distributed,
        "init_process_group",
        lambda backend, timeout, device_id: told.append((backend, device_id)),
    )
    with distributed.process_group("cpu"):
        pass
    gpu = torch.device("cuda", 0)
    monkeypatch.setattr(distributed, "choose_device", lambda name: gpu)
    monkeypatch.setattr(distributed, "_local_cuda_device", lambda: gpu)
    with distributed.process_group("cuda") as device:
        assert device == gpu
    assert told == [("gloo", None), ("nccl", gpu)]


GLOO = (
    "[/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:561] Connection closed by peer "
    "[127.0.0.1]:8425. This is typically caused by a remote worker crashing."
)


def test_a_process_that_is_gone_is_named_in_words(monkeypatch):
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: 2)
    with pytest.raises(distributed.LostProcessError) as caught, distributed.lost_processes_named():
        raise RuntimeError(GLOO)
    text = str(caught.value)
    assert text.startswith("process 2 of 3 has lost another process") and "--resume" in text
    assert text.endswith("(Connection closed by peer [127.0.0.1]:8425)")
    for error in (torch.distributed.DistBackendError("NCCL error"), torch.distributed.DistError()):
        with pytest.raises(distributed.LostProcessError), distributed.lost_processes_named():
            raise error


def test_other_faults_are_passed_on(monkeypatch):
    for count, error in ((3, RuntimeError("shapes differ")), (1, RuntimeError(GLOO))):
        monkeypatch.setattr(distributed, "world_size", lambda count=count: count)
        with pytest.raises(RuntimeError) as caught, distributed.lost_processes_named():
            raise error
        assert caught.value is error


def finish(process, code=0):
    output = process.communicate(timeout=120)[0]
    assert process.returncode == code, output
    return output


@pytest.mark.slow
def test_two_processes_equal_one(tiny, tmp_path, start_tiny):
    options = ("--iterations", 3, "--dropout", 0, "--accumulate", 2)
    finish(start_tiny(tmp_path, *options, launcher=TORCHRUN))
    ranks = [torch.load(tmp_path / f"rank_{k}.pt", weights_only=True) for k in (0, 1)]
    torch.manual_seed(0)
    model = tiny.TinyModel(dropout=0.0)
    tiny.build_trainer(tmp_path / "one", iterations=3, model=model).run()
    for name, parameter in model.named_parameters():
        assert torch.equal(ranks[0][name], ranks[1][name])
        torch.testing.assert_close(ranks[0][name], parameter.detach())

    logged = [
        json.loads((folder / "metrics.jsonl").read_text().splitlines()[0])["loss/total"]
        for folder in (tmp_path, tmp_path / "one")
    ]
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)


@pytest.mark.slow
def test_two_processes_resume_exactly(tmp_path, start_tiny):
    straight, cut = tmp_path / "straight", tmp_path / "cut"
    finish(start_tiny(straight, "--iterations", 7, "--evaluate", launcher=TORCHRUN))
    finish(start_tiny(cut, "--iterations", 4, "--evaluate", launcher=TORCHRUN))
    finish(start_tiny(cut, "--iterations", 7, "--evaluate", "--resume", launcher=TORCHRUN))
    for rank in (0, 1):
        expected = torch.load(straight / f"rank_{rank}.pt", weights_only=True)
        found = torch.load(cut / f"rank_{rank}.pt", weights_only=True)
        for name in expected:
            if name != "bank" or rank == 0:  # this bank is local: only rank 0's is in a checkpoint
                assert torch.equal(found[name], expected[name]), name


@pytest.mark.slow
def test_nan_on_one_process_stops_all_and_names_it(tmp_path, start_tiny):
    process = start_tiny(tmp_path, "--nan-on-rank", 1, launcher=TORCHRUN)
    output = finish(process, code=1)
    assert output.count("NonFiniteError: iteration 3: loss is not finite: loss_second = nan") >= 1
    assert "image_2_2.png, image_2_3.png" in output and "image_2_0.png" not in output
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.slow
def test_signal_to_the_launcher_ends_with_a_checkpoint(tmp_path, start_tiny):
    process = start_tiny(tmp_path, "--delay", 0.1, "--iterations", 1000, launcher=TORCHRUN)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("checkpoint_*.pt")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode != 0
    assert (tmp_path / "model_last.safetensors").exists()
    assert (tmp_path / "rank_0.pt").exists() and (tmp_path / "rank_1.pt").exists()
