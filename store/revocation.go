package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/signet-iot/signet"
)

// RevocationPolicies lists those of a hub by CA; of all hubs for "".
func (s *Store) RevocationPolicies(ctx context.Context, hub string) ([]signet.RevocationPolicy, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, p *signet.RevocationPolicy) error {
		var of string
		var document []byte
		if err := rows.Scan(&of, &document); err != nil {
			return err
		}
		err := json.Unmarshal(document, p)
		p.Hub = of
		return err
	}, `SELECT hub, document FROM revocation_policy`+where+` ORDER BY hub, name_folded`, args...)
}

// SaveRevocationPolicy adds or replaces the policy of a CA, which must be there:
// otherwise it fails with [signet.ErrNotFound]. It goes with the CA.
func (s *Store) SaveRevocationPolicy(ctx context.Context, p signet.RevocationPolicy) error {
	document, err := json.Marshal(p)
	if err != nil {
		return fmt.Errorf("store: revocation policy of %s: %w", p.CA, err)
	}
	if err := writable(p.Hub, p.CA, string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		_, err := q.ExecContext(ctx, `INSERT INTO revocation_policy (hub, name_folded, document) VALUES ($1, $2, $3)
			ON CONFLICT (hub, name_folded) DO UPDATE SET document = excluded.document`, p.Hub, strings.ToLower(p.CA), string(document))
		return err
	})
}

func scanCRL(rows *sql.Rows, c *signet.CRL) error {
	var hub string
	var document []byte
	if err := rows.Scan(&hub, &document); err != nil {
		return err
	}
	err := json.Unmarshal(document, c)
	c.Hub = hub
	return err
}

// CRLs lists those of a hub by ID, without DER and IssuerDER; of all hubs for "".
func (s *Store) CRLs(ctx context.Context, hub string) ([]signet.CRL, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), scanCRL, `SELECT hub, document FROM crl`+where+` ORDER BY hub, id`, args...)
}

// CRL reads one, whole.
func (s *Store) CRL(ctx context.Context, hub, id string) (signet.CRL, error) {
	if !findable(hub, id) {
		return signet.CRL{}, signet.ErrNotFound
	}
	return one(ctx, s.engine.reader(), func(rows *sql.Rows, c *signet.CRL) error {
		var document []byte
		if err := rows.Scan(&c.Hub, &document, &c.IssuerDER, &c.DER); err != nil {
			return err
		}
		of, issuer, der := c.Hub, c.IssuerDER, c.DER
		err := json.Unmarshal(document, c)
		c.Hub, c.IssuerDER, c.DER = of, issuer, der
		return err
	}, `SELECT hub, document, issuer, der FROM crl WHERE hub = $1 AND id = $2`, hub, id)
}

// SaveCRL adds a CRL, or replaces the one with its ID unless that is of a later
// ThisUpdate: then it fails with [signet.ErrStale]. Its hub must be there:
// otherwise it fails with [signet.ErrNotFound].
func (s *Store) SaveCRL(ctx context.Context, c signet.CRL) error {
	c.State = ""
	document, err := json.Marshal(c)
	if err != nil {
		return fmt.Errorf("store: CRL %s: %w", c.ID, err)
	}
	if err := writable(c.Hub, c.ID, string(document)); err != nil {
		return err
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `INSERT INTO crl (hub, id, this_update, document, issuer, der) VALUES ($1, $2, $3, $4, $5, $6)
			ON CONFLICT (hub, id) DO UPDATE SET this_update = excluded.this_update, document = excluded.document,
			issuer = excluded.issuer, der = excluded.der WHERE crl.this_update <= excluded.this_update`,
			c.Hub, c.ID, micros(c.ThisUpdate), string(document), c.IssuerDER, c.DER)
		if err == nil && n == 0 {
			err = signet.ErrStale
		}
		return err
	})
}

// DeleteCRL removes one.
func (s *Store) DeleteCRL(ctx context.Context, hub, id string) error {
	if !findable(hub, id) {
		return signet.ErrNotFound
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		n, err := affected(ctx, q, `DELETE FROM crl WHERE hub = $1 AND id = $2`, hub, id)
		if err == nil && n == 0 {
			err = signet.ErrNotFound
		}
		return err
	})
}

// OCSPAnswers lists those of a hub; of all hubs for "".
func (s *Store) OCSPAnswers(ctx context.Context, hub string) ([]signet.OCSPAnswer, error) {
	if !findable(hub) {
		return nil, nil
	}
	where, args := ``, []any(nil)
	if hub != "" {
		where, args = ` WHERE hub = $1`, []any{hub}
	}
	return list(ctx, s.engine.reader(), func(rows *sql.Rows, a *signet.OCSPAnswer) error {
		var document []byte
		if err := rows.Scan(&a.Hub, &a.IssuerKey, &a.Serial, &document); err != nil {
			return err
		}
		return json.Unmarshal(document, a)
	}, `SELECT hub, issuer_key, serial, document FROM ocsp_answer`+where, args...)
}

// SaveOCSPAnswers adds or replaces answers and drops others, in one transaction.
// Those of a hub that is not there are passed over.
func (s *Store) SaveOCSPAnswers(ctx context.Context, said, dropped []signet.OCSPAnswer) error {
	documents := make([]string, len(said))
	for n, a := range said {
		document, err := json.Marshal(a)
		if err != nil {
			return fmt.Errorf("store: OCSP answer: %w", err)
		}
		if err := writable(a.Hub, a.IssuerKey, a.Serial, string(document)); err != nil {
			return err
		}
		documents[n] = string(document)
	}
	return s.engine.write(ctx, func(ctx context.Context, q queryer) error {
		for _, a := range dropped {
			if _, err := q.ExecContext(ctx, `DELETE FROM ocsp_answer WHERE hub = $1 AND issuer_key = $2 AND serial = $3`, a.Hub, a.IssuerKey, a.Serial); err != nil {
				return err
			}
		}
		for n, a := range said {
			if _, err := q.ExecContext(ctx, `INSERT INTO ocsp_answer (hub, issuer_key, serial, document)
				SELECT name, $2, $3, $4 FROM hub WHERE name = $1
				ON CONFLICT (hub, issuer_key, serial) DO UPDATE SET document = excluded.document`,
				a.Hub, a.IssuerKey, a.Serial, documents[n]); err != nil {
				return err
			}
		}
		return nil
	})
}
