# Two images from one build:
#
#   docker build -t waypost .                            the proxy alone, on Debian slim
#   docker build -t proxyv2-waypost --target istio .     Istio's proxyv2 with Waypost in the place of Envoy (for sidecar.istio.io/proxyImage)
#
# Both run as uid 1337 on a read-only root file system: Waypost writes to standard output and to what its configuration names.

ARG ISTIO_PROXY=docker.io/istio/proxyv2:1.29.2

FROM docker.io/library/rust:1-bookworm AS build
# aws-lc (the cryptography under rustls) is C and assembler
RUN apt-get update && apt-get install -y --no-install-recommends cmake clang && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin waypost && cp target/release/waypost /waypost

# proxyv2 is built on Ubuntu or distroless; its C library is newer than bookworm's, which is the direction that works.
FROM ${ISTIO_PROXY} AS istio
COPY --from=build --chown=0:0 --chmod=0755 /waypost /usr/local/bin/envoy
USER 1337:1337

# The last stage is the default.
FROM docker.io/library/debian:bookworm-slim AS waypost
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1337 waypost && useradd --uid 1337 --gid 1337 --no-create-home --shell /usr/sbin/nologin waypost
COPY --from=build --chown=0:0 --chmod=0755 /waypost /usr/local/bin/waypost
COPY --from=build /src/LICENSE /src/NOTICE /usr/share/doc/waypost/
# The examples; those that end TLS need certificates beside them: mount them at /etc/waypost/certs.
COPY --from=build /src/configs /etc/waypost
WORKDIR /etc/waypost
USER 1337:1337
EXPOSE 8080 8443 15008
ENTRYPOINT ["/usr/local/bin/waypost"]
CMD ["-c", "/etc/waypost/ingress.yaml"]
