# A static binary and the authorities to trust; no shell, no root, and a root file system that may be read-only. /data holds checkpoints,
# the embedded server's streams and what is temporary: mount a volume there.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
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
