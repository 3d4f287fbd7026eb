"""Study how scribbles correct a network's result: `python scripts/study_refinement.py train -o OUT`, then `run -o OUT`.

`train` trains the small networks of the study and writes OUT/networks. `run` lets a simulated user correct them, writes
OUT/refinement_rounds.csv (every interaction), OUT/refinement_table.md, OUT/refinement_summary.json and pictures, and
prints the tables. Both go on where they were stopped. `demonstrate` draws a structure that was missed and one that is
new to a network. See docs/refinement_study.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch

from scribblesegment.errors import ConfigError, ScribbleSegmentError
from scribblesegment.evaluation.correction_config import StudyConfig, quick_study
from scribblesegment.evaluation.correction_demonstrations import (
    MISSING_LABEL,
    NEW_LABEL,
    find_missing_label,
    take_new_label,
    write_demonstration,
)
from scribblesegment.evaluation.correction_pictures import write_examples
from scribblesegment.evaluation.correction_report import write_study
from scribblesegment.evaluation.correction_study import Study, list_jobs
from scribblesegment.evaluation.correction_tasks import read_task
from scribblesegment.evaluation.correction_training import train_network
from scribblesegment.evaluation.correction_workers import run_jobs
from scribblesegment.evaluation.progress import progress_bar
from scribblesegment.evaluation.report import make_folder
from scribblesegment.training.config import read_config

DEFAULT_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
_MORE_LAYERS = 12
DEFAULT_CONFIG = Path(__file__).resolve().parent / "configs" / "refinement" / "study.json"


def main(argv: list[str] | None = None) -> int:
    """Train or run; returns 0, 2 after an error, or 130 after Ctrl-C."""
    arguments = _parser().parse_args(argv)
    try:
        if arguments.data is None:
            print(f"error: {DEFAULT_DATA} does not exist; name the folder of the data by --data.", file=sys.stderr)
            return 2
        config = read_config(arguments.config, StudyConfig)
        if arguments.quick:
            config = quick_study(config)
        torch.set_num_threads(arguments.threads)
        return arguments.command(arguments, config)
    except ScribbleSegmentError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; what is finished is kept. Start again to go on.", file=sys.stderr)
        return 130


def _train(arguments: argparse.Namespace, config: StudyConfig) -> int:
    folder = make_folder(arguments.output / "networks")
    for task in config.tasks:
        images = read_task(arguments.data, task)
        with progress_bar(task.name) as show:
            print(train_network(images, config.training, folder, progress=show))
    return 0


def _run(arguments: argparse.Namespace, config: StudyConfig) -> int:
    output = make_folder(arguments.output)
    names = [experiment.name for experiment in config.experiments]
    wanted = arguments.experiments or names
    if not set(wanted) <= set(names):
        raise ConfigError(f"No experiment {', '.join(sorted(set(wanted) - set(names)))}; there are {', '.join(names)}.")
    experiments = [experiment for experiment in config.experiments if experiment.name in wanted]
    used = {name for experiment in experiments for name in experiment.tasks}
    tasks = {name: read_task(arguments.data, config.task(name)) for name in used}
    study = Study(config, output / "networks")
    jobs = [job for experiment in experiments for job in list_jobs(experiment, tasks)]
    with progress_bar() as show:
        results = run_jobs(study, jobs, output / "rounds.jsonl", workers=arguments.workers, progress=show)
    report = write_study(output, config, results)
    pictures = write_examples(output, study, jobs) if arguments.pictures else []
    print(report.table)
    for note in report.notes:
        print(note)
    print("Written:", *report.files, *pictures, sep="\n  ")
    return 0


def _demonstrate(arguments: argparse.Namespace, config: StudyConfig) -> int:
    output = make_folder(arguments.output)
    study = Study(config, output / "networks")
    shown = {
        MISSING_LABEL: find_missing_label(study, read_task(arguments.data, config.task("nuclei"))),
        NEW_LABEL: take_new_label(
            study, config.task("abdomen_ct"), "spleen", arguments.data, "train/msd_spleen_ct.npz"
        ),
    }
    refinements = {
        # What the network says of these images is nothing to hold on to.
        MISSING_LABEL: dataclasses.replace(config.refinement, anchor=0.0),
        # An organ that no feature was made for needs more than the last layers.
        NEW_LABEL: dataclasses.replace(config.refinement, layers=_MORE_LAYERS),
    }
    for name, demonstration in shown.items():
        reached = write_demonstration(output / name, demonstration, refinements[name], config.user, config.seed)
        structure = demonstration.names[demonstration.shown]
        print(f"{output / name}: {structure}, Dice {', '.join(f'{score:.2f}' for score in reached)}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Study how scribbles correct a network's result.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train the networks of the study")
    train.set_defaults(command=_train)
    run = commands.add_parser("run", help="correct their results, and report")
    run.set_defaults(command=_run)
    run.add_argument(
        "--experiments", nargs="+", metavar="EXPERIMENT", help="which of the configuration's (default: all)"
    )
    run.add_argument("--workers", type=int, default=1, help="processes at the same time (default: 1)")
    run.add_argument("--pictures", action="store_true", help="draw an example of every task, too")
    demonstrate = commands.add_parser("demonstrate", help="draw a missing label inserted and a new label added")
    demonstrate.set_defaults(command=_demonstrate)
    for command in (train, run, demonstrate):
        command.add_argument("-o", "--output", type=Path, required=True, help="folder of the study")
        command.add_argument("--config", type=Path, default=DEFAULT_CONFIG, help=f"default: {DEFAULT_CONFIG}")
        command.add_argument(
            "--data",
            type=Path,
            default=DEFAULT_DATA if DEFAULT_DATA.is_dir() else None,
            help=f"folder with train/ (default: {DEFAULT_DATA}, if it exists)",
        )
        command.add_argument("--quick", action="store_true", help="few steps and images, to see that all works")
        command.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
