package main

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/signet-iot/signet"
	"github.com/signet-iot/signet/pki"
	"github.com/signet-iot/signet/token"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func caCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ca",
		Short: "Make certificates, offline: CAs, devices and proofs of possession",
		Long: `Make certificates, offline. A CA is a folder:

  ca.pem     its certificate: what a hub is given
  ca.key     its private key, PKCS#8, or the URI of one in a PKCS#11 token: never leaves its owner
  chain.pem  for an intermediate: itself first, up to below the root

Certificates made elsewhere do as well, under these names. Nothing is ever overwritten. No
certificate outlives its issuer: it is cut to the issuer's end, and the output says so.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(caRootCommand(), caIntermediateCommand(), caDeviceCommand(), caProveCommand())
	return cmd
}

func caRootCommand() *cobra.Command {
	var (
		name, out string
		key       newKey
		days      int
	)
	cmd := &cobra.Command{
		Use:   "root --name CN --out DIR",
		Short: "Make a root CA",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmp.Or(need(cmd, "name", "out"), key.check(), checkDays(days)); err != nil {
				return err
			}
			if err := absent(out, "ca.pem", "ca.key"); err != nil {
				return err
			}
			signer, keyPEM, err := key.make(cmd)
			if err != nil {
				return err
			}
			ca, err := pki.NewRoot(name, signer, time.Now(), days)
			if err != nil {
				return err
			}
			if err := save(out, file{"ca.key", 0o600, keyPEM}, file{"ca.pem", 0o644, certificatesPEM(ca.Certificate)}); err != nil {
				return err
			}
			return issued{
				Kind: "root", cert: ca.Certificate,
				Files: paths(out, "ca.pem", "ca.key"),
				Next:  "signet certificate upload NAME " + shellWord(filepath.Join(out, "ca.pem")),
			}.print(cmd)
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "name", "", "common name of the CA, 1 to 64 characters")
	f.StringVar(&out, "out", "", "folder to write to")
	f.IntVar(&days, "days", 3650, "days of validity")
	key.flags(cmd)
	key.inToken(cmd)
	f.StringVar(&key.passphraseFile, "passphrase-file", "", "file with the passphrase to encrypt the key with")
	return cmd
}

func caIntermediateCommand() *cobra.Command {
	var (
		name, out        string
		parent           caFolder
		key              newKey
		days, pathLength int
	)
	cmd := &cobra.Command{
		Use:   "intermediate --parent DIR --name CN --out DIR",
		Short: "Make a CA below another",
		Args:  noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmp.Or(need(cmd, "parent", "name", "out"), key.check(), checkDays(days)); err != nil {
				return err
			}
			if !cmd.Flags().Changed("path-length") {
				pathLength = pki.NoPathLength
			} else if pathLength < 0 {
				return usageError{errors.New("--path-length is 0 or more")}
			}
			if parent.passphraseFile == "" {
				parent.passphraseFile = key.passphraseFile
			}
			if err := absent(out, "ca.pem", "ca.key", "chain.pem"); err != nil {
				return err
			}
			issuer, err := parent.open(cmd)
			if err != nil {
				return err
			}
			signer, keyPEM, err := key.make(cmd)
			if err != nil {
				return err
			}
			chain, err := issuer.Intermediate(name, signer.Public(), pathLength, time.Now(), days)
			if err != nil {
				return err
			}
			err = save(out,
				file{"ca.key", 0o600, keyPEM},
				file{"chain.pem", 0o644, certificatesPEM(chain...)},
				file{"ca.pem", 0o644, certificatesPEM(chain[0])})
			if err != nil {
				return err
			}
			return issued{
				Kind: "intermediate", cert: chain[0], issuer: issuer.Certificate,
				Files: paths(out, "ca.pem", "ca.key", "chain.pem"),
				Next:  "signet ca device --parent " + shellWord(out) + " --id ID --out DIR",
			}.print(cmd)
		},
	}
	f := cmd.Flags()
	parent.flags(cmd, "parent")
	f.StringVar(&parent.passphraseFile, "parent-passphrase-file", "", "file with the passphrase of the parent's key, when it is another")
	f.StringVar(&name, "name", "", "common name of the CA, 1 to 64 characters")
	f.StringVar(&out, "out", "", "folder to write to")
	f.IntVar(&pathLength, "path-length", 0, "how many CAs may follow below this one (default as many as the parent leaves)")
	f.IntVar(&days, "days", 1825, "days of validity")
	key.flags(cmd)
	key.inToken(cmd)
	f.StringVar(&key.passphraseFile, "passphrase-file", "", "file with the passphrase that opens the parent's key and encrypts the new one")
	return cmd
}

func caDeviceCommand() *cobra.Command {
	var (
		id, out, csrFile string
		parent           caFolder
		key              newKey
		days             int
	)
	cmd := &cobra.Command{
		Use:   "device --parent DIR --id ID --out DIR",
		Short: "Sign a device into the chain of trust",
		Long: `Sign a device's certificate: from a certificate signing request, so that the key never
