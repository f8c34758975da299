#!/usr/bin/env bash
# Train on all GPUs of this machine (or N processes: NPROC=N). Started again, it goes on where it stopped.
#   launch/local.sh data=csv data.root=videos data.train=train.csv data.val=val.csv norm=gn
set -euo pipefail
NPROC=${NPROC:-$(nvidia-smi --list-gpus | wc -l)}
exec vidgn train launch.nproc_per_node="$NPROC" "$@"
