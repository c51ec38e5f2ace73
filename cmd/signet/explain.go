package main

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/client"
	"github.com/signet-iot/signet/pki"
	"github.com/spf13/cobra"
)

// errRefused says that the verdict has been printed: nothing is left but the
// exit status.
var errRefused = errors.New("refused")

func explainCommand() *cobra.Command {
	var chain, roots, device, at string
	var stdin bool
	var without, verified, distrusted, crls []string
	var scope scopeFlags
	cmd := connected(&cobra.Command{
		Use:   "explain --chain FILE",
		Short: "Say why a chain would be accepted or refused",
		Long: `Say whether a device that presents this chain would be let in, by the code that decides it live, and
if not, which certificate is at fault, in what, and how to mend it. FILE is PEM, the device's
certificate first. Exit status 0 means accepted, 1 refused.

With --roots the judgement is offline, against the CAs in that file. Without, the hub is asked, which
judges by the CAs that are registered there. Nothing is recorded.

What the hub would say after a change, without making it: --without a registered CA, --verified one that
is not yet, --distrust a certificate, with a --crl, or with a scope: --scope NAME, and --scope-device and
the like as signet certificate scope takes them.

With --stdin each line of standard input is a case, and answered with a line:

  {"id","trusted":[PEM],"intermediates":[PEM],"leaf":PEM,"time":RFC3339,
   "usage":"client|server|any","max_depth":N,"crls":[PEM]}  ->  {"id","ok","code","reason"}`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case roots != "" && (cmd.Flags().Changed("scope") || len(without)+len(verified)+len(distrusted)+len(crls) > 0):
				return usageError{errors.New("with --roots only the file counts: nothing can be supposed of a hub")}
			case stdin && (chain != "" || roots != "" || device != "" || at != ""):
				return usageError{errors.New("--stdin takes everything from the lines; it goes with no other flag")}
			case stdin:
				return explainLines(cmd.InOrStdin(), cmd.OutOrStdout())
			case chain == "":
				return usageError{errors.New("--chain FILE is needed, or --stdin")}
			}
			var when time.Time
			if at != "" {
				var err error
				if when, err = moment("--at", at); err != nil {
					return err
				}
			}
			suppose := client.Hypothesis{Without: without, Verified: verified}
			if err := supposeFiles(&suppose, distrusted, crls); err != nil {
				return err
			}
			if set, err := scope.read(); err != nil {
				return err
			} else if set {
				suppose.Scopes = append(suppose.Scopes, scope.r)
			}
			explanation, err := explain(cmd, chain, roots, device, when, suppose)
			if err != nil {
				return err
			}
			if err := show(cmd, explanation, func(w io.Writer) { printExplanation(w, explanation) }); err != nil {
				return err
			}
			if !explanation.Accepted {
				return errRefused
			}
			return nil
		},
	})
	f := cmd.Flags()
	f.StringVar(&chain, "chain", "", "PEM file: the device's certificate, then its intermediates")
	f.StringVar(&roots, "roots", "", "PEM file with the CAs to trust; without, the hub's own")
	f.StringVar(&device, "device", "", "the device that presents it: deviceId, or deviceId/moduleId with --roots")
	f.StringVar(&at, "at", "", "judge at this time (2026-01-31T12:00:00Z); now if not given")
	f.StringArrayVar(&without, "without", nil, "suppose that this registered CA is removed")
	f.StringArrayVar(&verified, "verified", nil, "suppose that this registered CA is verified")
	f.StringArrayVar(&distrusted, "distrust", nil, "suppose that the certificate in this file is distrusted, a CA by its key")
	f.StringArrayVar(&crls, "crl", nil, "suppose that this CRL is in force")
	f.StringVar(&scope.r.CA, "scope", "", "suppose a scope of this registered CA, as bounded by the flags that follow")
	scope.add(cmd, "scope-")
	f.BoolVar(&stdin, "stdin", false, "answer cases, a line of JSON each, from standard input")
	return cmd
}

// supposeFiles reads what is supposed of certificates and CRLs.
func supposeFiles(h *client.Hypothesis, distrusted, crls []string) error {
	for _, file := range distrusted {
		certificate, err := readUpload(file)
		if err != nil {
			return err
		}
		h.Distrust = append(h.Distrust, client.DistrustRequest{Certificate: certificate})
	}
	for _, file := range crls {
		text, err := readFile(file)
		if err != nil {
			return err
		}
		h.CRLs = append(h.CRLs, text)
	}
	return nil
}