leaves the device, or with a key made here. Of a request only the key counts, and its
common name where --id is left out.

The device presents chain.pem (itself first, the root left out) with its key.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := cmp.Or(need(cmd, "parent", "out"), key.check(), checkDays(days)); err != nil {
				return err
			}
			names := []string{"device.pem", "chain.pem"}
			if csrFile == "" {
				if err := need(cmd, "id"); err != nil {
					return err
				}
				names = append(names, "device.key")
			} else if cmd.Flags().Changed("key") || key.passphraseFile != "" || key.ask {
				return usageError{errors.New("with --csr the key is the device's own: leave --key, --key-passphrase-file and --encrypt out")}
			}
			if err := absent(out, names...); err != nil {
				return err
			}

			var public crypto.PublicKey
			if csrFile != "" {
				csr, err := readCSR(csrFile)
				if err != nil {
					return err
				}
				if id, err = identityOf(csr, id); err != nil {
					return err
				}
				public = csr.PublicKey
			}
			issuer, err := parent.open(cmd)
			if err != nil {
				return err
			}
			var files []file
			if csrFile == "" {
				signer, keyPEM, err := key.make(cmd)
				if err != nil {
					return err
				}
				public = signer.Public()
				files = append(files, file{"device.key", 0o600, keyPEM})
			}
			chain, err := issuer.Device(id, public, time.Now(), days)
			if err != nil {
				return err
			}
			files = append(files, file{"chain.pem", 0o644, certificatesPEM(chain...)}, file{"device.pem", 0o644, certificatesPEM(chain[0])})
			if err := save(out, files...); err != nil {
				return err
			}
			return issued{
				Kind: "device", cert: chain[0], issuer: issuer.Certificate,
				Files: paths(out, names...),
				Next:  "signet device create " + shellWord(id) + " --auth ca",
			}.print(cmd)
		},
	}
	f := cmd.Flags()
	parent.flags(cmd, "parent")
	f.StringVar(&parent.passphraseFile, "passphrase-file", "", "file with the passphrase of the parent's key")
	f.StringVar(&id, "id", "", "device ID, or deviceId/moduleId, at most 64 characters: the common name")
	f.StringVar(&out, "out", "", "folder to write to")
	f.StringVar(&csrFile, "csr", "", "certificate signing request of the device (PEM or DER)")
	f.IntVar(&days, "days", 365, "days of validity")
	key.flags(cmd)
	f.StringVar(&key.passphraseFile, "key-passphrase-file", "", "file with the passphrase to encrypt the device's key with")
	return cmd
}

func caProveCommand() *cobra.Command {
	var (
		code, out string
		ca        caFolder
	)
	cmd := &cobra.Command{
		Use:   "prove --ca DIR --code CODE --out FILE",
		Short: "Prove to a hub that you hold a CA's key",
		Long: `Sign a certificate whose common name is the hub's verification code, with the key of the
registered CA itself. Its own key is thrown away: it is good for nothing else.`,
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := need(cmd, "ca", "code", "out"); err != nil {
				return err
			}
			dir, name := filepath.Split(filepath.Clean(out))
			if err := absent(dir, name); err != nil {
				return err
			}
			issuer, err := ca.open(cmd)
			if err != nil {
				return err
			}
			proof, err := issuer.Proof(code, time.Now())
			if err != nil {
				return err
			}
			if err := save(dir, file{name, 0o644, certificatesPEM(proof)}); err != nil {
				return err
			}
			return issued{
				Kind: "proof", cert: proof, issuer: issuer.Certificate,
				Files: []string{out},
				Next:  "signet certificate verify NAME " + shellWord(out),
			}.print(cmd)
		},
	}
	f := cmd.Flags()
	ca.flags(cmd, "ca")
	f.StringVar(&ca.passphraseFile, "passphrase-file", "", "file with the passphrase of the CA's key")
	f.StringVar(&code, "code", "", "verification code that the hub gave out")
	f.StringVar(&out, "out", "", "file to write")
	return cmd
}

// checkDays catches what is no number of days at all; pki knows the upper bound.
func checkDays(days int) error {
	if days < 1 {
		return usageError{fmt.Errorf("--days is 1 or more, not %d", days)}
	}
	return nil
}

