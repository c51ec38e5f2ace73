# The two commands of the README are "make demo" and "make test".

GO ?= go

.PHONY: build demo run test bench lint clean

build:
	$(GO) build -o bin/signet ./cmd/signet

# The whole article on an embedded hub in a temporary folder, with free ports.
demo: build
	$(GO) run ./test/demo -signet bin/signet

# A hub on defaults, with ports that need no root.
run: build
	bin/signet serve --mqtt 127.0.0.1:8883 --https 127.0.0.1:8443

# Every test; installs what it needs, or says in one line what is missing.
test: build
	test/prepare
	$(GO) test -race -timeout 20m ./...

# Signet beside its peers, some eight minutes; writes the table of the page.
bench: build
	$(GO) run ./test/bench -signet bin/signet -write docs/performance.md

lint:
	$(GO) vet ./...
	$(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2 ./...
	test/vulnerabilities

clean:
	rm -rf bin data test/sdk/node_modules
