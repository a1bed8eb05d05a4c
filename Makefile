.PHONY: build test lint bench generate ci

build: ## the binary, in bin/
	CGO_ENABLED=0 go build -trimpath -o bin/relay ./cmd/relay

test: ## everything that needs nothing but Go
	go test -race ./...

lint:
	gofmt -l . && go vet ./... && golangci-lint run

bench: ## relay against a bare fetch loop, on this machine
	go run ./bench

generate: ## config.example.yaml, docs/configuration.md, docs/config.schema.json
	go generate ./...

ci: ## what a submission must pass; also starts a real Kafka and WorkOS's emulator
	bash .ci/run