// A newKey is a key still to be made, as the flags ask for it.
type newKey struct {
	kind           string
	passphraseFile string
	ask            bool   // for a passphrase, at the terminal
	token          string // where it is made instead: a PKCS#11 URI
}

func (k *newKey) flags(cmd *cobra.Command) {
	kinds := make([]string, len(pki.KeyTypes))
	for i, t := range pki.KeyTypes {
		kinds[i] = string(t)
	}
	cmd.Flags().StringVar(&k.kind, "key", kinds[0], "type of the key: "+strings.Join(kinds, ", "))
	cmd.Flags().BoolVar(&k.ask, "encrypt", false, "ask at the terminal for a passphrase to encrypt the new key with")
}

func (k *newKey) check() error {
	if !slices.Contains(pki.KeyTypes, pki.KeyType(k.kind)) {
		return usageError{fmt.Errorf("--key is one of %v, not %q", pki.KeyTypes, k.kind)}
	}
	return nil
}

// inToken has the key be made in a token, if the flag is given.
func (k *newKey) inToken(cmd *cobra.Command) {
	cmd.Flags().StringVar(&k.token, "token", "", "make the key in a PKCS#11 token: pkcs11:token=LABEL;object=LABEL?module-path=LIBRARY&pin-source=file:PATH")
}

// make makes the key, and what is kept of it: its PEM form, encrypted if the flags
// say so, or the reference to where it is.
func (k *newKey) make(cmd *cobra.Command) (crypto.Signer, []byte, error) {
	if k.token != "" {
		if k.passphraseFile != "" || k.ask {
			return nil, nil, usageError{errors.New("a key in a --token is kept by the token: leave the passphrase out")}
		}
		key, err := token.Make(k.token, pki.KeyType(k.kind), func() ([]byte, error) { return askPassphrase(cmd, "PIN of the token: ") })
		return key, []byte(k.token + "\n"), err
	}
	var passphrase []byte
	var err error
	switch {
	case k.passphraseFile != "":
		passphrase, err = readPassphrase(k.passphraseFile)
	case k.ask:
		passphrase, err = askNewPassphrase(cmd)
	}
	if err != nil {
		return nil, nil, err
	}
	key, err := pki.GenerateKey(pki.KeyType(k.kind))
	if err != nil {
		return nil, nil, err
	}
	text, err := pki.MarshalKey(key, passphrase)
	return key, text, err
}

// A caFolder is where a CA lives.
type caFolder struct {
	flag, dir      string
	passphraseFile string
}

func (f *caFolder) flags(cmd *cobra.Command, name string) {
	f.flag = name
	cmd.Flags().StringVar(&f.dir, name, "", "folder of the CA that signs")
}

// open reads the CA: certificate, chain and key, whose passphrase comes from
// the file or from the terminal.
func (f *caFolder) open(cmd *cobra.Command) (*pki.CA, error) {
	certs, err := readCertificates(filepath.Join(f.dir, "ca.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, signet.Refuse(signet.FileAccess, "There is no CA in %s: ca.pem is missing.", f.dir).
			FixBy("Make one: signet ca root --name CN --out %s", shellWord(f.dir))
	} else if err != nil {
		return nil, err
	}
	// Without chain.pem, what ca.pem holds after the CA may be the way up.
	chain, err := readCertificates(filepath.Join(f.dir, "chain.pem"))
	if errors.Is(err, fs.ErrNotExist) {
		chain = certs
	} else if err != nil {
		return nil, err
	}
	name := filepath.Join(f.dir, "ca.key")
	text, err := readFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, signet.Refuse(signet.FileAccess, "The CA in %s cannot sign: ca.key is missing.", f.dir).
			FixBy("Run this where the key is; a certificate alone signs nothing.")
	} else if err != nil {
		return nil, err
	}
	if token.IsReference(text) {
		key, err := token.Open(string(text), func() ([]byte, error) { return askPassphrase(cmd, "PIN of the token: ") })
		if err != nil {
			return nil, err
		}
		return pki.OpenCA(certs[0], chain, key)
	}
	key, err := pki.ParseKey(text, func() ([]byte, error) {
		if f.passphraseFile != "" {
			return readPassphrase(f.passphraseFile)
		}
		return askPassphrase(cmd, "Passphrase of "+name+": ")
	})
	if err != nil {
		e := signet.AsError(err)
		e.Message = name + ": " + e.Message
		return nil, e
	}
	return pki.OpenCA(certs[0], chain, key)
}

// maxPassphrase bounds what is read from a passphrase file: one given by
// mistake should be noticed.
const maxPassphrase = 1024

