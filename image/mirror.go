package image

import (
	"embed"
	"net/url"
	"slices"
	"strings"

	"github.com/sbx-vm/sbx/image/debian"
)

// Debian's archive keys, from the package debian-archive-keyring 2025.1. A
// suite is signed by the keys of its own release and of the one before.
//
//go:embed keys/*.gpg
var keys embed.FS

const (
	defaultMirror   = "http://ftp.debian.org/debian"
	defaultSecurity = "http://security.debian.org/debian-security"
)

// Sources are the Debian archives that a host installs from.
type Sources struct {
	Main     string // base URI, "" when there is none
	Security string
}

// repos are the suites of the recipe, on the mirrors that the options and the
// host come to. The first must exist.
func (o Options) repos(r Recipe) []debian.Repo {
	host := o.Host.Sources
	base := first(o.Mirror, host.Main, defaultMirror)
	base = strings.TrimRight(base, "/")
	var repos []debian.Repo
	for _, suite := range r.Suites {
		repos = append(repos, debian.Repo{Base: base, Suite: suite, Keys: o.keys("automatic", "stable")})
	}
	security := host.Security
	if security == "" && o.Mirror != "" {
		o.Progress.Warn("image.mirror is set and no security mirror is known: going on without " + r.Security)
		return repos
	}
	return append(repos, debian.Repo{
		Base: strings.TrimRight(first(security, defaultSecurity), "/"), Suite: r.Security, Keys: o.keys("security-automatic"),
	})
}

// keys returns the archive keys of these kinds, or the host's choice of keys.
func (o Options) keys(kinds ...string) [][]byte {
	if o.Host.Keys != nil {
		return o.Host.Keys
	}
	var out [][]byte
	for _, release := range []string{"trixie", "bookworm"} {
		for _, kind := range kinds {
			if data, err := keys.ReadFile("keys/debian-archive-" + release + "-" + kind + ".gpg"); err == nil {
				out = append(out, data)
			}
		}
	}
	return out
}

func first(values ...string) string {
	for _, v := range values {
		if v != "" {
			return v
		}
	}
	return ""
}

// parseSources finds Debian's archives in the text of an apt source file.
// deb822 says which of apt's two formats it is. Only scheme, host and path are
// taken: the suites are the recipe's.
func parseSources(text string, deb822 bool) Sources {
	var s Sources
	if deb822 {
		for stanza := range strings.SplitSeq(text, "\n\n") {
			uris, suites := stanzaFields(stanza)
			s.take(uris, suites)
		}
		return s
	}
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		if len(fields) < 3 || fields[0] != "deb" {
			continue
		}
		if strings.HasPrefix(fields[1], "[") {
			end := slices.IndexFunc(fields, func(f string) bool { return strings.HasSuffix(f, "]") })
			fields = fields[max(end, 0):]
		}
		if len(fields) >= 3 {
			s.take(fields[1:2], fields[2:3])
		}
	}
	return s
}

func stanzaFields(stanza string) (uris, suites []string) {
	for line := range strings.Lines(stanza) {
		field, value, ok := strings.Cut(line, ":")
		switch {
		case !ok:
		case strings.EqualFold(field, "URIs"):
			uris = strings.Fields(value)
		case strings.EqualFold(field, "Suites"):
			suites = strings.Fields(value)
		case strings.EqualFold(field, "Enabled") && strings.TrimSpace(value) == "no":
			return nil, nil
		}
	}
	return uris, suites
}

// take keeps the first archive of each kind.
func (s *Sources) take(uris, suites []string) {
	for _, uri := range uris {
		u, err := url.Parse(uri)
		if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			continue
		}
		base := u.Scheme + "://" + u.Host + strings.TrimRight(u.Path, "/")
		for _, suite := range suites {
			release, kind, _ := strings.Cut(suite, "-")
			release, _, _ = strings.Cut(release, "/")
			if !slices.Contains([]string{"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "oldstable"}, release) {
				continue
			}
			switch {
			case kind == "security" && s.Security == "":
				s.Security = base
			case kind != "security" && s.Main == "":
				s.Main = base
			}
		}
	}
}
