FROM python:3.13.7-slim-bookworm AS build

WORKDIR /src
COPY pyproject.toml LICENSE README.md ./
COPY coordinator coordinator
COPY stores stores
RUN python -m venv /opt/coordinator \
    && /opt/coordinator/bin/pip install --no-cache-dir '.[all]'


FROM python:3.13.7-slim-bookworm

# A named volume that is mounted on /data takes its owner from here.
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin coordinator \
    && install -d -o coordinator -g coordinator /data
COPY --from=build /opt/coordinator /opt/coordinator

# Beyond loopback it serves with API keys only: mount a file of them and name it in COORDINATOR_API_KEYS, or make
# one with `coordinator keys create`.
ENV PATH=/opt/coordinator/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COORDINATOR_HOST=0.0.0.0 \
    COORDINATOR_PORT=2024 \
    COORDINATOR_STORE=sqlite:////data/runs.db
USER coordinator
WORKDIR /data
VOLUME /data
EXPOSE 2024

# A server that drains is not ready, and gets no more requests.
HEALTHCHECK --interval=5s --timeout=10s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:%s/coordinator/health/ready' % os.environ['COORDINATOR_PORT'], timeout=5)"]

ENTRYPOINT ["coordinator"]
CMD ["serve"]