// readPassphrase reads the first line of a file.
func readPassphrase(name string) ([]byte, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	line, _, _ := bytes.Cut(text, []byte("\n"))
	line = bytes.TrimSuffix(line, []byte("\r"))
	if len(line) == 0 || len(line) > maxPassphrase {
		return nil, signet.Refuse(signet.KeyPassphrase, "The first line of %s is no passphrase: it is empty or longer than %d bytes.", name, maxPassphrase)
	}
	return line, nil
}

// askPassphrase asks at the terminal, without echo.
func askPassphrase(cmd *cobra.Command, prompt string) ([]byte, error) {
	terminal := int(os.Stdin.Fd())
	if !term.IsTerminal(terminal) {
		return nil, signet.Refuse(signet.KeyPassphrase, "The key needs a passphrase, and there is no terminal to ask at.")
	}
	fmt.Fprint(cmd.ErrOrStderr(), prompt)
	passphrase, err := term.ReadPassword(terminal)
	fmt.Fprintln(cmd.ErrOrStderr())
	if err != nil {
		return nil, signet.Refuse(signet.KeyPassphrase, "No passphrase came from the terminal.")
	}
	return passphrase, nil
}

// askNewPassphrase asks twice, since a typing error would cost the key.
func askNewPassphrase(cmd *cobra.Command) ([]byte, error) {
	first, err := askPassphrase(cmd, "Passphrase for the new key: ")
	if err != nil {
		return nil, err
	}
	if len(first) == 0 {
		return nil, signet.Refuse(signet.KeyPassphrase, "The passphrase is empty.").FixBy("Leave --encrypt out for a key without encryption.")
	}
	again, err := askPassphrase(cmd, "Once more: ")
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(first, again) {
		return nil, signet.Refuse(signet.KeyPassphrase, "The two passphrases differ.").FixBy("Run the command again.")
	}
	return first, nil
}

// readCSR reads the request of a device.
func readCSR(name string) (*x509.CertificateRequest, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	csr, err := pki.ParseCSR(text)
	if err != nil {
		e := signet.AsError(err)
		e.Message = name + ": " + e.Message
		return nil, e
	}
	return csr, nil
}

// identityOf is the ID asked for, which the request may not contradict, or else
// the one in the request.
func identityOf(csr *x509.CertificateRequest, id string) (string, error) {
	name := csr.Subject.CommonName
	switch {
	case id == "" && name == "":
		return "", signet.Refuse(signet.CSRMalformed, "The request names no device: its subject has no common name.").FixBy("Give the device ID: --id ID")
	case id == "":
		return name, nil
	case name != "" && name != id:
		return "", signet.Refuse(signet.IdentityCNMismatch, "The request is for %q and --id says %q.", signet.Clip(name), signet.Clip(id)).
			At("subject.commonName", id, name).FixBy("Leave --id out if the request is right; else have the device make another.")
	}
	return id, nil
}

// maxFile bounds every file that the ca commands read.
const maxFile = 1 << 20

// readFile reads a small file.
func readFile(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fileError(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fileError(err)
	}
	if len(text) > maxFile {
		return nil, signet.Refuse(signet.FileAccess, "%s is larger than 1 MiB.", name).FixBy("Name the file that is meant.")
	}
	return text, nil
}

// readCertificates reads all certificates of a PEM file; there is at least one.
func readCertificates(name string) ([]*x509.Certificate, error) {
	text, err := readFile(name)
	if err != nil {
		return nil, err
	}
	var certs []*x509.Certificate
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, signet.Refuse(signet.ChainMalformed, "%s holds a certificate that cannot be read: %v.", name, err)
		}
		certs = append(certs, cert)
	}
	if len(certs) == 0 {
		return nil, signet.Refuse(signet.ChainMalformed, "%s holds no certificate in PEM form.", name)
	}
	return certs, nil
}

func certificatesPEM(certs ...*x509.Certificate) []byte {
	var text []byte
	for _, c := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return text
}

// A file is one still to be written.
type file struct {
	name string
	mode fs.FileMode
	data []byte
}

func paths(dir string, names ...string) []string {
	var full []string
	for _, name := range names {
		full = append(full, filepath.Join(dir, name))
	}
	return full
}

// absent refuses to go on where a file would be overwritten: an early answer,
// before a passphrase is asked for. save is what makes sure.
func absent(dir string, names ...string) error {
	for _, name := range paths(dir, names...) {
		if _, err := os.Lstat(name); err == nil {
			return existsError(name)
		}
	}
	return nil
}

