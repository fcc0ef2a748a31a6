"""python -m validations: list, run, show."""

import argparse
import json
import os
import pathlib
import sys

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy loads: a serial run then gives the pool's bytes
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m validations", description="Run a study: predict before training, measure after, decide."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    shown = commands.add_parser("list", help="list the claims, the shipped studies and the embedded tasks")
    shown.add_argument("--json", action="store_true", help="print machine-readable results")
    run = commands.add_parser("run", help="run the missing cells of a study and write its verdicts")
    run.add_argument("--study", default="quick", help="a shipped study or a TOML file (default: quick)")
    run.add_argument("--claim", action="append", default=[], help="run this claim only; may be repeated")
    run.add_argument(
        "--data",
        action="append",
        default=[],
        help="a folder or file of task data; may be repeated; replaces the study's tasks",
    )
    run.add_argument("--backbone", help="a folder, a hub name, nano or minilm; replaces the study's backbone")
    run.add_argument("--out", help="the results folder (default: build/<study>)")
    run.add_argument(
        "--processes",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="worker processes, one thread each (default: 2)",
    )
    run.add_argument("--json", action="store_true", help="print machine-readable results")
    show = commands.add_parser("show", help="print the verdicts of a results folder")
    show.add_argument("folder", nargs="?", default="build/quick")
    show.add_argument("--json", action="store_true", help="print machine-readable results")
    return parser


def _table(record: dict) -> str:
    lines = []
    for claim in record["claims"]:
        first = claim["criteria"][0] if claim["criteria"] else None
        value = (
            f"{first['estimate']:+.2f} [{first['low']:+.2f}, {first['high']:+.2f}]  {first['label']}" if first else claim["why"]
        )
        lines.append(f"{claim['verdict']:<15} {claim['title']:<66} {value}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after one sentence about bad input."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished cells are kept and the next run goes on from them", file=sys.stderr)
        return 130


def _run(options: argparse.Namespace) -> int:
    from . import study as studies
    from .store import read_verdicts

    if options.command == "show":
        record = read_verdicts(options.folder)
        print(json.dumps(record, indent=1) if options.json else _table(record))
        return 0
    from tuning import tasks

    from .claims import CLAIMS, named

    if options.command == "list":
        shipped = sorted(p.stem for p in studies.FOLDER.glob("*.toml"))
        if options.json:
            print(
                json.dumps(
                    {"claims": {c.id: c.title for c in CLAIMS}, "studies": shipped, "tasks": list(tasks.names())},
                    indent=1,
                )
            )
            return 0
        print("claims\n" + "\n".join(f"  {c.id:<22} {c.title}" for c in CLAIMS))
        print("studies\n" + "\n".join(f"  {name:<22} {studies.read(name).question}" for name in shipped))
        print("tasks\n  " + ", ".join(tasks.names()))
        return 0
    import dataclasses

    from .publish import publish
    from .run import measure

    study = studies.with_data(studies.read(options.study), tuple(options.data))
    if options.backbone:
        study = dataclasses.replace(study, backbone=options.backbone)
    if options.processes < 1:
        raise ValueError(f"expected at least one process, got {options.processes}")
    chosen = [named(c) for c in (options.claim or study.claims)]
    folder = pathlib.Path(options.out or f"build/{study.name}")
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else (lambda line: print(line, flush=True))
    found = measure(study, folder, claims=chosen, processes=options.processes, report=say)
    record = publish(study, folder, found, chosen)
    print(json.dumps(record, indent=1) if options.json else _table(record))
    return 0


if __name__ == "__main__":
    sys.exit(main())
