"""python -m validations: list, run, show, advise, bench, calibrate."""

import argparse
import json
import os
import pathlib
import sys

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_name, "1")  # before numpy loads: a serial run then gives the pool's bytes
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # threads that wait must not take a shared core from those that work
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")

LEAST = {"processes": 1, "rounds": 2, "examples": 1, "readout": 1, "length": 1, "budget": 1, "threads": 1, "seed": 0, "top": 1}


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
    run.add_argument("--seeds", type=int, help="how many seeds; replaces the study's (with one --data: 6, each its own split)")
    _add_columns(run)
    run.add_argument("--backbone", help="a folder, a hub name, nano or minilm; replaces the study's backbone")
    run.add_argument("--out", help="the results folder (default: build/<study>)")
    run.add_argument(
        "--processes",
        type=int,
        default=min(2, os.cpu_count() or 1),
        help="worker processes, one thread each (default: 2)",
    )
    run.add_argument("--json", action="store_true", help="print machine-readable results")
    bench = commands.add_parser("bench", help="measure our solvers beside others: ratios of CPU time and how far answers differ")
    bench.add_argument("name", nargs="?", default="control", help="which bench (default: control)")
    bench.add_argument("--case", action="append", default=[], help="run this case only; may be repeated")
    bench.add_argument("--rounds", type=int, default=9, help="interleaved repeats (default: 9)")
    bench.add_argument("--json", action="store_true", help="print machine-readable results")
    errors = commands.add_parser("calibrate", help="count how often verdicts are wrong on planted worlds with a known answer")
    errors.add_argument("--worlds", type=int, default=500, help="worlds a row (default: 500, as shipped)")
    errors.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="worker processes (default: 2)")
    errors.add_argument("--out", type=pathlib.Path, help="the JSON file to write (default: the one that reports show)")
    errors.add_argument("--json", action="store_true", help="print machine-readable results")
    show = commands.add_parser("show", help="print the verdicts of a results folder")
    show.add_argument("folder", nargs="?", default="build/quick")
    show.add_argument("--json", action="store_true", help="print machine-readable results")
    told = commands.add_parser(
        "advise", help="rank deltas, layers and ranks for a data set by the loss forecast without training any"
    )
    told.add_argument("--backbone", default="nano", help="a folder, a hub name, nano or minilm (default: nano)")
    told.add_argument("--data", required=True, help="a folder or file of task data, or an embedded task's name")
    _add_columns(told)
    told.add_argument("--examples", type=int, default=128, help="labelled examples that the forecast uses (default: 128)")
    told.add_argument("--readout", type=int, default=256, help="further examples that fit the frozen head (default: 256)")
    told.add_argument("--length", type=int, default=48, help="longest text, in tokens (default: 48)")
    told.add_argument(
        "--budget", type=int, action="append", default=[], help="parameters allowed; may be repeated (default: 1000, 5000, 20000)"
    )
    told.add_argument("--results", default="build", help="folder of finished studies that say how good past advice was")
    told.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="torch threads (default: 2)")
    told.add_argument("--seed", type=int, default=0)
    told.add_argument("--top", type=int, default=12, help="options printed (default: 12)")
    told.add_argument("--json", action="store_true", help="print machine-readable results")
    return parser


def _written(criterion: dict) -> str:
    """Return a criterion's estimate and interval in words."""
    ends = [criterion[name] for name in ("estimate", "low", "high")]
    if None in ends:
        return f"no interval  {criterion['label']}"
    return "{:+.2f} [{:+.2f}, {:+.2f}]  ".format(*ends) + criterion["label"]


def _add_columns(command: argparse.ArgumentParser) -> None:
    for option, what in {"--text": "text", "--text-b": "second text, for pairs", "--label": "label"}.items():
        command.add_argument(option, metavar="COLUMN", help=f"the data's column of the {what} (default: by its usual names)")


def _bounded(options: argparse.Namespace) -> None:
    """Raise ValueError for a number that no command can use."""
    for name, least in LEAST.items():
        given = getattr(options, name, least)
        for value in given if isinstance(given, list) else [given]:
            if value < least:
                raise ValueError(f"--{name} must be a whole number of at least {least}, got {value}: correct it")


def _table(record: dict) -> str:
    lines = []
    for claim in record["claims"]:
        for one in claim["verdicts"]:
            first, several = one["criteria"][0] if one["criteria"] else None, len(claim["verdicts"]) > 1
            title = f"{claim['title']} ({one['label']})" if several else claim["title"]
            lines.append(f"{one['verdict']:<15} {title:<76} {_written(first) if first else one['why']}")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, or 2 after one sentence about bad input."""
    options = _parser().parse_args(arguments)
    try:
        _bounded(options)
        return _run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished cells are kept and the next run goes on from them", file=sys.stderr)
        return 130


def _bench(options: argparse.Namespace) -> int:
    import dataclasses

    from . import bench

    rows = []
    for row in bench.run(options.name, options.case, rounds=options.rounds):
        if not rows and not options.json:
            print(bench.HEADER, flush=True)
        rows.append(dataclasses.asdict(row) | {"met": row.met})
        if not options.json:
            print(bench.line(row), flush=True)
    if options.json:
        print(json.dumps({"bench": options.name} | bench.provenance() | {"rows": rows}, indent=1))
    return 0


def _calibrate(options: argparse.Namespace) -> int:
    from . import calibrate
    from .store import write_json

    for name in ("worlds", "processes"):
        if getattr(options, name) < 1:
            raise ValueError(f"expected at least one for --{name}, got {getattr(options, name)}")
    record = calibrate.calibrate(options.worlds, processes=options.processes)
    write_json(options.out or calibrate.FILE, record)
    print(json.dumps(record, indent=1) if options.json else calibrate.written(record))
    return 0


def _run(options: argparse.Namespace) -> int:
    if options.command == "bench":
        return _bench(options)
    if options.command == "calibrate":
        return _calibrate(options)
    from . import study as studies
    from .results import read_verdicts

    if options.command == "show":
        record = read_verdicts(options.folder)
        print(json.dumps(record, indent=1) if options.json else _table(record))
        return 0
    if options.command == "advise":
        from . import advise

        advised = advise.advise(options)
        print(json.dumps(advised, indent=1) if options.json else advise.written(advised))
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

    from tuning.options import columns, writable

    from .engine import one_thread
    from .plan import announced
    from .publish import publish
    from .run import measure

    study = studies.with_data(studies.read(options.study), tuple(options.data), columns(options))
    if options.seeds is not None or (options.data and len(study.tasks) == 1):
        study = studies.resampled(study, studies.SPLITS if options.seeds is None else options.seeds)
    if options.backbone:
        study = dataclasses.replace(study, backbone=options.backbone)
    chosen = [named(c) for c in (options.claim or study.claims)]
    folder = pathlib.Path(options.out or f"build/{study.name}")
    if not writable(folder):
        raise ValueError(f"--out must be a folder that can be made and written, got {str(folder)!r}: choose another path")
    say = (lambda line: print(line, file=sys.stderr, flush=True)) if options.json else (lambda line: print(line, flush=True))
    for line in announced(study, chosen):
        say(line)
    with one_thread():  # the same last digits whatever the environment says
        found = measure(study, folder, claims=chosen, processes=options.processes, report=say)
        record = publish(study, folder, found, chosen)
    print(json.dumps(record, indent=1) if options.json else _table(record))
    return 0


if __name__ == "__main__":
    for _stream in (sys.stdout, sys.stderr):
        _stream.reconfigure(errors="backslashreplace")  # a name that the terminal's encoding lacks stops nothing
    sys.exit(main())
