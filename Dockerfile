# Two stages: the first installs, the second runs. Neither compiles anything: every dependency is a wheel, and
# every wheel is checked against the hashes of requirements-reporting.lock (requirements.lock, with Sentry and OpenTelemetry).
#
#   docker build -t matrix-identity-server .
#   docker run -d --name identity --stop-timeout 20 -p 127.0.0.1:8090:8090 -v identity-data:/data \
#     -e IDENTITY_SERVER__GENERAL__SERVER_NAME=id.example.org matrix-identity-server

# The version of Python that the tests run on.
ARG PYTHON=3.11

FROM python:${PYTHON}-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src

# Dependencies first: they change less often than the code.
COPY requirements-reporting.lock requirements-build.lock ./
RUN python -m venv --without-pip /opt/identity-server \
 && pip --python /opt/identity-server/bin/python install --require-hashes --only-binary :all: -r requirements-reporting.lock \
 && pip install --require-hashes --only-binary :all: -r requirements-build.lock

COPY pyproject.toml README.md LICENSE sydent.conf.example ./
COPY identity_server identity_server
COPY migrations migrations
COPY terms terms
RUN pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && pip --python /opt/identity-server/bin/python install --no-index --no-deps /wheels/*.whl \
 && /opt/identity-server/bin/identity-server --version

FROM python:${PYTHON}-slim
LABEL org.opencontainers.image.title="matrix-identity-server" \
      org.opencontainers.image.licenses="Apache-2.0"

# The ids of Sydent's image, so that a volume keeps its owner.
RUN groupadd --system --gid 993 identity \
 && useradd --system --uid 993 --gid 993 --home-dir /data --no-create-home --shell /usr/sbin/nologin identity \
 && install -d -o identity -g identity -m 0700 /data

COPY --from=build /opt/identity-server /opt/identity-server

# /data/sydent.conf may be missing: then built-in defaults and the environment hold. The keys go to /data/keys
# (beside the file), the database to a folder of its own, so that a copy of the one doesn't take the other along.
ENV PATH=/opt/identity-server/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SYDENT_CONF=/data/sydent.conf \
    SYDENT_DB_PATH=/data/db/identity_server.db \
    SYDENT_PID_FILE=

WORKDIR /data
VOLUME /data
USER 993:993
EXPOSE 8090

# Asks where the same configuration says that it listens.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 CMD ["identity-server", "health"]

# Exec form: the server is process 1 and gets SIGTERM itself. It may take 15 s to drain (--stop-timeout 20).
ENTRYPOINT ["identity-server"]
CMD ["serve"]
