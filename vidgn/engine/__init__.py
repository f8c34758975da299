"""One experiment on any hardware. A cell from start to end: run.py, then train.py, evaluate.py, result.py.

before   setup: model, precision, length · geometry: slots, ranks, groups · optim · audit: the proof of equal arms
a step   train: the loop · forward: positions, dropout, loss · bn_stats · nonfinite · metrics, progress: what is said
after    evaluate: scores of a split · result: files of a test · predict: one exported network on any video
files    rundir: a run's directory · checkpoint · lock: one writer · files: full disks
ranks    launch: starts them · distributed: their group · environment: what Slurm and torchrun say · whereabouts: who
         waits for whom · signals, wanted: stop after this step
costs    memory/: predicted and measured bytes · scaling: bytes between ranks · throughput: loader against model
"""
