"""Whether a delta's step takes as much less memory and time than full tuning's as its counted bytes and passes say."""

from collections.abc import Mapping

import numpy as np

from ...statistics import Columns, Statistic
from ...verdict import Criterion
from ..shared.claim import Assumption, Cell, Claim, Comparison, Row, error, mean, mean_excess, octaves
from .counted import BYTES, DELTAS, FULL
from .experiment import EXPERIMENT
from .plants import as_counted, thawed

FASTER = 1.6  # the published speed of adapters over full tuning's, as recalled
NAMES, SHARE = 16384, 0.02  # bytes of a file's names, and share, by which numbers on disk may differ from those that are counted
STEADY = 0.25  # of the median ratio: how wide the middle half of the rounds' ratios may be


def _place(cell: Cell, option: str, batch: int) -> Row:
    """Return a row's first columns: protocol, delta, batch, and whether the batch is the smallest or the largest."""
    batches = cell.predicted.values["batches"]
    ends = {"smallest": float(batch == batches[0]), "largest": float(batch == batches[-1])}
    return {"task": cell.task, "delta": option, "seed": cell.seed, "batch": batch} | ends


def _memory(cell: Cell) -> list[Row]:
    p, m, rows = cell.predicted.values, cell.measured.values, []
    counted, model = p["options"], p["model"]
    for batch in p["batches"]:
        met = {option: one["peak"] for option, one in m["steps"][str(batch)].items()}
        for option in DELTAS:
            saved, guesses = _saved(model, met[option], met[FULL]), _savings(counted, model, option, batch)
            rows.append(
                _place(cell, option, batch)
                | {"saved": saved, "off": abs(octaves(met[option] / counted[option]["peak"][str(batch)]))}
                | {f"saved_{name}": guess for name, guess in guesses.items()}
                | {f"error_{name}": abs(saved - guess) for name, guess in guesses.items()}
                | {"stored": m["stored"][option] / m["stored"][FULL]}
            )
    return rows


def _saved(model: float, own: float, full: float) -> float:
    """Return the share of full tuning's memory, the loaded model's with it, that a delta saves."""
    return 1.0 - (model + own) / (model + full)


def _savings(counted: Mapping, model: float, option: str, batch: int) -> dict[str, float]:
    """Return the forecasts of the saved share: of counted bytes, of tuned numbers alone, and of no change."""
    own, full = (counted[name]["peak"][str(batch)] for name in (option, FULL))
    alone = _saved(model, counted[option]["state"], counted[FULL]["state"])
    return dict(counted=_saved(model, own, full), numbers=alone, none=0.0)


def _peaks(cell: Cell) -> list[Row]:
    """Return the bytes of every option's step above the model, counted and measured, full tuning's too."""
    p, m = cell.predicted.values, cell.measured.values
    return [
        {"task": cell.task, "seed": cell.seed, "option": option, "batch": batch}
        | {"counted_bytes": one["peak"][str(batch)], "held_bytes": m["steps"][str(batch)][option]["peak"]}
        for batch in p["batches"]
        for option, one in p["options"].items()
    ]


def _time(cell: Cell) -> list[Row]:
    p, m, rows = cell.predicted.values, cell.measured.values, []
    for batch in p["batches"]:
        met = {option: np.array(one["seconds"]) for option, one in m["steps"][str(batch)].items()}
        for option in DELTAS:
            speed = float(np.median(met[FULL] / met[option]))  # of rounds, in which both took their turn
            counted = p["options"][FULL]["passes"] / p["options"][option]["passes"]
            guesses = dict(counted=counted, none=1.0, published=FASTER)
            rows.append(
                _place(cell, option, batch)
                | {"speed": speed, "speed_counted": counted, "milliseconds": float(1e3 * np.median(met[option]))}
                | {f"error_{name}": abs(octaves(speed / guess)) for name, guess in guesses.items()}
            )
    return rows


