//go:build !cgo

package token

import (
	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

func open(Reference, string, pki.KeyType) (Key, error) {
	return nil, signet.Refuse(signet.KeyToken, "This binary was built without cgo, and cannot reach tokens.").
		FixBy("Build it with a C compiler at hand: CGO_ENABLED=1 make build")
}
