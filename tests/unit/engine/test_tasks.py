import pytest

from comics.config import load_config
from comics.engine.tasks import (
    DETECTION,
    FACES,
    _warn_of_shared_people,
    _warn_of_stages,
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


def test_validation_comes_every_so_many_epochs():
    def period(*options):
        return epoch_schedule(load_config(None, [*FACE, *options]), 7).TEST.EVAL_PERIOD

    assert period() == 0
    assert period("MODEL.FACE.EVAL_EPOCHS", "2") == 14
    assert period("MODEL.FACE.EVAL_EPOCHS", "2", "TEST.EVAL_PERIOD", "5") == 5


def write_faces(folder, methods, name="faces.csv", split="train", person="p"):
    lines = ["path,label,method,source,split"]
    lines += [f"real{i}.png,real,,{person}{i},{split}" for i in range(2)]
    lines += [f"{m}.png,fake,{m},{person}0,{split}" for m in methods]
    (folder / name).write_text("\n".join(lines) + "\n")
    return str(folder / name)


def test_a_training_that_leaves_methods_out_has_fewer_guides(tmp_path):
    path = write_faces(tmp_path, ["DF", "F2F", "FS", "NT"])

    def domains(entry, *options):
        words = [*FACE, "MODEL.FACE.METHOD", "GuideSpace", "DATASETS.TRAIN", f"['{entry}']"]
        return FACES.settled(load_config(None, [*words, *options])).MODEL.FACE.GUIDE_SPACE

    assert domains(path).NUM_DOMAINS == 4
    assert domains(f"{path}@method=real|DF|F2F|NT").NUM_DOMAINS == 3
    more = ["MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS", "2"]
    assert domains(path, *more).NUM_DOMAINS == 2  # which the loader then refuses
    other = [*FACE, "DATASETS.TRAIN", "['absent.csv']"]
    assert FACES.settled(load_config(None, other)).MODEL.FACE.GUIDE_SPACE.NUM_DOMAINS == 4


def test_people_that_training_and_validation_share_are_named(tmp_path, caplog):
    train, val = write_faces(tmp_path, ["DF"]), write_faces(tmp_path, ["DF"], "val.csv")
    both = tmp_path / "both.csv"
    both.write_text(
        "path,label,source,split,set,group\n"
        "a.png,real,ann,train,s,g\nb.png,fake,ann,val,s,h\nc.png,real,bob,val,s,g\n"
    )

    def warned(train, val):
        caplog.clear()
        words = ["DATASETS.TRAIN", f"['{train}']", "DATASETS.VAL", f"['{val}']"]
        _warn_of_shared_people(load_config(None, [*FACE, *words]))
        return caplog.text

    assert warned(train, val) == ""  # p0 of two files are two people
    text = warned(f"{both}@split=train", f"{both}@split=val")
    assert "values of source, such as 'ann'" in text and "values of group, such as 'g'" in text
    assert "target" not in text


def test_a_run_that_ends_in_stage_one_is_warned_of(caplog):
    class Staged:
        stage1_epochs = 5

    for epochs, count in (("5", 1), ("6", 0)):
        caplog.clear()
        _warn_of_stages(load_config(None, [*FACE, "MODEL.FACE.EPOCHS", epochs]), Staged(), 7)
        assert caplog.text.count("never trained") == count


def test_what_may_not_be_best_is_validated_and_not_chosen(tiny, tmp_path):
    class Staged(tiny.TinyModel):
        @property
        def may_be_best(self):
            return trainer.iteration > 4

    scores = {2: 0.9, 4: 0.95, 6: 0.5, 8: 0.6, 9: 0.55}
    trainer = tiny.build_trainer(tmp_path, iterations=9, model=Staged())
    trainer.eval_period, trainer.best_metric = 2, "score"
    seen, exported = [], []
    trainer.evaluate = lambda model: (
        seen.append(trainer.iteration) or {"score": scores[trainer.iteration]}
    )
    trainer.export = lambda name, metadata: exported.append((name, metadata["iteration"]))
    assert trainer.run().best == (0.6, 8)
    assert seen == [2, 4, 6, 8, 9]
    assert exported == [("model_best", "6"), ("model_best", "8"), ("model_final", "9")]


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
