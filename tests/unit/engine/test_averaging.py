import pytest
import torch
from torch import nn

from comics.engine.averaging import WeightAverage
from comics.engine.checkpoint import load_checkpoint
from comics.modeling.weights import read_weights


def net():
    return nn.Sequential(nn.Linear(2, 1, bias=False), nn.BatchNorm1d(1))


def test_average_follows_its_definition():
    model = net()
    average = WeightAverage(model, 0.5)
    wanted = model[0].weight.detach().clone()
    for step in range(1, 6):
        with torch.no_grad():
            model[0].weight.fill_(float(step))
            model[1].running_mean.fill_(step)
            model[1].num_batches_tracked.fill_(step)
        average.update(model)
        decay = min(0.5, (1 + step) / (10 + step))
        wanted = decay * wanted + (1 - decay) * step
        assert torch.allclose(average.module[0].weight, wanted)
    assert 3 < average.module[1].running_mean.item() < 5  # averaged like weights
    assert average.module[1].num_batches_tracked.item() == 5  # counts are the last ones
    assert not average.module.training and not average.module[0].weight.requires_grad


def test_average_goes_on_from_its_state():
    model = net()
    straight = WeightAverage(model, 0.9)
    straight.update(model)
    resumed = WeightAverage(net(), 0.9)
    resumed.load_state_dict(straight.state_dict())
    model[0].weight.data.add_(1)
    straight.update(model)
    resumed.update(model)
    assert torch.equal(straight.module[0].weight, resumed.module[0].weight)


@pytest.mark.parametrize("decay", [1.0, -0.1, 2.0])
def test_decay_out_of_range(decay):
    with pytest.raises(ValueError, match="EMA_DECAY"):
        WeightAverage(net(), decay)


def test_training_validates_and_exports_the_average_and_resumes_it(tiny, tmp_path):
    measured = []

    def evaluate(model):
        measured.append(model.second.bias.item())
        return tiny.tiny_evaluation(model)

    def run(folder, iterations, resume=False):
        options = {"evaluate": evaluate, "eval_period": 5, "average_decay": 0.7}
        trainer = tiny.build_trainer(folder, iterations=iterations, resume=resume, **options)
        trainer.run()
        return trainer

    straight = run(tmp_path / "straight", 9)
    average = straight.average.module
    assert measured[-1] == average.second.bias.item() != straight.model.second.bias.item()
    exported = read_weights(tmp_path / "straight" / "model_final.safetensors").state
    assert torch.equal(exported["first.weight"], average.first.weight)

    run(tmp_path / "cut", 4)
    resumed = run(tmp_path / "cut", 9, resume=True)
    assert torch.equal(resumed.average.module.first.weight, average.first.weight)
    state = load_checkpoint(tmp_path / "cut" / "checkpoint_00000009.pt")
    assert torch.equal(state["average"]["model"]["first.weight"], average.first.weight)


def test_a_run_without_average_can_go_on_with_one(tiny, tmp_path):
    tiny.build_trainer(tmp_path, iterations=3).run()
    trainer = tiny.build_trainer(tmp_path, iterations=3, resume=True, average_decay=0.9)
    assert torch.equal(trainer.average.module.first.weight, trainer.model.first.weight)