// explain judges a chain offline against roots, or asks the hub.
func explain(cmd *cobra.Command, chain, roots, device string, at time.Time, suppose client.Hypothesis) (client.Explanation, error) {
	if roots == "" {
		hub, err := connect(cmd)
		if err != nil {
			return client.Explanation{}, err
		}
		text, err := readFile(chain)
		if err != nil {
			return client.Explanation{}, err
		}
		return hub.Explain(cmd.Context(), text, device, at, suppose)
	}
	anchors, err := readCertificates(roots)
	if err != nil {
		return client.Explanation{}, err
	}
	presented, err := readCertificates(chain)
	if err != nil {
		return client.Explanation{}, err
	}
	path, err := pki.NewAnchors(anchors).Validate(pki.PathRequest{Chain: presented, Time: at, Usage: pki.UsageClient, MaxDepth: -1})
	if err == nil && device != "" {
		err = pki.CheckCommonName(path[0], device)
	}
	if err != nil {
		return client.Explanation{Error: signet.AsError(err)}, nil
	}
	e := client.Explanation{Accepted: true}
	for i, c := range path {
		e.Path = append(e.Path, pki.Reference(c, i))
	}
	return e, nil
}

func printExplanation(w io.Writer, e client.Explanation) {
	line := func(name, value string) {
		if value != "" {
			fmt.Fprintf(w, "  %s\t%s\n", name, printable(value))
		}
	}
	if e.Accepted {
		fmt.Fprintln(w, "accepted, by the path")
		for i, c := range e.Path {
			role, completed := "issued by", ""
			switch i {
			case 0:
				role = "device"
			case len(e.Path) - 1:
				role = "trusted CA"
			}
			if c.Completed {
				completed = "; not sent, completed from registry"
			}
			line(role, c.Subject+", until "+c.NotAfter.UTC().Format("2006-01-02 15:04Z")+completed)
		}
		return
	}
	fmt.Fprintf(w, "refused: %s\n", e.Error.Code)
	line("because", e.Error.Message)
	if c := e.Error.Certificate; c != nil {
		place := "registered here, not in the chain"
		if c.Index >= 0 {
			place = fmt.Sprintf("%d of the chain, counted from 0", c.Index)
		}
		line("certificate", place)
		line("  subject", c.Subject)
		line("  issuer", c.Issuer)
		line("  serial", c.Serial)
		line("  SHA-256", c.Thumbprint)
		line("  valid", c.NotBefore.UTC().Format("2006-01-02 15:04Z")+" to "+c.NotAfter.UTC().Format("2006-01-02 15:04Z"))
	}
	line("looked at", e.Error.Field)
	line("expected", e.Error.Expected)
	line("came", e.Error.Actual)
	line("fix", e.Error.Fix)
}

// Bounds of explain --stdin. Whoever runs it is no stranger; they keep a mistake
// from taking the machine.
const (
	maxExplainLine = 8 << 20
	maxExplainPool = 256 // certificates to choose from
)

// An explainCase is one line of explain --stdin: judge leaf up to trusted, with
// intermediates to choose from, in any order.
type explainCase struct {
	ID            json.RawMessage `json:"id"`
	Trusted       []string        `json:"trusted"`
	Intermediates []string        `json:"intermediates"`
	Leaf          string          `json:"leaf"`
	Time          time.Time       `json:"time"`  // now if absent
	Usage         pki.Usage       `json:"usage"` // client if absent
	MaxDepth      *int            `json:"max_depth"`
	CRLs          []string        `json:"crls"` // asked for if there is one
	// Policy holds initial inputs of policy processing (RFC 5280 §6.1.1), which
	// are not taken: a device has no policy to ask for.
	Policy map[string]any `json:"policy"`
}

// An explainAnswer is the line that answers it.
type explainAnswer struct {
	ID     json.RawMessage `json:"id"`
	OK     bool            `json:"ok"`
	Code   signet.Code     `json:"code"`
	Reason string          `json:"reason"`
}

// explainLines answers each line of in with one of out, at once.
func explainLines(in io.Reader, out io.Writer) error {
	lines := bufio.NewReaderSize(in, 64<<10)
	answers := json.NewEncoder(out)
	for {
		line, err := readLine(lines)
		if errors.Is(err, io.EOF) {
			return nil
		}
		var answer explainAnswer
		switch {
		case errors.Is(err, errLineTooLong):
			answer = refusedCase(nil, signet.Refuse(signet.RequestMalformed, "The line is longer than 8 MiB."))
		case err != nil:
			return err
		case len(bytes.TrimSpace(line)) == 0:
			continue
		default:
			answer = explainLine(line)
		}
		if err := answers.Encode(answer); err != nil {
			return err
		}
	}
}

