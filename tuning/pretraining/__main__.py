"""Command line: `python -m tuning.pretraining WORK --stages text vocabulary teacher student evaluate`."""

import argparse
import pathlib

import torch

from tuning.pretraining import distillation, evaluation, text

STAGES = ("text", "vocabulary", "teacher", "student", "evaluate")


def main() -> None:
    """Run the stages asked for, in order; each skips what the work folder already holds."""
    parser = argparse.ArgumentParser(prog="python -m tuning.pretraining", description=__doc__)
    parser.add_argument("work", type=pathlib.Path, help="folder for every intermediate file and the result, nano/")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES[:-1], help="default: all but evaluate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text's mixing and of the student (default 0)")
    parser.add_argument("--steps", type=int, default=12_000, help="student steps of 128 sentences (default 12000)")
    parser.add_argument("--minutes", type=float, help="let the student's schedule follow the clock instead of --steps")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--tasks", type=pathlib.Path, help="folder of <task>/{train,dev,test}.jsonl.gz for evaluate")
    arguments = parser.parse_args()
    if "evaluate" in arguments.stages and arguments.tasks is None:
        parser.error("evaluate needs --tasks, a folder of <task>/{train,dev,test}.jsonl.gz")
    torch.set_num_threads(arguments.threads)
    work = arguments.work
    work.mkdir(parents=True, exist_ok=True)
    if "text" in arguments.stages:
        text.text(work, arguments.seed)
    if "vocabulary" in arguments.stages:
        distillation.vocabulary(work)
    if "teacher" in arguments.stages:
        distillation.teacher(work)
    if "student" in arguments.stages:
        distillation.student(work, arguments.seed, steps=arguments.steps, minutes=arguments.minutes)
    if "evaluate" in arguments.stages:
        evaluation.evaluate(work, arguments.tasks, arguments.seed)


if __name__ == "__main__":
    main()
