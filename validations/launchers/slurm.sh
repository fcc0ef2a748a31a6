#!/usr/bin/env bash
# Runs a study on a Ray cluster inside one Slurm allocation: sbatch --nodes=4 --cpus-per-task=16 validations/launchers/slurm.sh STUDY OUT
# The environment (`make setup`, then pip install -e '.[cluster]') and OUT are on a disk that the nodes share, or at the same path on each.
# Submitted again after pre-emption it goes on from the cells that are finished.
#SBATCH --job-name=costate
#SBATCH --ntasks-per-node=1
#SBATCH --time=08:00:00
#SBATCH --requeue
set -euo pipefail

study=${1:?which study} out=${2:?which results folder}
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false PATH="$PWD/.venv/bin:$PATH"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=$(srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" hostname --ip-address | awk '{print $1}') port=${RAY_PORT:-6379}
cpus=${SLURM_CPUS_PER_TASK:-$(nproc)} gpus=${SLURM_GPUS_ON_NODE:-0}

stop() { jobs -p | xargs -r kill 2>/dev/null || true; }
trap stop EXIT
srun --nodes=1 --ntasks=1 --nodelist="${nodes[0]}" \
  ray start --head --node-ip-address="$head" --port="$port" --num-cpus="$cpus" --num-gpus="$gpus" --block &
until ray status --address="$head:$port" > /dev/null 2>&1; do sleep 2; done
for node in "${nodes[@]:1}"; do
  srun --nodes=1 --ntasks=1 --nodelist="$node" ray start --address="$head:$port" --num-cpus="$cpus" --num-gpus="$gpus" --block &
done

costate validate --study "$study" --out "$out" --engine ray --address "$head:$port"
costate report "$out"