// explainLine answers one case. Whatever the line, there is an answer.
func explainLine(line []byte) explainAnswer {
	var c explainCase
	if err := json.Unmarshal(line, &c); err != nil {
		return refusedCase(c.ID, signet.Refuse(signet.RequestMalformed, "The line is not a case: %s.", signet.Clip(err.Error())))
	}
	path, err := c.judge()
	if err != nil {
		return refusedCase(c.ID, signet.AsError(err))
	}
	return explainAnswer{ID: c.ID, OK: true, Reason: fmt.Sprintf("a path of %d certificates up to %s", len(path), signet.Clip(path[len(path)-1].Subject.String()))}
}

func refusedCase(id json.RawMessage, e *signet.Error) explainAnswer {
	return explainAnswer{ID: id, Code: e.Code, Reason: e.Message}
}

func (c *explainCase) judge() ([]*x509.Certificate, error) {
	switch c.Usage {
	case "", pki.UsageClient, pki.UsageServer, pki.UsageAny:
	default:
		return nil, signet.Refuse(signet.RequestMalformed, "The usage is client, server or any, not %q.", signet.Clip(string(c.Usage)))
	}
	if len(c.Policy) > 0 {
		return nil, signet.Refuse(signet.RequestMalformed, "Initial policies are not taken: policies are processed with any policy acceptable.")
	}
	if len(c.Trusted) > maxExplainPool || len(c.Intermediates) > maxExplainPool || len(c.CRLs) > maxExplainPool {
		return nil, signet.Refuse(signet.LimitPathWork, "The case has more than %d certificates or CRLs.", maxExplainPool)
	}
	r := pki.PathRequest{Time: c.Time, Usage: c.Usage, MaxDepth: -1, MaxPresented: 1 + maxExplainPool}
	if c.MaxDepth != nil {
		r.MaxDepth = *c.MaxDepth
	}
	leaf, err := parseCertificate("the leaf", c.Leaf)
	if err != nil {
		return nil, err
	}
	r.Chain = []*x509.Certificate{leaf}
	// What cannot be read takes no part; it explains a refusal that follows.
	var unreadable error
	var anchors []*x509.Certificate
	for i, text := range c.Trusted {
		if cert, err := parseCertificate(fmt.Sprintf("certificate %d of trusted", i), text); err != nil {
			unreadable = err
		} else {
			anchors = append(anchors, cert)
		}
	}
	for i, text := range c.Intermediates {
		if cert, err := parseCertificate(fmt.Sprintf("certificate %d of intermediates", i), text); err != nil {
			unreadable = err
		} else {
			r.Chain = append(r.Chain, cert)
		}
	}
	for _, text := range c.CRLs {
		if r.CRLs == nil {
			r.CRLs = []*x509.RevocationList{}
		}
		// One that cannot be read covers nothing.
		if block, _ := pem.Decode([]byte(text)); block != nil {
			if crl, err := x509.ParseRevocationList(block.Bytes); err == nil {
				r.CRLs = append(r.CRLs, crl)
			}
		}
	}
	path, err := pki.NewAnchors(anchors).Validate(r)
	if err != nil && unreadable != nil {
		return nil, unreadable
	}
	return path, err
}

// parseCertificate reads a certificate from a PEM text.
func parseCertificate(which, text string) (*x509.Certificate, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, signet.Refuse(signet.ChainMalformed, "There is no PEM in %s.", which)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, signet.Refuse(signet.ChainMalformed, "What stands in %s cannot be read: %s.", which, signet.Clip(err.Error()))
	}
	return cert, nil
}

var errLineTooLong = errors.New("line too long")

// readLine gives the next line, without its end; of one that is too long nothing
// is kept, and reading goes on behind it.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := r.ReadSlice('\n')
		if tooLong = tooLong || len(line)+len(part) > maxExplainLine+1; !tooLong {
			line = append(line, part...)
		}
		switch {
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case errors.Is(err, io.EOF) && len(part) == 0 && len(line) == 0 && !tooLong:
			return nil, io.EOF
		case err != nil && !errors.Is(err, io.EOF):
			return nil, err
		case tooLong:
			return nil, errLineTooLong
		}
		return bytes.TrimSuffix(line, []byte("\n")), nil
	}
}