def _at(end: str, column: str) -> Statistic:
    """Return the statistic "mean of a column over the smallest, or the largest, batch of every protocol"."""

    def statistic(columns: Columns) -> float:
        return float(np.mean(columns[column][columns[end] > 0]))

    return statistic


def _described(cell: Cell) -> bool:
    """Return whether as many numbers are tuned as shapes say, by their bytes on disk."""
    counted = {option: BYTES * one["numbers"] for option, one in cell.predicted.values["options"].items()}
    stored = cell.measured.values["stored"]
    return all(abs(stored[option] - own) <= SHARE * own + NAMES for option, own in counted.items())


def _spread(cell: Cell) -> float:
    """Return how wide the middle half of the rounds' ratios is, over their median, in the median over deltas and batches."""
    wide = []
    for met in cell.measured.values["steps"].values():
        ratios = [np.array(met[FULL]["seconds"]) / np.array(met[option]["seconds"]) for option in DELTAS]
        wide += [float(np.diff(np.quantile(one, (0.25, 0.75)))[0] / np.median(one)) for one in ratios]
    return float(np.median(wide))


DESCRIBED = Assumption(
    "shapes describe the network",
    "on disk every delta, and the whole network, is as large as its counted numbers, to within a fiftieth and a file's names",
    _described,
    lambda cells: f"largest network {max(cell.predicted.values['model'] for cell in cells) / 1e6:.0f} MB",
    needed=1.0,
)
ROUNDS_AGREE = Assumption(
    "rounds agree",
    "the middle half of the rounds' ratios of times is at most a quarter of their median wide, in the median over deltas and batches",
    lambda cell: _spread(cell) <= STEADY,
    lambda cells: f"median width {np.median([_spread(cell) for cell in cells]):.3f}",
)


