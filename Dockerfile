# The service without embedded stores: `serve` by default, `worker`, `migrate`, ... as the command.
# Builds from a mirror with --build-arg PIP_INDEX_URL=...; runs with a read-only filesystem.

FROM python:3.13-slim-bookworm AS build
ARG PIP_INDEX_URL
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /build

# Two environments: one that builds the wheel and stays behind, one without pip that is the image.
RUN python -m venv /build/tools && python -m venv --without-pip /opt/otpsvc
COPY requirements/build.txt requirements/runtime.txt requirements/
RUN /build/tools/bin/pip install --require-hashes --only-binary :all: -r requirements/build.txt \
 && /build/tools/bin/pip --python /opt/otpsvc/bin/python install \
        --require-hashes --only-binary :all: -r requirements/runtime.txt

COPY LICENSE README.md pyproject.toml ./
COPY sql sql
COPY otpsvc otpsvc
RUN /build/tools/bin/python -m hatchling build -t wheel -d dist \
 && /build/tools/bin/pip --python /opt/otpsvc/bin/python install --no-index --no-deps dist/*.whl


FROM python:3.13-slim-bookworm
RUN groupadd --system --gid 10001 otpsvc \
 && useradd --system --uid 10001 --gid otpsvc --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin otpsvc
COPY --from=build /opt/otpsvc /opt/otpsvc
ENV PATH=/opt/otpsvc/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
# By number, so that an orchestrator can see that it is not root.
USER 10001:10001
WORKDIR /opt/otpsvc
EXPOSE 8080
# For `serve`; start a `worker` container with --no-healthcheck.
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import http.client, os; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('OTPSVC_HTTP_PORT') or 8080), timeout=2); c.request('GET', '/health/live'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["otpsvc"]
CMD ["serve", "--host", "0.0.0.0"]
