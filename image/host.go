package image

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Host is what the host is set to, where that decides about downloads.
type Host struct {
	Sources  Sources
	Registry string   // npm registry
	AskNpm   bool     // ask the host's npm for its registry when a build needs it, which takes it a second
	Keys     [][]byte // archive keys instead of Debian's: an archive of one's own
}

const defaultRegistry = "https://registry.yarnpkg.com"

// maxSetting bounds the settings files that are read, in bytes.
const maxSetting = 1 << 20

// ReadHost looks at apt's sources below root ("/") and at npm's registry.
// environ is as os.Environ has it. What cannot be read is as if it were not there.
func ReadHost(_ context.Context, root, home string, environ []string) Host {
	var h Host
	apt := filepath.Join(root, "etc/apt")
	paths := []string{filepath.Join(apt, "sources.list")}
	for _, pattern := range []string{"*.sources", "*.list"} {
		more, err := filepath.Glob(filepath.Join(apt, "sources.list.d", pattern))
		if err == nil {
			paths = append(paths, more...)
		}
	}
	for _, path := range paths {
		s := parseSources(readSetting(path), strings.HasSuffix(path, ".sources"))
		h.Sources.Main = first(h.Sources.Main, s.Main)
		h.Sources.Security = first(h.Sources.Security, s.Security)
	}
	h.Registry = readRegistry(home, environ)
	h.AskNpm = h.Registry == ""
	return h
}

func readSetting(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, maxSetting))
	if err != nil {
		return ""
	}
	return string(data)
}

// readRegistry looks in npm's own order: environment, the user's file.
func readRegistry(home string, environ []string) string {
	for _, entry := range slices.Backward(environ) {
		name, value, _ := strings.Cut(entry, "=")
		if strings.EqualFold(name, "npm_config_registry") && value != "" {
			return value
		}
	}
	for line := range strings.Lines(readSetting(filepath.Join(home, ".npmrc"))) {
		name, value, _ := strings.Cut(line, "=")
		if strings.TrimSpace(name) == "registry" {
			return strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	return ""
}

// askNpm returns the registry that all of npm's settings come to, "" when there
// is no npm.
func askNpm(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "npm", "config", "get", "registry").Output()
	if err != nil || len(out) > 4096 {
		return ""
	}
	if value := strings.TrimSpace(string(out)); strings.HasPrefix(value, "http") {
		return value
	}
	return ""
}

// npm says where npm's tarball is and what it must be.
func (o Options) npm(ctx context.Context, pin Npm) (LockedFile, error) {
	encoded, ok := strings.CutPrefix(pin.Integrity, "sha512-")
	sum, err := base64.StdEncoding.DecodeString(encoded)
	if !ok || err != nil {
		return LockedFile{}, fmt.Errorf("recipe: npm %s: integrity %q is no sha512", pin.Version, pin.Integrity)
	}
	registry := first(o.Registry, o.Host.Registry)
	if registry == "" && o.Host.AskNpm {
		registry = askNpm(ctx)
	}
	registry = strings.TrimRight(first(registry, defaultRegistry), "/")
	return LockedFile{
		URL:    registry + "/npm/-/npm-" + pin.Version + ".tgz",
		SHA512: hex.EncodeToString(sum),
	}, nil
}
