"""``comics scale``: the same as ``comics detect``, over millions of files and many machines."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from comics.commands.run_arguments import add_model_arguments, add_runtime_argument
from comics.commands.stopping import stop

if TYPE_CHECKING:
    from comics.scale.engines import Engine
    from comics.scale.job import JobOutcome, JobRequest

DESCRIPTION = """\
Find the faces of very many pictures and videos, on many machines, and write Parquet.

INPUT is a file, a folder (with those below), or a Parquet file (.parquet) with a column of paths,
on this machine or in a store: s3://bucket/folder, gs://..., abfs://..., hdfs://..., file://..., and
what fsspec knows. Of a folder, files that are called like pictures and videos are taken; what is
named by itself, in a list or in a table is taken whatever it is called. Paths travel, not pixels:
workers fetch what they look at, and write what they find.

OUTPUT, a folder or the address of one, gets

  files/part-*.parquet  a row for each file: verdict, counts, reason, SHA-256, and its whole entry
  faces/part-*.parquet  a row for each face: box, mask (RLE), score, P(fake), verdict, track
  summary.json          when everything is done: counts, the model with its SHA-256, when
  _comics/              the plan and the state of the job, for continuing

The columns are described in docs/scaling.md. comics report and comics evaluate read them, and so
does every tool for Parquet. Verdicts are those of comics detect.

The same command continues after a crash of any machine or of all: files are in shards, a shard is
done or done again, and no row comes twice. The plan is made once; files that come later are for
another job. A video longer than --clip-seconds is looked at in clips, which any worker takes, and
its faces are followed through all of them. A file that ends the process that looks at it (a broken
decoder, too much memory) or hangs is given up after --max-tries and has a row that says why; it is
"quarantined". Stores are asked again where they fail for a moment; credentials come from the
environment, never from an address.

--engine local runs --workers processes on this machine. --engine ray hands the shards to a Ray
cluster: --address, or $RAY_ADDRESS, or one that is started on this machine. All nodes need the same
version of this package and of the model; a node that differs is named and nothing is mixed.
"""
EPILOG = """\
Exit code: 0 all files read; 2 unusable arguments, or a node without the model or with another
version; 3 some files failed, ended early or were quarantined (each has its reason); 1 the outputs
cannot be written, or shards are left after three rounds (a full disk, a store that stays away): the
same command continues; 130 or 143 stopped by Ctrl-C or SIGTERM.

Examples:
  {prog} archive/ --output out --workers 8
  {prog} s3://pictures/2026/ --output s3://results/2026 --engine ray --address ray-head:6379
  {prog} paths.parquet --path-column key --output gs://results/a --engine ray --gpus-per-worker 1
  find /data -name '*.jpg' | {prog} --list - --output out --engine ray
