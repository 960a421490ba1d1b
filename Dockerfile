# syntax=docker/dockerfile:1
# The CPU image:   docker build -t qexport .
# The CUDA image:  docker build -t qexport:cuda --build-arg VARIANT=cuda .
# Use it:          docker run --rm -v "$PWD:/work" qexport compare           (CUDA: add --gpus all)

ARG VARIANT=cpu

FROM python:3.11.14-slim-bookworm AS base
# libgomp1: bitsandbytes' CPU library links it and brings no copy of its own.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PYTHONUNBUFFERED=1

# PyTorch's own index has a build without CUDA; its local version (+cpu) satisfies the same pin and is preferred.
FROM base AS cpu
ENV PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu \
    QEXPORT_EXTRAS=cpu,inc,eval

# torch from PyPI brings the CUDA 13 and cuDNN libraries that onnxruntime-gpu loads too, so the slim base will do.
FROM base AS cuda
ENV QEXPORT_EXTRAS=gpu,inc,eval

# The stage above that VARIANT names.
# hadolint ignore=DL3006
FROM ${VARIANT} AS final
WORKDIR /src
COPY . .
RUN pip install -c constraints.txt ".[${QEXPORT_EXTRAS}]" \
    && useradd --create-home --uid 1000 qexport \
    && install -d -o qexport -g qexport /work
USER qexport
WORKDIR /work
ENTRYPOINT ["qexport"]
CMD ["--help"]
