# syntax=docker/dockerfile:1
#
# One image for every process of the fleet; docker-compose.yml says which command each service runs.
# llama.cpp is compiled for the processor that builds the image: build it where it runs.

FROM python:3.11-slim-bookworm AS build
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ make \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /fleet
COPY . .
ARG EXTRAS="host cpu cloud dashboard"
RUN --mount=type=cache,target=/root/.cache/uv \
    make env EXTRAS="$EXTRAS" DEV= \
    && .venv/bin/python -m compileall -q config dashboard ledger routing workers \
    && rm -rf .cache

FROM python:3.11-slim-bookworm
# libgomp1: llama.cpp computes with OpenMP
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin fleet \
    && install --directory --owner=fleet --group=fleet /models
COPY --from=build /fleet /fleet
ENV PATH=/fleet/.venv/bin:$PATH HOME=/tmp PYTHONDONTWRITEBYTECODE=1
WORKDIR /tmp
USER fleet
CMD ["fleet", "--help"]
