"""Two processes with different batches keep one state: banks, prototypes, centres, key encoders."""

import pytest
import torch
from torch import distributed, multiprocessing, nn
from torch.nn.parallel import DistributedDataParallel

METHODS = ["DCL", "RealCentric", "GuideSpace", "CompressionRelation", "MetricLearning"]
EPOCHS = (0, 0, 1)  # RealCentric's second stage starts with epoch 1
# Per process and step: labels, and whether each sample has its further views
BATCHES = [
    [([0, 1, 1], [True, True, False]), ([0, 0], [False, False]), ([1, 0, 1], [True, True, True])],
    [([0, 0, 1, 1], [True] * 4), ([1, 1, 0], [True, False, True]), ([1, 1], [True, True])],
]


class Losses(nn.Module):
    """What the engine wraps: only losses leave ``forward``."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, batch):
        return self.model(batch).losses


def one_process(rank, folder, make_method, make_batch):
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    states = {}
    for name in METHODS:
        method = make_method(name)
        model = DistributedDataParallel(
            Losses(method), broadcast_buffers=False, find_unused_parameters=True
        )
        parameters = [p for p in method.parameters() if p.requires_grad]
        optimizer = torch.optim.SGD(parameters, 0.05, momentum=0.9)
        for step, (labels, valid) in enumerate(BATCHES[rank]):
            method.start_epoch(EPOCHS[step])
            torch.manual_seed(rank)
            losses = model(make_batch(labels, 10 * rank + step, valid=valid))
            optimizer.zero_grad()
            sum(losses.values()).backward()
            optimizer.step()
            method.after_optimizer_step()
        states[name] = method.state_dict()
    torch.save(states, f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_all_state_is_the_same_on_both_processes(tmp_path, tiny_method, face_batch):
    arguments = (str(tmp_path), tiny_method, face_batch)
    multiprocessing.spawn(one_process, args=arguments, nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for name in METHODS:
        for key, value in first[name].items():
            if not key.endswith("num_batches_tracked"):  # a count that nothing reads
                assert torch.equal(value, second[name][key]), (name, key)
            assert value.isfinite().all(), (name, key)
    held = {
        "DCL": first["DCL"]["training_only.banks.banks.0.pushed"],
        "GuideSpace": first["GuideSpace"]["training_only.bank.features.pushed"],
        "CompressionRelation": first["CompressionRelation"]["training_only.banks.0.pushed"],
    }
    # Reals with a further view: 3, 1 and 1 in the three steps; samples: 17 in all
    assert {name: int(count) for name, count in held.items()} == {
        "DCL": 5, "GuideSpace": 17, "CompressionRelation": 5,
    }  # fmt: skip
