// Package hostca finds the certificate authorities that this host trusts beyond its
// distribution's own: a company's, or that of a proxy which signs anew what leaves
// the network. A guest on such a network reaches nothing by TLS without them.
package hostca

import (
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// maxExtra bounds what is added to a guest's trust store, in bytes.
const maxExtra = 1 << 20

// Extra gives the authorities that this host trusts beyond its
// distribution's: what an administrator added, or the file that SSL_CERT_FILE
// names where it is not the distribution's own bundle.
func Extra(getenv func(string) string) (string, error) {
	var files []string
	if path := getenv("SSL_CERT_FILE"); path != "" && !strings.HasPrefix(path, "/etc/ssl/") && !strings.HasPrefix(path, "/etc/pki/") {
		files = []string{path}
	}
	for _, pattern := range []string{"/usr/local/share/ca-certificates/*.crt", "/usr/local/share/ca-certificates/*/*.crt", "/etc/pki/ca-trust/source/anchors/*"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return "", err
		}
		files = append(files, found...)
	}
	var out strings.Builder
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			return "", fmt.Errorf("the host's extra certificates: %w", err)
		}
		// Only certificates: a private key that lies in the same file stays here.
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type == "CERTIFICATE" {
				out.Write(pem.EncodeToMemory(block))
			}
		}
	}
	if out.Len() > maxExtra {
		return "", fmt.Errorf("the host's extra certificates are %d bytes, more than %d", out.Len(), maxExtra)
	}
	return out.String(), nil
}
