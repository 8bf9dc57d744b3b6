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

ENV PATH=/opt/coordinator/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    COORDINATOR_STORE=sqlite:////data/runs.db
USER coordinator
WORKDIR /data
VOLUME /data

# This container's worker is on the list of those alive: its peers bury one that hangs.
HEALTHCHECK --interval=15s --timeout=10s --start-period=15s --retries=3 \
    CMD coordinator workers list --json | grep -q "\"host\": \"$(hostname)\""

ENTRYPOINT ["coordinator"]
CMD ["--help"]