"""
EXIT_OK, EXIT_OUTPUT, EXIT_ARGUMENTS, EXIT_SOME_FAILED = 0, 1, 2, 3
LOCAL, RAY = "local", "ray"


def add_scale_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options and what ``--help`` says."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = DESCRIPTION
    parser.epilog = EPILOG.replace("{prog}", parser.prog)
    _add_input_arguments(parser)
    _add_output_arguments(parser)
    add_model_arguments(parser)
    _add_video_arguments(parser)
    _add_engine_arguments(parser)


def _add_input_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("inputs")
    group.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="file, folder, .parquet of paths; or an address"
    )
    group.add_argument(
        "--list",
        action="append",
        default=[],
        metavar="FILE",
        help="a file that names one path or address a line (or NUL-separated); - is the standard "
        "input",
    )
    group.add_argument(
        "--path-column",
        metavar="NAME",
        help="the column of paths in .parquet inputs (default: path, uri, url or file_name)",
    )


def _add_output_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("outputs")
    group.add_argument("--output", required=True, metavar="URI", help="folder, or address of one")
    group.add_argument(
        "--shard-files",
        type=int,
        default=256,
        metavar="N",
        help="files of a shard, and rows of a part: what is lost by a crash, and begun again; "
        "some minutes of work are right (default: 256)",
    )
    group.add_argument(
        "--max-tries",
        type=int,
        default=3,
        metavar="N",
        help="give up a file that ended the process that looked at it so often (default: 3)",
    )
    group.add_argument(
        "--stall-seconds",
        type=float,
        default=300.0,
        metavar="S",
        help="count a file as such that lets its process give no sign of life for so long "
        "(default: 300)",
    )
    group.add_argument(
        "--overwrite", action="store_true", help="delete the job that is there, with its outputs"
    )


def _add_video_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("videos")
    group.add_argument(
        "--max-fps",
        type=float,
        metavar="F",
        help="analyse at most F frames per second of a video (default: no limit)",
    )
    group.add_argument(
        "--clip-seconds",
        type=float,
        default=60.0,
        metavar="S",
        help="look at longer videos in clips of S seconds (default: 60)",
    )


def _add_engine_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("engine")
    group.add_argument(
        "--engine",
        choices=(LOCAL, RAY),
        default=LOCAL,
        help='processes of this machine, or Ray Data (pip install "comics-forensics[scale]"); '
        "default: local",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="models at work at once (default: local 1; ray as many as the cluster has room for)",
    )
    group.add_argument(
        "--address", metavar="HOST:PORT", help="of a Ray cluster (default: $RAY_ADDRESS)"
    )
    group.add_argument(
        "--cpus-per-worker",
        type=int,
        default=2,
        metavar="N",
        help="cores of each worker: threads of its networks (default: 2)",
    )
    group.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="G",
        help="of Ray's; 0.5 puts two workers on a GPU (default: 0)",
    )
    group.add_argument(
        "--dashboard",
        action="store_true",
        help="of a Ray cluster that is started here: its page, on 127.0.0.1 alone",
    )
    group.add_argument(
        "--device",
        default="auto",
        help="of each worker: auto (a GPU where there is one), cpu, cuda",
    )
    group.add_argument(
        "--batch-size", type=int, default=4, metavar="N", help="images at once (default: 4)"
    )
    group.add_argument(
        "--decoding-threads",
        type=int,
        default=2,
        metavar="N",
        help="pictures decoded at once, by each worker (default: 2)",
    )
    add_runtime_argument(group)


def run_scale(options: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from comics.commands.progress import ProgressBar, say
    from comics.engine.signals import SIGNAL_EXIT, StopRequest
    from comics.scale.job import SetupError, run_job
    from comics.scale.listing import ListingError
    from comics.scale.plan import JobError
    from comics.scale.requirements import require
    from comics.scale.storage import StorageError

    try:
        require("pyarrow", "comics scale")
        request = _request(options)
        engine = _engine(options)
    except (OSError, ValueError, RuntimeError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    try:
        with StopRequest() as request_to_stop, ProgressBar() as bar:
            outcome = run_job(
                request, engine, bar.say, bar.show, lambda: bool(request_to_stop.signum)
            )
    except StorageError as error:
        message = f"the outputs cannot be written: {error}. What is finished is kept"
        return stop(options, message, EXIT_OUTPUT)
    except (JobError, ListingError, SetupError) as error:
        return stop(options, error, EXIT_ARGUMENTS)
    except RuntimeError as error:  # of the engine
        return stop(options, f"{error}. The same command continues", EXIT_OUTPUT)
    finally:
        engine.close()
    for line in _told(outcome, options, engine.workers):
        say(line)
    if outcome.stopped:
        message = "stopped; the same command continues"
        return stop(options, message, SIGNAL_EXIT + request_to_stop.signum)
    if outcome.undone:
        reasons = "; ".join(outcome.reasons) or "no reason is known"
        message = f"{outcome.undone} shards are left: {reasons}. The same command continues"
        return stop(options, message, EXIT_OUTPUT)
    failed = outcome.summary["failed"] + outcome.summary["partial"]
    return EXIT_SOME_FAILED if failed else EXIT_OK


def _request(options: argparse.Namespace) -> JobRequest:
    """What is to be done.

    Raises:
        ValueError: for unusable options, or a list that cannot be read.
    """
    from comics.runs.input_lists import read_list
    from comics.scale.job import JobRequest

    if not options.inputs and not options.list:
        raise ValueError("name an INPUT, or a list of them by --list")
    for name in ("workers", "cpus_per_worker", "batch_size", "decoding_threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise ValueError(f"--{name.replace('_', '-')} must be 1 or more, got {value}")
    return JobRequest(
        output=options.output,
        inputs=options.inputs,
        listed=[path for name in options.list for path in read_list(name)],
        column=options.path_column,
        scanner=_scanner(options),
        shard_files=options.shard_files,
        clip_s=options.clip_seconds,
        max_tries=options.max_tries,
        overwrite=options.overwrite,
        command=options.command_line,
        threads=options.cpus_per_worker,
        stall_s=options.stall_seconds,
    )


def _scanner(options: argparse.Namespace) -> dict[str, Any]:
    """Arguments of ``FaceScanner``; paths are made absolute, for workers elsewhere."""
    from comics.inference.remote_weights import is_remote

    def place(name: str | None) -> str | None:
        named = name is not None and name != "default" and not is_remote(name)
        return os.path.abspath(name) if named and name is not None else name

    return {
        "weights": place(options.weights or os.environ.get("COMICS_WEIGHTS")),
        "device": options.device,
        "batch_size": options.batch_size,
        "decoding_threads": options.decoding_threads,
        "max_fps": options.max_fps,
        "score_threshold": options.score_threshold,
        "fake_threshold": options.fake_threshold,
        "face_weights": place(options.face_weights),
        "tiling": options.tiling,
        "runtime": options.runtime,
    }


def _engine(options: argparse.Namespace) -> Engine:
    """The engine that is asked for; Ray is imported for its own alone.

    Raises:
        MissingPackage, RayFault: if there is none.
    """
    if options.engine == LOCAL:
        from comics.scale.engines.local import LocalEngine

        return LocalEngine(options.workers or 1)
    from comics.scale.engines.on_ray import RayEngine

    engine = RayEngine(
        options.address,
        options.workers,
        options.cpus_per_worker,
        options.gpus_per_worker,
        options.dashboard,
    )
    if options.dashboard and engine.dashboard_url:
        from comics.commands.progress import say

        say(f"Dashboard: http://{engine.dashboard_url}")
    return engine


def _told(outcome: JobOutcome, options: argparse.Namespace, workers: int) -> list[str]:
    """The end of a job, for people."""
    from comics.runs.summary_text import describe_summary

    lines = [describe_summary(outcome.summary)]
    if outcome.summary["quarantined"]:
        lines.append(f"Quarantined: {outcome.summary['quarantined']}; their rows say why")
    if outcome.files and outcome.seconds:
        rate = outcome.files / outcome.seconds
        lines.append(
            f"This time {outcome.files} files in {outcome.seconds:.1f} s: {rate:.2f} a second by "
            f"{workers} workers, whose models were at work {outcome.model_share:.0%} of the time"
        )
    lines.append(f"Results: {options.output}")
    return lines