// save writes files into a folder, which it makes if need be: all of them or,
// when it fails, none. Each appears whole and on disk under its name, in the
// order given, and never in the place of another: the last name says that all
// is there.
func save(dir string, files ...file) (err error) {
	var made []string
	defer func() {
		if err != nil {
			for _, name := range slices.Backward(made) {
				os.Remove(name) // a folder only if it is empty again
			}
			err = fileError(err)
		}
	}()
	dir = filepath.Clean(dir)
	for parent := dir; ; parent = filepath.Dir(parent) {
		if _, err := os.Lstat(parent); err == nil {
			break
		}
		made = slices.Insert(made, 0, parent)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		temporary, err := writeTemporary(dir, f)
		if err != nil {
			return err
		}
		name := filepath.Join(dir, f.name)
		err = os.Link(temporary, name) // unlike a rename, never in the place of another
		if _, taken := os.Lstat(name); err != nil && errors.Is(taken, fs.ErrNotExist) {
			err = os.Rename(temporary, name) // a stick with FAT knows no links
		}
		os.Remove(temporary)
		if errors.Is(err, fs.ErrExist) {
			return existsError(name)
		} else if err != nil {
			return err
		}
		made = append(made, name)
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// writeTemporary writes and syncs a file beside the one it will become.
func writeTemporary(dir string, f file) (string, error) {
	t, err := os.CreateTemp(dir, "."+f.name+".*")
	if err != nil {
		return "", err
	}
	_, err = t.Write(f.data)
	err = errors.Join(err, t.Chmod(f.mode), t.Sync(), t.Close())
	if err != nil {
		os.Remove(t.Name())
		return "", err
	}
	return t.Name(), nil
}

func existsError(name string) error { return signet.Refuse(signet.FileExists, "%s exists.", name) }

// fileError makes an error of the file system one for people; what the house
// itself has refused stays as it is.
func fileError(err error) error {
	if _, ok := errors.AsType[*signet.Error](err); ok {
		return err
	}
	e := signet.Refuse(signet.FileAccess, "Cannot %v.", err)
	e.Cause = err
	return e
}

// issued is the output of a ca command.
type issued struct {
	Kind         string    `json:"kind"` // root, intermediate, device or proof
	Subject      string    `json:"subject"`
	Issuer       string    `json:"issuer"`
	Serial       string    `json:"serial"`     // hex
	Thumbprint   string    `json:"thumbprint"` // SHA-256, hex
	NotBefore    time.Time `json:"notBefore"`
	NotAfter     time.Time `json:"notAfter"`
	PathLength   *int      `json:"pathLength,omitempty"`
	CutToIssuer  bool      `json:"cutToIssuer,omitempty"` // asked for longer than the issuer lives
	Files        []string  `json:"files"`
	Next         string    `json:"next"`
	cert, issuer *x509.Certificate
}

func (i issued) print(cmd *cobra.Command) error {
	ref := pki.Reference(i.cert, pki.NotPresented)
	i.Subject, i.Issuer, i.Serial, i.Thumbprint = ref.Subject, ref.Issuer, ref.Serial, ref.Thumbprint
	i.NotBefore, i.NotAfter = ref.NotBefore.UTC(), ref.NotAfter.UTC()
	if i.cert.IsCA && (i.cert.MaxPathLen > 0 || i.cert.MaxPathLenZero) {
		i.PathLength = &i.cert.MaxPathLen
	}
	i.CutToIssuer = i.issuer != nil && i.cert.NotAfter.Equal(i.issuer.NotAfter)
	w := cmd.OutOrStdout()
	if inJSON(cmd) {
		return json.NewEncoder(w).Encode(i)
	}
	cut := ""
	if i.CutToIssuer {
		cut = ", with its issuer"
	}
	fmt.Fprintf(w, "%s %s\n", i.Kind, i.Subject)
	fmt.Fprintf(w, "  serial       %s\n", i.Serial)
	fmt.Fprintf(w, "  expires      %s%s\n", i.NotAfter.Format("2006-01-02 15:04 MST"), cut)
	if i.PathLength != nil {
		fmt.Fprintf(w, "  path length  %d\n", *i.PathLength)
	}
	fmt.Fprintf(w, "  written      %s\n", strings.Join(i.Files, ", "))
	_, err := fmt.Fprintf(w, "next: %s\n", i.Next)
	return err
}

// shellWord quotes what a shell would not take as it is. What is printed as the
// next command will be pasted, and a device ID may come from a stranger's
// request and be $(reboot).
func shellWord(word string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@%,=", r)
	}
	if word != "" && strings.TrimFunc(word, safe) == "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
