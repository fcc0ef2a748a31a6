"""Cells as tasks of a Ray cluster: whatever code, data and weights a cell needs are sent once to each node and kept there."""

import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from .engine import THREADS, TRIES, Done, Engine, Execute, Job, apart

JOINING = 60.0  # seconds for nodes to join a cluster that starts
AHEAD = 4  # tasks submitted for each processor of the cluster


def outcomes(jobs: Sequence[Job], execute: Execute, engine: Engine) -> Iterator[tuple[Job, Done]]:
    """Yield every job with what it came to, as they end, on the nodes of a cluster, each by the share of a machine that it takes.

    Ray runs a task again whose process or node was lost. Raises ValueError where Ray is not installed, no cluster answers at the
    address, or no node has what a cell takes.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("the engine ray needs the package ray: pip install 'costate[cluster]', or leave --engine out") from None
    _connect(engine)
    try:
        _await_nodes(jobs)
        waiting, running = list(reversed(jobs)), {}
        shared, task = ray.put(execute), ray.remote(max_retries=TRIES - 1, retry_exceptions=False)(apart)
        while waiting or running:
            while waiting and len(running) < AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1))):
                job = waiting.pop()
                asked = task.options(num_cpus=job.cpus, num_gpus=job.gpus, name=" ".join(job.label.split()))
                running[asked.remote(shared, job, engine.limit)] = job
            for ended in ray.wait(list(running), num_returns=1)[0]:
                job = running.pop(ended)
                try:
                    yield job, ray.get(ended)
                except (
                    ray.exceptions.WorkerCrashedError,
                    ray.exceptions.NodeDiedError,
                    ray.exceptions.OutOfMemoryError,
                ) as error:
                    yield job, Done(0.0, failed=f"lost its process {TRIES} times ({type(error).__name__})")
                except ray.exceptions.RayTaskError as error:
                    raise (error.cause if isinstance(error.cause, Exception) else ValueError(str(error))) from None
    except ray.exceptions.RayError as error:
        raise ValueError(f"Ray stopped ({type(error).__name__}): start the cluster and run the study again") from None
    finally:
        ray.shutdown()


def _connect(engine: Engine) -> None:
    """Join the cluster, or start one of this machine's; signals go on to the command, from which Ray would take them."""
    import ray

    main = threading.current_thread() is threading.main_thread()
    kept = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(
            address=engine.address or "local",
            num_cpus=None if engine.address else engine.processes,
            runtime_env={"env_vars": THREADS},
            include_dashboard=False if not engine.address else None,
            log_to_driver=False,
            logging_level="ERROR",
        )
    except (ConnectionError, ValueError, RuntimeError, TimeoutError) as error:
        raise ValueError(f"no Ray cluster answers at {engine.address}: {str(error).splitlines()[0]}") from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, kept)


def _await_nodes(jobs: Sequence[Job]) -> None:
    """Pause until every job fits on some node; raises ValueError for one that still does not after `JOINING` seconds."""
    import ray

    until, wanted = time.monotonic() + JOINING, list({(job.cpus, job.gpus): job for job in jobs}.values())
    while lacking := [job for job in wanted if not any(_fits(job, node["Resources"]) for node in ray.nodes() if node["Alive"])]:
        if time.monotonic() > until:
            job = lacking[0]
            raise ValueError(
                f"no node of the cluster has the {job.cpus:g} CPU and {job.gpus:g} GPU that {' '.join(job.label.split())} takes: "
                "add one, or change needs in the study"
            )
        time.sleep(1.0)


def _fits(job: Job, resources: Mapping[str, float]) -> bool:
    return resources.get("CPU", 0) >= job.cpus and resources.get("GPU", 0) >= job.gpus
