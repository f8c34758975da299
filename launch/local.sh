#!/usr/bin/env bash
# Train on all GPUs of this machine (or N processes: NPROC=N). Started again, it goes on where it stopped.
#   launch/local.sh data=csv data.root=videos data.train=train.csv data.val=val.csv norm=gn
set -euo pipefail
NPROC=${NPROC:-$({ nvidia-smi --list-gpus 2>/dev/null || true; } | wc -l)}
if [ "$NPROC" = 0 ]; then echo "$0: nvidia-smi lists no GPU: write NPROC=N $0 for N processes on the CPU" >&2; exit 1; fi
exec vidgn train launch.nproc_per_node="$NPROC" "$@"
