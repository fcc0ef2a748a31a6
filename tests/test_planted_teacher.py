"""The labels of a planted task are those of a known delta: its own parameters score 1, the frozen model does not."""

import numpy as np
from seeds import shifted

from tuning import LoRA, encode, load
from tuning.planted import label, planted
from tuning.tasks import load as load_task


def test_the_teacher_realises_its_labels_and_the_frozen_model_does_not():
    backbone, task = load("nano"), load_task("subject-number", sizes={"train": 120, "test": 80})
    made, teacher, params = planted(backbone, task, LoRA(rank=1), seed=shifted(3))
    assert made.splits["test"].text_a == task.splits["test"].text_a and made.digest != task.digest
    batch = encode(backbone, made.splits["test"], length=64)
    assert teacher.accuracy(params, batch) == 1.0
    assert teacher.accuracy(teacher.initial, batch) < 0.95
    again, _, _ = planted(backbone, task, LoRA(rank=1), seed=shifted(3))
    assert again.digest == made.digest
    assert np.array_equal(label(teacher, params, batch), made.splits["test"].labels)
