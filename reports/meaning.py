"""What a study means for someone who tunes, and what limits it: sentences that follow from the record's numbers alone."""

from collections.abc import Mapping, Sequence

from . import words

ENOUGH = 0.8  # the share of true claims found below which a study is said to miss them
LINEAR = "consistency"
NOT = (
    "A supported claim has met bars that were chosen beforehand on these tasks; it is no proof of the theory. A refuted one has "
    "missed them here, which a better estimate, more text or a larger model may change. Undecided means that the interval holds "
    "both, not that there is no effect."
)


def meaning(record: Mapping) -> list[dict]:
    """Return the parts, each with a title, of the page for someone who tunes: gains, what held, what failed, what is open."""
    claims = record["claims"]
    parts = [
        ("What tuning gained", _gained(claims)),
        ("Where the forecast stood", _foretold(claims)),
        ("What you can count on", _held(claims)),
        ("What you should not count on", _failed(claims)),
        ("What stayed open", _open(record)),
        ("What could not be asked", _unasked(claims)),
        ("What the checks say", _checks(claims)),
    ]
    return [{"title": title, "text": text} for title, text in parts if text]


def bargains(record: Mapping) -> list[list[str]]:
    """Return, for every delta whose gain was measured, its numbers, their share of the backbone's, and points per thousand."""
    sizes = {d["name"]: d.get("size") for d in record["study"]["deltas"]}
    whole, made = record["study"]["backbone"].get("parameters"), []
    for verdict, gained, _ in _gains(record["claims"]):
        size = sizes.get(verdict["delta"])
        share = f"{words.number(100.0 * size / whole, 2)} %" if size and whole else words.NOTHING
        each = words.number(1000.0 * gained["estimate"] / size, 2) if size else words.NOTHING
        made.append([verdict["label"] or verdict["delta"], words.number(size), share, words.interval(gained), each])
    return made


def limitations(record: Mapping) -> list[dict]:
    """Return what the study cannot say, each part with a title: reach, replication, power, regime, multiplicity."""
    parts = [
        ("One backbone", _backbone(record["study"])),
        ("Few replicates", _replicates(record["study"])),
        ("What so many tasks can find", _power(record)),
        ("Where the linearisation holds", _regime(record["claims"])),
        ("Many questions at once", _multiplicity(record)),
        ("What a verdict is not", NOT),
    ]
    return [{"title": title, "text": text} for title, text in parts if text]


def _gains(claims: Sequence[Mapping]) -> list[tuple[Mapping, Mapping, Mapping]]:
    """Return verdict, measured gain and forecast gain for every delta of a claim that has a headline and its numbers."""
    found = [
        (v, v["headline"][0], v["headline"][1]) for c in claims if c.get("headline") for v in c["verdicts"] if v.get("headline")
    ]
    return [one for one in found if all(words.known(number["estimate"]) for number in one[1:])]


def _gained(claims: Sequence[Mapping]) -> str:
    """Return which delta gained most, and from which others the study cannot tell it."""
    found = sorted(_gains(claims), key=lambda one: -one[1]["estimate"])
    if not found:
        return ""
    best, number, _ = found[0]
    text = f"{_name(best)} gained most, {words.interval(number)} points of held-out accuracy over the frozen head."
    alike = [_name(v) for v, own, _ in found[1:] if _overlap(own, number)]
    apart = [_name(v) for v, own, _ in found[1:] if not _overlap(own, number)]
    if alike:
        whose = "those" if len(alike) > 1 else "that"
        text += f" Its interval overlaps {whose} of {words.listed(alike)}, so do not choose between them by these numbers."
    if apart:
        text += f" {_opened(words.listed(apart))} gained less beyond overlap of the intervals."
    losing = [_name(v) for v, own, _ in found if words.known(own["low"]) and own["low"] <= 0]
    if losing:
        text += f" That {words.listed(losing)} gained anything on tasks like these is not shown: the interval holds zero."
    return text


