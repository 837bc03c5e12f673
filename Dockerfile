# docker build -t relay .
# docker run -p 8080:8080 -v ./relay.toml:/app/relay.toml:ro -v relay-data:/data -e INNGEST_EVENT_KEY=... relay
#
# relay.toml is mounted at /app/relay.toml. In a container the receiver must listen on every address:
#   [receiver]
#   host = "0.0.0.0"
# The operator listener stays on the container's loopback, where the health check and `docker exec ... relay` reach it;
# to publish it, set operator.host and operator.token. With another operator.port, set RELAY_HEALTH_URL.
# Transforms are read from beside relay.toml (-v ./transforms:/app/transforms:ro); the shipped ones are in /app/transforms.

FROM python:3.12-slim AS build
WORKDIR /src
# A C compiler, for the steps that are compiled where there is one.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && python -m venv /opt/relay
COPY pyproject.toml hatch_build.py README.md LICENSE ./
COPY relay ./relay
COPY transforms ./transforms
RUN /opt/relay/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.12-slim
# The default store is data/relay.db beside relay.toml: /app/data is the volume.
RUN groupadd --gid 10001 relay \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /app --shell /usr/sbin/nologin relay \
    && mkdir -p /app /data \
    && ln -s /data /app/data \
    && chown 10001:10001 /data
COPY --from=build /opt/relay /opt/relay
COPY transforms /app/transforms
ENV PATH=/opt/relay/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    RELAY_HEALTH_URL=http://127.0.0.1:8081/healthz
WORKDIR /app
USER 10001:10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=15s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open(os.environ['RELAY_HEALTH_URL'], timeout=2).read()"]
CMD ["relay", "serve"]
