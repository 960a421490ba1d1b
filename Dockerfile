# syntax=docker/dockerfile:1
# The CPU image:   docker build -t qexport .
# The CUDA image:  docker build -t qexport:cuda --build-arg VARIANT=cuda .
# Use it:          docker run --rm -v "$PWD:/work" qexport compare           (CUDA: add --gpus all)
# One artifact behind an HTTP server, without PyTorch (docs/deploy/images.md); ARTIFACT is its folder:
#                  docker build -t my-model --target serve-cpu --build-context artifact=ARTIFACT .
#                  docker run --rm -p 8000:8000 my-model                     (CUDA: --target serve-cuda; add --gpus all)

ARG VARIANT=cpu

FROM python:3.11.14-slim-bookworm AS base
# libgomp1: bitsandbytes' CPU library links it and brings no copy of its own.
RUN apt-get update \
    && apt-get install -y --no-install-recommends "libgomp1=12.2.0-*" \
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

# A folder given with --build-context takes this stage's place. Without one it is empty, and no image is made of it.
FROM scratch AS artifact

# The package without the bundled models and texts, which a server does not read.
FROM base AS serve-wheel
WORKDIR /src
COPY LICENSE README.md constraints.txt pyproject.toml ./
COPY qexport qexport
RUN pip install -c constraints.txt hatchling \
    && pip wheel --no-deps --no-build-isolation --wheel-dir /wheels .

# What serving imports, and no more. --no-deps: qexport itself needs PyTorch to export, tokenizers a hub client to download.
FROM serve-wheel AS serve-cpu-packages
RUN python -m venv --without-pip /opt/qexport \
    && pip --python /opt/qexport/bin/python install -c constraints.txt \
        Jinja2 lazy-loader numpy onnxruntime pydantic starlette typer uvicorn \
    && pip --python /opt/qexport/bin/python install -c constraints.txt --no-deps tokenizers /wheels/*.whl

# The extras cuda and cudnn bring NVIDIA's CUDA 13 and cuDNN 9 libraries, so the slim base will do here too.
FROM serve-wheel AS serve-cuda-packages
RUN python -m venv --without-pip /opt/qexport \
    && pip --python /opt/qexport/bin/python install -c constraints.txt \
        Jinja2 lazy-loader numpy "onnxruntime-gpu[cuda,cudnn]" pydantic starlette typer uvicorn \
    && pip --python /opt/qexport/bin/python install -c constraints.txt --no-deps tokenizers /wheels/*.whl

FROM python:3.11.14-slim-bookworm AS serve
LABEL org.opencontainers.image.title="qexport serve" \
    org.opencontainers.image.description="One quantized language model behind an OpenAI-compatible server, on ONNX Runtime" \
    org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/qexport/bin:$PATH \
    ORT_DISABLE_TELEMETRY=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
RUN useradd --uid 1000 --no-create-home --shell /usr/sbin/nologin qexport
# By number, so that Kubernetes can see that it is not root.
USER 1000:1000
EXPOSE 8000
# The server answers 200 only if it can generate a token. Not by urllib, which would ask a proxy for it where one is set.
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m \
    CMD ["python", "-c", "from http.client import HTTPConnection as C; c = C('127.0.0.1', 8000, timeout=9); c.request('GET', '/health'); raise SystemExit(c.getresponse().status != 200)"]

# An image with PyTorch in it, or with an artifact that was altered or that this user cannot read, is not made.
FROM serve AS serve-cpu
COPY --from=serve-cpu-packages /opt/qexport /opt/qexport
COPY --from=artifact --chmod=755 . /artifact
RUN python -c "from importlib.util import find_spec as f; raise SystemExit(any(map(f, ('torch', 'transformers'))))" \
    && qexport verify /artifact
ENTRYPOINT ["qexport", "serve", "/artifact", "--host", "0.0.0.0", "--port", "8000"]

FROM serve AS serve-cuda
COPY --from=serve-cuda-packages /opt/qexport /opt/qexport
COPY --from=artifact --chmod=755 . /artifact
RUN python -c "from importlib.util import find_spec as f; raise SystemExit(any(map(f, ('torch', 'transformers'))))" \
    && qexport verify /artifact
ENTRYPOINT ["qexport", "serve", "/artifact", "--host", "0.0.0.0", "--port", "8000", "--provider", "cuda"]

# The stage above that VARIANT names.
# hadolint ignore=DL3006
FROM ${VARIANT} AS final
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ".[${QEXPORT_EXTRAS}]" \
    && useradd --create-home --uid 1000 qexport \
    && install -d -o qexport -g qexport /work
USER 1000:1000
WORKDIR /work
ENTRYPOINT ["qexport"]
CMD ["--help"]