def _foretold(claims: Sequence[Mapping]) -> str:
    """Return how much of the measured gain was forecast, and how one may read the forecast."""
    found = [(v, own, said) for v, own, said in _gains(claims) if own["estimate"] > 0]
    if not found:
        return ""
    shares = sorted(((said["estimate"] / own["estimate"], _name(v)) for v, own, said in found), reverse=True)
    named = words.listed([f"{words.number(100.0 * share, decimals=0)} % for {name}" for share, name in shares])
    text = f"Made before training, the forecast of the linearised network came to this share of the measured gain: {named}."
    if all(share < 0.5 for share, _ in shares):
        return text + " Read it as the part that the features at the start can give; tuning that learns gains more."
    if all(share < 1 for share, _ in shares):
        return text + " It fell short for every delta: read it as a floor rather than as an estimate."
    return text + " It erred on both sides: read it as an order of magnitude."


def _held(claims: Sequence[Mapping]) -> str:
    """Return the predictions that held, with what they state."""
    return " ".join(
        f"“{c['title']}” held{_for(c, found)}: {_inner(c['statement'])}" for c, found in _predictions(claims, "supported")
    )


def _failed(claims: Sequence[Mapping]) -> str:
    """Return the predictions that did not hold, with what would change it."""
    said = [f"“{c['title']}” did not hold{_for(c, found)}. It would change with: {_inner(c['change'])}"
            for c, found in _predictions(claims, "refuted")]  # fmt: skip
    return " ".join(said)


def _open(record: Mapping) -> str:
    """Return how many predictions stayed undecided, which way their estimates lie, and which criteria were already missed."""
    undecided = [v for c in record["claims"] if c["nature"] == "prediction" for v in c["verdicts"] if v["verdict"] == "undecided"]
    if not undecided:
        return ""
    criteria = [k for v in undecided for k in v["criteria"]]
    inside = sum(_inside(k["estimate"], k["supported"]) for k in criteria)
    outside = sum(words.known(k["estimate"]) and not _inside(k["estimate"], k["tolerated"]) for k in criteria)
    return (
        f"{_opened(words.count(len(undecided), 'verdict'))} on predictions {'is' if len(undecided) == 1 else 'are'} undecided. "
        f"Of the criteria that they rest on, {words.worded(len(criteria))} together, the estimate lies on the supporting side in "
        f"{words.worded(inside)} and on the refuting side in {words.worded(outside)}. Until more tasks are run, act as if these "
        "predictions had not been made."
    )


def _unasked(claims: Sequence[Mapping]) -> str:
    """Return how many predictions were not applicable, and every reason once."""
    found = [v for c in claims if c["nature"] == "prediction" for v in c["verdicts"] if v["verdict"] == "not applicable"]
    reasons = list(dict.fromkeys(_inner(v["why"])[:-1] for v in found if v.get("why")))
    if not found:
        return ""
    why = f": {'; '.join(reasons)}." if reasons else "."
    return (
        f"{_opened(words.count(len(found), 'verdict'))} on predictions {'is' if len(found) == 1 else 'are'} not applicable{why}"
    )


def _checks(claims: Sequence[Mapping]) -> str:
    """Return what the checks of consistency allow: trust in small changes, nothing about strong tuning."""
    verdicts = [v for c in claims if c["nature"] == LINEAR for v in c["verdicts"]]
    if not verdicts:
        return ""
    counts = [(sum(v["verdict"] == word for v in verdicts), word) for word in words.ORDER]
    said = words.listed([f"{words.worded(n)} {'is' if n == 1 else 'are'} {word}" for n, word in counts if n])
    return (
        f"Of {words.count(len(verdicts), 'verdict')} on the linear theory's own consistency, {said}. Where these are supported, "
        "a probe's number about a small change of the network can be taken at its word; about tuning at full strength it says "
        "nothing by itself."
    )


def _backbone(study: Mapping) -> str:
    backbone = study["backbone"]
    return (
        f"Everything was measured on {backbone['name']}, with {words.number(backbone['parameters'])} parameters. Larger models "
        "have other spectra and other rates; that a verdict carries over is not tested here."
    )


