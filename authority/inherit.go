package authority

import (
	"bytes"
	"crypto/x509"
	"slices"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
)

// An inheritance is the policy of a registered CA above one for which none is set, with
// the certificates from that one up to the CA whose policy it is.
type inheritance struct {
	policy *signet.RevocationPolicy
	path   []*x509.Certificate
	refs   []*signet.PathCertificate
}

// inherit finds the policies of CAs for which none is set. A path ends at the first
// anchor that it reaches (RFC 5280 §6.1: what is above an anchor is not asked for), so
// without this, to register an intermediate would void the policy of the CA above, and
// let in what has been revoked. Who is above whom is known by signatures, of what is
// registered: certificates that are not verified are links and have no policy.
//
// decided has the keys of CAs for which a policy is set, off included.
func (t *trust) inherit(unverified []*x509.Certificate, decided map[[32]byte]bool) {
	if len(t.policies) == 0 {
		return
	}
	all := slices.Concat(t.cas, unverified)
	refs, issuers := make([]*signet.PathCertificate, len(all)), make([][]int, len(all))
	for i, c := range all {
		refs[i] = pki.PathCertificate(c)
		for j, issuer := range all {
			// Only those of one name are verified: few, and no more than a hub may hold.
			if bytes.Equal(c.RawIssuer, issuer.RawSubject) && !bytes.Equal(c.RawSubjectPublicKeyInfo, issuer.RawSubjectPublicKeyInfo) && c.CheckSignatureFrom(issuer) == nil {
				issuers[i] = append(issuers[i], j)
			}
		}
	}
	// From above to below, until nothing changes. CAs may have signed each other, and
	// one may have several certificates: the stricter policy counts, so that each key
	// changes twice at most.
	for changed := true; changed; {
		changed = false
		for i, c := range all {
			if decided[refs[i].Key] {
				continue
			}
			for _, j := range issuers[i] {
				above := &inheritance{t.policyOf(refs[j]), all[j : j+1], refs[j : j+1]}
				if above.policy == nil {
					above = t.inherited[refs[j].Key]
				}
				old := t.inherited[refs[i].Key]
				if above == nil || old != nil && !old.policy.Mode.Laxer(above.policy.Mode) {
					continue
				}
				t.inherited[refs[i].Key] = &inheritance{above.policy, slices.Insert(slices.Clone(above.path), 0, c), slices.Insert(slices.Clone(above.refs), 0, refs[i])}
				changed = true
			}
		}
	}
}

// asked gives the policy that a path is judged by, nil when nothing is asked, and what is
// judged: the path, and if the policy is inherited, what is above its anchor up to the
// CA whose policy it is. path may be nil.
func (t *trust) asked(refs []*signet.PathCertificate, path []*x509.Certificate) (*signet.RevocationPolicy, []*signet.PathCertificate, []*x509.Certificate) {
	anchor := len(refs) - 1
	if p := t.policyOf(refs[anchor]); p != nil {
		return p, refs, path
	}
	above := t.inherited[refs[anchor].Key]
	if above == nil {
		return nil, refs, path
	}
	if path != nil {
		path = slices.Concat(path[:anchor], above.path)
	}
	return above.policy, slices.Concat(refs[:anchor], above.refs), path
}
