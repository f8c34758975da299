# vidgn for GPUs, with the versions of constraints.txt. The driver is the host's; CUDA's libraries come with torch.
#   docker build -t vidgn .
#   docker run --rm --gpus all --shm-size=8g -u "$(id -u):$(id -g)" -v "$PWD:/work" vidgn doctor
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# ffmpeg: libraries that torchcodec loads; a compiler and Python's headers: torch.compile.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends ffmpeg gcc libc6-dev python3 python3-dev python3-venv \
 && rm -rf /var/lib/apt/lists/*

RUN python3 -m venv /opt/vidgn
ENV PATH=/opt/vidgn/bin:$PATH
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[torchcodec,slurm,notebook,detection]' && rm -rf /src

# Any user may run it: what torch and matplotlib keep goes below HOME.
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["vidgn"]
CMD ["--help"]
