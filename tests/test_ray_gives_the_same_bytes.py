"""Tasks of a Ray cluster leave the bytes that a serial run leaves, with or without a shared folder, whatever is killed."""

import dataclasses
import functools
import json
import os
import pathlib
import shutil
import signal
import sys
import time

import pytest

from validations import run
from validations.engine import Done, Engine, Job
from validations.engine import run as run_cells
from validations.parcels import packed, unpacked
from validations.store import Record, Store, keep


def harmed(job: Job, folder: str) -> Done:
    """A cell that kills its worker the first time, and notes on which node it ended."""
    import ray

    store, mark = Store(pathlib.Path(folder)), pathlib.Path(folder) / f"{job.key} began"
    first = not mark.exists()
    mark.touch()
    if job.label == "killed once" and first:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(job.settings["seconds"])
    node = ray.get_runtime_context().get_node_id()
    store.write("cells", job.key, job.settings, Record({"x": 1.5}, {}))
    return Done(0.1, files={f"provenance/{job.key}.json": json.dumps(node).encode()})


@pytest.mark.slow
def test_a_killed_worker_and_a_removed_node_lose_no_cell(tmp_path, monkeypatch):
    pytest.importorskip("ray", reason="the engine ray needs the package ray: pip install 'costate[cluster]'")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(pathlib.Path(__file__).parent), *sys.path]))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    try:
        cluster.wait_for_nodes()
        jobs = [Job(str(k), "killed once" if k == 1 else f"cell {k}", 1.0, {"seconds": 0.3}) for k in range(8)]
        removed = []

        def report(line):
            if len(removed) < 1:
                removed.append(cluster.remove_node(second, allow_graceful=False))

        cell = functools.partial(harmed, folder=str(tmp_path))
        engine = Engine("ray", address=cluster.address)
        run_cells(jobs, cell, engine, report=report, keep=functools.partial(keep, tmp_path))
        assert sorted(path.stem for path in (tmp_path / "cells").iterdir()) == [job.key for job in jobs]
        assert removed and len(list((tmp_path / "provenance").iterdir())) == len(jobs)
        with pytest.raises(ValueError, match="no node of the cluster has the 64 CPU and 0 GPU that cell 0 takes"):
            monkeypatch.setattr("validations.cluster.JOINING", 0.0)
            run_cells([dataclasses.replace(jobs[0], cpus=64.0)], cell, engine, report=report)
    finally:
        cluster.shutdown()


def test_a_machine_without_the_folder_returns_what_one_with_it_writes(tmp_path, monkeypatch):
    def execute(job, *, folder, cache, device, here):
        store = Store(pathlib.Path(folder))
        assert pathlib.Path(here["task"]).joinpath("train.jsonl").read_text(encoding="utf-8") == "text"
        if not store.has("predicted", job.key):
            store.write("predicted", job.key, job.settings, Record({"made": "here"}, {}))
        store.write("cells", job.key, job.settings, Record({"x": 1.5}, {}))
        return Done(1.0)

    monkeypatch.setattr(run, "execute", execute)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    data, store = tmp_path / "data", Store(tmp_path / "store")
    data.mkdir()
    (data / "train.jsonl").write_text("text", encoding="utf-8")
    settings = {"task": str(data), "backbone_name": "nano", "others": ["agreement", str(data)]}
    job = Job("k", "a cell", 1.0, settings)
    store.write("predicted", "k", settings, Record({"made": "before"}, {}))
    (store.folder / "mark").touch()
    place = {"folder": str(store.folder), "cache": str(tmp_path), "device": "cpu", "mark": "mark", "parcels": packed([settings])}
    begun = store.files("k")
    assert run.elsewhere(job, **place, begun=begun).files == {}
    written = store.files("k")
    shutil.rmtree(data)  # another machine: neither data nor store
    shutil.rmtree(store.folder)
    returned = run.elsewhere(job, **place, begun=begun).files
    assert returned == written and not store.folder.exists()
    keep(store.folder, returned)
    assert store.read("predicted", "k").values == {"made": "before"}
    once, again = (unpacked(place["parcels"], settings) for _ in range(2))
    assert once == again and once["task"] != str(data) and once["others"] == ["agreement", once["task"]]
    assert once["backbone_name"] == "nano" and pathlib.Path(once["task"]).name == "data"


def test_without_ray_the_remedy_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"pip install 'costate\[cluster\]'"):
        run_cells([Job("k", "a cell", 1.0, {})], lambda job: Done(0.0), Engine("ray"), report=lambda line: None)
    with pytest.raises(ValueError, match="an address is of a Ray cluster"):
        Engine("pool", address="auto")
