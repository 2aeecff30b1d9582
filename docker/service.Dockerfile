# syntax=docker/dockerfile:1
# The service, for a CPU or for CUDA:
#
#   docker build -f docker/service.Dockerfile -t mla-asr:cpu .
#   docker build -f docker/service.Dockerfile -t mla-asr:cuda \
#     --build-arg VARIANT=cuda --build-arg TORCH_INDEX=https://pypi.org/simple .
#
# CUDA comes with torch's own packages, the driver with the host's container runtime: both variants stand on the same
# small base. Packages lie in a layer of their own, so that new code installs nothing but itself.
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS packages
# Which of docker/requirements-*.txt: cpu or cuda.
ARG VARIANT=cpu
# Where torch lies, besides pypi.org.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN python -m venv /opt/venv
COPY docker/requirements-${VARIANT}.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --disable-pip-version-check --no-deps --require-hashes \
      --extra-index-url "${TORCH_INDEX}" --requirement /tmp/requirements.txt

FROM python:${PYTHON} AS wheel
COPY docker/requirements-build.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --disable-pip-version-check --no-deps --require-hashes --requirement /tmp/requirements.txt
WORKDIR /source
COPY pyproject.toml README.md LICENSE ./
COPY asr asr
COPY service service
RUN pip wheel --disable-pip-version-check --no-deps --no-build-isolation --wheel-dir /wheel .

FROM python:${PYTHON}
# The commit that is built, for `docker image inspect`.
ARG REVISION=unknown
LABEL org.opencontainers.image.title="mla-asr" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="${REVISION}"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin asr \
    && install --directory --owner asr --group asr /models /var/spool/mla-asr
COPY --from=packages /opt/venv /opt/venv
COPY docker/healthcheck.py /opt/healthcheck.py
RUN --mount=type=bind,from=wheel,source=/wheel,target=/wheel \
    /opt/venv/bin/pip install --disable-pip-version-check --no-cache-dir --no-deps --no-index /wheel/*.whl
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    HOME=/tmp \
    HF_HOME=/models \
    MLA_ASR_HOST=0.0.0.0 \
    MLA_ASR_PORT=8000 \
    MLA_ASR_SPOOL_DIR=/var/spool/mla-asr
USER 10001:10001
WORKDIR /models
VOLUME ["/models", "/var/spool/mla-asr"]
EXPOSE 8000
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=3600s --retries=3 CMD ["python", "/opt/healthcheck.py"]
ENTRYPOINT ["python", "-m", "service"]
