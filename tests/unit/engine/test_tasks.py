import pytest

from comics.config import load_config
from comics.engine.tasks import (
    DETECTION,
    FACES,
    check_trainable,
    epoch_schedule,
    overridden_keys,
    task_of,
)

FACE = ["MODEL.META_ARCHITECTURE", "FaceMethod"]
SOLVER = ["SOLVER.MAX_ITER", "70", "SOLVER.STEPS", "[30]"]


def schedule(*options, iterations=7):
    timed = epoch_schedule(load_config(None, [*SOLVER, *map(str, options)]), iterations)
    assert timed.is_frozen()
    return timed.SOLVER.MAX_ITER, list(timed.SOLVER.STEPS)


def test_epochs_become_iterations():
    epochs, decay = ["MODEL.FACE.EPOCHS", 5], ["MODEL.FACE.LR_DECAY_EPOCHS", "[2,4]"]
    assert schedule(*FACE) == (70, [30])
    assert schedule(*FACE, *epochs) == (35, [30])
    assert schedule(*FACE, *decay) == (70, [14, 28])
    assert schedule(*FACE, *epochs, *decay) == (35, [14, 28])
    assert schedule(*epochs, *decay) == (70, [30])  # a detector has no such epochs


def test_a_key_that_epochs_override_is_told():
    def told(*options):
        cfg = load_config(None, [*FACE, *map(str, options)])
        return overridden_keys(cfg, epoch_schedule(cfg, 7))

    epochs = ["MODEL.FACE.EPOCHS", 5, "MODEL.FACE.LR_DECAY_EPOCHS", "[2]"]
    assert told(*epochs) == told(*SOLVER) == []
    assert told(*epochs, *SOLVER) == [
        "MODEL.FACE.EPOCHS decides: SOLVER.MAX_ITER is 35, not 70",
        "MODEL.FACE.LR_DECAY_EPOCHS decides: SOLVER.STEPS is [14], not [30]",
    ]
    assert told(*epochs, "SOLVER.MAX_ITER", 35) == []


def test_task_follows_the_architecture():
    assert task_of(load_config(None, FACE)) is FACES
    assert task_of(load_config()) is DETECTION
    joined = load_config(None, ["MODEL.META_ARCHITECTURE", "FaceForensics"])
    with pytest.raises(ValueError, match="not trained as a whole.*combine_weights"):
        check_trainable(joined)
    check_trainable(load_config())


def told_epochs(tiny, folder, iterations, resume=False):
    """Epochs that a model hears of, with the iteration before which it does."""
    told = []

    class Listening(tiny.TinyModel):
        def start_epoch(self, epoch):
            told.append((trainer.iteration, epoch))

    trainer = tiny.build_trainer(
        folder, iterations=iterations, resume=resume, model=Listening(), iterations_per_epoch=3
    )
    trainer.run()
    return told


def test_model_is_told_of_epochs_and_again_after_resume(tiny, tmp_path):
    assert told_epochs(tiny, tmp_path, 5) == [(0, 0), (3, 1)]
    assert told_epochs(tiny, tmp_path, 9, resume=True) == [(5, 1), (6, 2)]


def test_resume_between_epochs_starts_the_next(tiny, tmp_path):
    told_epochs(tiny, tmp_path, 6)
    assert told_epochs(tiny, tmp_path, 7, resume=True) == [(6, 2)]
