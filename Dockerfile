# The gateway with the drivers of Redis and PostgreSQL, and with no server. Every package is the file that
# requirements/image.txt and build.txt name by its hash, every base image the one with the digest: see
# docs/guides/containers.md for how they are renewed.

FROM python:3.13.7-slim-bookworm@sha256:adafcc17694d715c905b4c7bebd96907a1fd5cf183395f0ebc4d3428bd22d92d AS build

WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_ROOT_USER_ACTION=ignore
COPY requirements/build.txt requirements/image.txt requirements/
# The second environment is the image's: it has no pip, which a running gateway has no use for.
RUN python -m venv /opt/build \
    && /opt/build/bin/pip install --no-deps --require-hashes --only-binary :all: --requirement requirements/build.txt \
    && python -m venv --without-pip /opt/coordinator \
    && /opt/build/bin/pip --python /opt/coordinator/bin/python install \
        --no-deps --require-hashes --only-binary :all: --requirement requirements/image.txt
COPY pyproject.toml LICENSE README.md ./
COPY coordinator coordinator
COPY stores stores
# Without an index: what the build needs is there.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --no-index --wheel-dir /wheels . \
    && /opt/build/bin/pip --python /opt/coordinator/bin/python install --no-deps --no-index /wheels/*.whl


FROM python:3.13.7-slim-bookworm@sha256:adafcc17694d715c905b4c7bebd96907a1fd5cf183395f0ebc4d3428bd22d92d

# A named volume that is mounted on /data takes its owner from here.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin coordinator \
    && install -d -m 0700 -o coordinator -g coordinator /data
COPY --from=build /opt/coordinator /opt/coordinator

# Beyond loopback it serves with API keys only: mount a file of them and name it in COORDINATOR_API_KEYS, or make
# one with `coordinator keys create`. It writes to /data and /tmp alone, so the root may be read-only.
ENV PATH=/opt/coordinator/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    COORDINATOR_HOST=0.0.0.0 \
    COORDINATOR_PORT=2024 \
    COORDINATOR_STORE=sqlite:////data/runs.db
USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 2024

# A server that drains is not ready, and gets no more requests.
HEALTHCHECK --interval=5s --timeout=10s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/coordinator/health/ready' % os.environ['COORDINATOR_PORT'], timeout=5)"]

ENTRYPOINT ["coordinator"]
CMD ["serve"]