def _replicates(study: Mapping) -> str:
    tasks, seeds = study["tasks"], study["seeds"]
    train = sorted(t["train"] for t in tasks if words.known(t.get("train")))
    texts = (
        f"{words.number(train[0])} to {words.number(train[-1])}"
        if train and train[0] != train[-1]
        else words.number(train[0])
        if train
        else ""
    )
    unit = "The seed replicates" if study.get("unit", "task") == "seed" else "The task replicates"
    held = f" Every task has {texts} training texts." if texts else ""
    return (
        f"{unit}: there are {words.count(len(tasks), 'task')} and {'at most ' if study.get('seeds_vary') else ''}"
        f"{words.count(len(seeds), 'seed')}.{held} Tasks of another kind, or with much more text, may behave otherwise."
    )


def _power(record: Mapping) -> str:
    """Return which share of true claims so many tasks find, from the planted worlds with as many or fewer tasks."""
    calibration, counts = record.get("calibration"), [v["tasks"] for c in record["claims"] for v in c["verdicts"]]
    if not calibration or not counts:
        return ""
    fewer = [line for line in calibration["lines"] if line["tasks"] <= max(counts)]
    if not fewer:
        return f"At most {words.count(max(counts), 'task')} stood behind a verdict, fewer than any verdict needs."
    line = max(fewer, key=lambda one: one["tasks"])
    power = [words.number(100.0 * p, decimals=0) for p in line["suite_power"]]
    lost = "" if min(line["suite_power"]) >= ENOUGH else " Where tasks differ much, smaller effects go undecided."
    return (
        f"In planted worlds with {words.count(line['tasks'], 'task')} a suite finds {power[0]} % of effects of three standard "
        f"deviations when tasks do not differ, and {power[-1]} % when they differ twice as much as seeds.{lost}"
    )


def _regime(claims: Sequence[Mapping]) -> str:
    """Return how many rows lay inside the linear regime."""
    gates = [c["gate"] for c in claims if c.get("gate") and c["gate"].get("total")]
    if not gates:
        return ""
    inside, total = (sum(g[k] for g in gates) for k in ("passed", "total"))
    return (
        f"{words.number(inside)} of {words.number(total)} rows of the claims on the linear regime lie inside it. There the "
        "penalty is the smallest that keeps the predicted control linear, so controls are small and accuracy moves little."
    )


def _multiplicity(record: Mapping) -> str:
    count = sum(len(c["verdicts"]) for c in record["claims"])
    if count < 2:
        return ""
    return (
        f"{_opened(words.count(count, 'verdict'))} share one level of error by Holm's method. That keeps wrong verdicts rare and "
        "costs power: an effect that would decide alone may stay undecided here."
    )


def _predictions(claims: Sequence[Mapping], word: str) -> list[tuple[Mapping, list[Mapping]]]:
    """Return the predictions with the verdicts of them that are a word."""
    found = [(c, [v for v in c["verdicts"] if v["verdict"] == word]) for c in claims if c["nature"] == "prediction"]
    return [(c, own) for c, own in found if own]


def _for(claim: Mapping, verdicts: Sequence[Mapping]) -> str:
    return f" for {words.listed([_name(v) for v in verdicts])}" if len(claim["verdicts"]) > 1 else ""


def _name(verdict: Mapping) -> str:
    return verdict["label"] or verdict["delta"]


def _overlap(one: Mapping, other: Mapping) -> bool:
    ends = [value for number in (one, other) for value in (number["low"], number["high"])]
    return not all(map(words.known, ends)) or (one["high"] >= other["low"] and other["high"] >= one["low"])


def _inside(value: float | None, region: Sequence[float | None]) -> bool:
    low, high = region
    return words.known(value) and (low is None or value > low) and (high is None or value < high)


def _inner(text: str) -> str:
    """Return a sentence as the part after a colon: its first letter small unless a name begins there, and a full stop."""
    text = text.strip().rstrip(".")
    first = text.split(" ", 1)[0]
    return (text[:1].lower() + text[1:] if first[1:].islower() or len(first) == 1 else text) + "."


def _opened(text: str) -> str:
    return text[:1].upper() + text[1:]
