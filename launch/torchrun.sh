#!/usr/bin/env bash
# Train under torchrun, on this machine or, with the same command on each, on several. One run; sweeps start themselves.
#   NNODES=2 RENDEZVOUS=node1:29500 launch/torchrun.sh data=csv data.root=videos ...
set -euo pipefail
NPROC=${NPROC:-gpu} NNODES=${NNODES:-1}
if [ "$NNODES" = 1 ]; then meet=(--standalone)
else meet=(--nnodes="$NNODES" --rdzv-backend=c10d --rdzv-endpoint="${RENDEZVOUS:?host:port of the first node}" --rdzv-id=vidgn); fi
exec torchrun "${meet[@]}" --nproc-per-node="$NPROC" -m vidgn train "$@"
