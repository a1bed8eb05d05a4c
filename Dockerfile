# A static binary and the certificate authorities it trusts: no shell, no root, and a root file system that may be read-only. /data
# holds checkpoints, the streams of the embedded server and temporary files: mount a volume there.
#
# Dependabot renews tag and digest together (.github/dependabot.yml); .ci/pins compares the tag with .go-version.
FROM --platform=$BUILDPLATFORM golang:1.26.8@sha256:3c3e25a4da13fd0478eed2df1eb35a0e667094a7124d3993a6a1d30f71c17e79 AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=
ARG TARGETOS
ARG TARGETARCH
RUN GOOS=$TARGETOS GOARCH=$TARGETARCH .ci/build "${VERSION}" /out/relay \
 && go run ./internal/licenses/gen . /out/THIRD_PARTY_LICENSES \
 && mkdir -p /out/data && chown 65532:65532 /out/data

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/relay /relay
COPY --from=build /src/LICENSE /out/THIRD_PARTY_LICENSES /licenses/
COPY --from=build --chown=65532:65532 /out/data /data
LABEL org.opencontainers.image.title="relay" \
      org.opencontainers.image.description="Carries every event of the WorkOS Events API to NATS JetStream or Kafka, in order" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV TMPDIR=/data
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080
ENTRYPOINT ["/relay"]
CMD ["run"]
