"""From parsed options to a finished run: what ``comics detect`` and ``comics video`` share."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from comics.commands.run_arguments import chosen_predictor
from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.inference.predictor import Predictor
    from comics.runs.inputs import ExpandedInputs
    from comics.runs.options import RunOptions
    from comics.runs.records import RunRecord
    from comics.runs.shards import Shard

EXIT_ARGUMENTS, EXIT_OUTPUT = 2, 1
STDIN = "-"


def process_inputs(options: argparse.Namespace, videos_only: bool = False) -> int:
    """Run the model over the inputs; returns the exit code.

    Args:
        options: as ``comics.commands.run_arguments`` and ``video_arguments`` declare them.
        videos_only: pass over pictures.
    """
    # After the arguments are known to be sound: these imports take seconds
    from comics.commands.progress import ProgressBar, say
    from comics.engine.signals import SIGNAL_EXIT, StopRequest
    from comics.inference.knowledge import knowledge_sentence
    from comics.pages.run_report import REPORT_NAME
    from comics.runs.messages import describe_passed_over, describe_summary
    from comics.runs.outputs import summarise
    from comics.runs.run import exit_code, run_inference
    from comics.runs.shards import Shard
    from comics.runs.state import SettingsError

    try:
        shard = Shard.parse(options.shard)
        if options.heat_maps and options.no_media:
            raise ValueError("heat maps are media: leave out --no-media to get them")
        inputs = _inputs(options, videos_only)
        predictor = _predictor(options)
        run_options = _run_options(options, shard, predictor)
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    with StopRequest() as request, ProgressBar() as bar:
        try:
            outcome = run_inference(
                predictor,
                inputs,
                run_options,
                bar.say,
                stop=lambda: bool(request.signum),
                write=lambda record: _write_outputs(options.output, record),
                command=options.command_line,
                progress=bar.show,
                frames=bar.show_frames,
            )
        except SettingsError as error:
            return stop(options, error, EXIT_ARGUMENTS)
        except OSError as error:
            return stop(
                options,
                f"the outputs cannot be written: {error}. What is finished is kept: the same "
                "command continues",
                EXIT_OUTPUT,
            )
    say(describe_summary(summarise(outcome.files)))
    if outcome.passed_over:
        say(describe_passed_over(outcome.passed_over))
    say(f"Results: {options.output / 'results.json'}")
    say(f"Report: {options.output / REPORT_NAME}")
    say(f"Model: {knowledge_sentence(predictor.provenance)}")
    if outcome.pending:
        message = f"stopped with {outcome.pending} inputs left; the same command continues"
        return stop(options, message, SIGNAL_EXIT + request.signum)
    return exit_code(outcome.files)


def _write_outputs(output: Path, record: RunRecord) -> None:
    """Results, tables and report, in one pass over the run's record."""
    from comics.pages.report_rows import RunRowsCollector
    from comics.pages.run_report import write_rows_report
    from comics.runs.run import write_results

    collector = RunRowsCollector()
    write_results(output, record, collector)
    write_rows_report(output, collector.rows(output, record.provenance, record.summary, record.run))


def _inputs(options: argparse.Namespace, videos_only: bool) -> ExpandedInputs:
    """The files to go through.

    Raises:
        ValueError: if there are none, or a list cannot be read.
    """
    from comics.runs.input_lists import read_list
    from comics.runs.inputs import ExpandedInputs, expand_inputs, is_video
    from comics.runs.messages import describe_passed_over

    named = [argument for argument in options.inputs if argument != STDIN]
    lists = [*options.list, *([STDIN] if STDIN in options.inputs else [])]
    if not named and not lists:
        raise ValueError("name an INPUT, or a list of them by --list")
    if lists.count(STDIN) > 1:
        raise ValueError("the standard input can be read as one list only")
    listed = [path for name in lists for path in read_list(name)]
    inputs = expand_inputs(named, exclude=options.output, listed=listed)
    if videos_only:
        videos = [file for file in inputs.files if file.live or is_video(file.path)]
        chosen = {file.path for file in videos}
        no_videos = [(f.path, "no video") for f in inputs.files if f.path not in chosen]
        inputs = ExpandedInputs(videos, inputs.faults, inputs.passed_over + no_videos)
    if not inputs.files and not inputs.faults:
        passed_over = f"; {describe_passed_over(inputs.passed_over)}" if inputs.passed_over else ""
        raise ValueError(
            f"no {'video' if videos_only else 'picture or video'} in the inputs{passed_over}"
        )
    return inputs


def _predictor(options: argparse.Namespace) -> Predictor:
    predictor = chosen_predictor(options, amp=options.amp, compiled=options.compile)
    if options.heat_maps and not predictor.looks_at_faces:
        raise ValueError("--heat-maps needs a face method: give --face-weights")
    if options.heat_maps and not predictor.has_heat_maps:
        raise ValueError("--heat-maps needs gradients, which ONNX models lack: use .safetensors")
    return predictor


def _run_options(options: argparse.Namespace, shard: Shard, predictor: Predictor) -> RunOptions:
    from comics.commands.video_arguments import video_options
    from comics.data.custody.credentials import TrustList
    from comics.runs.options import RunOptions

    return RunOptions(
        output=options.output,
        batch_size=options.batch_size,
        write_media=not options.no_media,
        heat_maps=options.heat_maps,
        stability=options.stability,
        crops=options.crops,
        shard=shard,
        overwrite=options.overwrite,
        decoding_threads=options.decoding_threads,
        video=video_options(options, predictor.video_rule),
        trust=None if options.trust_list is None else TrustList.read(options.trust_list),
    )
