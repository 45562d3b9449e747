package netfilter

import (
	"errors"
	"fmt"
	"strings"

	"golang.org/x/net/publicsuffix"
)

// checkWidth refuses an allow rule that covers names of parties who have nothing
// to do with each other: everything, or all below a public suffix ("*.com",
// "*.co.uk"). Deny rules may be as wide as one likes.
func checkWidth(p pattern, allowAll bool) error {
	if p.kind == kindAny {
		if allowAll {
			return nil
		}
		return errors.New(`"**" allows every name: write "default: allow" if that is what you want`)
	}
	if p.kind == kindRange {
		return checkPublicRange(p.prefix)
	}
	if p.kind == kindExact {
		return nil
	}
	if icann, ok := ofStrangers(p.base); ok && (icann || !strings.Contains(p.base, ".")) {
		return fmt.Errorf("covers every name below the public suffix %q: name the domain, such as *.example.%s", p.base, p.base)
	}
	return nil
}

// ofStrangers tells whether the names below base are of different owners: it is a public suffix, or all that
// is directly below it is ("*.ck", "*.kawasaki.jp"). icann is false where a company lets others have names.
func ofStrangers(base string) (icann, ok bool) {
	for _, name := range []string{base, "sbx-any." + base} {
		if suffix, icann := publicsuffix.PublicSuffix(name); suffix == name {
			return icann, true
		}
	}
	return false, false
}

// sharedHosts are names under which anybody can store or publish: what is
// allowed to reach them can carry data to a stranger's account there. Suffixes
// where each tenant has a name of his own come from the public suffix list.
func sharedHosts() []string {
	return []string{
		"storage.googleapis.com", "s3.amazonaws.com", "r2.cloudflarestorage.com", "blob.core.windows.net",
		"gist.github.com", "gist.githubusercontent.com", "raw.githubusercontent.com", "pastebin.com",
		"firebasestorage.googleapis.com", "firebaseio.com", "drive.google.com", "docs.google.com",
		"script.google.com", "transfer.sh", "webhook.site", "workers.dev", "pages.dev", "ngrok.io",
		"digitaloceanspaces.com", "dropboxapi.com", "api.telegram.org", "hooks.slack.com", "discord.com",
	}
}

// sharedHost gives a multi-tenant name that the pattern covers, or "".
func sharedHost(p pattern) string {
	if p.kind == kindAny || p.kind == kindRange {
		return ""
	}
	for _, host := range sharedHosts() {
		if p.matches(host) || p.base == host {
			return host
		}
	}
	if p.kind == kindExact {
		return ""
	}
	if icann, ok := ofStrangers(p.base); ok && !icann {
		return p.base
	}
	return ""
}
