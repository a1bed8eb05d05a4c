.PHONY: build release site test chaos simulation soak lint bench generate ci

build: ## the binary, in bin/
	CGO_ENABLED=0 go build -trimpath -o bin/relay ./cmd/relay

release: ## the bits of a release, in bin/; VERSION=v1.2.3 names it
	.ci/build $(VERSION) bin/relay

test: ## everything that needs nothing but Go, and a C compiler for the race detector
	go test -race ./...

chaos: ## 200 kills of relays and servers on each bus, and twins paused for 10 minutes; prints the seed, RELAY_CHAOS_SEED sets it; Kafka where RELAY_TEST_KAFKA_CLUSTER is set
	RELAY_CHAOS_KILLS=$${RELAY_CHAOS_KILLS:-200} RELAY_CHAOS_TWINS=$${RELAY_CHAOS_TWINS:-10m} go test -v -count 1 -timeout 4h ./tests/chaos

simulation: ## 100,000 simulated worlds (SEEDS), from FIRST on; prints what happened in one that fails
	go test -v -timeout 24h -run 'TestSimulation$$' ./tests/simulation -seeds $${SEEDS:-100000} -first $${FIRST:-1000000}

soak: ## 30 minutes of load and faults (RELAY_SOAK), in which memory, goroutines and file descriptors must stay flat; prints a table
	RELAY_SOAK=$${RELAY_SOAK:-30m} go test -v -count 1 -timeout 6h -run TestSoak ./tests/soak

lint:
	test -z "$$(gofmt -l . | tee /dev/stderr)" && go vet ./... && golangci-lint run

bench: ## relay against a bare fetch loop, on this machine
	go run ./bench

generate: ## config.example.yaml, docs/configuration.md, docs/config.schema.json, docs/licenses.md, docs/asyncapi.yaml
	go generate ./...
	go run ./cmd/relay --config cmd/relay/testdata/asyncapi.yaml types --asyncapi >docs/asyncapi.yaml
	cp deploy/prometheus/alerts.yml deploy/helm/relay/files/alerts.yml

site: ## the manual as a site with a search, in site/; every link is checked
	.ci/site site

ci: ## what a submission must pass; also starts a real Kafka and WorkOS's emulator
	bash .ci/run
