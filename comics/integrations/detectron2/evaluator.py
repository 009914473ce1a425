"""Our figures as an evaluator of Detectron2: AP and oLRP of boxes and masks, AUC of faces."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances

from comics.data.coco import faces_to_results
from comics.engine import distributed
from comics.engine.measure import RESULTS_FOLDER, iou_types
from comics.evaluation import evaluate
from comics.evaluation.annotated_faces import ground_truth_of, read_entry
from comics.evaluation.faces import face_metrics, face_verdicts
from comics.evaluation.metrics import Metrics
from comics.evaluation.results import ResultsWriter
from comics.evaluation.runner import merge_results
from comics.integrations.detectron2.data import registered_files
from comics.integrations.detectron2.instances import predicted_faces

logger = logging.getLogger(__name__)

DETECTRON2_RESULTS = "coco_instances_results.json"  # of its own evaluator: of the last set
FACE_TASK = "face"  # beside "bbox" and "segm"
FACE_FIGURES = ("AUC", "AUC_all", "EER", "faces_found")


class ComicsEvaluator(DatasetEvaluator):
    """Writes detections to a COCO results file as they come, and measures them.

    Figures are 0 to 1 (Detectron2's own evaluators give percent).

    Args:
        dataset_name: of ``register_faces`` or ``register_coco_instances``.
        tasks: what is compared, "bbox" and/or "segm".
        output_dir: its folder "inference" gets the results file.
        missing_score: ``TEST.MISSING_SCORE``.
        prefix: of the results file's name, to tell sets of one name apart.

    Raises:
        DatasetError: if the set's annotation file cannot be used.
    """

    def __init__(
        self,
        dataset_name: str,
        tasks: Sequence[str],
        output_dir: str | os.PathLike,
        missing_score: float,
        prefix: str = "",
    ) -> None:
        self.dataset_name = dataset_name
        self.files = registered_files(dataset_name)
        coco = read_entry(self.files)
        self._category_ids = coco.category_ids
        self._tasks = list(tasks)
        self._missing_score = missing_score
        is_file = "." in dataset_name
        stem = re.sub(r"\W+", "_", self.files.annotations.stem if is_file else dataset_name)
        self.results = Path(output_dir) / RESULTS_FOLDER / f"{prefix}{stem}.json"
        self._writer: ResultsWriter | None = None

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset_name: str, prefix: str = "") -> ComicsEvaluator:
        """From ``MODEL.MASK_ON``, ``OUTPUT_DIR`` and ``TEST.MISSING_SCORE``."""
        missing = cfg.TEST.MISSING_SCORE
        return cls(dataset_name, iou_types(cfg), cfg.OUTPUT_DIR, missing, prefix)

    def reset(self) -> None:
        """Forget what came, for another evaluation."""
        if self._writer is not None:
            self._writer.__exit__(RuntimeError, None, None)
        self._seen: set[int] = set()
        self._writer = ResultsWriter(self._part(distributed.rank())).__enter__()

    def process(
        self, inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Instances]]
    ) -> None:
        """Write the detections of one batch; an image that comes again is left out.

        Raises:
            ValueError: for a detection with a number that is not finite, naming the image.
        """
        assert self._writer is not None  # since reset
        for item, output in zip(inputs, outputs, strict=True):
            number = item["image_id"]
            if number in self._seen:
                continue
            self._seen.add(number)
            faces = predicted_faces(output["instances"].to("cpu"))
            try:
                self._writer.write(faces_to_results(faces, number, self._category_ids))
            except ValueError as error:
                name = item.get("file_name", "unnamed")
                raise ValueError(f"{name} (image {number}): {error}") from error

    def evaluate(self) -> dict[str, dict[str, float]] | None:
        """Figures by task ("bbox", "segm", "face"); None but on the main process."""
        assert self._writer is not None
        self._writer.__exit__(None, None, None)
        self._writer = None
        distributed.barrier()
        if not distributed.is_main():
            return None
        if distributed.world_size() > 1:
            ranks = range(distributed.world_size())
            merge_results([self._part(rank) for rank in ranks], self.results)
        if self.results.name != DETECTRON2_RESULTS:  # where Detectron2's users look for them
            shutil.copyfile(self.results, self.results.with_name(DETECTRON2_RESULTS))
        truth = ground_truth_of(read_entry(self.files))
        metrics = evaluate(truth, self.results, iou_types=self._tasks)
        logger.info("%s (results in %s):\n%s", self.dataset_name, self.results, metrics.table())
        figures: dict[str, dict[str, float]] = {task: {} for task in self._tasks}
        for name, value in metrics.flat().items():
            task, _, figure = name.partition("/")
            figures[task][figure] = value
        return {**figures, FACE_TASK: self._face_figures(metrics)}

    def _face_figures(self, metrics: Metrics) -> dict[str, float]:
        verdicts = face_verdicts(metrics, self._tasks[0], self._missing_score)
        try:
            values = face_metrics(verdicts).values
        except ValueError as error:  # no face was found
            logger.warning("%s: %s", self.dataset_name, error)
            return {}
        return {name: values[name] for name in FACE_FIGURES if name in values}

    def _part(self, rank: int) -> Path:
        if distributed.world_size() == 1:
            return self.results
        return self.results.with_name(f"{self.results.name}.rank{rank}")
