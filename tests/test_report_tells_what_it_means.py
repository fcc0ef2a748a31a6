"""What a report means for someone who tunes, and its limits, follow from the record's numbers and from nothing else."""

import copy

import known_results
import pytest

from reports import load, meaning, words


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    return load.read(known_results.write(tmp_path_factory.mktemp("few"))).record


def part(record, title, of=meaning.meaning):
    """Return the text under a title, empty where there is none."""
    return next((one["text"] for one in of(record) if one["title"] == title), "")


def gained(record, numbers):
    """Return a record whose deltas gained and were forecast as `numbers` say: (gain, low, high, forecast) by delta."""
    made = copy.deepcopy(record)
    (claim,) = [claim for claim in made["claims"] if claim["id"] == "practice-gain"]
    for verdict, (gain, low, high, forecast) in zip(claim["verdicts"], numbers, strict=True):
        verdict["headline"][0] |= {"estimate": gain, "low": low, "high": high}
        verdict["headline"][1] |= {"estimate": forecast}
    return made, [verdict["label"] for verdict in claim["verdicts"]]


def test_the_best_delta_is_named_with_those_that_it_cannot_be_told_from(record):
    made, (first, second, third) = gained(record, [(20.0, 15, 25, 5), (30.0, 24, 36, 9), (2.0, -1, 5, 1)])
    text = part(made, "What tuning gained")
    assert text.startswith(f"{second} gained most, 30 [24, 36] points")
    assert f"overlaps that of {first}, so" in text and f"{third} gained less beyond overlap" in text
    assert f"That {third} gained anything" in text and "holds zero" in text
    apart, _ = gained(record, [(20.0, 19, 21, 5), (30.0, 29, 31, 9), (2.0, 1, 3, 1)])
    assert "overlaps" not in part(apart, "What tuning gained") and "zero" not in part(apart, "What tuning gained")


@pytest.mark.parametrize(
    ("forecasts", "said"),
    [
        ((4, 9, 1), "can give; tuning that learns gains more"),
        ((15, 9, 1), "fell short for every delta"),
        ((25, 9, 1), "erred on both"),
    ],
)
def test_a_forecast_is_read_by_what_it_came_to(record, forecasts, said):
    made, (first, _, _) = gained(
        record, [(gain, 1, 50, forecast) for gain, forecast in zip((20, 30, 10), forecasts, strict=True)]
    )
    text = part(made, "Where the forecast stood")
    assert said in text and f"{5 * forecasts[0]} % for {first}" in text


def test_numbers_that_were_not_measured_say_nothing(record):
    made, _ = gained(record, [(None, None, None, None)] * 3)
    assert not part(made, "What tuning gained") and not part(made, "Where the forecast stood") and not meaning.bargains(made)


def test_points_per_thousand_numbers_are_the_gain_over_the_size(record):
    made, labels = gained(record, [(20.0, 15, 25, 5), (30.0, 24, 36, 9), (2.0, -1, 5, 1)])
    lines = meaning.bargains(made)
    sizes = {d["name"]: d["size"] for d in made["study"]["deltas"]}
    assert [line[0] for line in lines] == labels
    for line, gain, size in zip(lines, (20, 30, 2), sizes.values(), strict=True):
        assert line[1] == words.number(size) and line[4] == words.number(1000 * gain / size, 2)
        assert line[2] == f"{words.number(100 * size / 1830000, 2)} %"


def test_every_decided_prediction_is_named_where_it_belongs(record):
    for title, word in (("What you can count on", "supported"), ("What you should not count on", "refuted")):
        text = part(record, title)
        decided = {c["title"] for c in record["claims"] if c["nature"] == "prediction"
                   if word in {v["verdict"] for v in c["verdicts"]}}  # fmt: skip
        assert decided and {name for name in decided if f"“{name}”" in text} == decided
        others = {c["title"] for c in record["claims"]} - decided
        assert not [name for name in others if f"“{name}”" in text]
    undecided = [v for c in record["claims"] if c["nature"] == "prediction" for v in c["verdicts"] if v["verdict"] == "undecided"]
    assert part(record, "What stayed open").lower().startswith(words.count(len(undecided), "verdict"))


def test_what_could_not_be_asked_says_why(record):
    made = copy.deepcopy(record)
    for claim in made["claims"]:
        for verdict in claim["verdicts"]:
            verdict.update(verdict="not applicable", why="Two of five tasks are there")
    count = sum(len(c["verdicts"]) for c in made["claims"] if c["nature"] == "prediction")
    said = f"{words.count(count, 'verdict')} on predictions are not applicable: two of five tasks are there.".capitalize()
    assert part(made, "What could not be asked").lower() == said.lower()
    assert not part(made, "What stayed open") and not part(made, "What you can count on")


def test_limits_count_what_the_study_had(record):
    study = record["study"]
    text = part(record, "Few replicates", meaning.limitations)
    assert f"there are {words.count(len(study['tasks']), 'task')} and {words.count(len(study['seeds']), 'seed')}" in text
    seeds = copy.deepcopy(record) | {"study": study | {"unit": "seed"}}
    assert part(seeds, "Few replicates", meaning.limitations).startswith("The seed replicates")
    line = next(line for line in record["calibration"]["lines"] if line["tasks"] == len(study["tasks"]))
    power = part(record, "What so many tasks can find", meaning.limitations)
    assert f"finds {100 * line['suite_power'][0]:.0f} %" in power and f"and {100 * line['suite_power'][-1]:.0f} % when" in power
    assert not part(record | {"calibration": None}, "What so many tasks can find", meaning.limitations)
    one = record | {"claims": record["claims"][:1]}
    assert part(record, "Many questions at once", meaning.limitations) and len(record["claims"][0]["verdicts"]) > 0
    assert bool(part(one, "Many questions at once", meaning.limitations)) == (len(one["claims"][0]["verdicts"]) > 1)
