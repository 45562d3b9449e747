package cli

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/sbx-vm/sbx/netfilter"
	"github.com/sbx-vm/sbx/netfilter/audit"
)

// maxDenials is how many names a failed command is told about: enough to see what
// is missing, few enough to read.
const maxDenials = 5

// reportDenials says on stderr what the network refused while a failed command ran:
// it is the likeliest reason, and the command's own message rarely names it. It is
// best effort: that the question failed is not the command's fault.
func (a *app) reportDenials(ctx context.Context, box *sandbox, since time.Time) {
	entries, err := box.client.Denials(ctx, since)
	if err != nil {
		return
	}
	a.printDenials(entries)
}

func (a *app) printDenials(entries []audit.Entry) {
	for _, line := range describeDenials(entries) {
		fmt.Fprintln(a.Err, printable(line))
	}
}

// denial is what a user can act on.
type denial struct {
	host   string // name or address
	port   uint16 // 0: only the name was asked for
	reason string
	isName bool
}

func (d denial) String() string { return hostPort(d.host, d.port) }

// describeDenials returns lines for people: one per refused name, with what to do.
func describeDenials(entries []audit.Entry) []string {
	denials := collectDenials(entries)
	var lines []string
	for i, d := range denials {
		if i == maxDenials {
			lines = append(lines, fmt.Sprintf("     and %d more, see: sbx policy log --denied", len(denials)-i))
			break
		}
		lines = append(lines, fmt.Sprintf("sbx: blocked: %s (%s)", d, reasonText(d.reason)))
		lines = append(lines, d.remedy()...)
	}
	return lines
}

// collectDenials keeps one denial per name and port, in order. Reverse lookups are
// left out: programs make them for their logs and live without an answer.
func collectDenials(entries []audit.Entry) []denial {
	var out []denial
	seen := map[string]bool{}
	for _, entry := range entries {
		d := denial{host: entry.Name, port: entry.Port, reason: entry.Reason, isName: entry.Name != ""}
		if entry.Kind == audit.DNS {
			d.port = 0
		} else if !d.isName {
			d.host = entry.Addr
		}
		if !entry.Denied() || d.host == "" || strings.HasSuffix(d.host, ".arpa") || seen[d.String()] {
			continue
		}
		seen[d.String()] = true
		out = append(out, d)
	}
	return out
}

// remedy says how to let it through, where a rule can.
func (d denial) remedy() []string {
	switch d.reason {
	case netfilter.ReasonNoRule, netfilter.ReasonPort, netfilter.ReasonNoAnswer:
	default:
		return nil
	}
	if !d.isName {
		return nil
	}
	target := d.host
	switch {
	case d.port == 0 || d.port == 80 || d.port == 443:
	case webPort(d.port):
		target = d.String()
	default: // as bytes: what is no TLS or HTTP, such as SSH, does not pass otherwise
		target = netfilter.PatternFor(d.host, d.port)
	}
	lines := []string{"     allow it with: sbx policy allow " + target}
	if presets := coveringPresets(d.host, d.port); len(presets) > 0 {
		lines = append(lines, fmt.Sprintf("     or, in sbx.yaml: network: {presets: [%s]}", strings.Join(presets, ", ")))
	}
	return lines
}

// webPort tells whether a port is the web's, mostly.
func webPort(port uint16) bool { return port == 80 || port == 443 || port == 8080 || port == 8443 }

// coveringPresets lists the built-in presets that would allow name on port (0: on
// some port).
func coveringPresets(name string, port uint16) []string {
	presets, err := netfilter.Presets()
	if err != nil {
		return nil
	}
	var covering []string
	for _, preset := range presets {
		policy, _, err := netfilter.Compile(netfilter.Spec{Presets: []string{preset.Name}})
		if err == nil && policy.Decide(netfilter.Request{Name: name, Port: port}).Allow {
			covering = append(covering, preset.Name)
		}
	}
	return covering
}

func hostPort(host string, port uint16) string {
	if port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// reasonText says a Reason of netfilter in words; the gateway's own are sentences
// already.
func reasonText(reason string) string {
	switch reason {
	case netfilter.ReasonAllowed:
		return "a rule allows it"
	case netfilter.ReasonDefaultAllow:
		return "the default allows it"
	case netfilter.ReasonDenied:
		return "a rule denies it"
	case netfilter.ReasonNoRule:
		return "no rule allows it"
	case netfilter.ReasonPort:
		return "no rule allows this port of it"
	case netfilter.ReasonBadName:
		return "it is no host name"
	case netfilter.ReasonLocalName:
		return "it is a name of the local network"
	case netfilter.ReasonLiteral:
		return "it is an address: only names can be allowed"
	case netfilter.ReasonRequest:
		return "no rule allows such a request"
	case netfilter.ReasonBadPath:
		return "its path can be read in more ways than one"
	case netfilter.ReasonAnswer:
		return "you said so"
	case netfilter.ReasonNoAnswer:
		return "nobody answered in time"
	case netfilter.ReasonAddressClass:
		return "it leads to an address that is not public"
	default:
		return reason
	}
}
