# syntax=docker/dockerfile:1
# The load tests, without torch: docker build -f docker/loadtests.Dockerfile -t mla-asr-loadtests .
ARG PYTHON=3.11-slim-bookworm

FROM python:${PYTHON} AS packages
RUN python -m venv /opt/venv
COPY docker/requirements-loadtests.txt /tmp/requirements.txt
RUN --mount=type=cache,target=/root/.cache/pip \
    /opt/venv/bin/pip install --disable-pip-version-check --no-deps --require-hashes --requirement /tmp/requirements.txt

FROM python:${PYTHON}
LABEL org.opencontainers.image.title="mla-asr load tests" org.opencontainers.image.licenses="Apache-2.0"
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin asr
COPY --from=packages /opt/venv /opt/venv
WORKDIR /app
COPY loadtests loadtests
COPY tests/speech tests/speech
ENV PATH=/opt/venv/bin:$PATH PYTHONPATH=/app PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
USER 10001:10001
EXPOSE 8089
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=5s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8089/', timeout=4)"]
ENTRYPOINT ["locust", "--locustfile", "loadtests/locustfile.py"]
CMD ["--host", "http://asr:8000"]
