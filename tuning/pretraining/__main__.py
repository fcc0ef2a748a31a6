"""Command line: `python -m tuning.pretraining WORK [--family] --stages text vocabulary teacher student evaluate`."""

import argparse
import pathlib

import torch

from tuning.pretraining import distillation, evaluation, family, text
from tuning.shipped import CHECKPOINTS, folder_of

STAGES = ("text", "vocabulary", "teacher", "student", "evaluate")


def main() -> None:
    """Run the stages asked for, in order; each skips what the work folder already holds."""
    parser = argparse.ArgumentParser(prog="python -m tuning.pretraining", description=__doc__)
    parser.add_argument(
        "work", type=pathlib.Path, help="folder for every intermediate file and the result, nano/ or nano-family/"
    )
    parser.add_argument("--family", action="store_true", help="make the nano family with nano's vocabulary, instead of nano")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES[:-1], help="default: all but evaluate")
    parser.add_argument("--seed", type=int, default=0, help="seed of the text's mixing and of the students (default 0)")
    parser.add_argument(
        "--steps", type=int, help=f"steps of 128 sentences (default 12000; {family.STEPS} a member of the family)"
    )
    parser.add_argument("--minutes", type=float, help="let nano's schedule follow the clock instead of --steps")
    parser.add_argument("--threads", type=int, default=1, help="torch threads (default 1)")
    parser.add_argument("--device", default="cpu", help="where teacher and students run, for example cuda (default cpu)")
    parser.add_argument("--tasks", type=pathlib.Path, help="folder of <task>/{train,dev,test}.jsonl.gz for evaluate")
    arguments = parser.parse_args()
    if "evaluate" in arguments.stages and arguments.tasks is None:
        parser.error("evaluate needs --tasks, a folder of <task>/{train,dev,test}.jsonl.gz")
    if arguments.family and arguments.minutes:
        parser.error("the family follows --steps, so that it can be made again; leave --minutes out")
    if arguments.family and arguments.steps and arguments.steps <= max(CHECKPOINTS.values()):
        parser.error(f"the family keeps weights up to step {max(CHECKPOINTS.values())}; give more --steps, got {arguments.steps}")
    torch.set_num_threads(arguments.threads)
    work, seed, device = arguments.work, arguments.seed, arguments.device
    work.mkdir(parents=True, exist_ok=True)
    if "text" in arguments.stages:
        text.text(work, seed)
    if arguments.family:
        _family(arguments)
        return
    if "vocabulary" in arguments.stages:
        distillation.vocabulary(work)
    if "teacher" in arguments.stages:
        distillation.teacher(work, work / "tokenizer", device=device)
    if "student" in arguments.stages:
        steps, minutes = arguments.steps or 12_000, arguments.minutes
        recipe = distillation.Recipe("nano", 4, 128, steps, seed, warm=True, minutes=minutes)
        distillation.student(work, recipe, work / "tokenizer", device)
    if "evaluate" in arguments.stages:
        evaluation.evaluate(work, arguments.tasks, seed)


def _family(arguments: argparse.Namespace) -> None:
    """Run the stages after the text for the family, which has nano's vocabulary."""
    work = arguments.work
    if "teacher" in arguments.stages:
        distillation.teacher(work, folder_of("nano"), shards=family.SHARDS, device=arguments.device)
    if "student" in arguments.stages:
        family.students(work, arguments.seed, steps=arguments.steps or family.STEPS, device=arguments.device)
    if "evaluate" in arguments.stages:
        family.evaluate(work, arguments.tasks)


if __name__ == "__main__":
    main()
