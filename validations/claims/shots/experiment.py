"""One delta tuned with its head on as many texts as its options say, which the head and the stopping step have too."""

from ..facts.experiment import measure, predict
from ..shared.setting import Experiment

EXPERIMENT = Experiment("shots", "one delta tuned on few texts", ("delta",), predict, measure, weight=5.0, per_delta=True)