FACTS_MEMORY = Claim(
    id="facts-memory",
    nature="prediction",
    view="optimization",
    title="A delta saves the memory that counting shapes foretells",
    statement="Of what full tuning holds, the loaded model with it, a delta saves what is counted from shapes to within a twentieth: more "
    "than six tenths at one text a step, and between two and five tenths at the largest batch.",
    equation=r"s = 1 - frac(W + M_delta, W + M_0), quad hat(M) = A + 4 max(3 P, 2 P + 2 N f) + 4 P [delta != 0]",
    equation_alt="s is the saved share, W the bytes of the loaded weights, M what a step takes above them, with index 0 in full tuning; its "
    "forecast adds to the activations A that derivatives need the gradients and moments of P tuned numbers, or what replaces gradients "
    "as derivatives begin, N tokens of inner width f, and a delta's own numbers",
    derived="the shapes of network and delta, by hand; formulas and bars were set on texts of 16 and of 64 tokens on nano, nano-4x192 and "
    "MiniLM, lengths that are not among those of the verdict. Published for T5: up to three quarters at small batches and about a third at large ones, as recalled",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_memory,
    parts={"peaks": _peaks},
    statistic=Comparison("saved share less what is counted, mean size", error("error_counted")),
    criteria=(
        Criterion("error", "saved share off by", error("error_counted"), (-np.inf, 0.05), (-np.inf, 0.1)),
        Criterion(
            "lead",
            "saved share nearer than the better rival",
            mean_excess("error_counted", "error_numbers", "error_none", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
        ),
        Criterion("small", "saved share at one text a step", _at("smallest", "saved"), (0.6, np.inf), (0.5, np.inf)),
        Criterion("large", "saved share at the largest batch", _at("largest", "saved"), (0.2, 0.5), (0.1, 0.6)),
    ),
    rivals=(
        Comparison("saved share off by: tuned numbers alone", mean("error_numbers")),
        Comparison("published saved share at small batches, at most", lambda columns: 0.75),
        Comparison("published saved share at large batches, about", lambda columns: 0.33),
    ),
    nulls=(Comparison("saved share off by: no change", mean("error_none")),),
    also=(
        Comparison("saved share at one text a step, counted", _at("smallest", "saved_counted")),
        Comparison("saved share at the largest batch, counted", _at("largest", "saved_counted")),
        Comparison("octaves by which the delta's bytes above the model are off", mean("off")),
        Comparison("bytes on disk over full tuning's", mean("stored")),
    ),
    assumptions=(DESCRIBED,),
    rule="Supported when the saved share is within a twentieth of the count and nearer to it than to tuned numbers alone and to none, above "
    "six tenths at one text and between two and five tenths at the largest batch; refuted beyond a tenth, when a rival is nearer, below a "
    "half at one text, or outside one to six tenths at the largest batch.",
    reason="A gradient and two moments for every weight are three times the model, so that at few texts nothing can save more than three "
    "quarters. At many texts activations decide, and a trained map holds its input where a frozen one holds none. An interval is over "
    "pairs of backbone and length, three of each backbone.",
    change="A pass that computes activations anew, moments in other precisions, or texts so long that attention decides.",
    good=as_counted,
    bad=thawed,
    good_is="machines that hold what is counted, within a twentieth",
    bad_is="machines on which frozen weights get gradients and moments too",
)

FACTS_TIME = Claim(
    id="facts-time",
    nature="prediction",
    view="optimization",
    title="A delta's step is faster by the pass that it does not make",
    statement="A delta's step takes as much less CPU time than full tuning's as counted multiplications say, to within a fifth of an "
    "octave and nearer than no change does, and at the largest batch full tuning's takes a quarter more.",
    equation=r"v = frac(c_0, c_delta), quad c_0 = 3 (m + a), quad c_delta = 2 m + 3 a + 3 m_delta",
    equation_alt="v is full tuning's time over the delta's; c are the multiplications of a step, m those of one pass through the frozen "
    "maps, a through the products of attention and m with index delta through the delta's own maps",
    derived="the shapes of network and delta; published: adapters train about 60 per cent faster, as recalled. Formulas and bars were set "
    "on texts of 16 and of 64 tokens on nano, nano-4x192 and MiniLM, lengths that are not among those of the verdict",
    sources=("ding2023",),
    experiment=EXPERIMENT,
    rows=_time,
    statistic=Comparison("full tuning's CPU time over the delta's, at the largest batch", _at("largest", "speed")),
    criteria=(
        Criterion("error", "octaves off the counted ratio", error("error_counted"), (-np.inf, 0.2), (-np.inf, 0.4), "octaves"),
        Criterion(
            "lead",
            "octaves nearer than no change",
            mean_excess("error_counted", "error_none", less=True),
            (0.0, np.inf),
            (0.0, np.inf),
            "octaves",
        ),
        Criterion("faster", "ratio at the largest batch", _at("largest", "speed"), (1.25, np.inf), (1.1, np.inf)),
    ),
    rivals=(Comparison("octaves off: the published ratio, 1.6", mean("error_published")),),
    nulls=(Comparison("octaves off: no change", mean("error_none")),),
    also=(
        Comparison("counted ratio at the largest batch", _at("largest", "speed_counted")),
        Comparison("full tuning's CPU time over the delta's, at one text a step", _at("smallest", "speed")),
        Comparison("milliseconds of the delta's step at one text", _at("smallest", "milliseconds")),
    ),
    assumptions=(ROUNDS_AGREE,),
    rule="Supported when the ratio of times is within a fifth of an octave of the counted one, nearer than no change, and above 1.25 at the "
    "largest batch; refuted beyond two fifths of an octave, when no change is nearer, or below 1.1.",
    reason="Of three passes full tuning makes one for its weights' gradients. Multiplications are not all that takes time: normalisations, "
    "softmax and the optimizer take some, which is what a fifth of an octave leaves room for.",
    change="Batches so small that the optimizer decides, or maps so small that calls do.",
    good=as_counted,
    bad=thawed,
    good_is=FACTS_MEMORY.good_is,
    bad_is=FACTS_MEMORY.bad_is,
)
